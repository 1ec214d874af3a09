//! Forgets what is older than the operator wants to keep, a little at a time.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::time::Timestamp;
use atoll_store::store::Retention;
use tokio_util::sync::CancellationToken;

use crate::limit::AUDIT_ROWS_MAX;
use crate::service::Inner;

/// How often there is a look, and statistics are written.
const INTERVAL: Duration = Duration::from_secs(10);

/// Sandboxes removed in one transaction: short enough not to hold up creates.
const BATCH: u32 = 100;

/// Audit rows removed in one transaction: they are small and lie together.
const AUDIT_BATCH: u32 = 1_000;

/// Batches in one look: together more than can come in the time between two, at 3,000 creates a
/// second, so that what is kept stays bounded by number however fast sandboxes come and go.
const BATCHES_MAX: usize = 400;

pub(super) async fn run(inner: &Arc<Inner>, cancel: &CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        inner.flush_spawned().await;
        inner.flush_key_uses().await;
        if inner.servers.is_on_duty() {
            prune(inner).await;
            prune_audit(inner).await;
        }
    }
}

async fn prune(inner: &Inner) {
    let retention = Retention {
        before: ago(inner, inner.config.history_retention),
        sandboxes_max: inner.config.history_sandboxes_max,
        events_max: inner.config.history_events_max,
        limit: BATCH,
    };
    for _ in 0..BATCHES_MAX {
        match inner.store.history_prune(&retention).await {
            Ok(pruned) if pruned.is_more => {}
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "old history is not removed");
                return;
            }
        }
    }
}

/// What was before so long ago.
fn ago(inner: &Inner, period: Duration) -> Timestamp {
    let period = i64::try_from(period.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(inner.clock.now().as_micros().saturating_sub(period))
}

async fn prune_audit(inner: &Inner) {
    let before = ago(inner, inner.config.audit_retention);
    for _ in 0..BATCHES_MAX {
        match inner
            .store
            .audit_prune(before, AUDIT_ROWS_MAX, AUDIT_BATCH)
            .await
        {
            Ok(removed) if removed < u64::from(AUDIT_BATCH) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "old rows of the audit are not removed");
                return;
            }
        }
    }
}
