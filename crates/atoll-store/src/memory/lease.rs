//! Servers and leases.

use async_trait::async_trait;
use atoll_core::id::{SandboxId, ServerId};

use super::MemStore;
use crate::store::lease::{Lease, LeaseStore, ServerRow};
use crate::store::{EventRow, Result};

#[async_trait]
impl LeaseStore for MemStore {
    async fn server_beat(&self, server: &ServerRow) -> Result<()> {
        let mut tables = self.tables();
        let known = tables.servers.get(&server.id);
        let row = ServerRow {
            beats: known.map_or(0, |known| known.beats) + 1,
            ..server.clone()
        };
        tables.servers.insert(server.id.clone(), row);
        Ok(())
    }

    async fn server_list(&self) -> Result<Vec<ServerRow>> {
        Ok(self.tables().servers.values().cloned().collect())
    }

    async fn server_remove(&self, id: &ServerId, beats: Option<u64>) -> Result<bool> {
        let mut tables = self.tables();
        let known = tables.servers.get(id);
        let is_meant = known.is_some_and(|known| beats.is_none_or(|beats| beats == known.beats));
        if is_meant {
            tables.servers.remove(id);
        }
        Ok(is_meant)
    }

    async fn lease_get(&self, name: &str) -> Result<Option<Lease>> {
        Ok(self.tables().leases.get(name).cloned())
    }

    async fn lease_take(&self, name: &str, server: &ServerId) -> Result<Option<Lease>> {
        let mut tables = self.tables();
        let held = tables.leases.get(name);
        let is_held = held.is_some_and(|lease| tables.servers.contains_key(&lease.holder));
        if !is_held && tables.servers.contains_key(server) {
            let lease = Lease {
                holder: server.clone(),
                term: held.map_or(0, |lease| lease.term) + 1,
            };
            tables.leases.insert(name.to_owned(), lease);
        }
        Ok(tables.leases.get(name).cloned())
    }

    async fn claim_pass(
        &self,
        sandbox: &SandboxId,
        revision: u64,
        to: &ServerId,
        events: Vec<EventRow>,
    ) -> Result<bool> {
        Ok(self.change(|tables| {
            let row = tables.sandboxes.get_mut(sandbox);
            let Some(row) = row.filter(|row| row.revision == revision) else {
                return false;
            };
            row.claimed_by = Some(to.clone());
            row.revision += 1;
            tables.record(events);
            true
        }))
    }
}
