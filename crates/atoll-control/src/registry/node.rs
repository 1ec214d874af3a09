//! One node as the registry keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::descriptor::scheduled;
use atoll_core::heartbeat::{Heartbeat, StateDigest, health_after};
use atoll_core::id::{Generation, NodeId, SandboxId};
use atoll_core::node::{DrainMode, NodeInfo, NodeState, ObservedState};
use atoll_core::reconcile::{NodeHealth, Observed};
use atoll_core::resources::Resources;
use atoll_core::scheduler::node::Node;
use atoll_core::time::Timestamp;
use tokio::time::Instant;

use crate::config::Overcommit;
use crate::guard::Breakers;
use crate::node_client::NodeClient;

/// A digest that differs for so long leads to a full synchronisation although orders are under way:
/// longer than nearly every order takes, shorter than a busy node could hide a difference.
const MISMATCH_PATIENCE: Duration = Duration::from_secs(10);

/// Heartbeats in a row whose digest must differ while nothing is under way. One alone may have
/// crossed the answer to an order.
const MISMATCHES_MIN: u32 = 2;

/// A node.
#[derive(Debug)]
pub(super) struct NodeEntry {
    pub(super) client: Option<Arc<dyn NodeClient>>,
    pub(super) breakers: Breakers,
    pub(super) info: NodeInfo,
    pub(super) drain: Option<DrainMode>,
    /// The operator removed it.
    pub(super) has_left: bool,
    pub(super) health: NodeHealth,
    /// Whether it reported since it joined or was lost. Before that it is never ready.
    pub(super) has_reported: bool,
    /// Whether somebody waits for its report.
    pub(super) is_synchronising: bool,
    /// When it was last heard of, or when we began to wait for it.
    pub(super) last_contact: Instant,
    pub(super) joined_at: Option<Timestamp>,
    /// How long its last report took.
    pub(super) latency: Option<Duration>,
    pub(super) total: Resources,
    pub(super) allocated: Resources,
    pub(super) sandboxes: u32,
    pub(super) heartbeat: Option<Received>,
    /// What control saw last of the sandboxes on it.
    expected: StateDigest,
    /// Sandboxes on it of which nobody knows how they stand: an order is under way.
    unknown: u32,
    mismatch: Option<Mismatch>,
}

/// A heartbeat that arrived.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) heartbeat: Heartbeat,
    pub(super) at: Timestamp,
    pub(super) instant: Instant,
}

/// Why a full synchronisation is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It has not reported since it joined or was lost.
    Unheard,
    /// Its digest is not the expected one.
    Mismatch(String),
}

/// Digests that differ.
#[derive(Debug, Clone, Copy)]
struct Mismatch {
    since: Instant,
    count: u32,
}

/// What one sandbox adds to its node. The sums are changed by nothing else, so that they are exact.
#[derive(Debug, Clone)]
pub(super) struct Share {
    pub(super) held: Resources,
    seen: Option<(Generation, ObservedState)>,
    is_unknown: bool,
}

impl Share {
    pub(super) fn new(held: Resources, observed: &Observed) -> Self {
        Self {
            held,
            seen: match observed {
                Observed::Known(seen) => Some((seen.generation, seen.state)),
                Observed::Absent | Observed::Unknown => None,
            },
            is_unknown: *observed == Observed::Unknown,
        }
    }
}

impl NodeEntry {
    pub(super) fn new() -> Self {
        Self {
            client: None,
            breakers: Breakers::default(),
            info: NodeInfo::default(),
            drain: None,
            has_left: false,
            health: NodeHealth::Suspect,
            has_reported: false,
            is_synchronising: false,
            last_contact: Instant::now(),
            joined_at: None,
            latency: None,
            total: Resources::default(),
            allocated: Resources::default(),
            sandboxes: 0,
            heartbeat: None,
            expected: StateDigest::default(),
            unknown: 0,
            mismatch: None,
        }
    }

    pub(super) fn add(&mut self, id: &SandboxId, share: &Share) {
        self.sandboxes += 1;
        let (sum, more) = (self.allocated, share.held);
        self.allocated = Resources {
            cpu_millis: sum.cpu_millis.saturating_add(more.cpu_millis),
            memory_mib: sum.memory_mib.saturating_add(more.memory_mib),
            disk_mib: sum.disk_mib.saturating_add(more.disk_mib),
        };
        if let Some((generation, state)) = share.seen {
            self.expected.add(id, generation, state);
        }
        self.unknown += u32::from(share.is_unknown);
    }

