//! Nodes and corrections.

use async_trait::async_trait;
use atoll_core::correction::Correction;
use atoll_core::id::NodeId;
use atoll_core::node::{DrainMode, NodeInfo};
use atoll_core::time::Timestamp;

use super::{MemStore, size};
use crate::store::node::{CORRECTIONS_MAX, NodeRow, NodeStore};
use crate::store::{EventRow, Result};

#[async_trait]
impl NodeStore for MemStore {
    async fn node_join(&self, id: &NodeId, info: &NodeInfo, at: Timestamp) -> Result<NodeRow> {
        let mut tables = self.tables();
        let row = tables.nodes.entry(id.clone()).or_insert_with(|| NodeRow {
            id: id.clone(),
            info: info.clone(),
            drain: None,
            joined_at: at,
            updated_at: at,
        });
        row.info = info.clone();
        row.updated_at = at;
        Ok(row.clone())
    }

    async fn node_drain(
        &self,
        id: &NodeId,
        drain: Option<DrainMode>,
        at: Timestamp,
        events: Vec<EventRow>,
    ) -> Result<bool> {
        Ok(self.change(|tables| {
            let Some(row) = tables.nodes.get_mut(id) else {
                return false;
            };
            row.drain = drain;
            row.updated_at = at;
            tables.record(events);
            true
        }))
    }

    async fn node_list(&self) -> Result<Vec<NodeRow>> {
        Ok(self.tables().nodes.values().cloned().collect())
    }

    async fn node_remove(&self, id: &NodeId, events: Vec<EventRow>) -> Result<bool> {
        Ok(self.change(|tables| {
            let is_removed = tables.nodes.remove(id).is_some();
            if is_removed {
                tables.record(events);
            }
            is_removed
        }))
    }

    async fn correction_append(&self, corrections: Vec<Correction>) -> Result<()> {
        let mut tables = self.tables();
        tables.corrections.extend(corrections);
        let excess = tables
            .corrections
            .len()
            .saturating_sub(size(CORRECTIONS_MAX));
        tables.corrections.drain(..excess);
        Ok(())
    }

    async fn correction_list(&self, limit: u32) -> Result<Vec<Correction>> {
        let tables = self.tables();
        let newest = tables.corrections.iter().rev().take(size(limit));
        Ok(newest.cloned().collect())
    }
}
