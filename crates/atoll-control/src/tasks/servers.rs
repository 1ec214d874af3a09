//! Says that this server lives, notices who does not, and takes duties over.

use std::sync::Arc;
use std::time::Duration;

use atoll_store::store::lease::ServerRow;
use atoll_store::store::{Error as StoreError, Result};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::sync;
use crate::metrics;
use crate::servers::{BEAT_INTERVAL, DUTIES};
use crate::service::Inner;
use crate::webhooks;

/// How long one look may take: after that it says nothing about now.
const LOOK_TIMEOUT: Duration = BEAT_INTERVAL;

/// How long what comes with a look may take: the next beat must not wait for it.
const CHORES_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the last word to the others may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn run(inner: &Arc<Inner>, cancel: &CancellationToken) {
    if inner.servers.is_alone() {
        return;
    }
    let mut was_on_duty = false;
    let mut is_told = false;
    loop {
        let began = Instant::now();
        let looked = timeout(LOOK_TIMEOUT, look(inner)).await;
        let looked = looked.unwrap_or_else(|_| {
            let detail = "it takes too long".to_owned();
            Err(StoreError::Locked { detail })
        });
        let is_less = match looked {
            Ok(is_less) => {
                is_told = false;
                is_less
            }
            // Once at full voice: while the store is away there is nothing new to say.
            Err(error) if is_told => {
                tracing::debug!(%error, "this server cannot say that it lives");
                false
            }
            Err(error) => {
                is_told = true;
                tracing::warn!(%error, "this server cannot say that it lives");
                false
            }
        };
        let is_on_duty = inner.servers.is_on_duty();
        metrics::on_duty(is_on_duty);
        match (was_on_duty, is_on_duty) {
            (false, true) => tracing::info!("this server is on duty"),
            (true, false) => {
                tracing::info!("this server is off duty");
                inner.webhooks.stop_all();
            }
            (true, true) | (false, false) => {}
        }
        // What takes longer is taken up at the next look.
        let _ = timeout(CHORES_TIMEOUT, do_chores(inner, is_on_duty)).await;
        if is_on_duty && (is_less || !was_on_duty) {
            // What the one before was at, and what the dead had begun.
            let walking = Arc::clone(inner);
            let walk = async move { sync::walk(&walking).await };
            let stop = inner.cancel.clone();
            inner.tasks.spawn(stop.run_until_cancelled_owned(walk));
        }
        was_on_duty = is_on_duty;
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = tokio::time::sleep_until(began + BEAT_INTERVAL) => {}
        }
    }
}

/// Takes over what other servers changed and no event tells of.
async fn do_chores(inner: &Arc<Inner>, is_on_duty: bool) {
    // So long may a template be known that another server removed.
    if let Err(error) = inner.load_catalog().await {
        tracing::debug!(%error, "templates of other servers are not known");
    }
    if is_on_duty && let Err(error) = webhooks::start_all(inner).await {
        tracing::debug!(%error, "which webhooks there are is not known");
    }
}

/// Says that this server lives, and learns who else does. Answers whether one is gone.
pub(crate) async fn look(inner: &Inner) -> Result<bool> {
    let Some(own) = inner.servers.own() else {
        return Ok(false);
    };
    let asked = Instant::now();
    let row = ServerRow {
        silent: inner.registry.silent(),
        ..own.clone()
    };
    inner.store.server_beat(&row).await?;
    let listed = inner.store.server_list().await?;
    let (dead, mut is_less) = inner.servers.note_list(listed, asked);
    for (id, beats) in dead {
        if inner.store.server_remove(&id, Some(beats)).await? {
            tracing::warn!(server = %id, "a server is dead; its work goes to the others");
            inner.servers.forget(&id);
            is_less = true;
        }
    }
    let mut lease = inner.store.lease_get(DUTIES).await?;
    if !inner.servers.is_held(lease.as_ref()) {
        lease = inner.store.lease_take(DUTIES, &own.id).await?;
    }
    inner.servers.note_lease(lease, asked);
    Ok(is_less)
}

/// Tells the others that this server goes: they need not wait until it counts as dead.
pub(super) async fn leave(inner: &Inner) {
    let Some(own) = inner.servers.own() else {
        return;
    };
    inner.servers.note_lease(None, Instant::now());
    let left = timeout(LEAVE_TIMEOUT, inner.store.server_remove(&own.id, None)).await;
    if !matches!(left, Ok(Ok(_))) {
        tracing::warn!("the other servers do not know that this one goes");
    }
}
