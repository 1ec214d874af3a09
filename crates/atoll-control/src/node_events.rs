//! What is told of nodes.

use std::sync::Arc;

use atoll_core::event::{EventKind, Subject};
use atoll_core::id::NodeId;
use atoll_core::node::NodeState;
use atoll_store::store::EventRow;

use crate::events::{about, with};
use crate::service::Inner;

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
