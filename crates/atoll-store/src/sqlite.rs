//! The store in one SQLite file.
//!
//! Writes go through one task that commits them in groups (see [`writer`]); reads use a small pool
//! of their own connections, which write-ahead logging lets run beside the writer. A commit is
//! synced to the disk before its caller hears of it.

mod apply;
mod batch;
mod decode;
mod event;
mod lease;
mod migrate;
mod node;
mod read;
mod team;
mod webhook;
mod writer;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::event::Cursor;
use atoll_core::id::{KeyId, SandboxId, TeamId, TemplateId};
use atoll_core::quota::Limits;
use atoll_core::sandbox::Sandbox;
use atoll_core::template::Template;
use atoll_core::time::Timestamp;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::watch;

use crate::store::{
    Admission, AuditFilter, AuditRow, Error, EventFilter, EventGap, EventPage, EventQuery,
    EventRow, Inserted, Intent, KeyRow, NewSandbox, Pruned, Readmission, Removed, Result,
    Retention, SandboxFilter, Store, StoredEvent, TeamChange, TeamChanged, TeamRow, TeamUsage,
    TemplateRow, Transition,
};
use apply::{Prune, Reply, Write};
use writer::Writer;

/// Connections for reading. Reads are short; more would only compete for the cores.
const READERS_MAX: u32 = 4;

/// How long a statement waits for another process that holds the file (a backup, an operator's
/// shell) before it fails.
/// Its caller, and one who came while it waited, are told before they give up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Memory for the writer's pages, in KiB. Ids are random, so the indexes over them are written all
/// over: what does not fit here is read again and again.
const WRITER_CACHE_KIB: u32 = 32 * 1_024;

/// Pages of the log after which they are written into the file itself. Each time costs two more
/// syncs and every page once, however often it changed: at 16 MiB that is seldom enough.
const CHECKPOINT_PAGES: u32 = 4_096;

/// Statements that the writer keeps prepared: all that it has, in each of their lengths.
const WRITER_STATEMENTS: usize = 192;

/// How long a read waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// A store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    readers: SqlitePool,
    writer: Writer,
}

