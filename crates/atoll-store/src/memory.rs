//! The store in memory: for tests and simulations, where a run must be repeatable and nothing may
//! outlive it.
//!
//! One lock around ordered maps; the same rules as the databases, checked by the same suite.

mod webhook;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use atoll_core::correction::Correction;
use atoll_core::event::Cursor;
use atoll_core::id::{KeyId, NodeId, SandboxId, ServerId, TeamId, TemplateId, WebhookId};
use atoll_core::quota::{Limits, Overrides, admit};
use atoll_core::sandbox::{Desired, EndReason, Kept, Sandbox, State};
use atoll_core::scheduler::shares::WEIGHT_DEFAULT;
use atoll_core::template::Template;
use atoll_core::time::Timestamp;
use tokio::sync::watch;

use crate::store::lease::{Lease, ServerRow};
use crate::store::node::NodeRow;
use crate::store::{
    Admission, AuditFilter, AuditRow, EventFilter, EventGap, EventPage, EventQuery, EventRow,
    Inserted, Intent, KeyRow, NewSandbox, Pruned, Readmission, Removed, Result, Retention,
    SandboxFilter, Store, StoredEvent, TeamChange, TeamChanged, TeamRow, TeamUsage, TemplateRow,
    Transition,
};
use crate::webhook::WebhookRow;

mod forecast;
mod intent;
mod lease;
mod node;

#[derive(Debug, Default)]
struct Tables {
    meta: BTreeMap<String, String>,
    teams: BTreeMap<TeamId, TeamRow>,
    keys: BTreeMap<String, KeyRow>,
    templates: BTreeMap<TemplateId, TemplateRow>,
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    events: Vec<StoredEvent>,
    /// The newest event that ever was.
    head: Cursor,
    /// The highest cursor that was pruned.
    pruned: Cursor,
    cursors: BTreeMap<String, Cursor>,
    webhooks: BTreeMap<WebhookId, WebhookRow>,
    nodes: BTreeMap<NodeId, NodeRow>,
    corrections: Vec<Correction>,
    servers: BTreeMap<ServerId, ServerRow>,
    leases: BTreeMap<String, Lease>,
    forecast: Option<crate::store::forecast::ForecastRow>,
    idempotency: BTreeMap<(TeamId, String), (String, SandboxId, Timestamp)>,
    audit: Vec<AuditRow>,
    audit_written: i64,
}

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemStore {
    tables: Mutex<Tables>,
    head: watch::Sender<Cursor>,
}

impl MemStore {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the tables, then tells of the events that this brought.
    fn change<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        let mut tables = self.tables();
        let changed = change(&mut tables);
        let newest = tables.head;
        // Under the lock, so that the head never moves back.
        self.head
            .send_if_modified(|head| std::mem::replace(head, newest) != newest);
        changed
    }
}

impl Tables {
    /// Moves a team's sums by a change of this row's state.
    fn count(&mut self, row: &Sandbox, team: &TeamId, before: State, after: State) {
        let Some(team) = self.teams.get_mut(team) else {
            return;
        };
        let usage = &mut team.usage;
        usage.charged = usage
            .charged
            .saturating_add(row.charge_in(after))
            .saturating_sub(row.charge_in(before));
        usage.running += u64::from(after == State::Running);
        usage.running = usage
            .running
            .saturating_sub(u64::from(before == State::Running));
    }

    fn insert(&mut self, new: NewSandbox) -> Admission {
        let sandbox = new.sandbox;
        let keyed = new
            .idempotency
            .map(|key| ((sandbox.team.clone(), key.key), key.fingerprint));
        if let Some((key, _)) = &keyed
            && let Some((fingerprint, first, _)) = self.idempotency.get(key)
        {
            return Admission::Replayed {
                sandbox: first.clone(),
                fingerprint: fingerprint.clone(),
            };
        }
        let team = self.teams.get_mut(&sandbox.team);
        let Some(team) = team.filter(|team| !team.is_disabled) else {
            return Admission::NoTeam;
        };
        let limits = team.overrides.over(new.limits);
        let more = sandbox.charge_in(sandbox.state);
        match admit(limits, team.usage.charged, more) {
            Ok(usage) => team.usage.charged = usage,
            Err(exceeded) => return Admission::QuotaExceeded(exceeded),
        }
        if let Some((key, fingerprint)) = keyed {
            let value = (fingerprint, sandbox.id.clone(), sandbox.created_at);
            self.idempotency.insert(key, value);
        }
        self.record(new.events);
        self.sandboxes.insert(sandbox.id.clone(), sandbox);
        Admission::Accepted
    }

