//! One server's connection to the store: slow at times, failing before or after its commit, and
//! gone with the server. What is behind it outlives servers.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use atoll_core::correction::Correction;
use atoll_core::event::Cursor;
use atoll_core::id::{KeyId, NodeId, SandboxId, ServerId, TeamId, TemplateId, WebhookId};
use atoll_core::node::{DrainMode, NodeInfo};
use atoll_core::quota::Limits;
use atoll_core::sandbox::{Sandbox, State};
use atoll_core::template::Template;
use atoll_core::time::Timestamp;
use atoll_store::memory::MemStore;
use atoll_store::store::forecast::{ForecastRow, ForecastStore};
use atoll_store::store::lease::{Lease, LeaseStore, ServerRow};
use atoll_store::store::node::{NodeRow, NodeStore};
use atoll_store::store::{
    Admission, AuditFilter, AuditRow, Error, EventFilter, EventGap, EventPage, EventQuery,
    EventRow, Inserted, Intent, IntentChange, KeyRow, NewSandbox, Pruned, Readmission, Removed,
    Result, Retention, SandboxFilter, Store, StoredEvent, TeamChange, TeamChanged, TeamRow,
    TeamUsage, TemplateRow, Transition,
};
use atoll_store::webhook::{WebhookProgress, WebhookRow, WebhookStore};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::book::Book;
use crate::incarnation::Incarnation;
use crate::options::Sabotage;
use crate::world::{Part, World};

/// Chance in a thousand that a read or write fails, that its answer is lost after the commit, that
/// it takes long, and that the server dies right before or right after it.
const FAILS_PER_MILLE: u32 = 4;
const LOSES_ANSWER_PER_MILLE: u32 = 4;
const SLOW_PER_MILLE: u32 = 10;
const DIES_PER_MILLE: u32 = 1;

/// Usual and slow times of one way, in milliseconds.
const WAY_MS: u64 = 1;
const SLOW_WAY_MS: u64 = 2_000;

/// The database: its tables, and whether it answers.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) tables: MemStore,
    pub(crate) book: Book,
    is_down: AtomicBool,
}

impl Database {
    pub(crate) fn new(book: Book) -> Self {
        Self {
            tables: MemStore::default(),
            book,
            is_down: AtomicBool::new(false),
        }
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
    }

    pub(crate) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SimStore {
    world: Arc<World>,
    database: Arc<Database>,
    incarnation: Arc<Incarnation>,
}

impl SimStore {
    pub(crate) const fn new(
        world: Arc<World>,
        database: Arc<Database>,
        incarnation: Arc<Incarnation>,
    ) -> Self {
        Self {
            world,
            database,
            incarnation,
        }
    }

    async fn way(&self) {
        let time = if self.world.goes_wrong(SLOW_PER_MILLE) {
            self.world.disturb(Part::Store);
            self.world.millis(WAY_MS, SLOW_WAY_MS)
        } else {
            self.world.millis(0, WAY_MS)
        };
        sleep(time).await;
        self.incarnation.live_on().await;
    }

    async fn die(&self, when: &str) {
        self.world.note(format_args!("server dies {when}"));
        self.incarnation.kill();
        self.incarnation.live_on().await;
    }

    fn failed(&self, operation: &'static str, when: &str) -> Error {
        self.world.disturb(Part::Store);
        self.world
            .note(format_args!("store {operation} fails {when}"));
        Error::Database {
            operation,
            source: sqlx::Error::PoolTimedOut,
        }
    }

    /// Carries an operation to the database and its result back.
    async fn call<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.incarnation.live_on().await;
        self.way().await;
        if self.database.is_down() || self.world.goes_wrong(FAILS_PER_MILLE) {
            return Err(self.failed(operation, "before it is done"));
        }
        if self.world.goes_wrong(DIES_PER_MILLE) {
            self.die(&format!("before {operation}")).await;
        }
        let result = work.await;
        if self.world.goes_wrong(DIES_PER_MILLE) {
            self.die(&format!("after {operation}")).await;
        }
        self.way().await;
        if self.world.goes_wrong(LOSES_ANSWER_PER_MILLE) {
            return Err(self.failed(operation, "after it is done"));
        }
        result
    }

