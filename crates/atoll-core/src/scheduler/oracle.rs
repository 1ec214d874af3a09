//! The same question answered by walking over all nodes: for tests, and to measure against.

use super::constraint::Counts;
use super::decide::walk;
use super::fleet::Fleet;
use super::policy::Policy;
use super::request::Request;
use crate::id::NodeId;

/// What a walk over all nodes says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The node with the highest score and that score, the first one among equals; none: no node
    /// fits.
    pub best: Option<(NodeId, u32)>,
    /// All nodes that fit.
    pub fitting: Vec<NodeId>,
    /// How many nodes fell to each constraint.
    pub counts: Counts,
}

/// Walks over all nodes. The fleet's time is what it last heard of.
#[must_use]
pub fn verdict(fleet: &Fleet, request: &Request, policy: &Policy) -> Verdict {
    let table = &fleet.table;
    let walked = walk(table, request, policy);
    let best = walked.best.as_ref();
    Verdict {
        best: best.map(|(slot, score)| (table.id(*slot).clone(), score.total())),
        fitting: walked
            .fitting
            .iter()
            .map(|slot| table.id(*slot).clone())
            .collect(),
        counts: walked.counts,
    }
}