    fn transition(&mut self, change: Transition) -> Option<Sandbox> {
        let row = self
            .sandboxes
            .get_mut(&change.id)
            .filter(|row| (row.state, row.generation) == change.expected)?;
        row.state = change.next;
        if let Some((node, generation)) = change.placement {
            row.node = Some(node);
            row.generation = generation;
        }
        if change.is_detached {
            (row.node, row.kept_on) = (None, None);
        }
        row.deadline = change.deadline.unwrap_or(row.deadline);
        if let Some(at) = change.paused_at {
            row.kept = Some(Kept {
                generation: change.expected.1,
                at,
            });
            row.kept_on.clone_from(&row.node);
        }
        if let Some(at) = change.started_at {
            row.deadline = at.saturating_add(row.timeout);
            row.started_at = Some(at);
            row.kept = None;
            row.kept_on = None;
            row.snapshot = None;
            row.is_restarting = false;
        }
        if change.next == State::Error {
            row.is_restarting = false;
        }
        if row.desired != Desired::Stopped {
            row.desired = change.desired.unwrap_or(row.desired);
        }
        if let Some(reason) = change.stop_reason {
            row.desired = Desired::Stopped;
            row.stop_reason.get_or_insert(reason);
        }
        if let Some(at) = change.ended_at {
            row.ended = Some((at, row.stop_reason.unwrap_or(EndReason::Failed)));
        }
        row.last_error = change.last_error.or_else(|| row.last_error.take());
        row.updated_at = change.at;
        row.revision += 1;
        let row = row.clone();
        self.count(&row, &change.team, change.expected.0, change.next);
        self.record(change.events);
        self.audit_all(change.audit.map(|row| *row));
        Some(row)
    }

    fn readmit(&mut self, change: Transition, limits: Limits) -> Readmission {
        let row = self.sandboxes.get(&change.id);
        let team = self.teams.get(&change.team);
        let (Some(row), Some(team)) = (row, team) else {
            return Readmission::Stale;
        };
        let more = row.charge_in(change.next);
        let more = more.saturating_sub(row.charge_in(row.state));
        let limits = team.overrides.over(limits);
        if let Err(exceeded) = admit(limits, team.usage.charged, more) {
            return Readmission::QuotaExceeded(exceeded);
        }
        let is_wanted = row.desired == Desired::Running;
        let row = is_wanted.then(|| self.transition(change)).flatten();
        row.map_or(Readmission::Stale, |row| {
            Readmission::Accepted(Box::new(row))
        })
    }

    fn list(&self, filter: &SandboxFilter) -> Vec<Sandbox> {
        let mut rows: Vec<_> = self
            .sandboxes
            .values()
            .filter(|row| row.team == filter.team && row.desired != Desired::Stopped)
            .filter(|row| filter.states.contains(&row.state))
            .filter(|row| {
                filter
                    .template
                    .as_ref()
                    .is_none_or(|template| row.config.template == *template)
            })
            .filter(|row| {
                filter
                    .labels
                    .iter()
                    .all(|(name, value)| row.config.metadata.get(name) == Some(value))
            })
            .filter(|row| {
                let is_after = |start| row.started_at.is_some_and(|at| at >= start);
                filter.started_after.is_none_or(is_after)
            })
            .map(|row| ((row.created_at, &row.id), row))
            .filter(|((at, own), _)| match &filter.after {
                None => true,
                Some((time, id)) if filter.is_ascending => (at, *own) > (time, id),
                Some((time, id)) => (at, *own) < (time, id),
            })
            .collect();
        rows.sort_by_key(|(place, _)| *place);
        if !filter.is_ascending {
            rows.reverse();
        }
        rows.truncate(size(filter.limit));
        rows.into_iter().map(|(_, row)| row.clone()).collect()
    }

