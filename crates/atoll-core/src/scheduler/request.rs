//! What is to be placed.

use super::amount::Amount;
use super::constraint::Constraints;
use crate::id::NodeId;

/// Nodes that a request may exclude. More refusals than that are no use to try against.
pub const EXCLUDED_MAX: usize = 12;

/// Which nodes are spared although they have room: whoever finds no other node asks again with
/// less of it, because trying is better than refusing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sparing {
    /// Those that fail, and those that returned a short while ago, have many starts under way for
    /// their record, or measure much use.
    #[default]
    All,
    /// Those that fail.
    Failing,
    /// None.
    Nobody,
}

impl Sparing {
    /// All, in the order of their index.
    pub(super) const STEPS: [Self; 3] = [Self::All, Self::Failing, Self::Nobody];

    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Failing => "failing",
            Self::Nobody => "nobody",
        }
    }
}

/// What is to be placed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// What the sandbox takes.
    pub amount: Amount,
    /// What a node must fulfil.
    pub constraints: Constraints,
    /// Its template, for the preference of nodes that have it, or an instance of it.
    pub template: Option<String>,
    /// Its snapshot, for the preference of nodes that have it.
    pub snapshot: Option<String>,
    /// Its image's layers, for the preference of nodes that have them.
    pub layers: Vec<String>,
    /// The node of a sandbox that it is to be near, for that preference.
    pub near: Option<NodeId>,
    /// The group that is to be spread over zones, for that preference.
    pub spread_group: Option<String>,
    /// The groups that the sandbox belongs to: others may have to be apart from them.
    pub groups: Vec<String>,
    /// Which nodes are spared for it.
    pub sparing: Sparing,
    /// Nodes that already refused it: [`EXCLUDED_MAX`] at most, the first ones count.
    pub excluded: Vec<NodeId>,
}
