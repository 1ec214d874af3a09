//! Every template, in memory: a create must not read the store to find one.
//!
//! The store is the truth; this copy changes right after each of its writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use atoll_core::id::{TeamId, TemplateId};
use atoll_core::template::{BuildStatus, Template};
use atoll_core::time::Timestamp;
use atoll_store::store::TemplateRow;

use crate::lock::lock;
use crate::reference::{DEFAULT_TAG, Reference};

#[derive(Debug, Default)]
struct Inner {
    rows: BTreeMap<TemplateId, Arc<TemplateRow>>,
    /// Owner (empty: global) and name.
    by_name: BTreeMap<(String, String), TemplateId>,
    /// Sandboxes started since the counts were last written.
    spawned: BTreeMap<TemplateId, (u64, Timestamp)>,
}

/// What a reference stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// This template, which the team may start.
    Usable(Arc<TemplateRow>),
    /// A template of another team.
    Foreign,
    /// Nothing.
    Nothing,
}

/// The templates.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    inner: Mutex<Inner>,
}

fn owner(template: &Template) -> String {
    template
        .team
        .as_ref()
        .map_or_else(String::new, ToString::to_string)
}

impl Catalog {
    /// Takes over what the store has, and forgets what it has not.
    pub(crate) fn load(&self, rows: Vec<TemplateRow>) {
        let named = rows.iter().flat_map(|row| {
            let template = &row.template;
            let names = template.names.iter();
            names.map(|name| ((owner(template), name.clone()), template.id.clone()))
        });
        let by_name = named.collect();
        let rows = rows.into_iter();
        let rows = rows.map(|row| (row.template.id.clone(), Arc::new(row)));
        let mut inner = lock(&self.inner);
        inner.by_name = by_name;
        inner.rows = rows.collect();
    }

    /// Adds or replaces one.
    pub(crate) fn put(&self, row: TemplateRow) {
        let mut inner = lock(&self.inner);
        for name in &row.template.names {
            inner.by_name.insert(
                (owner(&row.template), name.clone()),
                row.template.id.clone(),
            );
        }
        inner.rows.insert(row.template.id.clone(), Arc::new(row));
    }

    /// Forgets one.
    pub(crate) fn remove(&self, id: &TemplateId) {
        let mut inner = lock(&self.inner);
        inner.rows.remove(id);
        inner.spawned.remove(id);
        inner.by_name.retain(|_, named| named != id);
    }

    /// The template of this id.
    pub(crate) fn get(&self, id: &TemplateId) -> Option<Arc<TemplateRow>> {
        lock(&self.inner).rows.get(id).cloned()
    }

    /// The global template of this name.
    pub(crate) fn global(&self, name: &str) -> Option<Arc<TemplateRow>> {
        let inner = lock(&self.inner);
        let id = inner.by_name.get(&(String::new(), name.to_owned()))?;
        inner.rows.get(id).cloned()
    }

    /// Finds what a reference stands for: the team's own name, then a global one, then an id.
    pub(crate) fn find(&self, team: &TeamId, reference: &Reference) -> Found {
        if reference.tag != DEFAULT_TAG {
            return Found::Nothing;
        }
        let inner = lock(&self.inner);
        let named = |owner: &str| {
            inner
                .by_name
                .get(&(owner.to_owned(), reference.alias.clone()))
        };
        let id = match reference.namespace.as_deref() {
            Some(namespace) => named(namespace),
            None => named(team.as_str()).or_else(|| named("")),
        };
        let row = match id {
            Some(id) => inner.rows.get(id),
            None if reference.namespace.is_none() => reference
                .alias
                .parse()
                .ok()
                .and_then(|id: TemplateId| inner.rows.get(&id)),
            None => None,
        };
        match row {
            None => Found::Nothing,
            Some(row) if is_usable(&row.template, team) => Found::Usable(Arc::clone(row)),
            Some(_) => Found::Foreign,
        }
    }

    /// How many templates are here and not among these, or the other way round.
    pub(crate) fn differences(&self, rows: &[TemplateRow]) -> usize {
        let theirs: BTreeSet<_> = rows.iter().map(|row| &row.template.id).collect();
        let inner = lock(&self.inner);
        let ours: BTreeSet<_> = inner.rows.keys().collect();
        ours.symmetric_difference(&theirs).count()
    }

    /// The templates a team may start and that are its own or global, by first name.
    pub(crate) fn list(&self, team: &TeamId) -> Vec<Arc<TemplateRow>> {
        let inner = lock(&self.inner);
        let mut rows: Vec<_> = inner
            .rows
            .values()
            .filter(|row| row.template.team.as_ref().is_none_or(|owner| owner == team))
            .cloned()
            .collect();
        drop(inner);
        rows.sort_by(|a, b| {
            (&a.template.names, &a.template.id).cmp(&(&b.template.names, &b.template.id))
        });
        rows
    }

    /// Every template that sandboxes can start from.
    pub(crate) fn names_and_version(&self, id: &TemplateId) -> Option<(Vec<String>, String)> {
        let inner = lock(&self.inner);
        let template = &inner.rows.get(id)?.template;
        Some((template.names.clone(), template.envd_version.clone()))
    }

    /// Counts a sandbox started from a template.
    pub(crate) fn count_spawned(&self, id: &TemplateId, at: Timestamp) {
        let mut inner = lock(&self.inner);
        let entry = inner.spawned.entry(id.clone()).or_insert((0, at));
        entry.0 += 1;
        entry.1 = entry.1.max(at);
    }

    /// Takes the counts that are not yet written, and shows them from now on.
    pub(crate) fn take_spawned(&self) -> Vec<(TemplateId, u64, Timestamp)> {
        let mut inner = lock(&self.inner);
        let taken = std::mem::take(&mut inner.spawned);
        for (id, (count, at)) in &taken {
            if let Some(row) = inner.rows.get_mut(id) {
                let row = Arc::make_mut(row);
                row.spawn_count += count;
                row.last_spawned_at = row.last_spawned_at.max(Some(*at));
            }
        }
        taken
            .into_iter()
            .map(|(id, (count, at))| (id, count, at))
            .collect()
    }
}

fn is_usable(template: &Template, team: &TeamId) -> bool {
    template.is_public || template.team.as_ref().is_none_or(|owner| owner == team)
}

/// Whether sandboxes can start from it.
pub(crate) fn is_ready(template: &Template) -> bool {
    template.status == BuildStatus::Ready
}
