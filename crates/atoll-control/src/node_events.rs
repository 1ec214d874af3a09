//! What is told of nodes and of the fleet as a whole.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_core::event::{EventKind, Subject};
use atoll_core::id::NodeId;
use atoll_core::node::NodeState;
use atoll_core::placement::Rejected;
use atoll_store::store::EventRow;
use tokio::time::Instant;

use crate::events::{about, with};
use crate::lock::lock;
use crate::service::Inner;

/// A full fleet is told of once in so long, however many creates it refuses.
const EXHAUSTED_INTERVAL: Duration = Duration::from_secs(10);

/// When a full fleet was told of last.
#[derive(Debug, Default)]
pub(crate) struct Exhausted {
    told_at: Mutex<Option<Instant>>,
}

/// Tells of a node that stands otherwise than before.
pub(crate) fn changed(inner: &Arc<Inner>, node: &NodeId, before: NodeState, after: NodeState) {
    let (kind, level, message) = match (before, after) {
        (NodeState::Ready, NodeState::Draining) => (
            EventKind::NodeDraining,
            "info",
            "node gets no new sandboxes from now on",
        ),
        (NodeState::Draining, NodeState::Ready) => (
            EventKind::NodeJoined,
            "info",
            "node gets new sandboxes again",
        ),
        (_, NodeState::Ready | NodeState::Draining) => {
            (EventKind::NodeJoined, "info", "node is part of the fleet")
        }
        (_, NodeState::Suspect) => (
            EventKind::NodeSuspect,
            "warn",
            "node does not answer and gets no new sandboxes",
        ),
        (_, NodeState::Lost) => (
            EventKind::NodeLost,
            "error",
            "node is lost, with what it ran",
        ),
        (_, NodeState::Left) => (EventKind::NodeLeft, "warn", "node was removed"),
    };
    let (before, after) = (before.as_str(), after.as_str());
    match level {
        "info" => tracing::info!(%node, before, after, "{message}"),
        _ => tracing::warn!(%node, before, after, "{message}"),
    }
    let subject = Subject::Node(node.clone());
    let event = about(subject, None, inner.clock.now(), kind, level, message);
    append(inner, with(with(event, "before", before), "after", after));
}

/// Tells that no node has room, unless that was told just now.
pub(crate) fn exhausted(inner: &Arc<Inner>, rejected: &Rejected) {
    {
        let mut told_at = lock(&inner.exhausted.told_at);
        if told_at.is_some_and(|at| at.elapsed() < EXHAUSTED_INTERVAL) {
            return;
        }
        *told_at = Some(Instant::now());
    }
    let message = format!("no node has room: {rejected}");
    let kind = EventKind::ResourceExhausted;
    let now = inner.clock.now();
    let event = about(Subject::Fleet, None, now, kind, "warn", message);
    append(inner, event);
}

/// Nothing waits for these events: what they tell of has happened, and is in memory only.
fn append(inner: &Arc<Inner>, event: EventRow) {
    let task = Arc::clone(inner);
    inner.tasks.spawn(async move {
        let kind = event.kind;
        if let Err(error) = task.store.event_append(vec![event]).await {
            tracing::warn!(%kind, %error, "an event is not recorded");
        }
    });
}
