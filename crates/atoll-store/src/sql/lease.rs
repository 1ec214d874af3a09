//! Servers and leases.

use async_trait::async_trait;
use atoll_core::id::{SandboxId, ServerId};

use super::SqlStore;
use super::apply::{Reply, Write};
use super::decode::unsigned;
use super::dialect::{Columns, Lock, Reader, Tx, column, fetch, one};
use super::statement::query;
use crate::queries;
use crate::row::{node_ids_from_json, node_ids_to_json, parse, to_i64};
use crate::store::lease::{Lease, LeaseStore, ServerRow};
use crate::store::{EventRow, Result};

const SERVERS: &str = "servers";
const LEASES: &str = "leases";

/// One write about servers.
#[derive(Debug)]
pub(crate) enum LeaseWrite {
    Beat(ServerRow),
    Remove {
        id: ServerId,
        beats: Option<u64>,
    },
    Take {
        name: String,
        server: ServerId,
    },
    Pass {
        sandbox: SandboxId,
        revision: u64,
        to: ServerId,
        events: Vec<EventRow>,
    },
}

/// Carries out one write inside the caller's transaction.
pub(super) async fn apply<T: Tx>(tx: &mut T, write: &LeaseWrite) -> Result<Reply> {
    match write {
        LeaseWrite::Beat(server) => {
            let statement = query(queries::SERVER_BEAT)
                .bind(server.id.as_str())
                .bind(&server.address)
                .bind(&server.version)
                .bind(node_ids_to_json(&server.silent));
            tx.execute("count a server's beat", statement).await?;
            Ok(Reply::Unit)
        }
        LeaseWrite::Remove { id, beats } => {
            let statement = query(queries::SERVER_REMOVE)
                .bind(id.as_str())
                .bind(beats.map(to_i64));
            let removed = tx.execute("remove a server", statement).await?;
            Ok(Reply::Count(removed))
        }
        LeaseWrite::Take { name, server } => {
            let operation = "take a lease";
            // So that whether its holder lives is looked at after whoever took it before is there.
            tx.lock(Lock::Leases).await?;
            let take = query(queries::LEASE_TAKE).bind(name).bind(server.as_str());
            tx.execute(operation, take).await?;
            let get = query(queries::LEASE_GET).bind(name);
            let row = fetch(tx, operation, get).await?;
            Ok(Reply::Lease(row.as_ref().map(lease).transpose()?))
        }
        LeaseWrite::Pass {
            sandbox,
            revision,
            to,
            events,
        } => {
            let statement = query(queries::CLAIM_PASS)
                .bind(sandbox.as_str())
                .bind(to_i64(*revision))
                .bind(to.as_str());
            let passed = tx.execute("pass a claim on", statement).await?;
            if passed > 0 {
                tx.tell(&events.iter().collect::<Vec<_>>(), &[]).await?;
            }
            Ok(Reply::Count(passed))
        }
    }
}

fn lease(row: &impl Columns) -> Result<Lease> {
    let holder: &str = column(row, 0)?;
    Ok(Lease {
        holder: parse(LEASES, holder, holder)?,
        term: unsigned(row, 1, LEASES, holder)?,
    })
}

fn server(row: &impl Columns) -> Result<ServerRow> {
    let id: &str = column(row, 0)?;
    Ok(ServerRow {
        id: parse(SERVERS, id, id)?,
        address: column(row, 1)?,
        version: column(row, 2)?,
        silent: node_ids_from_json(SERVERS, id, column(row, 3)?)?,
        beats: unsigned(row, 4, SERVERS, id)?,
    })
}

#[async_trait]
impl<R: Reader> LeaseStore for SqlStore<R> {
    async fn server_beat(&self, server: &ServerRow) -> Result<()> {
        let write = Write::Lease(LeaseWrite::Beat(server.clone()));
        self.writer.submit(write).await.map(Reply::into_unit)
    }

    async fn server_list(&self) -> Result<Vec<ServerRow>> {
        let statement = query(queries::SERVER_LIST);
        let rows = self.readers.all("list servers", statement).await?;
        rows.iter().map(server).collect()
    }

    async fn server_remove(&self, id: &ServerId, beats: Option<u64>) -> Result<bool> {
        let id = id.clone();
        let write = Write::Lease(LeaseWrite::Remove { id, beats });
        Ok(self.writer.submit(write).await?.into_count() > 0)
    }

    async fn lease_get(&self, name: &str) -> Result<Option<Lease>> {
        let statement = query(queries::LEASE_GET).bind(name);
        let row = one(&self.readers, "get a lease", statement).await?;
        row.as_ref().map(lease).transpose()
    }

    async fn lease_take(&self, name: &str, server: &ServerId) -> Result<Option<Lease>> {
        let write = Write::Lease(LeaseWrite::Take {
            name: name.to_owned(),
            server: server.clone(),
        });
        Ok(self.writer.submit(write).await?.into_lease())
    }

    async fn claim_pass(
        &self,
        sandbox: &SandboxId,
        revision: u64,
        to: &ServerId,
        events: Vec<EventRow>,
    ) -> Result<bool> {
        let write = Write::Lease(LeaseWrite::Pass {
            sandbox: sandbox.clone(),
            revision,
            to: to.clone(),
            events,
        });
        Ok(self.writer.submit(write).await?.into_count() > 0)
    }
}
