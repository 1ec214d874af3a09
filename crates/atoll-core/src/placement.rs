//! Which node a sandbox goes to: a pure decision that explains itself.
//!
//! Spreads: of the nodes with room, the one that is left with the most free of its scarcest
//! resource wins; ties are broken by the seed, so that equal nodes share a burst. A refusal says
//! how many nodes fell to which constraint, and the smallest change that would fit.
//!
//! It does not reserve: the caller accounts for its decisions, and the node has the last word.

use std::collections::BTreeMap;

use crate::id::NodeId;
use crate::resources::Resources;

/// How many alternatives a decision carries: so many definite refusals a create survives.
pub const ALTERNATIVES_MAX: usize = 4;

/// The highest score: a node that is left empty.
pub const SCORE_MAX: u32 = 1_000_000;

/// One node, as the control plane accounts for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCapacity {
    /// Its identity.
    pub id: NodeId,
    /// What may be allocated on it, overcommitment included.
    pub total: Resources,
    /// What is.
    pub allocated: Resources,
    /// Whether it takes new sandboxes at all.
    pub is_schedulable: bool,
}

/// What is to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What the sandbox takes.
    pub resources: Resources,
    /// Nodes that already refused it.
    pub excluded: Vec<NodeId>,
}

/// Why a node cannot take a sandbox. A node counts for the first one that holds, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Constraint {
    /// It takes no new sandboxes.
    NotSchedulable,
    /// It already refused this one.
    Excluded,
    /// Too little cpu is free.
    Cpu,
    /// Too little memory is free.
    Memory,
    /// Too little disk is free.
    Disk,
}

impl Constraint {
    /// The constraint in words that end "… node(s)".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSchedulable => "not schedulable",
            Self::Excluded => "already refused it",
            Self::Cpu => "too little cpu",
            Self::Memory => "too little memory",
            Self::Disk => "too little disk",
        }
    }
}

/// A node that was or could have been chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which node.
    pub node: NodeId,
    /// How good it is: 0 to [`SCORE_MAX`].
    pub score: u32,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The chosen node.
    pub node: NodeId,
    /// Its score: 0 to [`SCORE_MAX`].
    pub score: u32,
    /// Why, for people.
    pub reason: String,
    /// The next best, best first.
    pub alternatives: Vec<Candidate>,
    /// How many nodes fell to each constraint.
    pub counts: BTreeMap<Constraint, u32>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// How many nodes fell to each constraint.
    pub counts: BTreeMap<Constraint, u32>,
    /// The smallest change of the request that would fit somewhere, for people; none if no node
    /// would take even the smallest sandbox.
    pub smallest_change: Option<String>,
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.counts.is_empty() {
            return f.write_str("there are no nodes");
        }
        f.write_str(&in_words(&self.counts))?;
        match &self.smallest_change {
            Some(change) => write!(f, "; {change}"),
            None => Ok(()),
        }
    }
}

/// How many nodes fell to which constraint, for people; empty if none did.
#[must_use]
pub fn in_words(counts: &BTreeMap<Constraint, u32>) -> String {
    let parts = counts
        .iter()
        .map(|(constraint, count)| format!("{}: {count} node(s)", constraint.as_str()));
    parts.collect::<Vec<_>>().join(", ")
}

/// Chooses a node.
///
/// # Errors
/// [`Rejected`] if no node can take the sandbox.
pub fn place(fleet: &[NodeCapacity], request: &Request, seed: u64) -> Result<Placed, Rejected> {
    let mut counts = BTreeMap::new();
    let mut fitting: Vec<(u32, u64, &NodeCapacity)> = Vec::new();
    for node in fleet {
        match judge(node, request) {
            Ok(score) => fitting.push((score, tie_break(seed, &node.id), node)),
            Err(constraint) => *counts.entry(constraint).or_insert(0) += 1,
        }
    }
    fitting.sort_by(|a, b| (b.0, b.1, &b.2.id).cmp(&(a.0, a.1, &a.2.id)));
    let Some((score, _, best)) = fitting.first() else {
        return Err(Rejected {
            smallest_change: smallest_change(fleet, request),
            counts,
        });
    };
    Ok(Placed {
        node: best.id.clone(),
        score: *score,
        reason: format!(
            "most room left of {} node(s) that fit: {}.{}% of its scarcest resource stays free",
            fitting.len(),
            score / 10_000,
            score % 10_000 / 1_000,
        ),
        alternatives: fitting
            .iter()
            .skip(1)
            .take(ALTERNATIVES_MAX)
            .map(|(score, _, node)| Candidate {
                node: node.id.clone(),
                score: *score,
            })
            .collect(),
        counts,
    })
}

