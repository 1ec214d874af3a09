//! The store in a database that speaks SQL, whichever.
//!
//! What the dialects share, which is nearly everything: each write as a value and how it is carried
//! out inside a transaction ([`apply`], [`batch`]), each read, and the rows. What they do not is in
//! two traits, [`dialect::Tx`] and [`dialect::Reader`]. Whoever adds a table writes its statements
//! once.
//!
//! Writes go through a queue to whoever commits them in groups ([`queue`]); reads use a small pool
//! of their own connections. A commit is durable before its caller hears of it.

pub(crate) mod apply;
pub(crate) mod batch;
pub(crate) mod bind;
pub(crate) mod decode;
pub(crate) mod dialect;
mod event;
mod forecast;
mod lease;
pub(crate) mod many;
mod node;
pub(crate) mod queue;
pub(crate) mod read;
pub(crate) mod statement;
pub(crate) mod team;
mod webhook;

use std::time::Duration;

use async_trait::async_trait;
use atoll_core::event::Cursor;
use atoll_core::id::{KeyId, SandboxId, TeamId, TemplateId};
use atoll_core::quota::Limits;
use atoll_core::sandbox::Sandbox;
use atoll_core::template::Template;
use atoll_core::time::Timestamp;
use tokio::sync::watch;

use crate::store::{
    Admission, AuditFilter, AuditRow, EventFilter, EventGap, EventPage, EventQuery, EventRow,
    Inserted, Intent, KeyRow, NewSandbox, Pruned, Readmission, Removed, Result, Retention,
    SandboxFilter, Store, StoredEvent, TeamChange, TeamChanged, TeamRow, TeamUsage, TemplateRow,
    Transition,
};
use apply::{Prune, Reply, Write};
use dialect::Reader;
use queue::Writer;

/// A store in a database.
#[derive(Debug)]
pub struct SqlStore<R> {
    pub(crate) readers: R,
    pub(crate) writer: Writer,
}

#[async_trait]
impl<R: Reader> Store for SqlStore<R> {
    fn kind(&self) -> &'static str {
        R::KIND
    }

    async fn meta_ensure(&self, name: &str, value: &str) -> Result<String> {
        let write = Write::MetaEnsure {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        Ok(self.writer.submit(write).await?.into_text())
    }

    async fn team_ensure(&self, team: &TeamId, name: &str, at: Timestamp) -> Result<()> {
        let write = Write::TeamEnsure {
            id: team.clone(),
            name: name.to_owned(),
            at,
        };
        self.writer.submit(write).await.map(Reply::into_unit)
    }

    async fn team_insert(&self, team: &TeamRow) -> Result<Inserted> {
        let reply = self
            .writer
            .submit(Write::TeamInsert(Box::new(team.clone())))
            .await?;
        Ok(reply.into_inserted())
    }

    async fn team_update(&self, team: &TeamId, change: TeamChange) -> Result<TeamChanged> {
        let write = Write::TeamUpdate {
            id: team.clone(),
            change,
        };
        Ok(self.writer.submit(write).await?.into_team_changed())
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
        let reply = self.writer.submit(Write::KeyInsert(key.clone())).await?;
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
        Ok(self.writer.submit(write).await?.into_count() > 0)
    }

    async fn key_touch(&self, used: Vec<(KeyId, Timestamp)>) -> Result<()> {
        self.writer
            .submit(Write::KeyTouch(used))
            .await
            .map(Reply::into_unit)
    }

    async fn template_insert(&self, template: &Template) -> Result<Inserted> {
        let reply = self
            .writer
            .submit(Write::TemplateInsert(template.clone()))
            .await?;
        Ok(reply.into_inserted())
    }

    async fn template_update(&self, template: &Template) -> Result<()> {
        let reply = self
            .writer
            .submit(Write::TemplateUpdate(template.clone()))
            .await?;
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
        self.writer.submit(write).await.map(Reply::into_unit)
    }

    async fn template_remove(&self, id: &TemplateId) -> Result<Removed> {
        let reply = self
            .writer
            .submit(Write::TemplateRemove(id.clone()))
            .await?;
        Ok(reply.into_removed())
    }

    async fn sandbox_insert(&self, new: NewSandbox) -> Result<Admission> {
        let reply = self
            .writer
            .submit(Write::SandboxInsert(Box::new(new)))
            .await?;
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
        self.writer.submit(write).await.map(Reply::into_unit)
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
        Ok(self.writer.submit(write).await?.into_sandbox())
    }

    async fn sandbox_readmit(&self, transition: Transition, limits: Limits) -> Result<Readmission> {
        let write = Write::SandboxReadmit {
            transition: Box::new(transition),
            limits,
        };
        Ok(self.writer.submit(write).await?.into_readmission())
    }

    async fn sandbox_intend(&self, intent: Intent) -> Result<Option<Sandbox>> {
        let write = Write::SandboxIntend(Box::new(intent));
        Ok(self.writer.submit(write).await?.into_sandbox())
    }

    async fn event_append(&self, events: Vec<EventRow>) -> Result<()> {
        self.writer
            .submit(Write::EventAppend(events))
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
        self.writer.submit(write).await.map(Reply::into_unit)
    }

    async fn audit_append(&self, rows: Vec<AuditRow>) -> Result<()> {
        self.writer
            .submit(Write::AuditAppend(rows))
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
        Ok(self.writer.submit(write).await?.into_count())
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
        Ok(self
            .writer
            .submit(Write::HistoryPrune(prune))
            .await?
            .into_pruned())
    }

    async fn ping(&self) -> Result<()> {
        self.readers.ping().await
    }

    async fn close(&self) {
        // The writer last: whoever closes the file last empties its log, and readers may not.
        self.readers.close().await;
        self.writer.close().await;
    }
}
