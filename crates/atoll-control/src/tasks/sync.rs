//! Compares what nodes run with what is intended, and wakes whoever is not where it should be.
//!
//! Three ways lead here: a heartbeat whose digest differs from what is expected, a node that is
//! silent or has to prove itself, and the full pass over everything every 30 seconds. Changes that
//! nodes tell of by themselves do not wait for any of them.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::event::EventKind;
use atoll_core::id::{Generation, NodeId, SandboxId};
use atoll_core::node::{CallOutcome, NodeState};
use atoll_core::reconcile::plan;
use futures::StreamExt as _;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::node_client::NodeClient;
use crate::service::{Inner, LIVE_PAGE};

/// How long a node may take to report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the silence of nodes is judged.
const AGE_INTERVAL: Duration = Duration::from_secs(1);

/// A node that is silent for so long is asked: its heartbeats may be lost on their way. Two of them
/// are missing then, and there is time left before it becomes suspect.
const PROBE_AFTER: Duration = Duration::from_secs(5);

/// How often a node that does not answer is asked again.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// Nodes that are asked at a time, so that a slow one does not hold up the others.
const REPORTS_AT_ONCE: usize = 16;

/// How long a node may take to remove one stranger.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) async fn run(inner: &Arc<Inner>, cancel: &CancellationToken) {
    let ageing = async {
        loop {
            tokio::time::sleep(AGE_INTERVAL).await;
            age(inner);
        }
    };
    let probing = async {
        loop {
            tokio::time::sleep(PROBE_INTERVAL).await;
            ask(inner, inner.registry.quiet(PROBE_AFTER)).await;
        }
    };
    let passing = async {
        let mut next = Instant::now();
        loop {
            // A pass that takes long does not begin the next one at once.
            next = (next + inner.config.full_sync_interval).max(Instant::now());
            tokio::time::sleep_until(next).await;
            ask(inner, inner.registry.clients()).await;
            walk(inner).await;
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = ageing => {}
        () = probing => {}
        () = passing => {}
    }
}

/// Judges the silence of nodes; once one is lost, everything on it is looked at.
fn age(inner: &Arc<Inner>) {
    for (node, (before, after)) in inner.registry.age() {
        changed(inner, &node, before, after);
        if after == NodeState::Lost {
            for id in inner.registry.placed_on(&node) {
                inner.wake(&id);
            }
        }
    }
}

/// Tells of a node that stands otherwise than before.
pub(crate) fn changed(_inner: &Arc<Inner>, node: &NodeId, before: NodeState, after: NodeState) {
    let (before, after) = (before.as_str(), after.as_str());
    match after {
        "ready" | "draining" => tracing::info!(%node, before, after, "node changed"),
        _ => tracing::warn!(%node, before, after, "node changed"),
    }
}

async fn ask(inner: &Arc<Inner>, clients: Vec<Arc<dyn NodeClient>>) {
    futures::stream::iter(clients)
        .for_each_concurrent(REPORTS_AT_ONCE, |client| async move {
            synchronise_once(inner, client.as_ref()).await;
        })
        .await;
}

/// Synchronises with a node, unless somebody does already.
pub(crate) async fn synchronise_once(inner: &Arc<Inner>, client: &dyn NodeClient) {
    let node = client.node();
    if !inner.registry.begin_synchronising(node) {
        return;
    }
    let result = synchronise(inner, client).await;
    inner.registry.end_synchronising(node);
    if let Err(detail) = result {
        tracing::warn!(%node, detail, "node does not report");
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
        CallOutcome::Refused(refusal) => return Err(refusal.to_string()),
        CallOutcome::Unknown(detail) => return Err(detail),
    };
    if report.node != *client.node() {
        return Err(format!("it calls itself {}", report.node));
    }
    let result = inner.registry.take_report(&report, began);
    if let Some((before, after)) = result.state
        && before != after
    {
        changed(inner, client.node(), before, after);
    }
    for learnt in &result.changed {
        inner.wake(&learnt.id);
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
                || !row.is_own_generation(generation)
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
        EventKind::SandboxCorrected,
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
            inner.registry.adopt(row);
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