/// The node's score, or the first constraint it falls to.
fn judge(node: &NodeCapacity, request: &Request) -> Result<u32, Constraint> {
    if !node.is_schedulable {
        return Err(Constraint::NotSchedulable);
    }
    if request.excluded.contains(&node.id) {
        return Err(Constraint::Excluded);
    }
    let free = free(node);
    let wanted = request.resources;
    let left = |free: u32, wanted: u32, constraint| free.checked_sub(wanted).ok_or(constraint);
    let cpu = left(free.cpu_millis, wanted.cpu_millis, Constraint::Cpu)?;
    let memory = left(free.memory_mib, wanted.memory_mib, Constraint::Memory)?;
    let disk = left(free.disk_mib, wanted.disk_mib, Constraint::Disk)?;
    Ok(share(cpu, node.total.cpu_millis)
        .min(share(memory, node.total.memory_mib))
        .min(share(disk, node.total.disk_mib)))
}

fn free(node: &NodeCapacity) -> Resources {
    Resources {
        cpu_millis: node
            .total
            .cpu_millis
            .saturating_sub(node.allocated.cpu_millis),
        memory_mib: node
            .total
            .memory_mib
            .saturating_sub(node.allocated.memory_mib),
        disk_mib: node.total.disk_mib.saturating_sub(node.allocated.disk_mib),
    }
}

/// `part` of `whole` on the scale of [`SCORE_MAX`]. A resource the node does not have at all and
/// nobody asks for does not count against it.
fn share(part: u32, whole: u32) -> u32 {
    if whole == 0 {
        return SCORE_MAX;
    }
    let scaled = u64::from(part.min(whole)) * u64::from(SCORE_MAX) / u64::from(whole);
    u32::try_from(scaled).unwrap_or(SCORE_MAX)
}

/// A number that depends on seed and node only and is spread evenly (FNV-1a, then one multiply and
/// shift so that near seeds order nodes differently).
fn tie_break(seed: u64, node: &NodeId) -> u64 {
    let mut hash = seed ^ 0xcbf2_9ce4_8422_2325;
    for byte in node.as_str().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 8
}

fn smallest_change(fleet: &[NodeCapacity], request: &Request) -> Option<String> {
    let candidates: Vec<_> = fleet
        .iter()
        .filter(|node| node.is_schedulable && !request.excluded.contains(&node.id))
        .map(free)
        .collect();
    let wanted = request.resources;
    // The node that comes closest is the one with the smallest relative shortage in any dimension.
    let shortage = |room: &Resources| {
        [
            (room.cpu_millis, wanted.cpu_millis),
            (room.memory_mib, wanted.memory_mib),
            (room.disk_mib, wanted.disk_mib),
        ]
        .into_iter()
        .map(|(room, wanted)| SCORE_MAX - share(room, wanted))
        .max()
        .unwrap_or(0)
    };
    let closest = candidates.iter().min_by_key(|room| shortage(room))?;
    let mut parts = Vec::new();
    for (name, unit, room, wanted) in [
        ("cpu", "m", closest.cpu_millis, wanted.cpu_millis),
        ("memory", " MiB", closest.memory_mib, wanted.memory_mib),
        ("disk", " MiB", closest.disk_mib, wanted.disk_mib),
    ] {
        if room < wanted {
            parts.push(format!(
                "needs {wanted}{unit} of {name}, the closest node has {room}{unit} free"
            ));
        }
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests;
