//! Webhooks in memory.

use async_trait::async_trait;
use atoll_core::id::{TeamId, WebhookId};

use super::{MemStore, size};
use crate::store::{EventRow, Result};
use crate::webhook::{WebhookProgress, WebhookRow, WebhookStore};

#[async_trait]
impl WebhookStore for MemStore {
    async fn webhook_insert(&self, row: &WebhookRow, most: u32) -> Result<bool> {
        let mut tables = self.tables();
        let of_team = tables
            .webhooks
            .values()
            .filter(|hook| hook.team == row.team);
        if of_team.count() >= size(most) {
            return Ok(false);
        }
        tables.webhooks.insert(row.id.clone(), row.clone());
        Ok(true)
    }

    async fn webhook_get(&self, id: &WebhookId) -> Result<Option<WebhookRow>> {
        Ok(self.tables().webhooks.get(id).cloned())
    }

    async fn webhook_list(&self, team: &TeamId) -> Result<Vec<WebhookRow>> {
        let tables = self.tables();
        let of_team = tables.webhooks.values().filter(|hook| hook.team == *team);
        let mut rows: Vec<_> = of_team.cloned().collect();
        rows.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(rows)
    }

    async fn webhook_list_enabled(
        &self,
        after: Option<&WebhookId>,
        limit: u32,
    ) -> Result<Vec<WebhookRow>> {
        let tables = self.tables();
        let rows = tables.webhooks.values();
        Ok(rows
            .filter(|hook| hook.is_enabled && after.is_none_or(|after| hook.id > *after))
            .take(size(limit))
            .cloned()
            .collect())
    }

    async fn webhook_update(
        &self,
        mut row: WebhookRow,
        events: Vec<EventRow>,
    ) -> Result<Option<WebhookRow>> {
        Ok(self.change(|tables| {
            let found = tables
                .webhooks
                .get_mut(&row.id)
                .filter(|found| found.version == row.version)?;
            row.version += 1;
            row.clone_into(found);
            tables.record(events);
            Some(row)
        }))
    }

    async fn webhook_progress(&self, progress: WebhookProgress) -> Result<bool> {
        let mut tables = self.tables();
        let found = tables.webhooks.get_mut(&progress.id);
        let Some(row) = found.filter(|row| row.version == progress.version) else {
            return Ok(false);
        };
        row.cursor = progress.cursor;
        row.failing_since = progress.failing_since;
        row.last_error = progress.last_error;
        Ok(true)
    }

    async fn webhook_remove(&self, team: &TeamId, id: &WebhookId) -> Result<bool> {
        let mut tables = self.tables();
        let is_own = tables.webhooks.get(id).is_some_and(|row| row.team == *team);
        Ok(is_own && tables.webhooks.remove(id).is_some())
    }
}
