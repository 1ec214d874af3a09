//! Decisions as they are kept: in names and numbers, so that what was stored stays readable
//! whatever strategies, terms and constraints there are later.

use super::amount::Dimension;
use super::constraint::Counts;
use super::decision::{Candidate, Change, Decision, Refusal};
use super::policy::Policy;
use super::request::Sparing;
use super::score::Score;
use crate::id::{Generation, NodeId};

/// What was asked, beside what came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Under which generation of the sandbox.
    pub generation: Generation,
    /// What broke ties.
    pub seed: u64,
    /// The nodes that had refused the sandbox before.
    pub refused: Vec<NodeId>,
}

/// A decision or a refusal. The time and the reason in words stand with the event that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The chosen node; none: no node fitted.
    pub node: Option<NodeId>,
    /// Its score.
    pub score: u32,
    /// What the score is made of.
    pub parts: Vec<Part>,
    /// The next best, best first.
    pub alternatives: Vec<Candidate>,
    /// The strategy's name.
    pub strategy: String,
    /// Which nodes were spared, by name.
    pub sparing: String,
    /// How many nodes fitted.
    pub fitting: u32,
    /// How many nodes fell to each constraint.
    pub rejected: Vec<Rejected>,
    /// What would have helped a refusal.
    pub smallest_change: Option<SmallestChange>,
    /// What was asked.
    pub asked: Asked,
}

/// A part of a score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The term's name.
    pub term: String,
    /// How good the node is in that.
    pub value: u32,
    /// How much that counts, in thousandths of the whole.
    pub weight_permille: u32,
}

/// How many nodes fell to a constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The constraint's name.
    pub constraint: String,
    /// How many nodes.
    pub nodes: u32,
}

/// The smallest change that would have made a request fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallestChange {
    /// In words.
    pub text: String,
    /// How many nodes come that near.
    pub nodes: u32,
    /// What those lack; empty if it is not room.
    pub short: Vec<Short>,
}

/// What is missing of one dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Short {
    /// The dimension's name.
    pub dimension: String,
    /// What the request needs, in the dimension's unit.
    pub needs: u32,
    /// What is free.
    pub free: u32,
}

impl Record {
    /// Of a decision.
    #[must_use]
    pub fn of_decision(decision: &Decision, sparing: Sparing, asked: Asked) -> Self {
        Self {
            node: Some(decision.node.clone()),
            score: decision.score.total(),
            parts: parts(&decision.score),
            alternatives: decision.alternatives.clone(),
            strategy: decision.strategy.as_str().to_owned(),
            sparing: sparing.as_str().to_owned(),
            fitting: decision.fitting,
            rejected: rejected(&decision.counts),
            smallest_change: None,
            asked,
        }
    }

    /// Of a refusal under a policy. A refusal that stands spared no more than it had to.
    #[must_use]
    pub fn of_refusal(refusal: &Refusal, policy: &Policy, asked: Asked) -> Self {
        Self {
            node: None,
            score: 0,
            parts: Vec::new(),
            alternatives: Vec::new(),
            strategy: policy.strategy.as_str().to_owned(),
            sparing: String::new(),
            fitting: 0,
            rejected: rejected(&refusal.counts),
            smallest_change: refusal.smallest_change.as_ref().map(smallest_change),
            asked,
        }
    }
}

fn parts(score: &Score) -> Vec<Part> {
    let parts = score.parts().map(|part| Part {
        term: part.term.as_str().to_owned(),
        value: part.value,
        weight_permille: part.weight_permille,
    });
    parts.collect()
}

fn rejected(counts: &Counts) -> Vec<Rejected> {
    let rejected = counts.iter().map(|(constraint, nodes)| Rejected {
        constraint: constraint.name().to_owned(),
        nodes,
    });
    rejected.collect()
}

fn smallest_change(change: &Change) -> SmallestChange {
    let (Change::Room { nodes, .. } | Change::Lift { nodes, .. }) = change;
    let name = |dimension: Dimension| dimension.as_str().to_owned();
    let short = change.shorts().into_iter().map(|short| Short {
        dimension: name(short.dimension),
        needs: short.needs,
        free: short.free,
    });
    SmallestChange {
        text: change.to_string(),
        nodes: *nodes,
        short: short.collect(),
    }
}