    fn audit_all(&mut self, rows: impl IntoIterator<Item = AuditRow>) {
        for row in rows {
            self.audit_written += 1;
            let seq = self.audit_written;
            self.audit.push(AuditRow { seq, ..row });
        }
    }

    fn record(&mut self, events: Vec<EventRow>) {
        for event in events {
            self.head = Cursor::new(self.head.get() + 1);
            self.events.push(StoredEvent {
                cursor: self.head,
                event,
            });
        }
    }

    fn after(&self, after: Cursor, query: &EventQuery, limit: u32) -> EventPage {
        let first = self.events.partition_point(|event| event.cursor <= after);
        let events: Vec<_> = self.events[first..]
            .iter()
            .filter(|stored| query.matches(&stored.event))
            .take(size(limit))
            .map(without_decision)
            .collect();
        let next = match events.last() {
            Some(last) if events.len() >= size(limit) => last.cursor,
            Some(_) | None => self.head.max(after),
        };
        EventPage { events, next }
    }

    fn gap(&self, after: Cursor) -> Option<EventGap> {
        let through = self.pruned;
        if through <= after {
            return None;
        }
        let is_between = |event: &&StoredEvent| event.cursor > after && event.cursor <= through;
        let left = self.events.iter().filter(is_between).count() as u64;
        Some(EventGap {
            through,
            missed: (through.get() - after.get()).saturating_sub(left),
        })
    }

    /// Removes the events for which `is_old` holds.
    fn forget(&mut self, is_old: impl Fn(&StoredEvent) -> bool) {
        let pruned = &mut self.pruned;
        self.events.retain(|stored| {
            let is_old = is_old(stored);
            if is_old {
                *pruned = (*pruned).max(stored.cursor);
            }
            !is_old
        });
    }

    fn history(&self, filter: &EventFilter) -> Vec<StoredEvent> {
        // Matching is without regard to the case of ASCII letters, as the databases' LIKE is.
        let search = filter.search.as_ref().map(|text| text.to_ascii_lowercase());
        let mut rows: Vec<_> = self
            .events
            .iter()
            .filter(|StoredEvent { event, .. }| event.subject == filter.subject)
            .filter(|StoredEvent { event, .. }| match filter.start {
                None => true,
                Some(start) if filter.is_ascending => event.at >= start,
                Some(start) => event.at <= start,
            })
            .filter(|StoredEvent { event, .. }| {
                filter.levels.is_empty() || filter.levels.contains(&event.level.as_str())
            })
            .filter(|StoredEvent { event, .. }| {
                search
                    .as_ref()
                    .is_none_or(|text| event.message.to_ascii_lowercase().contains(text))
            })
            .collect();
        // Stable, so that events of one instant keep the order of their commits.
        rows.sort_by_key(|stored| stored.event.at);
        if !filter.is_ascending {
            rows.reverse();
        }
        rows.truncate(size(filter.limit));
        rows.into_iter().cloned().collect()
    }

    fn prune(&mut self, retention: &Retention) -> Pruned {
        let mut ended: Vec<_> = self
            .sandboxes
            .values()
            .filter(|row| row.state == State::Stopped)
            .filter_map(|row| Some((row.ended?.0, row.id.clone())))
            .collect();
        ended.sort();
        let kept = usize::try_from(retention.sandboxes_max).unwrap_or(usize::MAX);
        let too_many = ended.len().saturating_sub(kept);
        let old = ended.partition_point(|(at, _)| *at < retention.before);
        let going = old.max(too_many);
        ended.truncate(going.min(size(retention.limit)));
        for (_, id) in &ended {
            self.sandboxes.remove(id);
            self.forget(|stored| stored.event.subject.sandbox() == Some(id));
        }
        let (before, head) = (retention.before, self.head.get());
        let beyond = Cursor::new(head.saturating_sub(retention.events_max));
        self.forget(|stored| {
            let event = &stored.event;
            stored.cursor <= beyond || (event.subject.sandbox().is_none() && event.at < before)
        });
        self.idempotency.retain(|_, (_, _, at)| *at >= before);
        Pruned {
            sandboxes: ended.len() as u64,
            is_more: going > ended.len(),
        }
    }
}

