//! Background work: what must happen without a request.
//!
//! Each task only says "look again" to reconcilers or tidies up; none changes a sandbox itself.

mod expiry;
mod follow;
pub(crate) mod forecast;
mod health;
mod retention;
pub(crate) mod servers;
mod snapshots;
pub(crate) mod sync;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::backlog;
use crate::service::Inner;

/// How long tasks may take to end. Orders to nodes that take longer are repeated at the next
/// start.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs all tasks until `cancel`, then ends everything.
pub(crate) async fn run(inner: &Arc<Inner>, cancel: CancellationToken) {
    // Also if whoever runs this gives up: nothing is done for a server that says nothing.
    let _ends = inner.cancel.clone().drop_guard();
    tokio::join!(
        expiry::run(inner, &cancel),
        sync::run(inner, &cancel),
        retention::run(inner, &cancel),
        snapshots::run(inner, &cancel),
        health::run(inner, &cancel),
        backlog::run(inner, &cancel),
        servers::run(inner, &cancel),
        follow::run(inner, &cancel),
        forecast::run(inner, &cancel),
    );
    inner.cancel.cancel();
    servers::leave(inner).await;
    inner.tasks.close();
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, inner.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            tasks = inner.tasks.len(),
            "tasks did not end in time and are left behind"
        );
    }
    backlog::finish(inner).await;
    inner.flush_spawned().await;
    inner.flush_key_uses().await;
    inner.store.close().await;
}
