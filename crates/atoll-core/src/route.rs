//! Where the traffic of a sandbox goes: what control tells the edges.

use crate::id::{Generation, NodeId, SandboxId};
use crate::sandbox::AccessToken;

/// How to reach one running sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The node that runs it.
    pub node: NodeId,
    /// The placement this route belongs to.
    pub generation: Generation,
    /// What clients must show to reach ports other than the guest agent's; none: public.
    pub traffic_token: Option<AccessToken>,
    /// Replaces the Host header of requests to those ports; `${PORT}` stands for the port.
    pub mask_request_host: Option<String>,
}

/// A change of the route table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteUpdate {
    /// Adds or replaces; ignored if the table holds a newer generation.
    Publish(Route),
    /// Removes, unless the table holds a newer generation.
    Withdraw(SandboxId, Generation),
}
