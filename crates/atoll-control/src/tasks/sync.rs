//! Compares what nodes run with what is intended, and wakes whoever is not where it should be.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::id::{Generation, SandboxId};
use atoll_core::node::CallOutcome;
use atoll_core::reconcile::{NodeHealth, plan};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::node_client::NodeClient;
use crate::service::{Inner, LIVE_PAGE};

/// How long a node may take to report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a node that does not answer is asked again.
const SILENT_INTERVAL: Duration = Duration::from_secs(2);

/// How long a node may take to remove one stranger.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) async fn run(inner: &Arc<Inner>, cancel: &CancellationToken) {
    let mut next_pass = Instant::now() + inner.config.full_sync_interval;
    loop {
        let is_all_ready = inner
            .registry
            .health()
            .values()
            .all(|health| *health == NodeHealth::Ready);
        let next = if is_all_ready {
            next_pass
        } else {
            next_pass.min(Instant::now() + SILENT_INTERVAL)
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
        let is_pass = Instant::now() >= next_pass;
        if is_pass {
            next_pass = Instant::now() + inner.config.full_sync_interval;
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = look(inner, is_pass) => {}
        }
    }
}

/// Asks the silent nodes, or in a full pass all of them, and walks the live sandboxes then.
async fn look(inner: &Arc<Inner>, is_pass: bool) {
    let health = inner.registry.health();
    for node in inner.registry.absent_nodes() {
        silent(inner, &node);
    }
    for client in inner.registry.clients() {
        let is_ready = health.get(client.node()) == Some(&NodeHealth::Ready);
        if is_ready && !is_pass {
            continue;
        }
        if let Err(detail) = synchronise(inner, client.as_ref()).await {
            tracing::warn!(node = %client.node(), detail, "node does not report");
        }
    }
    if is_pass {
        walk(inner).await;
    }
}

/// Notes that a node is silent; once it is lost, everything on it is looked at.
fn silent(inner: &Arc<Inner>, node: &atoll_core::id::NodeId) {
    let before = inner.registry.health().get(node).copied();
    let now = inner.registry.mark_silent(node, inner.clock.now());
    if now == NodeHealth::Lost && before != Some(NodeHealth::Lost) {
        tracing::warn!(%node, "node is lost");
        for id in inner.registry.placed_on(node) {
            inner.wake(&id);
        }
    }
}

/// Takes over a node's report: wakes what changed, removes what is not intended.
pub(crate) async fn synchronise(inner: &Arc<Inner>, client: &dyn NodeClient) -> Result<(), String> {
    let began = inner.registry.begin_report();
    let outcome = timeout(REPORT_TIMEOUT, client.report())
        .await
        .unwrap_or_else(|_| CallOutcome::Unknown("it did not answer in time".to_owned()));
    let report = match outcome {
        CallOutcome::Done(report) => report,
        CallOutcome::Refused(refusal) => {
            silent(inner, client.node());
            return Err(refusal.to_string());
        }
        CallOutcome::Unknown(detail) => {
            silent(inner, client.node());
            return Err(detail);
        }
    };
    let result = inner
        .registry
        .take_report(&report, began, inner.clock.now());
    for id in &result.changed {
        inner.wake(id);
    }
    for (id, generation) in result.strangers {
        if is_orphan(inner, client, &id, generation).await {
            remove_orphan(inner, client, &id, generation).await;
        }
    }
    Ok(())
}

/// Whether nothing intends this placement. What cannot be decided is left alone.
async fn is_orphan(
    inner: &Inner,
    client: &dyn NodeClient,
    id: &SandboxId,
    generation: Generation,
) -> bool {
    match inner.store.sandbox_get(id).await {
        Ok(Some(row)) => {
            row.ended.is_some()
                || row.node.as_ref() != Some(client.node())
                || row.generation != generation
        }
        Ok(None) => true,
        Err(error) => {
            tracing::warn!(sandbox = %id, %error, "cannot tell whether a sandbox is intended");
            false
        }
    }
}

async fn remove_orphan(
    inner: &Inner,
    client: &dyn NodeClient,
    id: &SandboxId,
    generation: Generation,
) {
    tracing::warn!(sandbox = %id, node = %client.node(), %generation, "removing an orphan");
    let outcome = timeout(REMOVE_TIMEOUT, client.remove(id, generation))
        .await
        .unwrap_or_else(|_| CallOutcome::Unknown("it did not answer in time".to_owned()));
    match outcome {
        CallOutcome::Done(()) => correct(inner, id, client).await,
        CallOutcome::Refused(refusal) => {
            tracing::warn!(sandbox = %id, %refusal, "orphan is not removed");
        }
        CallOutcome::Unknown(detail) => {
            tracing::warn!(sandbox = %id, detail, "orphan may not be removed");
        }
    }
}

/// Records the correction in the history of the sandbox, where it has one.
async fn correct(inner: &Inner, id: &SandboxId, client: &dyn NodeClient) {
    let Ok(Some(row)) = inner.store.sandbox_get(id).await else {
        return;
    };
    let event = crate::events::event(
        &row,
        inner.clock.now(),
        "sandbox.corrected",
        "warn",
        "removed from a node where it was not intended",
    );
    let event = crate::events::with(event, "node", client.node().as_str());
    if let Err(error) = inner.store.event_append(vec![event]).await {
        tracing::warn!(sandbox = %id, %error, "correction is not recorded");
    }
}

/// Wakes every live sandbox that nobody drives and that has something to do.
async fn walk(inner: &Arc<Inner>) {
    let mut after: Option<SandboxId> = None;
    loop {
        let page = inner.store.sandbox_list_live(after.as_ref(), LIVE_PAGE);
        let rows = match page.await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(%error, "the full pass stopped half-way");
                return;
            }
        };
        let nodes = inner.registry.health();
        let now = inner.clock.now();
        for row in &rows {
            if inner.reconciler.is_driven(&row.id) {
                continue;
            }
            inner.registry.adopt(row, now);
            let observed = inner.registry.observed(&row.id);
            if !plan(row, &observed, &nodes, now).is_empty() {
                inner.wake(&row.id);
            }
        }
        match rows.last() {
            Some(last) => after = Some(last.id.clone()),
            None => return,
        }
    }
}
