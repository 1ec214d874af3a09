//! What comes out: a place, or why there is none.

use std::fmt;

use super::amount::{Amount, DIMENSIONS, Dimension};
use super::constraint::{Constraint, Counts};
use super::policy::Strategy;
use super::reservation::ReservationId;
use super::score::{Percent, Score};
use crate::id::NodeId;

pub use super::reservation::ReservationId as Reservation;

/// A node that could have been chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub node: NodeId,
    /// Its score when the decision was made.
    pub score: u32,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The chosen node.
    pub node: NodeId,
    /// How good it is, and in what.
    pub score: Score,
    /// The next best, best first.
    pub alternatives: Vec<Candidate>,
    /// How it was chosen.
    pub strategy: Strategy,
    /// How many nodes fitted.
    pub fitting: u32,
    /// How many nodes fell to each constraint.
    pub counts: Counts,
    /// How many nodes were not looked at yet, because such a request is new: the score is the best
    /// of the others.
    pub unseen: u32,
    /// What holds the place until the node has answered; none in a dry run.
    pub reservation: Option<ReservationId>,
    /// The nodes that were chosen before in this line and refused.
    pub refused: Vec<NodeId>,
}

impl Decision {
    /// Why this node, for people.
    #[must_use]
    pub const fn reason(&self) -> Reason<'_> {
        Reason(self)
    }
}

/// The reason of a decision in words.
#[derive(Debug)]
pub struct Reason<'a>(&'a Decision);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = self.0;
        let what = match decision.strategy {
            Strategy::BestFit => "fills up best",
            Strategy::LeastAllocated => "keeps most room free",
            Strategy::BestOf(_) => "keeps most room free of a few drawn by chance",
            Strategy::Weighted(_) => "has the highest weighted score",
            Strategy::Random => "was drawn by chance",
        };
        write!(f, "{what} of {} node(s) that fit", decision.fitting)?;
        if decision.unseen > 0 {
            write!(f, " ({} not looked at yet)", decision.unseen)?;
        }
        for (position, part) in decision.score.parts().enumerate() {
            let sign = if position == 0 { ": " } else { ", " };
            write!(f, "{sign}{} {}", part.term.as_str(), Percent(part.value))?;
        }
        Ok(())
    }
}

/// What is missing of one dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// Of what.
    pub dimension: Dimension,
    /// What the request needs.
    pub needs: u32,
    /// What is free on the node that comes nearest.
    pub free: u32,
}

/// The smallest change that would make a request fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// To need less, or to have more free.
    Room {
        /// What the request needs.
        needs: Amount,
        /// What is free on the nodes that come nearest.
        free: Amount,
        /// How many nodes come that near; counted up to [`NEAREST_MAX`].
        nodes: u32,
    },
    /// No node lacks room only. The nodes that came furthest fell to this.
    Lift {
        /// To what.
        constraint: Constraint,
        /// How many.
        nodes: u32,
    },
}

/// Nodes that are counted as coming nearest: more say nothing new.
pub const NEAREST_MAX: u32 = 16;

impl Change {
    /// What is missing; empty if it is not room.
    #[must_use]
    pub fn shorts(&self) -> Vec<Short> {
        let Self::Room { needs, free, .. } = self else {
            return Vec::new();
        };
        let mut shorts = Vec::with_capacity(DIMENSIONS);
        for dimension in Dimension::ALL {
            let (needs, free) = (needs.get(dimension), free.get(dimension));
            if free < needs {
                shorts.push(Short {
                    dimension,
                    needs,
                    free,
                });
            }
        }
        shorts
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room { nodes, .. } => {
                for (position, short) in self.shorts().iter().enumerate() {
                    let comma = if position == 0 { "" } else { "; " };
                    let name = short.dimension.as_str();
                    let needs = short.dimension.in_words(short.needs);
                    let free = short.dimension.in_words(short.free);
                    write!(f, "{comma}needs {needs} of {name}; largest free is {free}")?;
                }
                let more = if *nodes == NEAREST_MAX {
                    " or more"
                } else {
                    ""
                };
                write!(f, " on {nodes}{more} node(s)")
            }
            Self::Lift { constraint, nodes } => {
                write!(f, "the nearest {nodes} node(s) are {}", constraint.as_str())
            }
        }
    }
}

/// A refusal: no node fits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// How many nodes fell to each constraint.
    pub counts: Counts,
    /// What would help; none if there are no nodes.
    pub smallest_change: Option<Change>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.smallest_change {
            None => f.write_str("there are no nodes"),
            Some(change) => write!(f, "{}; {change}", self.counts),
        }
    }
}