fn matches_audit(filter: &AuditFilter, row: &AuditRow) -> bool {
    fn is<T: PartialEq>(wanted: Option<&T>, found: Option<&T>) -> bool {
        wanted.is_none() || wanted == found
    }
    is(filter.team.as_ref(), row.team.as_ref())
        && is(filter.actor.as_ref(), Some(&row.actor))
        && is(filter.operation.as_ref(), Some(&row.operation))
        && is(filter.object.as_ref(), row.object.as_ref())
        && is(filter.outcome.as_ref(), Some(&row.outcome))
        && filter.start.is_none_or(|start| row.at >= start)
        && filter.end.is_none_or(|end| row.at < end)
        && filter.before.is_none_or(|before| row.seq < before)
}

fn size(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[async_trait]
impl Store for MemStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn meta_ensure(&self, name: &str, value: &str) -> Result<String> {
        let mut tables = self.tables();
        let entry = tables.meta.entry(name.to_owned());
        Ok(entry.or_insert_with(|| value.to_owned()).clone())
    }

    async fn team_ensure(&self, team: &TeamId, name: &str, at: Timestamp) -> Result<()> {
        let mut tables = self.tables();
        let entry = tables.teams.entry(team.clone());
        entry.or_insert_with(|| TeamRow {
            id: team.clone(),
            name: name.to_owned(),
            is_disabled: false,
            created_at: at,
            overrides: Overrides::default(),
            policy: None,
            weight: WEIGHT_DEFAULT,
            usage: TeamUsage::default(),
        });
        Ok(())
    }

    async fn team_insert(&self, team: &TeamRow) -> Result<Inserted> {
        let mut tables = self.tables();
        let mut known = tables.teams.values();
        if known.any(|known| known.id == team.id || known.name == team.name) {
            return Ok(Inserted::AlreadyExists);
        }
        let row = TeamRow {
            usage: TeamUsage::default(),
            ..team.clone()
        };
        tables.teams.insert(team.id.clone(), row);
        Ok(Inserted::Yes)
    }

    async fn team_update(&self, team: &TeamId, change: TeamChange) -> Result<TeamChanged> {
        let mut tables = self.tables();
        if !tables.teams.contains_key(team) {
            return Ok(TeamChanged::Unknown);
        }
        if let Some(name) = &change.name
            && tables
                .teams
                .values()
                .any(|other| other.id != *team && other.name == *name)
        {
            return Ok(TeamChanged::NameTaken);
        }
        let Some(row) = tables.teams.get_mut(team) else {
            return Ok(TeamChanged::Unknown);
        };
        if let Some(name) = change.name {
            row.name = name;
        }
        row.is_disabled = change.is_disabled.unwrap_or(row.is_disabled);
        row.overrides = change.overrides.unwrap_or(row.overrides);
        row.weight = change.weight.unwrap_or(row.weight);
        if let Some(change) = change.policy {
            row.policy = change.into_policy();
        }
        Ok(TeamChanged::Yes(Box::new(row.clone())))
    }

    async fn team_get(&self, team: &TeamId) -> Result<Option<TeamRow>> {
        Ok(self.tables().teams.get(team).cloned())
    }

    async fn team_list(&self) -> Result<Vec<TeamRow>> {
        let mut rows: Vec<_> = self.tables().teams.values().cloned().collect();
        rows.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(rows)
    }

    async fn team_usage(&self, team: &TeamId) -> Result<TeamUsage> {
        let tables = self.tables();
        let row = tables.teams.get(team);
        Ok(row.map(|row| row.usage).unwrap_or_default())
    }

    async fn key_insert(&self, key: &KeyRow) -> Result<Inserted> {
        let mut tables = self.tables();
        if tables.keys.contains_key(&key.hash) {
            return Ok(Inserted::AlreadyExists);
        }
        tables.keys.insert(key.hash.clone(), key.clone());
        Ok(Inserted::Yes)
    }

    async fn key_find(&self, hash: &str) -> Result<Option<KeyRow>> {
        Ok(self.tables().keys.get(hash).cloned())
    }

    async fn key_list(&self, team: &TeamId) -> Result<Vec<KeyRow>> {
        let tables = self.tables();
        let of_team = tables.keys.values().filter(|key| key.team == *team);
        let mut keys: Vec<_> = of_team.cloned().collect();
        keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(keys)
    }

    async fn key_remove(&self, team: &TeamId, key: &KeyId) -> Result<bool> {
        let mut tables = self.tables();
        let before = tables.keys.len();
        tables
            .keys
            .retain(|_, row| row.team != *team || row.id != *key);
        Ok(tables.keys.len() < before)
    }

    async fn key_touch(&self, used: Vec<(KeyId, Timestamp)>) -> Result<()> {
        let mut tables = self.tables();
        for (id, at) in used {
            let mut keys = tables.keys.values_mut();
            if let Some(key) = keys.find(|key| key.id == id) {
                key.last_used_at = Some(at);
            }
        }
        Ok(())
    }

    async fn template_insert(&self, template: &Template) -> Result<Inserted> {
        let mut tables = self.tables();
        let is_taken = tables.templates.values().any(|row| {
            row.template.team == template.team
                && row
                    .template
                    .names
                    .iter()
                    .any(|name| template.names.contains(name))
        });
        if is_taken {
            return Ok(Inserted::AlreadyExists);
        }
        let row = TemplateRow {
            template: template.clone(),
            spawn_count: 0,
            last_spawned_at: None,
            build_count: 1,
        };
        tables.templates.insert(template.id.clone(), row);
        Ok(Inserted::Yes)
    }

    async fn template_update(&self, template: &Template) -> Result<()> {
        if let Some(row) = self.tables().templates.get_mut(&template.id) {
            row.template = Template {
                names: row.template.names.clone(),
                created_at: row.template.created_at,
                ..template.clone()
            };
        }
        Ok(())
    }

    async fn template_list(&self) -> Result<Vec<TemplateRow>> {
        let mut rows: Vec<_> = self.tables().templates.values().cloned().collect();
        rows.sort_by(|a, b| {
            let key = |row: &TemplateRow| (row.template.created_at, row.template.id.clone());
            key(a).cmp(&key(b))
        });
        Ok(rows)
    }

    async fn template_spawned(&self, id: &TemplateId, count: u64, last: Timestamp) -> Result<()> {
        if let Some(row) = self.tables().templates.get_mut(id) {
            row.spawn_count += count;
            row.last_spawned_at = Some(last);
        }
        Ok(())
    }

    async fn template_remove(&self, id: &TemplateId) -> Result<Removed> {
        let mut tables = self.tables();
        let users = tables
            .sandboxes
            .values()
            .filter(|row| row.config.template == *id && row.state != State::Stopped)
            .count();
        if users > 0 {
            return Ok(Removed::InUse(users as u64));
        }
        Ok(match tables.templates.remove(id) {
            Some(_) => Removed::Yes,
            None => Removed::Unknown,
        })
    }

    async fn sandbox_insert(&self, new: NewSandbox) -> Result<Admission> {
        Ok(self.change(|tables| tables.insert(new)))
    }

    async fn idempotency_release(
        &self,
        team: &TeamId,
        key: &str,
        sandbox: &SandboxId,
    ) -> Result<()> {
        let key = (team.clone(), key.to_owned());
        let mut tables = self.tables();
        let made = tables.idempotency.get(&key);
        if made.is_some_and(|(_, made, _)| made == sandbox) {
            tables.idempotency.remove(&key);
        }
        Ok(())
    }

    async fn sandbox_get(&self, id: &SandboxId) -> Result<Option<Sandbox>> {
        Ok(self.tables().sandboxes.get(id).cloned())
    }

    async fn sandbox_list_by_id(&self, ids: &[SandboxId]) -> Result<Vec<Sandbox>> {
        let tables = self.tables();
        let rows = ids.iter().filter_map(|id| tables.sandboxes.get(id));
        Ok(rows.cloned().collect())
    }

    async fn sandbox_list(&self, filter: &SandboxFilter) -> Result<Vec<Sandbox>> {
        Ok(self.tables().list(filter))
    }

    async fn sandbox_list_live(
        &self,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Sandbox>> {
        let tables = self.tables();
        let rows = tables.sandboxes.values();
        Ok(rows
            .filter(|row| after.is_none_or(|after| row.id > *after))
            .filter(|row| row.state != State::Stopped)
            .take(size(limit))
            .cloned()
            .collect())
    }

    async fn sandbox_transition(&self, transition: Transition) -> Result<Option<Sandbox>> {
        Ok(self.change(|tables| tables.transition(transition)))
    }

    async fn sandbox_readmit(&self, transition: Transition, limits: Limits) -> Result<Readmission> {
        Ok(self.change(|tables| tables.readmit(transition, limits)))
    }

    async fn sandbox_intend(&self, intent: Intent) -> Result<Option<Sandbox>> {
        Ok(self.change(|tables| tables.intend(intent)))
    }

    async fn event_append(&self, events: Vec<EventRow>) -> Result<()> {
        self.change(|tables| tables.record(events));
        Ok(())
    }

    async fn event_list(&self, filter: &EventFilter) -> Result<Vec<StoredEvent>> {
        Ok(self.tables().history(filter))
    }

    async fn event_list_after(
        &self,
        after: Cursor,
        query: &EventQuery,
        limit: u32,
    ) -> Result<EventPage> {
        Ok(self.tables().after(after, query, limit))
    }

    async fn event_page(
        &self,
        query: &EventQuery,
        is_ascending: bool,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<StoredEvent>> {
        let tables = self.tables();
        let wanted = tables
            .events
            .iter()
            .filter(|stored| query.matches(&stored.event));
        let mut events: Vec<_> = wanted.collect();
        if !is_ascending {
            events.reverse();
        }
        let page = events.into_iter().skip(size(offset)).take(size(limit));
        Ok(page.map(without_decision).collect())
    }

    fn event_head(&self) -> watch::Receiver<Cursor> {
        self.head.subscribe()
    }

    async fn event_gap(&self, after: Cursor) -> Result<Option<EventGap>> {
        Ok(self.tables().gap(after))
    }

    async fn event_cursor_get(&self, name: &str) -> Result<Option<Cursor>> {
        Ok(self.tables().cursors.get(name).copied())
    }

    async fn event_cursor_set(&self, name: &str, cursor: Cursor, _: Timestamp) -> Result<()> {
        self.tables().cursors.insert(name.to_owned(), cursor);
        Ok(())
    }

    async fn audit_append(&self, rows: Vec<AuditRow>) -> Result<()> {
        let mut tables = self.tables();
        for row in rows {
            tables.audit_written += 1;
            let seq = tables.audit_written;
            tables.audit.push(AuditRow { seq, ..row });
        }
        Ok(())
    }

    async fn audit_list(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>> {
        let tables = self.tables();
        let rows = tables.audit.iter().rev();
        Ok(rows
            .filter(|row| matches_audit(filter, row))
            .take(size(filter.limit))
            .cloned()
            .collect())
    }

    async fn audit_prune(&self, before: Timestamp, keep: u64, limit: u32) -> Result<u64> {
        let mut tables = self.tables();
        let newest = tables.audit.last().map_or(0, |row| row.seq);
        let beyond = newest.saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX));
        let oldest = tables.audit.iter().take(size(limit));
        let old = oldest
            .take_while(|row| row.at < before || row.seq <= beyond)
            .count();
        tables.audit.drain(..old);
        Ok(old as u64)
    }

    async fn history_prune(&self, retention: &Retention) -> Result<Pruned> {
        Ok(self.tables().prune(retention))
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) {}
}

/// An event as those get it who walk along the sequence.
fn without_decision(stored: &StoredEvent) -> StoredEvent {
    let mut stored = stored.clone();
    stored.event.decision = None;
    stored
}
