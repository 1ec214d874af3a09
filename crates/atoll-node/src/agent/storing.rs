//! The orders about what shared storage has: of any sandbox, also of those of other nodes.

use atoll_core::id::SandboxId;
use atoll_core::node::{CallOutcome, Refusal};
use atoll_core::snapshot::{Stored, Unneeded};

use super::Agent;
use super::owner::failed;
use crate::snapshot::SnapshotStore;

impl Agent {
    /// What this node's storage has of sandboxes after `after`, in the order of their ids.
    pub async fn list_snapshots(
        &self,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> CallOutcome<Vec<Stored>> {
        match self.storage() {
            Err(refusal) => CallOutcome::Refused(refusal),
            Ok(storage) => match storage.list(after, limit).await {
                Ok(found) => CallOutcome::Done(found),
                Err(error) => CallOutcome::Refused(failed(&error)),
            },
        }
    }

    /// Removes from this node's storage what is not needed any more. What is not there is `Done`.
    pub async fn drop_snapshots(&self, unneeded: &Unneeded) -> CallOutcome<()> {
        match self.storage() {
            Err(refusal) => CallOutcome::Refused(refusal),
            Ok(storage) => match storage.drop_through(unneeded, self.inner.clock.now()).await {
                Ok(()) => CallOutcome::Done(()),
                Err(error) => CallOutcome::Refused(failed(&error)),
            },
        }
    }

    fn storage(&self) -> Result<&SnapshotStore, Refusal> {
        let storage = self.inner.config.snapshots.as_ref();
        storage.ok_or_else(|| Refusal::Unsupported("snapshots in shared storage".to_owned()))
    }
}
