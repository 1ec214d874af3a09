//! Keeps what the forecast has learnt, so that a restart does not begin anew.

use std::sync::Arc;
use std::time::Duration;

use atoll_store::store::forecast::ForecastRow;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::service::Inner;

/// How often it is kept: a profile of days changes little in so long, and who is killed loses no
/// more.
const INTERVAL: Duration = Duration::from_mins(5);

/// How long keeping it may take: a server that ends does not wait for longer.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How old what was kept may be: as old as a series without arrivals gets.
const AGE_MAX: Duration = Duration::from_hours(8 * 24);

pub(super) async fn run(inner: &Arc<Inner>, cancel: &CancellationToken) {
    loop {
        let is_over = tokio::select! {
            biased;
            () = cancel.cancelled() => true,
            () = tokio::time::sleep(INTERVAL) => false,
        };
        // Each server sees what it is asked for; what one has learnt is enough.
        if inner.servers.is_on_duty() {
            save(inner).await;
        }
        if is_over {
            return;
        }
    }
}

async fn save(inner: &Inner) {
    let Some(series) = inner.registry.learnt() else {
        return;
    };
    let row = ForecastRow {
        at: inner.clock.now(),
        series,
    };
    match timeout(SAVE_TIMEOUT, inner.store.forecast_put(&row)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "what the forecast has learnt is not kept"),
        Err(_) => tracing::warn!("what the forecast has learnt is not kept: the store is slow"),
    }
}

/// Takes over what was kept, unless it is too old to say anything. What cannot be read is learnt
/// again.
pub(crate) async fn restore(inner: &Inner) {
    let row = match inner.store.forecast_get().await {
        Ok(Some(row)) => row,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "what the forecast had learnt is not known");
            return;
        }
    };
    let age = inner.clock.now().saturating_since(row.at);
    if age > AGE_MAX {
        tracing::info!(?age, "what the forecast had learnt is too old");
        return;
    }
    let series = inner.registry.recall(row.series);
    tracing::info!(series, ?age, "the forecast goes on from what it had learnt");
}
