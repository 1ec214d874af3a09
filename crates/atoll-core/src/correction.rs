//! Repairs: what was done because something was not as it was intended, and why.

use crate::id::{Generation, NodeId, SandboxId};
use crate::time::Timestamp;

/// What was repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CorrectionKind {
    /// A sandbox that nothing intends was removed from a node.
    OrphanRemoved,
    /// An older placement of a sandbox was removed from a node that no longer has it.
    StaleRemoved,
    /// A sandbox that should be on a node was not there.
    MissingNoticed,
    /// A sandbox had changed, and nobody had been told.
    ChangeNoticed,
    /// A node's digest differed from what was expected there.
    DigestMismatch,
    /// The route to a sandbox was published again.
    RouteRepublished,
    /// A sandbox was put back into the directory of services.
    RegistrationRestored,
    /// A sandbox that is not there was taken out of the directory of services.
    RegistrationRemoved,
}

impl CorrectionKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::OrphanRemoved,
        Self::StaleRemoved,
        Self::MissingNoticed,
        Self::ChangeNoticed,
        Self::DigestMismatch,
        Self::RouteRepublished,
        Self::RegistrationRestored,
        Self::RegistrationRemoved,
    ];

    /// Its name, as stored and as operators see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OrphanRemoved => "orphan_removed",
            Self::StaleRemoved => "stale_removed",
            Self::MissingNoticed => "missing_noticed",
            Self::ChangeNoticed => "change_noticed",
            Self::DigestMismatch => "digest_mismatch",
            Self::RouteRepublished => "route_republished",
            Self::RegistrationRestored => "registration_restored",
            Self::RegistrationRemoved => "registration_removed",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction {
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: CorrectionKind,
    /// On which node.
    pub node: Option<NodeId>,
    /// Of which sandbox.
    pub sandbox: Option<SandboxId>,
    /// Under which placement.
    pub generation: Option<Generation>,
    /// Why, for people.
    pub reason: String,
}