    async fn insert(&self, mut new: NewSandbox) -> Result<Admission> {
        if self.world.has(Sabotage::DropIdempotencyKeys) {
            new.idempotency = None;
        }
        let seen = new.clone();
        if self.world.has(Sabotage::IgnoreQuota) {
            new.limits.concurrent_sandboxes = u32::MAX;
        }
        let admission = self.database.tables.sandbox_insert(new).await?;
        if admission == Admission::Accepted {
            self.database.book.inserted(&seen);
        }
        Ok(admission)
    }

    async fn transition(&self, mut change: Transition) -> Result<Option<Sandbox>> {
        let tables = &self.database.tables;
        let before = tables.sandbox_get(&change.id).await?;
        if self.world.has(Sabotage::LoseEvents) {
            change.events.clear();
        }
        if change.next == State::Stopping && self.world.has(Sabotage::SkipStopping) {
            change.next = State::Stopped;
        }
        let after = tables.sandbox_transition(change).await?;
        if let (Some(before), Some(after)) = (&before, &after) {
            self.database.book.moved(before, after);
        }
        Ok(after)
    }

    async fn readmit(&self, change: Transition, limits: Limits) -> Result<Readmission> {
        let tables = &self.database.tables;
        let before = tables.sandbox_get(&change.id).await?;
        let readmission = tables.sandbox_readmit(change, limits).await?;
        if let (Some(before), Readmission::Accepted(after)) = (&before, &readmission) {
            self.database.book.moved(before, after);
        }
        Ok(readmission)
    }

    async fn intend(&self, intent: Intent) -> Result<Option<Sandbox>> {
        let change = intent.change.clone();
        let tables = &self.database.tables;
        if matches!(change, IntentChange::Stop(_)) && self.world.has(Sabotage::ForgetStops) {
            return tables.sandbox_get(&intent.id).await;
        }
        let after = tables.sandbox_intend(intent).await?;
        if let Some(after) = &after {
            self.database.book.intended(after, &change);
        }
        Ok(after)
    }

    async fn read_on(&self, after: Cursor, query: &EventQuery, limit: u32) -> Result<EventPage> {
        let tables = &self.database.tables;
        let mut page = tables.event_list_after(after, query, limit).await?;
        if self.world.has(Sabotage::DisorderEvents) {
            page.events.reverse();
        }
        Ok(page)
    }

    async fn list(&self, filter: &SandboxFilter) -> Result<Vec<Sandbox>> {
        let tables = &self.database.tables;
        let mut rows = tables.sandbox_list(filter).await?;
        if self.world.has(Sabotage::MixTeams) {
            let all = tables.sandbox_list_live(None, filter.limit).await?;
            rows.extend(all.into_iter().filter(|row| row.started_at.is_some()));
        }
        Ok(rows)
    }
}

/// Methods that go to the tables as they are.
macro_rules! pass {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        $self
            .call(stringify!($method), $self.database.tables.$method($($argument),*))
            .await
    };
}

#[async_trait]
impl NodeStore for SimStore {
    async fn node_join(&self, id: &NodeId, info: &NodeInfo, at: Timestamp) -> Result<NodeRow> {
        pass!(self, node_join(id, info, at))
    }

    async fn node_drain(
        &self,
        id: &NodeId,
        drain: Option<DrainMode>,
        at: Timestamp,
        events: Vec<EventRow>,
    ) -> Result<bool> {
        pass!(self, node_drain(id, drain, at, events))
    }

    async fn node_list(&self) -> Result<Vec<NodeRow>> {
        pass!(self, node_list())
    }

    async fn node_remove(&self, id: &NodeId, events: Vec<EventRow>) -> Result<bool> {
        pass!(self, node_remove(id, events))
    }

    async fn correction_append(&self, corrections: Vec<Correction>) -> Result<()> {
        pass!(self, correction_append(corrections))
    }

    async fn correction_list(&self, limit: u32) -> Result<Vec<Correction>> {
        pass!(self, correction_list(limit))
    }
}

#[async_trait]
impl LeaseStore for SimStore {
    async fn server_beat(&self, server: &ServerRow) -> Result<()> {
        pass!(self, server_beat(server))
    }

