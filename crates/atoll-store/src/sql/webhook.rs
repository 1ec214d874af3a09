//! Webhooks in SQLite.

use async_trait::async_trait;
use atoll_core::event::{Cursor, EventKind};
use atoll_core::id::{TeamId, WebhookId};
use atoll_core::time::Timestamp;

use super::SqlStore;
use super::apply::{Reply, Write, count_of};
use super::decode::{optional_time, time, unsigned};
use super::dialect::{Columns, Lock, Reader, Tx, column, fetch, one};
use super::statement::query;
use crate::queries;
use crate::row::{corrupt, parse, to_i64};
use crate::store::{EventRow, Result};
use crate::webhook::{SigningSecret, WebhookProgress, WebhookRow, WebhookStore};

/// Between the names of kinds in their column.
const SEPARATOR: char = ' ';

fn kinds_to_text(kinds: &[EventKind]) -> String {
    let names: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
    names.join(" ")
}

fn kinds_from_text(id: &str, text: &str) -> Result<Vec<EventKind>> {
    text.split(SEPARATOR)
        .filter(|name| !name.is_empty())
        .map(|name| {
            EventKind::from_name(name)
                .ok_or_else(|| corrupt("webhooks", id, format!("kind `{name}`")))
        })
        .collect()
}

/// Reads the columns of `webhook_columns!`, in their order.
fn decode(row: &impl Columns) -> Result<WebhookRow> {
    const TABLE: &str = "webhooks";
    let id: &str = column(row, 0)?;
    let enabled: i64 = column(row, 6)?;
    Ok(WebhookRow {
        id: parse(TABLE, id, id)?,
        team: parse(TABLE, id, column(row, 1)?)?,
        name: column(row, 2)?,
        url: column(row, 3)?,
        kinds: kinds_from_text(id, column(row, 4)?)?,
        secret: SigningSecret::new(column(row, 5)?),
        is_enabled: enabled != 0,
        disabled_reason: column(row, 7)?,
        created_at: time(row, 8)?,
        updated_at: time(row, 9)?,
        version: unsigned(row, 10, TABLE, id)?,
        cursor: Cursor::new(unsigned(row, 11, TABLE, id)?),
        failing_since: optional_time(row, 12)?,
        last_error: column(row, 13)?,
    })
}

pub(super) async fn insert<T: Tx>(tx: &mut T, row: &WebhookRow, most: u32) -> Result<Reply> {
    let operation = "add a webhook";
    tx.lock(Lock::Webhooks).await?;
    let count = query(queries::WEBHOOK_COUNT).bind(row.team.as_str());
    if let Some(count) = fetch(tx, operation, count).await?
        && count_of(&count)? >= i64::from(most)
    {
        return Ok(Reply::Count(0));
    }
    let statement = query(queries::WEBHOOK_INSERT)
        .bind(row.id.as_str())
        .bind(row.team.as_str())
        .bind(&row.name)
        .bind(&row.url)
        .bind(kinds_to_text(&row.kinds))
        .bind(row.secret.expose())
        .bind(i64::from(row.is_enabled))
        .bind(row.disabled_reason.as_deref())
        .bind(row.created_at.as_micros())
        .bind(row.updated_at.as_micros())
        .bind(to_i64(row.version))
        .bind(to_i64(row.cursor.get()))
        .bind(row.failing_since.map(Timestamp::as_micros))
        .bind(row.last_error.as_deref());
    tx.execute(operation, statement).await.map(Reply::Count)
}

pub(super) async fn update<T: Tx>(
    tx: &mut T,
    row: &WebhookRow,
    events: &[EventRow],
) -> Result<Reply> {
    let statement = query(queries::WEBHOOK_UPDATE)
        .bind(row.id.as_str())
        .bind(to_i64(row.version))
        .bind(&row.name)
        .bind(&row.url)
        .bind(kinds_to_text(&row.kinds))
        .bind(row.secret.expose())
        .bind(i64::from(row.is_enabled))
        .bind(row.disabled_reason.as_deref())
        .bind(row.updated_at.as_micros())
        .bind(to_i64(row.cursor.get()))
        .bind(row.failing_since.map(Timestamp::as_micros))
        .bind(row.last_error.as_deref());
    let changed = tx.execute("change a webhook", statement).await?;
    if changed > 0 {
        tx.tell(&events.iter().collect::<Vec<_>>(), &[]).await?;
    }
    Ok(Reply::Count(changed))
}

pub(super) async fn progress<T: Tx>(tx: &mut T, progress: &WebhookProgress) -> Result<Reply> {
    let statement = query(queries::WEBHOOK_PROGRESS)
        .bind(progress.id.as_str())
        .bind(to_i64(progress.version))
        .bind(to_i64(progress.cursor.get()))
        .bind(progress.failing_since.map(Timestamp::as_micros))
        .bind(progress.last_error.as_deref());
    let kept = tx.execute("keep a webhook's progress", statement).await?;
    Ok(Reply::Count(kept))
}

pub(super) async fn remove<T: Tx>(tx: &mut T, team: &TeamId, id: &WebhookId) -> Result<Reply> {
    let statement = query(queries::WEBHOOK_REMOVE)
        .bind(team.as_str())
        .bind(id.as_str());
    let removed = tx.execute("remove a webhook", statement).await?;
    Ok(Reply::Count(removed))
}

#[async_trait]
impl<R: Reader> WebhookStore for SqlStore<R> {
    async fn webhook_insert(&self, row: &WebhookRow, most: u32) -> Result<bool> {
        let write = Write::WebhookInsert {
            row: Box::new(row.clone()),
            most,
        };
        Ok(self.writer.submit(write).await?.into_count() > 0)
    }

    async fn webhook_get(&self, id: &WebhookId) -> Result<Option<WebhookRow>> {
        let statement = query(queries::WEBHOOK_GET).bind(id.as_str());
        let row = one(&self.readers, "find a webhook", statement).await?;
        row.as_ref().map(decode).transpose()
    }

    async fn webhook_list(&self, team: &TeamId) -> Result<Vec<WebhookRow>> {
        let statement = query(queries::WEBHOOK_LIST).bind(team.as_str());
        let rows = self.readers.all("list webhooks", statement).await?;
        rows.iter().map(decode).collect()
    }

    async fn webhook_list_enabled(
        &self,
        after: Option<&WebhookId>,
        limit: u32,
    ) -> Result<Vec<WebhookRow>> {
        let statement = query(queries::WEBHOOK_LIST_ENABLED)
            .bind(after.map_or("", WebhookId::as_str))
            .bind(i64::from(limit));
        let rows = self.readers.all("list enabled webhooks", statement).await?;
        rows.iter().map(decode).collect()
    }

    async fn webhook_update(
        &self,
        mut row: WebhookRow,
        events: Vec<EventRow>,
    ) -> Result<Option<WebhookRow>> {
        let write = Write::WebhookUpdate {
            row: Box::new(row.clone()),
            events,
        };
        if self.writer.submit(write).await?.into_count() == 0 {
            return Ok(None);
        }
        row.version += 1;
        Ok(Some(row))
    }

    async fn webhook_progress(&self, progress: WebhookProgress) -> Result<bool> {
        let write = Write::WebhookProgress(Box::new(progress));
        Ok(self.writer.submit(write).await?.into_count() > 0)
    }

    async fn webhook_remove(&self, team: &TeamId, id: &WebhookId) -> Result<bool> {
        let write = Write::WebhookRemove {
            team: team.clone(),
            id: id.clone(),
        };
        Ok(self.writer.submit(write).await?.into_count() > 0)
    }
}
