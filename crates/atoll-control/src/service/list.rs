//! Listing a team's sandboxes.

use atoll_core::id::TemplateId;
use atoll_core::sandbox::State;
use atoll_store::store::SandboxFilter;

use super::{ControlPlane, unavailable};
use crate::catalog::Found;
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::request::{LIST_LIMIT_MAX, ListCursor, ListQuery, Order, VisibleState};
use crate::view::{SandboxPage, Tenant};

/// Labels in one query.
const LABELS_MAX: usize = 16;

impl ControlPlane {
    /// A page of the team's sandboxes.
    ///
    /// # Errors
    /// `InvalidArgument` for a limit out of range.
    pub async fn sandbox_list(&self, tenant: &Tenant, query: &ListQuery) -> Result<SandboxPage> {
        if query.limit == 0 || query.limit > LIST_LIMIT_MAX {
            return Err(Error::invalid(format!(
                "limit must be between 1 and {LIST_LIMIT_MAX}"
            )));
        }
        if query.metadata.len() > LABELS_MAX {
            return Err(Error::invalid(format!(
                "at most {LABELS_MAX} metadata entries can be filtered by"
            ))
            .with_field("metadata"));
        }
        let store = &self.inner.store;
        let usage = store.team_usage(&tenant.team).await.map_err(unavailable)?;
        let template = match query.template.as_deref() {
            None => None,
            Some(reference) => match self.template_filter(tenant, reference) {
                Some(id) => Some(id),
                None => {
                    return Ok(SandboxPage {
                        items: Vec::new(),
                        next: None,
                        total_running: usage.running,
                    });
                }
            },
        };
        let filter = SandboxFilter {
            team: tenant.team.clone(),
            states: states(&query.states),
            labels: query.metadata.clone(),
            template,
            started_after: query.started_after,
            is_ascending: query.order == Order::Ascending,
            after: query
                .cursor
                .as_ref()
                .map(|cursor| (cursor.created_at, cursor.id.clone())),
            // One more than asked for tells whether there is a next page.
            limit: query.limit + 1,
        };
        let mut rows = store.sandbox_list(&filter).await.map_err(unavailable)?;
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| has_more).map(|row| ListCursor {
            created_at: row.created_at,
            id: row.id.clone(),
        });
        Ok(SandboxPage {
            items: rows.into_iter().map(|row| self.inner.view(row)).collect(),
            next,
            total_running: usage.running,
        })
    }

    /// The template a listing is restricted to; none: no such template, so no sandbox.
    fn template_filter(&self, tenant: &Tenant, reference: &str) -> Option<TemplateId> {
        let reference = Reference::parse(reference).ok()?;
        match self.inner.catalog.find(&tenant.team, &reference) {
            Found::Usable(row) => Some(row.template.id.clone()),
            Found::Foreign | Found::Nothing => None,
        }
    }
}

fn states(wanted: &[VisibleState]) -> Vec<State> {
    let is_wanted = |state| wanted.is_empty() || wanted.contains(&state);
    let mut states = Vec::new();
    if is_wanted(VisibleState::Running) {
        states.push(State::Running);
    }
    if is_wanted(VisibleState::Paused) {
        states.extend([State::Pausing, State::Paused, State::Resuming]);
    }
    states
}
