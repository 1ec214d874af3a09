//! What is kept of nodes: who they are, what their operator decided, and what was repaired.

use async_trait::async_trait;
use atoll_core::correction::Correction;
use atoll_core::id::NodeId;
use atoll_core::node::{DrainMode, NodeInfo};
use atoll_core::time::Timestamp;

use super::{EventRow, Result};

/// Corrections that are kept: some days of an ordinary fleet, and the whole of a bad night.
pub const CORRECTIONS_MAX: u32 = 10_000;

/// A node that joined once and was not removed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Its identity.
    pub id: NodeId,
    /// What it said of itself when it joined last.
    pub info: NodeInfo,
    /// How it is being emptied.
    pub drain: Option<DrainMode>,
    /// When it joined first.
    pub joined_at: Timestamp,
    /// When this row last changed.
    pub updated_at: Timestamp,
}

/// The part of the store that is about nodes.
#[async_trait]
pub trait NodeStore: Send + Sync + std::fmt::Debug {
    /// Adds a node, or writes what it says of itself; how it is being emptied stays. Answers the
    /// row.
    async fn node_join(&self, id: &NodeId, info: &NodeInfo, at: Timestamp) -> Result<NodeRow>;

    /// Writes how a node is being emptied, and the events that tell of it. Answers whether there is
    /// such a node; if not, nothing is written.
    async fn node_drain(
        &self,
        id: &NodeId,
        drain: Option<DrainMode>,
        at: Timestamp,
        events: Vec<EventRow>,
    ) -> Result<bool>;

    /// Every node, by id.
    async fn node_list(&self) -> Result<Vec<NodeRow>>;

    /// Removes a node, and writes the events that tell of it. Answers whether there was one; if
    /// not, nothing is written.
    async fn node_remove(&self, id: &NodeId, events: Vec<EventRow>) -> Result<bool>;

    /// Adds corrections; beyond [`CORRECTIONS_MAX`] the oldest are forgotten.
    async fn correction_append(&self, corrections: Vec<Correction>) -> Result<()>;

    /// The newest corrections, newest first.
    async fn correction_list(&self, limit: u32) -> Result<Vec<Correction>>;
}
