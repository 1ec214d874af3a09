//! Compares what nodes run with what is intended, and wakes whoever is not where it should be.
//!
//! Three ways lead here: a heartbeat whose digest differs from what is expected, a node that is
//! silent or has to prove itself, and the full pass over everything every 30 seconds. Changes that
//! nodes tell of by themselves do not wait for any of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::correction::CorrectionKind;
use atoll_core::id::{Generation, NodeId, SandboxId};
use atoll_core::node::{CallOutcome, NodeState};
use atoll_core::reconcile::{Observed, plan};
use atoll_core::sandbox::Sandbox;
use futures::StreamExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::follow;
use crate::corrections::Corrections;
use crate::events;
use crate::node_client::NodeClient;
use crate::node_events;
use crate::registry::Learnt;
use crate::service::{Inner, LIVE_PAGE};

/// How often the silence of nodes is judged.
const AGE_INTERVAL: Duration = Duration::from_secs(1);

/// A node that is silent for so long is asked: its heartbeats may be lost on their way. Two of them
/// are missing then, and there is time left before it becomes suspect.
const PROBE_AFTER: Duration = Duration::from_secs(5);

/// How often a node that does not answer is asked again.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// Nodes that are asked at a time, so that a slow one does not hold up the others.
const REPORTS_AT_ONCE: usize = 16;

/// Strangers that one node removes at a time.
const REMOVALS_AT_ONCE: usize = 8;

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
            inner.registry.foresee(inner.clock.now());
            follow::heed_all_nodes(inner).await;
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
    let is_unheard = |node: &NodeId| inner.servers.is_unheard(node);
    for (node, (before, after)) in inner.registry.age(is_unheard) {
        node_events::changed(inner, &node, before, after);
        if after == NodeState::Lost {
            for id in inner.registry.placed_on(&node) {
                inner.wake(&id);
            }
        }
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
    let asked = Instant::now();
    let report = match client.report().await {
        CallOutcome::Done(report) => report,
        CallOutcome::Refused(refusal) => return Err(refusal.to_string()),
        CallOutcome::Unknown(detail) => return Err(detail),
    };
    if report.node != *client.node() {
        return Err(format!("it calls itself {}", report.node));
    }
    inner.registry.note_latency(client.node(), asked.elapsed());
    // One of these may be at its end before it is looked at below.
    let driven: BTreeSet<_> = inner.reconciler.driven().into_iter().collect();
    let result = inner.registry.take_report(&report, began);
    if let Some((before, after)) = result.state
        && before != after
    {
        node_events::changed(inner, client.node(), before, after);
    }
    let mut corrections = Corrections::default();
    for learnt in &result.changed {
        // What somebody drives is on its way, and its driver tells of it.
        if !driven.contains(&learnt.id)
            && !inner.reconciler.is_driven(&learnt.id)
            && let Some(told) = noticed(learnt)
        {
            let of = (client.node(), &learnt.id, learnt.generation);
            corrections.of_sandbox(inner, of, told, None);
        }
        inner.wake(&learnt.id);
    }
    // Only one removes, and only while it is the one: what an order of another would undo is
    // still fenced by its generation.
    let strangers = if result.strangers.is_empty() || inner.is_on_duty_still().await {
        result.strangers
    } else {
        Vec::new()
    };
    let orphans: Vec<_> = futures::stream::iter(strangers)
        .map(|(id, generation)| remove_if_orphan(inner, client, id, generation))
        .buffer_unordered(REMOVALS_AT_ONCE)
        .collect()
        .await;
    for Orphan {
        id,
        generation,
        kind,
        why,
        row,
    } in orphans.into_iter().flatten()
    {
        let of = (client.node(), &id, generation);
        corrections.of_sandbox(inner, of, (kind, &why), row.as_ref());
    }
    corrections.record(inner);
    Ok(())
}

/// What a report says that somebody should have said before. Its sandbox's history gets it with
/// what follows from it.
fn noticed(learnt: &Learnt) -> Option<(CorrectionKind, &'static str)> {
    match (&learnt.before, &learnt.now) {
        (_, Observed::Absent) => Some((
            CorrectionKind::MissingNoticed,
            "its node does not have it any more",
        )),
        (Observed::Known(_) | Observed::Absent, Observed::Known(_)) => Some((
            CorrectionKind::ChangeNoticed,
            "it changed on its node, and no event told of it",
        )),
        // The first look after a start, or the end of an order whose answer was lost.
        (Observed::Unknown, Observed::Known(_)) | (_, Observed::Unknown) => None,
    }
}

/// A placement that was removed because nothing intends it.
struct Orphan {
    id: SandboxId,
    generation: Generation,
    kind: CorrectionKind,
    why: String,
    row: Option<Sandbox>,
}

async fn remove_if_orphan(
    inner: &Inner,
    client: &dyn NodeClient,
    id: SandboxId,
    generation: Generation,
) -> Option<Orphan> {
    let row = match inner.store.sandbox_get(&id).await {
        Ok(row) => row,
        Err(error) => {
            tracing::warn!(sandbox = %id, %error, "cannot tell whether a sandbox is intended");
            return None;
        }
    };
    let (kind, why) = why_orphan(row.as_ref(), client.node(), generation)?;
    match client.remove(&id, generation).await {
        CallOutcome::Done(()) => Some(Orphan {
            id,
            generation,
            kind,
            why,
            row,
        }),
        CallOutcome::Refused(refusal) => {
            tracing::warn!(sandbox = %id, why, %refusal, "orphan is not removed");
            None
        }
        CallOutcome::Unknown(detail) => {
            tracing::warn!(sandbox = %id, why, detail, "orphan may not be removed");
            None
        }
    }
}

/// Why nothing intends this placement; none if something does.
fn why_orphan(
    row: Option<&Sandbox>,
    node: &NodeId,
    generation: Generation,
) -> Option<(CorrectionKind, String)> {
    let Some(row) = row else {
        let why = "there is no sandbox of this id".to_owned();
        return Some((CorrectionKind::OrphanRemoved, why));
    };
    if let Some((_, reason)) = row.ended {
        let why = format!("it had ended: {}", events::reason_text(reason));
        return Some((CorrectionKind::OrphanRemoved, why));
    }
    match &row.node {
        Some(placed) if placed == node && row.is_own_generation(generation) => None,
        // It goes on elsewhere, and does not serve there yet.
        Some(_) if row.is_kept_on(node, generation) => None,
        Some(placed) => {
            let current = row.generation;
            let why = format!("generation {generation} ran, {current} on node {placed} is current");
            Some((CorrectionKind::StaleRemoved, why))
        }
        None => {
            let why = "it is placed on no node".to_owned();
            Some((CorrectionKind::OrphanRemoved, why))
        }
    }
}

/// Wakes every live sandbox that nobody drives and that has something to do.
pub(super) async fn walk(inner: &Arc<Inner>) {
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
            inner.know(row);
            let observed = inner.registry.observed(&row.id);
            if !plan(row, &observed, &nodes, now).is_empty() && inner.is_ours(row).await {
                inner.wake(&row.id);
            }
        }
        match rows.last() {
            Some(last) => after = Some(last.id.clone()),
            None => return,
        }
    }
}
