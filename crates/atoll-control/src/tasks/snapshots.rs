//! Finds in shared storage what nobody needs any more: what was cut off before it was removed, and
//! what nodes put there that are gone.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::id::StoreId;
use atoll_core::node::CallOutcome;
use atoll_core::snapshot::{Stored, unneeded};
use tokio_util::sync::CancellationToken;

use crate::node_client::NodeClient;
use crate::service::Inner;

/// Sandboxes that are asked for at a time.
const PAGE: u32 = 500;

/// Pause between two sandboxes of which something is removed: the sweep is in no hurry, and the
/// storage serves others.
const BREATH: Duration = Duration::from_millis(10);

pub(super) async fn run(inner: &Arc<Inner>, cancel: &CancellationToken) {
    let sweeping = async {
        loop {
            tokio::time::sleep(inner.config.snapshot_sweep_interval).await;
            if !inner.servers.is_on_duty() {
                continue;
            }
            for (store, client) in inner.registry.storages() {
                sweep(inner, &store, client.as_ref()).await;
            }
        }
    };
    cancel.run_until_cancelled(sweeping).await;
}

async fn sweep(inner: &Inner, store: &StoreId, client: &dyn NodeClient) {
    let mut after = None;
    let mut removed = 0_u32;
    loop {
        let page: Vec<Stored> = match client.list_snapshots(after.as_ref(), PAGE).await {
            CallOutcome::Done(page) => page,
            outcome => {
                tracing::warn!(%store, ?outcome, "the sweep of snapshots stopped half-way");
                return;
            }
        };
        for stored in &page {
            let row = match inner.store.sandbox_get(&stored.id).await {
                Ok(row) => row,
                Err(error) => {
                    tracing::warn!(%store, %error, "the sweep of snapshots stopped half-way");
                    return;
                }
            };
            let Some(unneeded) = unneeded(row.as_ref(), stored) else {
                continue;
            };
            match client.drop_snapshots(&unneeded).await {
                CallOutcome::Done(()) => removed += 1,
                outcome => {
                    let id = &unneeded.id;
                    tracing::warn!(%store, sandbox = %id, ?outcome, "snapshots are not removed");
                }
            }
            tokio::time::sleep(BREATH).await;
        }
        match page.last() {
            Some(last) => after = Some(last.id.clone()),
            None => break,
        }
    }
    if removed > 0 {
        tracing::info!(%store, sandboxes = removed, "swept shared storage");
    }
}