    async fn server_list(&self) -> Result<Vec<ServerRow>> {
        pass!(self, server_list())
    }

    async fn server_remove(&self, id: &ServerId, beats: Option<u64>) -> Result<bool> {
        pass!(self, server_remove(id, beats))
    }

    async fn lease_get(&self, name: &str) -> Result<Option<Lease>> {
        pass!(self, lease_get(name))
    }

    async fn lease_take(&self, name: &str, server: &ServerId) -> Result<Option<Lease>> {
        pass!(self, lease_take(name, server))
    }

    async fn claim_pass(
        &self,
        sandbox: &SandboxId,
        revision: u64,
        to: &ServerId,
        events: Vec<EventRow>,
    ) -> Result<bool> {
        pass!(self, claim_pass(sandbox, revision, to, events))
    }
}

#[async_trait]
impl ForecastStore for SimStore {
    async fn forecast_put(&self, row: &ForecastRow) -> Result<()> {
        pass!(self, forecast_put(row))
    }

    async fn forecast_get(&self) -> Result<Option<ForecastRow>> {
        pass!(self, forecast_get())
    }
}

#[async_trait]
impl Store for SimStore {
    fn kind(&self) -> &'static str {
        self.database.tables.kind()
    }

    async fn meta_ensure(&self, name: &str, value: &str) -> Result<String> {
        pass!(self, meta_ensure(name, value))
    }

    async fn team_ensure(&self, team: &TeamId, name: &str, at: Timestamp) -> Result<()> {
        pass!(self, team_ensure(team, name, at))
    }

    async fn team_insert(&self, team: &TeamRow) -> Result<Inserted> {
        pass!(self, team_insert(team))
    }

    async fn team_update(&self, team: &TeamId, change: TeamChange) -> Result<TeamChanged> {
        pass!(self, team_update(team, change))
    }

    async fn team_get(&self, team: &TeamId) -> Result<Option<TeamRow>> {
        pass!(self, team_get(team))
    }

    async fn team_list(&self) -> Result<Vec<TeamRow>> {
        pass!(self, team_list())
    }

    async fn team_usage(&self, team: &TeamId) -> Result<TeamUsage> {
        pass!(self, team_usage(team))
    }

    async fn key_insert(&self, key: &KeyRow) -> Result<Inserted> {
        pass!(self, key_insert(key))
    }

    async fn key_find(&self, hash: &str) -> Result<Option<KeyRow>> {
        pass!(self, key_find(hash))
    }

    async fn key_list(&self, team: &TeamId) -> Result<Vec<KeyRow>> {
        pass!(self, key_list(team))
    }

    async fn key_remove(&self, team: &TeamId, key: &KeyId) -> Result<bool> {
        pass!(self, key_remove(team, key))
    }

    async fn key_touch(&self, used: Vec<(KeyId, Timestamp)>) -> Result<()> {
        pass!(self, key_touch(used))
    }

    async fn idempotency_release(
        &self,
        team: &TeamId,
        key: &str,
        sandbox: &SandboxId,
    ) -> Result<()> {
        pass!(self, idempotency_release(team, key, sandbox))
    }

    async fn template_insert(&self, template: &Template) -> Result<Inserted> {
        pass!(self, template_insert(template))
    }

    async fn template_update(&self, template: &Template) -> Result<()> {
        pass!(self, template_update(template))
    }

    async fn template_list(&self) -> Result<Vec<TemplateRow>> {
        pass!(self, template_list())
    }

    async fn template_spawned(&self, id: &TemplateId, count: u64, last: Timestamp) -> Result<()> {
        pass!(self, template_spawned(id, count, last))
    }

    async fn template_remove(&self, id: &TemplateId) -> Result<Removed> {
        pass!(self, template_remove(id))
    }

    async fn sandbox_insert(&self, new: NewSandbox) -> Result<Admission> {
        self.call("sandbox_insert", self.insert(new)).await
    }

    async fn sandbox_get(&self, id: &SandboxId) -> Result<Option<Sandbox>> {
        pass!(self, sandbox_get(id))
    }

    async fn sandbox_list_by_id(&self, ids: &[SandboxId]) -> Result<Vec<Sandbox>> {
        pass!(self, sandbox_list_by_id(ids))
    }

    async fn sandbox_list(&self, filter: &SandboxFilter) -> Result<Vec<Sandbox>> {
        self.call("sandbox_list", self.list(filter)).await
    }

    async fn sandbox_list_live(
        &self,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Sandbox>> {
        pass!(self, sandbox_list_live(after, limit))
    }

    async fn sandbox_transition(&self, transition: Transition) -> Result<Option<Sandbox>> {
        self.call("sandbox_transition", self.transition(transition))
            .await
    }

    async fn sandbox_readmit(&self, transition: Transition, limits: Limits) -> Result<Readmission> {
        self.call("sandbox_readmit", self.readmit(transition, limits))
            .await
    }

    async fn sandbox_intend(&self, intent: Intent) -> Result<Option<Sandbox>> {
        self.call("sandbox_intend", self.intend(intent)).await
    }

    async fn event_append(&self, events: Vec<EventRow>) -> Result<()> {
        pass!(self, event_append(events))
    }

    async fn event_list(&self, filter: &EventFilter) -> Result<Vec<StoredEvent>> {
        pass!(self, event_list(filter))
    }

    async fn event_list_after(
        &self,
        after: Cursor,
        query: &EventQuery,
        limit: u32,
    ) -> Result<EventPage> {
        let page = self.read_on(after, query, limit);
        self.call("event_list_after", page).await
    }

    async fn event_page(
        &self,
        query: &EventQuery,
        is_ascending: bool,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<StoredEvent>> {
        pass!(self, event_page(query, is_ascending, offset, limit))
    }

    fn event_head(&self) -> watch::Receiver<Cursor> {
        self.database.tables.event_head()
    }

    async fn event_gap(&self, after: Cursor) -> Result<Option<EventGap>> {
        pass!(self, event_gap(after))
    }

    async fn event_cursor_get(&self, name: &str) -> Result<Option<Cursor>> {
        pass!(self, event_cursor_get(name))
    }

    async fn event_cursor_set(&self, name: &str, cursor: Cursor, at: Timestamp) -> Result<()> {
        pass!(self, event_cursor_set(name, cursor, at))
    }

    async fn audit_append(&self, rows: Vec<AuditRow>) -> Result<()> {
        pass!(self, audit_append(rows))
    }

    async fn audit_list(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>> {
        pass!(self, audit_list(filter))
    }

    async fn audit_prune(&self, before: Timestamp, keep: u64, limit: u32) -> Result<u64> {
        pass!(self, audit_prune(before, keep, limit))
    }

    async fn history_prune(&self, retention: &Retention) -> Result<Pruned> {
        pass!(self, history_prune(retention))
    }

    async fn ping(&self) -> Result<()> {
        pass!(self, ping())
    }

    async fn close(&self) {}
}

#[async_trait]
impl WebhookStore for SimStore {
    async fn webhook_insert(&self, row: &WebhookRow, most: u32) -> Result<bool> {
        pass!(self, webhook_insert(row, most))
    }

    async fn webhook_get(&self, id: &WebhookId) -> Result<Option<WebhookRow>> {
        pass!(self, webhook_get(id))
    }

    async fn webhook_list(&self, team: &TeamId) -> Result<Vec<WebhookRow>> {
        pass!(self, webhook_list(team))
    }

    async fn webhook_list_enabled(
        &self,
        after: Option<&WebhookId>,
        limit: u32,
    ) -> Result<Vec<WebhookRow>> {
        pass!(self, webhook_list_enabled(after, limit))
    }

    async fn webhook_update(
        &self,
        row: WebhookRow,
        events: Vec<EventRow>,
    ) -> Result<Option<WebhookRow>> {
        pass!(self, webhook_update(row, events))
    }

    async fn webhook_progress(&self, progress: WebhookProgress) -> Result<bool> {
        pass!(self, webhook_progress(progress))
    }

    async fn webhook_remove(&self, team: &TeamId, id: &WebhookId) -> Result<bool> {
        pass!(self, webhook_remove(team, id))
    }
}