impl SqliteStore {
    /// Opens the file, making it if there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// [`Error::SchemaTooNew`] for a file of a newer version; [`Error::Database`] if it cannot be
    /// opened.
    pub async fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Database {
            operation: "open",
            source,
        };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .disable_statement_logging();
        let writing = options
            .clone()
            .pragma("cache_size", format!("-{WRITER_CACHE_KIB}"))
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
            .statement_cache_capacity(WRITER_STATEMENTS);
        let mut connection = sqlx::SqliteConnection::connect_with(&writing)
            .await
            .map_err(failed)?;
        migrate::run(&mut connection).await?;
        let head = event::head(&mut connection).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(failed)?;
        let writer = Writer::spawn(connection, writing, head)
            .map_err(|error| failed(sqlx::Error::Io(error)))?;
        Ok(Self { readers, writer })
    }

    /// How the database would walk a listing.
    #[cfg(test)]
    pub(crate) async fn explain_list(&self, filter: &SandboxFilter) -> String {
        read::explain_list(&self.readers, filter).await
    }

    async fn write(&self, write: Write) -> Result<Reply> {
        self.writer.submit(write).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn meta_ensure(&self, name: &str, value: &str) -> Result<String> {
        let write = Write::MetaEnsure {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        Ok(self.write(write).await?.into_text())
    }

    async fn team_ensure(&self, team: &TeamId, name: &str, at: Timestamp) -> Result<()> {
        let write = Write::TeamEnsure {
            id: team.clone(),
            name: name.to_owned(),
            at,
        };
        self.write(write).await.map(Reply::into_unit)
    }

    async fn team_insert(&self, team: &TeamRow) -> Result<Inserted> {
        let reply = self
            .write(Write::TeamInsert(Box::new(team.clone())))
            .await?;
        Ok(reply.into_inserted())
    }

    async fn team_update(&self, team: &TeamId, change: TeamChange) -> Result<TeamChanged> {
        let write = Write::TeamUpdate {
            id: team.clone(),
            change,
        };
        Ok(self.write(write).await?.into_team_changed())
    }

    async fn team_get(&self, team: &TeamId) -> Result<Option<TeamRow>> {
        read::team_get(&self.readers, team).await
    }

    async fn team_list(&self) -> Result<Vec<TeamRow>> {
        read::team_list(&self.readers).await
    }

    async fn team_usage(&self, team: &TeamId) -> Result<TeamUsage> {
        let row = read::team_get(&self.readers, team).await?;
        Ok(row.map(|row| row.usage).unwrap_or_default())
    }

    async fn key_insert(&self, key: &KeyRow) -> Result<Inserted> {
        let reply = self.write(Write::KeyInsert(key.clone())).await?;
        Ok(reply.into_inserted())
    }

    async fn key_find(&self, hash: &str) -> Result<Option<KeyRow>> {
        read::key_find(&self.readers, hash).await
    }

    async fn key_list(&self, team: &TeamId) -> Result<Vec<KeyRow>> {
        read::key_list(&self.readers, team).await
    }

    async fn key_remove(&self, team: &TeamId, key: &KeyId) -> Result<bool> {
        let write = Write::KeyRemove {
            team: team.clone(),
            key: key.clone(),
        };
        Ok(self.write(write).await?.into_count() > 0)
    }

    async fn key_touch(&self, used: Vec<(KeyId, Timestamp)>) -> Result<()> {
        self.write(Write::KeyTouch(used))
            .await
            .map(Reply::into_unit)
    }

    async fn template_insert(&self, template: &Template) -> Result<Inserted> {
        let reply = self.write(Write::TemplateInsert(template.clone())).await?;
        Ok(reply.into_inserted())
    }

    async fn template_update(&self, template: &Template) -> Result<()> {
        let reply = self.write(Write::TemplateUpdate(template.clone())).await?;
        reply.into_unit();
        Ok(())
    }

    async fn template_list(&self) -> Result<Vec<TemplateRow>> {
        read::template_list(&self.readers).await
    }

    async fn template_spawned(&self, id: &TemplateId, count: u64, last: Timestamp) -> Result<()> {
        let write = Write::TemplateSpawned {
            id: id.clone(),
            count,
            last,
        };
        self.write(write).await.map(Reply::into_unit)
    }

    async fn template_remove(&self, id: &TemplateId) -> Result<Removed> {
        let reply = self.write(Write::TemplateRemove(id.clone())).await?;
        Ok(reply.into_removed())
    }

    async fn sandbox_insert(&self, new: NewSandbox) -> Result<Admission> {
        let reply = self.write(Write::SandboxInsert(Box::new(new))).await?;
        Ok(reply.into_admission())
    }

    async fn idempotency_release(
        &self,
        team: &TeamId,
        key: &str,
        sandbox: &SandboxId,
    ) -> Result<()> {
        let write = Write::IdempotencyRelease {
            team: team.clone(),
            key: key.to_owned(),
            sandbox: sandbox.clone(),
        };
        self.write(write).await.map(Reply::into_unit)
    }

    async fn sandbox_get(&self, id: &SandboxId) -> Result<Option<Sandbox>> {
        read::sandbox_get(&self.readers, id).await
    }

    async fn sandbox_list_by_id(&self, ids: &[SandboxId]) -> Result<Vec<Sandbox>> {
        read::sandbox_list_by_id(&self.readers, ids).await
    }

    async fn sandbox_list(&self, filter: &SandboxFilter) -> Result<Vec<Sandbox>> {
        read::sandbox_list(&self.readers, filter).await
    }

    async fn sandbox_list_live(
        &self,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Sandbox>> {
        read::sandbox_list_live(&self.readers, after, limit).await
    }

    async fn sandbox_transition(&self, transition: Transition) -> Result<Option<Sandbox>> {
        let write = Write::SandboxTransition(Box::new(transition));
        Ok(self.write(write).await?.into_sandbox())
    }

    async fn sandbox_readmit(&self, transition: Transition, limits: Limits) -> Result<Readmission> {
        let write = Write::SandboxReadmit {
            transition: Box::new(transition),
            limits,
        };
        Ok(self.write(write).await?.into_readmission())
    }

    async fn sandbox_intend(&self, intent: Intent) -> Result<Option<Sandbox>> {
        let write = Write::SandboxIntend(Box::new(intent));
        Ok(self.write(write).await?.into_sandbox())
    }

    async fn event_append(&self, events: Vec<EventRow>) -> Result<()> {
        self.write(Write::EventAppend(events))
            .await
            .map(Reply::into_unit)
    }

    async fn event_list(&self, filter: &EventFilter) -> Result<Vec<StoredEvent>> {
        event::list(&self.readers, filter).await
    }

    async fn event_list_after(
        &self,
        after: Cursor,
        query: &EventQuery,
        limit: u32,
    ) -> Result<EventPage> {
        let head = *self.writer.head().borrow();
        event::list_after(&self.readers, after, head, query, limit).await
    }

    async fn event_page(
        &self,
        query: &EventQuery,
        is_ascending: bool,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<StoredEvent>> {
        event::page(&self.readers, query, is_ascending, (offset, limit)).await
    }

    fn event_head(&self) -> watch::Receiver<Cursor> {
        self.writer.head()
    }

    async fn event_gap(&self, after: Cursor) -> Result<Option<EventGap>> {
        event::gap(&self.readers, after).await
    }

    async fn event_cursor_get(&self, name: &str) -> Result<Option<Cursor>> {
        event::cursor_get(&self.readers, name).await
    }

    async fn event_cursor_set(&self, name: &str, cursor: Cursor, at: Timestamp) -> Result<()> {
        let write = Write::EventCursorSet {
            name: name.to_owned(),
            cursor,
            at,
        };
        self.write(write).await.map(Reply::into_unit)
    }

    async fn audit_append(&self, rows: Vec<AuditRow>) -> Result<()> {
        self.write(Write::AuditAppend(rows))
            .await
            .map(Reply::into_unit)
    }

    async fn audit_list(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>> {
        read::audit_list(&self.readers, filter).await
    }

    async fn audit_prune(&self, before: Timestamp, keep: u64, limit: u32) -> Result<u64> {
        let write = Write::AuditPrune {
            before,
            keep,
            limit,
        };
        Ok(self.write(write).await?.into_count())
    }

    async fn history_prune(&self, retention: &Retention) -> Result<Pruned> {
        let beyond = read::ended_beyond(&self.readers, retention.sandboxes_max).await?;
        let head = self.writer.head().borrow().get();
        let prune = Prune {
            // The one that is one too many goes too.
            ended_before: beyond.map_or(retention.before, |at| {
                retention
                    .before
                    .max(at.saturating_add(Duration::from_micros(1)))
            }),
            before: retention.before,
            through: Cursor::new(head.saturating_sub(retention.events_max)),
            limit: retention.limit,
        };
        Ok(self.write(Write::HistoryPrune(prune)).await?.into_pruned())
    }

    async fn ping(&self) -> Result<()> {
        read::ping(&self.readers).await
    }

    async fn close(&self) {
        // The writer last: whoever closes the file last empties its log, and readers may not.
        self.readers.close().await;
        self.writer.close().await;
    }
}