    pub(super) fn subtract(&mut self, id: &SandboxId, share: &Share) {
        self.sandboxes = self.sandboxes.saturating_sub(1);
        self.allocated = self.allocated.checked_sub(share.held).unwrap_or_default();
        if let Some((generation, state)) = share.seen {
            self.expected.remove(id, generation, state);
        }
        self.unknown = self.unknown.saturating_sub(u32::from(share.is_unknown));
    }

    /// How it stands, in one word.
    pub(super) const fn state(&self) -> NodeState {
        match (self.health, self.drain) {
            _ if self.has_left => NodeState::Left,
            (NodeHealth::Lost, _) => NodeState::Lost,
            (NodeHealth::Suspect, _) => NodeState::Suspect,
            (NodeHealth::Ready, Some(_)) => NodeState::Draining,
            (NodeHealth::Ready, None) => NodeState::Ready,
        }
    }

    /// How it stands for the scheduler: one that cannot be told anything is not ready.
    pub(super) const fn standing(&self) -> NodeState {
        match self.state() {
            NodeState::Ready if self.client.is_none() => NodeState::Suspect,
            state => state,
        }
    }

    /// What the scheduler knows of it.
    pub(super) fn described(&self, id: &NodeId, overcommit: Overcommit) -> Node {
        scheduled(id.clone(), self.total.into(), overcommit.into(), &self.info)
    }

    #[cfg(test)]
    pub(super) const fn expected(&self) -> (StateDigest, u32) {
        (self.expected, self.unknown)
    }

    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.duration_since(self.last_contact)
    }

    /// Whether it was not heard for so long that it would be lost, or never.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.client.is_none() || health_after(self.silence(now)) == NodeHealth::Lost
    }

    /// Judges its silence. A node that has not reported since it joined or was lost can only become
    /// worse, and one that others hear is not lost.
    pub(super) fn age(&mut self, now: Instant, is_unheard: impl Fn() -> bool) {
        if self.has_left {
            return;
        }
        let judged = match health_after(self.silence(now)) {
            NodeHealth::Lost if self.health != NodeHealth::Lost && !is_unheard() => {
                NodeHealth::Suspect
            }
            judged => judged,
        };
        self.health = match judged {
            NodeHealth::Ready if !self.has_reported => self.health,
            NodeHealth::Suspect if self.health == NodeHealth::Lost => NodeHealth::Lost,
            _ => judged,
        };
        if self.health == NodeHealth::Lost {
            self.has_reported = false;
        }
    }

    /// Compares the digest of a heartbeat with what is expected. Answers why a full synchronisation
    /// is due, if it is. `is_busy`: somebody drives a sandbox on it.
    pub(super) fn compare(
        &mut self,
        heartbeat: &Heartbeat,
        is_busy: bool,
        now: Instant,
    ) -> Option<Reason> {
        if heartbeat.digest == self.expected {
            self.mismatch = None;
            return None;
        }
        let mismatch = self.mismatch.get_or_insert(Mismatch {
            since: now,
            count: 0,
        });
        mismatch.count += 1;
        let is_settled = !is_busy && self.unknown == 0 && mismatch.count >= MISMATCHES_MIN;
        let is_old = now.duration_since(mismatch.since) >= MISMATCH_PATIENCE;
        (is_settled || is_old).then(|| {
            // Said once: the next one is due after another patience.
            self.mismatch = None;
            Reason::Mismatch(format!(
                "its digest is {} of {} sandbox(es), {} of {} was expected",
                heartbeat.digest, heartbeat.sandboxes, self.expected, self.sandboxes
            ))
        })
    }

    /// Notes that its whole report was taken over.
    pub(super) fn reported(&mut self, total: Resources, now: Instant) {
        self.health = NodeHealth::Ready;
        self.has_reported = true;
        self.last_contact = now;
        self.total = total;
        self.mismatch = None;
    }
}

/// Nodes whose state changed: before and after.
pub(crate) type StateChanges = BTreeMap<NodeId, (NodeState, NodeState)>;
