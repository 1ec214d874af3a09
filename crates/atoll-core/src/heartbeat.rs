//! What a node says of itself every two seconds, and how its silence is judged.
//!
//! A heartbeat is small whatever runs on the node: instead of the sandboxes it carries a
//! [`StateDigest`] of them. Control keeps the digest of what it expects there; when the two differ
//! it asks for the whole report. So agreement costs a few bytes, and a difference is noticed within
//! a few heartbeats instead of at the next full pass.

use std::time::Duration;

use crate::id::{Generation, NodeId, SandboxId};
use crate::node::{ObservedSandbox, ObservedState};
use crate::reconcile::NodeHealth;
use crate::resources::Resources;
use crate::time::Timestamp;

/// Time between two heartbeats of a node.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

/// A node that is silent for so long gets no new sandboxes: it missed five heartbeats, which a
/// pause of the machine or a lost packet does not explain.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(10);

/// A node that is silent for so long counts as lost, with what it ran.
pub const LOST_AFTER: Duration = Duration::from_secs(30);

/// How a node is judged that was last heard of this long ago.
#[must_use]
pub fn health_after(silence: Duration) -> NodeHealth {
    if silence >= LOST_AFTER {
        NodeHealth::Lost
    } else if silence >= SUSPECT_AFTER {
        NodeHealth::Suspect
    } else {
        NodeHealth::Ready
    }
}

/// What there is of something, and how much of it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Gauge {
    /// All of it; zero where the machine does not tell.
    pub total: u64,
    /// What is in use.
    pub used: u64,
}

impl Gauge {
    /// What is left.
    #[must_use]
    pub const fn available(self) -> u64 {
        self.total.saturating_sub(self.used)
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            total: self.total.saturating_add(other.total),
            used: self.used.saturating_add(other.used),
        }
    }
}

/// What a machine has and uses, as measured: whatever uses it, not only sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MachineUsage {
    /// CPU, in thousandths of a core; used since the last heartbeat, on average.
    pub cpu_millis: Gauge,
    /// Memory in bytes; caches that can be dropped do not count as used.
    pub memory_bytes: Gauge,
    /// The disk that sandboxes are on, in bytes.
    pub disk_bytes: Gauge,
    /// Traffic of the interfaces with a default route, both directions together, in bits per
    /// second; used since the last heartbeat, on average. The total is both directions of the link.
    pub network_bps: Gauge,
}

impl MachineUsage {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.plus(other.cpu_millis),
            memory_bytes: self.memory_bytes.plus(other.memory_bytes),
            disk_bytes: self.disk_bytes.plus(other.disk_bytes),
            network_bps: self.network_bps.plus(other.network_bps),
        }
    }
}

/// One heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Whose.
    pub node: NodeId,
    /// When it was made, by the node's clock. What it differs from control's clock by is the skew
    /// of the clocks plus the time it was under way.
    pub at: Timestamp,
    /// What the node has in total to give to sandboxes.
    pub total: Resources,
    /// The sum of its allocations.
    pub allocated: Resources,
    /// How many sandboxes it would report.
    pub sandboxes: u32,
    /// What the machine has and uses.
    pub usage: MachineUsage,
    /// What it runs, and what ended there and was not removed yet.
    pub digest: StateDigest,
    /// The driver's name.
    pub driver: String,
    /// What keeps the driver from making sandboxes, for people; none if nothing does.
    pub driver_problem: Option<String>,
}

/// A digest of a set of (id, generation, state) that does not depend on their order.
///
/// Each member becomes 64 bits (FNV-1a over the id's text, a zero byte, the generation's eight
/// bytes, least significant first, and the state's number; then the finalizer of splitmix64, so
/// that every bit depends on every byte). The digest is their sum modulo 2^64: adding commutes, a
/// member can be taken out again, and two equal members do not cancel each other, as with
/// exclusive or. The empty set is zero.
///
/// Two different sets have the same digest with a chance of about 2^-64. It does not withstand
/// somebody who looks for such sets: ids are random and drawn by control, and a node that lies can
/// lie in its report as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StateDigest(u64);

impl StateDigest {
    /// From the number on the wire.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The number for the wire.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The digest of what a node reports.
    #[must_use]
    pub fn of<'a>(sandboxes: impl IntoIterator<Item = &'a ObservedSandbox>) -> Self {
        let mut digest = Self::default();
        for seen in sandboxes {
            digest.add(&seen.id, seen.generation, seen.state);
        }
        digest
    }

    /// Puts a member in.
    pub fn add(&mut self, id: &SandboxId, generation: Generation, state: ObservedState) {
        self.0 = self.0.wrapping_add(member(id, generation, state));
    }

    /// Takes a member out that is in.
    pub fn remove(&mut self, id: &SandboxId, generation: Generation, state: ObservedState) {
        self.0 = self.0.wrapping_sub(member(id, generation, state));
    }
}

impl std::fmt::Display for StateDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn member(id: &SandboxId, generation: Generation, state: ObservedState) -> u64 {
    let tail = generation.get().to_le_bytes();
    let bytes = id
        .as_str()
        .bytes()
        .chain([0])
        .chain(tail)
        .chain([number(state)]);
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The numbers are part of what nodes of different versions agree on.
const fn number(state: ObservedState) -> u8 {
    match state {
        ObservedState::Starting => 1,
        ObservedState::Running => 2,
        ObservedState::Paused => 3,
        ObservedState::Exited => 4,
    }
}

#[cfg(test)]
mod tests;
