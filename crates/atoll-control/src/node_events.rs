//! What is told of nodes.

use std::sync::Arc;

use atoll_core::event::{EventKind, Subject};
use atoll_core::id::NodeId;
use atoll_core::node::NodeState;
use atoll_store::store::EventRow;

use crate::events::{about, with};
use crate::service::Inner;

/// Tells of a node that stands otherwise than before, where that is in memory only.
///
/// Each server sees it; the one on duty writes it.
pub(crate) fn changed(inner: &Arc<Inner>, node: &NodeId, before: NodeState, after: NodeState) {
    let event = change(inner, node, before, after);
    if inner.servers.is_on_duty() {
        inner.backlog.add([event], []);
    }
}

/// The event of a node that stands otherwise than before, to be written with that change.
pub(crate) fn change(
    inner: &Inner,
    node: &NodeId,
    before: NodeState,
    after: NodeState,
) -> EventRow {
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
    with(with(event, "before", before), "after", after)
}
