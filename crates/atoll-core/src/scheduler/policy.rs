//! How nodes are chosen: a strategy, constraints and preferences.

use super::constraint::Constraints;
use super::score::{Term, Weights};

/// Alternatives that a decision may carry: so many definite refusals a create survives in one step
/// each.
pub const ALTERNATIVES_MAX: usize = 8;

/// Nodes that best of K looks at, at most.
pub const SAMPLE_MAX: u8 = 16;

/// What makes a node good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Fill nodes up, without stranding what is left: few nodes in use.
    BestFit,
    /// Keep nodes as empty as can be: the load is shared evenly.
    LeastAllocated,
    /// The least allocated of so many nodes that fit, drawn by chance: 1 to [`SAMPLE_MAX`].
    BestOf(u8),
    /// The given terms.
    Weighted(Weights),
    /// Any node that fits.
    Random,
}

impl Strategy {
    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BestFit => "best_fit",
            Self::LeastAllocated => "least_allocated",
            Self::BestOf(_) => "best_of",
            Self::Weighted(_) => "weighted",
            Self::Random => "random",
        }
    }

    /// What it counts, apart from preferences.
    pub(super) fn weights(self) -> Weights {
        match self {
            Self::BestFit => Weights::of(&[(Term::Pack, 80), (Term::Balance, 20)]),
            Self::LeastAllocated | Self::BestOf(_) => Weights::of(&[(Term::Spread, 100)]),
            Self::Weighted(weights) => weights,
            Self::Random => Weights::default(),
        }
    }

    /// How many nodes are drawn; none: all count.
    pub(super) fn sample(self) -> Option<u8> {
        match self {
            Self::BestOf(count) => Some(count.clamp(1, SAMPLE_MAX)),
            Self::Random => Some(1),
            Self::BestFit | Self::LeastAllocated | Self::Weighted(_) => None,
        }
    }
}

/// How nodes are chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What makes a node good.
    pub strategy: Strategy,
    /// What every node must fulfil, beside what the request asks for.
    pub constraints: Constraints,
    /// What counts beside the strategy. Its own terms have weights that sum up to 100.
    pub preferences: Weights,
    /// Nodes whose score is this close to the best are as good as it, and chance decides: 0 to
    /// [`SCORE_MAX`](super::score::SCORE_MAX). Spreads a burst when the view is stale.
    pub tolerance: u32,
    /// How many alternatives a decision carries: [`ALTERNATIVES_MAX`] at most.
    pub alternatives: usize,
}

impl Policy {
    /// This strategy and nothing else.
    #[must_use]
    pub fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            constraints: Constraints::default(),
            preferences: Weights::default(),
            tolerance: 0,
            alternatives: 4,
        }
    }
}
