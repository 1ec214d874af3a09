//! A node as its operator and its machine describe it.

use std::collections::{BTreeMap, BTreeSet};

use super::amount::{Amount, DIMENSIONS};
use super::constraint::{Taint, Version};
use crate::id::NodeId;

/// Sandboxes that may start on a node at a time, unless it says otherwise: more only wait for one
/// another's disk.
pub const STARTS_MAX: u16 = 64;

/// How much more may be allocated than there is, in percent of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overcommit([u32; DIMENSIONS]);

impl Overcommit {
    /// As much as there is.
    pub const NONE: Self = Self([100; DIMENSIONS]);

    /// Cpu, memory, disk and network in percent.
    #[must_use]
    pub const fn new(cpu: u32, memory: u32, disk: u32, network: u32) -> Self {
        Self([cpu, memory, disk, network])
    }

    /// What may be allocated of this; stops at the largest number.
    #[must_use]
    pub fn apply(self, total: Amount) -> Amount {
        total.zip(
            Amount::new(self.0[0], self.0[1], self.0[2], self.0[3]),
            |of, percent| {
                let allowed = u64::from(of) * u64::from(percent) / 100;
                u32::try_from(allowed).unwrap_or(u32::MAX)
            },
        )
    }
}

/// What changes seldom about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its identity.
    pub id: NodeId,
    /// What the machine has.
    pub total: Amount,
    /// How much more may be allocated.
    pub overcommit: Overcommit,
    /// What is kept free of what may be allocated.
    pub headroom: Amount,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Where it is; empty: nowhere in particular, which is a zone as well.
    pub zone: String,
    /// Its processor's architecture.
    pub architecture: String,
    /// Its processor's features.
    pub cpu_features: BTreeSet<String>,
    /// Its drivers and their versions.
    pub drivers: BTreeMap<String, Version>,
    /// Sandboxes that it takes at most.
    pub sandboxes_max: u32,
    /// Sandboxes that may start on it at a time.
    pub starts_max: u16,
}

impl Node {
    /// A node of this size without anything special.
    #[must_use]
    pub fn new(id: NodeId, total: Amount) -> Self {
        Self {
            id,
            total,
            overcommit: Overcommit::NONE,
            headroom: Amount::ZERO,
            labels: BTreeMap::new(),
            tags: BTreeSet::new(),
            taints: Vec::new(),
            zone: String::new(),
            architecture: String::new(),
            cpu_features: BTreeSet::new(),
            drivers: BTreeMap::new(),
            sandboxes_max: u32::MAX,
            starts_max: STARTS_MAX,
        }
    }

    /// What may be allocated on it.
    #[must_use]
    pub fn allocatable(&self) -> Amount {
        let allowed = self.overcommit.apply(self.total);
        allowed.saturating_sub(self.headroom)
    }
}
