//! What control asks of a node, whatever carries it there.

use async_trait::async_trait;
use atoll_core::id::{BuildId, Generation, NodeId, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{CallOutcome, NodeInfo, NodeReport, ObservedSandbox, Refusal};
use atoll_core::sandbox::SandboxSpec;
use atoll_core::snapshot::{Stored, Unneeded};
use atoll_core::template::TemplateSource;

/// One node, as control sees it.
///
/// Every call is idempotent, so an unknown outcome is resolved by asking again. Control may drop
/// the future of a call (its caller went away or a delete overtook it); the node then finishes or
/// undoes by itself, and a later [`NodeClient::remove`] of the same generation must win over it:
/// once a removal of generation `g` is done, `ensure` of `g` or older is refused as stale.
#[async_trait]
pub trait NodeClient: Send + Sync + std::fmt::Debug {
    /// The node's identity; constant for the life of the client.
    fn node(&self) -> &NodeId;

    /// What the node is called and where it is.
    fn info(&self) -> NodeInfo {
        NodeInfo::default()
    }

    /// Makes the sandbox run; answers once its guest agent is initialised, or with a refusal that
    /// left nothing behind. Idempotent by (id, generation).
    async fn ensure(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox>;

    /// Removes the sandbox with all that it holds. An absent one is `Done`. Ends in bounded time.
    async fn remove(&self, id: &SandboxId, generation: Generation) -> CallOutcome<()>;

    /// Replaces the egress policy of a running sandbox.
    async fn update_network(
        &self,
        id: &SandboxId,
        generation: Generation,
        policy: &NetworkPolicy,
    ) -> CallOutcome<()>;

    /// Keeps the sandbox without serving: its processes are stopped, and with `keep_memory` they
    /// stay as they are; without it only its files are kept. `Done` once what is kept would survive
    /// the end of the node's process. Idempotent by (id, generation); a sandbox that is paused
    /// already is `Done`.
    async fn pause(
        &self,
        id: &SandboxId,
        generation: Generation,
        keep_memory: bool,
    ) -> CallOutcome<ObservedSandbox> {
        let _ = (id, generation, keep_memory);
        CallOutcome::Refused(Refusal::Unsupported("pause".to_owned()))
    }

    /// Lets a paused sandbox serve again, under the generation of `spec`, which is newer than the
    /// one it was paused under; answers once its guest agent is initialised. Idempotent by
    /// (id, generation). A refusal left it paused as it was; `UnknownSandbox` if the node keeps
    /// none of that id.
    async fn resume(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        let _ = spec;
        CallOutcome::Refused(Refusal::Unsupported("resume".to_owned()))
    }

    /// What the node's shared storage has of sandboxes after `after`, in the order of their ids: at
    /// most `limit`, none at the end.
    async fn list_snapshots(
        &self,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> CallOutcome<Vec<Stored>> {
        let _ = (after, limit);
        CallOutcome::Refused(Refusal::Unsupported("shared storage".to_owned()))
    }

    /// Removes from the node's shared storage what is not needed. What is not there is `Done`.
    async fn drop_snapshots(&self, unneeded: &Unneeded) -> CallOutcome<()> {
        let _ = unneeded;
        CallOutcome::Refused(Refusal::Unsupported("shared storage".to_owned()))
    }

    /// Everything the node runs.
    async fn report(&self) -> CallOutcome<NodeReport>;

    /// Makes a template build usable on the node. Idempotent by (template, build).
    async fn import_template(
        &self,
        template: &TemplateId,
        build: &BuildId,
        source: &TemplateSource,
    ) -> CallOutcome<()>;

    /// Removes a template build. An absent one is `Done`.
    async fn remove_template(&self, template: &TemplateId, build: &BuildId) -> CallOutcome<()>;
}
