//! Which servers live, and which of them does what only one may do.
//!
//! No clock is compared with another: a server counts its beats, whoever watches it measures by its
//! own clock how long they have stood still, and a server that is judged dead is removed only if
//! they still do. A lease belongs to its holder for as long as that is among the servers.

use async_trait::async_trait;
use atoll_core::id::{NodeId, SandboxId, ServerId};

use super::{EventRow, Result};

/// One process of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRow {
    /// Which: another one at each start.
    pub id: ServerId,
    /// Where it listens, for people.
    pub address: String,
    /// Its program's version, for people.
    pub version: String,
    /// The nodes that it has not heard for long, or never, in order: one that nobody hears is lost,
    /// one that somebody hears is not.
    pub silent: Vec<NodeId>,
    /// How often it said that it lives.
    pub beats: u64,
}

/// Who does what only one may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who.
    pub holder: ServerId,
    /// Raised whenever it goes to another.
    pub term: u64,
}

/// The part of the store that is about servers.
#[async_trait]
pub trait LeaseStore: Send + Sync + std::fmt::Debug {
    /// Adds a server, or counts one more of its beats. The row's own count is of no account.
    async fn server_beat(&self, server: &ServerRow) -> Result<()>;

    /// Every server, by id.
    async fn server_list(&self) -> Result<Vec<ServerRow>>;

    /// Removes a server; with `beats` only one whose count is still this. What it holds is free
    /// from then on. Answers whether it was removed.
    async fn server_remove(&self, id: &ServerId, beats: Option<u64>) -> Result<bool>;

    /// Who holds a lease, alive or not.
    async fn lease_get(&self, name: &str) -> Result<Option<Lease>>;

    /// Gives a lease to a server, unless its holder is another one that is among the servers, or
    /// the one that asks is not. Answers who holds it now.
    async fn lease_take(&self, name: &str, server: &ServerId) -> Result<Option<Lease>>;

    /// Has another server bring a sandbox where it should be, and writes the events that tell of
    /// it, if the sandbox's row is still of this revision. Answers whether it was.
    async fn claim_pass(
        &self,
        sandbox: &SandboxId,
        revision: u64,
        to: &ServerId,
        events: Vec<EventRow>,
    ) -> Result<bool>;
}
