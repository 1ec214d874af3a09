//! The nodes as control knows them: how to reach them, whether they answer, what is allocated on
//! them, and what was last seen of each sandbox there.
//!
//! Everything here is memory: it is rebuilt from the store when the control plane opens and from
//! the nodes when they join.
//!
//! Invariants:
//! - The allocation of a node is exactly the sum of what the sandboxes hold that are placed on it
//!   and not stopped, here and in the scheduler's fleet: an entry changes through
//!   [`Inner::change`] only, which moves its share along in both.
//! - An observation never replaces one that was made after it: each carries a number, and a
//!   report's number is drawn before the node is asked.
//! - Silence is measured by a clock that nobody sets: a wall clock that jumps loses no node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_core::heartbeat::Heartbeat;
use atoll_core::id::{Generation, NodeId, SandboxId, StoreId, TeamId};
use atoll_core::node::{DrainMode, NodeReport, NodeState, ObservedSandbox};
use atoll_core::reconcile::{NodeHealth, Nodes, Observed};
use atoll_core::sandbox::Sandbox;
use atoll_core::scheduler::forecast;
use atoll_core::snapshot::STORE_LABEL;
use atoll_core::time::Timestamp;

use atoll_store::store::node::NodeRow;
use tokio::time::Instant;

use self::book::Inner;
use self::node::{Reason, Received, StateChanges};
use crate::config::Overcommit;
use crate::guard::{Breakers, GuardedNode, Troubled};
use crate::lock::lock;
use crate::node_client::NodeClient;
use crate::view::{AllocationView, HeartbeatView, NodeView};

mod book;
pub(crate) mod fairness;
mod foresight;
pub(crate) mod node;
pub(crate) mod placing;

/// Lines of log that are kept of one sandbox; what comes after is dropped, so that a noisy guest
/// cannot fill the store.
const LOG_LINES_MAX: u32 = 1_000;

/// Orders observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sequence(u64);

/// What a report changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Synchronised {
    /// How its node stood before and stands now.
    pub(crate) state: Option<(NodeState, NodeState)>,
    /// Sandboxes of which something new was learnt.
    pub(crate) changed: Vec<Learnt>,
    /// What the node runs without being known here at that generation.
    pub(crate) strangers: Vec<(SandboxId, Generation)>,
}

/// A sandbox of which a report said something new.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Learnt {
    pub(crate) id: SandboxId,
    pub(crate) generation: Generation,
    /// What was believed.
    pub(crate) before: Observed,
    /// What the report says.
    pub(crate) now: Observed,
}

impl Learnt {
    /// Whether it stands otherwise than believed. Another server may have told of it before its
    /// node did, in fewer words.
    fn is_news(&self) -> bool {
        match (&self.before, &self.now) {
            (Observed::Known(before), Observed::Known(now)) => {
                (before.generation, before.state) != (now.generation, now.state)
            }
            (before, now) => before != now,
        }
    }
}

/// What a heartbeat led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) before: NodeState,
    pub(crate) state: NodeState,
    /// Why a full synchronisation is due, if it is.
    pub(crate) synchronise: Option<Reason>,
}

/// The nodes and what runs on them.
#[derive(Debug)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    overcommit: Overcommit,
    troubled: Arc<Troubled>,
}

impl Registry {
    /// Without a forecast nobody looks ahead, and no room is held.
    pub(crate) fn new(overcommit: Overcommit, forecast: Option<forecast::Config>) -> Self {
        Self {
            inner: Mutex::new(Inner::new(overcommit, forecast)),
            overcommit,
            troubled: Arc::default(),
        }
    }

    /// Takes a live sandbox into account, as its row says, unless a newer row was seen.
    pub(crate) fn adopt(&self, sandbox: &Sandbox) {
        let mut inner = lock(&self.inner);
        let known = inner.sandboxes.get(&sandbox.id);
        if known.is_none_or(|entry| entry.revision < sandbox.revision) {
            inner.follow(sandbox);
        }
        inner.note_written(&sandbox.id);
    }

    /// Makes the account of a sandbox what its row says, for its task: what was taken ahead of a
    /// commit that did not come is given back.
    pub(crate) fn follow(&self, sandbox: &Sandbox) {
        let mut inner = lock(&self.inner);
        let known = inner.sandboxes.get(&sandbox.id);
        if known.is_none_or(|entry| entry.revision <= sandbox.revision) {
            inner.follow(sandbox);
        }
        inner.note_written(&sandbox.id);
    }

    /// Forgets a sandbox that ended.
    pub(crate) fn forget(&self, id: &SandboxId) {
        let mut inner = lock(&self.inner);
        inner.remove(id);
    }

    /// What is known of a sandbox at its placement.
    pub(crate) fn observed(&self, id: &SandboxId) -> Observed {
        lock(&self.inner)
            .sandboxes
            .get(id)
            .map_or(Observed::Unknown, |entry| entry.observed.clone())
    }

    /// Notes what was just seen of a sandbox. Answers whether it concerns its current placement.
    pub(crate) fn observe(&self, id: &SandboxId, generation: Generation, seen: Observed) -> bool {
        let mut inner = lock(&self.inner);
        let sequence = inner.next_sequence();
        let is_current = inner
            .sandboxes
            .get(id)
            .is_some_and(|entry| entry.generations.contains(&generation));
        if is_current {
            inner.change(id, |entry| {
                entry.observed = seen;
                entry.sequence = sequence;
            });
        }
        is_current
    }

    /// Whose sandbox it is, if it lives and may have one more line of log.
    pub(crate) fn take_log_line(&self, id: &SandboxId) -> Option<TeamId> {
        let mut inner = lock(&self.inner);
        let entry = inner.sandboxes.get_mut(id)?;
        (entry.log_lines < LOG_LINES_MAX).then(|| {
            entry.log_lines += 1;
            entry.team.clone()
        })
    }

    /// Whether the sandbox lives, as far as the control plane knows.
    pub(crate) fn is_live(&self, id: &SandboxId) -> bool {
        lock(&self.inner).sandboxes.contains_key(id)
    }

    /// The ids of all live sandboxes.
    pub(crate) fn live(&self) -> Vec<SandboxId> {
        lock(&self.inner).sandboxes.keys().cloned().collect()
    }

    /// Takes a node into account that joined an earlier control plane.
    pub(crate) fn know(&self, row: NodeRow) {
        let mut inner = lock(&self.inner);
        inner.put_node(&row.id, |node| {
            node.info = row.info;
            node.drain = row.drain;
            node.joined_at = Some(row.joined_at);
        });
    }

    /// Adds or replaces the way to a node. It becomes ready with its first report. Answers the way,
    /// guarded, and whether the node had joined this control plane before.
    pub(crate) fn join(
        &self,
        client: Arc<dyn NodeClient>,
        now: Timestamp,
    ) -> (Arc<dyn NodeClient>, bool) {
        let id = client.node().clone();
        let mut inner = lock(&self.inner);
        inner.put_node(&id, |node| {
            node.info = client.info();
            // Whatever failed before, the node began anew.
            node.breakers = Breakers::watched(id.clone(), Arc::clone(&self.troubled));
            let guarded: Arc<dyn NodeClient> =
                Arc::new(GuardedNode::new(client, node.breakers.clone()));
            let is_again = node.client.replace(Arc::clone(&guarded)).is_some();
            node.joined_at.get_or_insert(now);
            node.has_left = false;
            node.has_reported = false;
            node.last_contact = Instant::now();
            (guarded, is_again)
        })
    }

    /// Sets how a node is being emptied. Answers its state before and after; none: no such node.
    pub(crate) fn set_drain(
        &self,
        id: &NodeId,
        drain: Option<DrainMode>,
    ) -> Option<(NodeState, NodeState)> {
        let mut inner = lock(&self.inner);
        inner.nodes.get(id).filter(|node| !node.has_left)?;
        inner.change_node(id, |node| {
            let before = node.state();
            node.drain = drain;
            (before, node.state())
        })
    }

    /// Counts a node as lost that its operator removed. It is forgotten with its last sandbox.
    pub(crate) fn leave(&self, id: &NodeId) {
        let mut inner = lock(&self.inner);
        inner.change_node(id, |node| {
            node.client = None;
            node.drain = None;
            node.has_left = true;
            node.has_reported = false;
            node.health = NodeHealth::Lost;
        });
        inner.sweep_left();
    }

    /// How to reach a node; none if it has not joined.
    pub(crate) fn client(&self, node: &NodeId) -> Option<Arc<dyn NodeClient>> {
        lock(&self.inner).nodes.get(node)?.client.clone()
    }

    /// How to reach every node that joined.
    pub(crate) fn clients(&self) -> Vec<Arc<dyn NodeClient>> {
        lock(&self.inner)
            .nodes
            .values()
            .filter_map(|node| node.client.clone())
            .collect()
    }

    /// The storages that nodes share, each with a way to a node that answers and has it.
    pub(crate) fn storages(&self) -> BTreeMap<StoreId, Arc<dyn NodeClient>> {
        let inner = lock(&self.inner);
        let nodes = inner.nodes.values();
        let ready = nodes.filter(|node| node.health == NodeHealth::Ready);
        ready
            .filter_map(|node| {
                let id = node.info.descriptor.labels.get(STORE_LABEL)?;
                Some((id.parse().ok()?, node.client.clone()?))
            })
            .collect()
    }

    /// The health of every node.
    pub(crate) fn health(&self) -> Nodes {
        lock(&self.inner)
            .nodes
            .iter()
            .map(|(id, node)| (id.clone(), node.health))
            .collect()
    }

    /// Begins to wait for every node now: before, none could be heard.
    pub(crate) fn begin_waiting(&self) {
        let now = Instant::now();
        for node in lock(&self.inner).nodes.values_mut() {
            node.last_contact = now;
        }
    }

    /// Judges the silence of every node; one is lost only if nobody else hears it. Answers those
    /// whose state changed by it.
    pub(crate) fn age(&self, is_unheard: impl Fn(&NodeId) -> bool) -> StateChanges {
        let now = Instant::now();
        let mut inner = lock(&self.inner);
        let mut changes = StateChanges::new();
        for (id, node) in &mut inner.nodes {
            let before = node.state();
            node.age(now, || is_unheard(id));
            if node.state() != before {
                changes.insert(id.clone(), (before, node.state()));
            }
        }
        for id in changes.keys() {
            inner.change_node(id, |_| {});
        }
        inner.end_reservations();
        changes
    }

    /// Whether this server has not heard a node for long, or never.
    pub(crate) fn is_silent(&self, id: &NodeId) -> bool {
        let inner = lock(&self.inner);
        let node = inner.nodes.get(id);
        node.is_none_or(|node| node.is_silent(Instant::now()))
    }

    /// The nodes that this server has not heard for long, or never.
    pub(crate) fn silent(&self) -> Vec<NodeId> {
        let now = Instant::now();
        let inner = lock(&self.inner);
        let silent = inner.nodes.iter().filter(|(_, node)| node.is_silent(now));
        silent.map(|(id, _)| id.clone()).collect()
    }

    /// Takes over a row that another server may have written: what it says of how the sandbox
    /// stands was seen there when it was written. Answers whether it says anything new.
    pub(crate) fn heed(&self, sandbox: &Sandbox) -> bool {
        let mut inner = lock(&self.inner);
        let known = inner.sandboxes.get(&sandbox.id);
        let revision = known.map(|entry| entry.revision);
        if revision.is_none_or(|revision| revision <= sandbox.revision) {
            inner.follow(sandbox);
        }
        let is_new = revision.is_none_or(|revision| revision < sandbox.revision);
        if is_new {
            inner.infer(sandbox);
        }
        inner.note_written(&sandbox.id);
        is_new
    }

    /// How to reach the nodes that joined and were not heard of for this long, or did not report
    /// since they joined or were lost.
    pub(crate) fn quiet(&self, silence: std::time::Duration) -> Vec<Arc<dyn NodeClient>> {
        let now = Instant::now();
        lock(&self.inner)
            .nodes
            .values()
            .filter(|node| !node.has_reported || node.silence(now) >= silence)
            .filter_map(|node| node.client.clone())
            .collect()
    }

    /// Takes over a heartbeat; none: no such node has joined. `driven` are the sandboxes whose
    /// orders are under way.
    pub(crate) fn hear(
        &self,
        heartbeat: Heartbeat,
        driven: &[SandboxId],
        now: Timestamp,
    ) -> Option<Heard> {
        let instant = Instant::now();
        let mut inner = lock(&self.inner);
        let is_busy = driven.iter().any(|id| {
            let entry = inner.sandboxes.get(id);
            entry.is_some_and(|entry| entry.node.as_ref() == Some(&heartbeat.node))
        });
        let node = inner.nodes.get(&heartbeat.node)?;
        if node.has_left || node.client.is_none() {
            return None;
        }
        let id = heartbeat.node.clone();
        inner.measure(&heartbeat);
        inner.change_node(&id, |node| {
            let before = node.state();
            node.last_contact = instant;
            node.total = heartbeat.total;
            let synchronise = if node.has_reported {
                node.health = NodeHealth::Ready;
                node.compare(&heartbeat, is_busy, instant)
            } else {
                Some(Reason::Unheard)
            };
            node.heartbeat = Some(Received {
                heartbeat,
                at: now,
                instant,
            });
            Heard {
                before,
                state: node.state(),
                synchronise,
            }
        })
    }

    /// Begins to wait for a node's report: answers false if somebody does already.
    pub(crate) fn begin_synchronising(&self, node: &NodeId) -> bool {
        lock(&self.inner)
            .nodes
            .get_mut(node)
            .is_some_and(|node| !std::mem::replace(&mut node.is_synchronising, true))
    }

    /// Ends the wait for a node's report.
    pub(crate) fn end_synchronising(&self, node: &NodeId) {
        if let Some(node) = lock(&self.inner).nodes.get_mut(node) {
            node.is_synchronising = false;
        }
    }

    /// The sandboxes placed on a node.
    pub(crate) fn placed_on(&self, node: &NodeId) -> Vec<SandboxId> {
        lock(&self.inner)
            .sandboxes
            .iter()
            .filter(|(_, entry)| entry.node.as_ref() == Some(node))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// What is placed on each node that is known, or has something.
    pub(crate) fn placed(&self) -> BTreeMap<NodeId, BTreeSet<SandboxId>> {
        let inner = lock(&self.inner);
        let mut placed: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for id in inner.nodes.keys() {
            placed.entry(id.clone()).or_default();
        }
        for (id, entry) in &inner.sandboxes {
            if let Some(node) = &entry.node {
                placed.entry(node.clone()).or_default().insert(id.clone());
            }
        }
        placed
    }

    /// Whether there is such a node.
    pub(crate) fn is_known(&self, node: &NodeId) -> bool {
        lock(&self.inner).nodes.contains_key(node)
    }

    /// `host:port` of a node that is on a machine of its own.
    pub(crate) fn authority_of(&self, node: &NodeId) -> Option<String> {
        let inner = lock(&self.inner);
        let address = inner.nodes.get(node)?.info.address.as_deref()?;
        let (_, authority) = address.split_once("://")?;
        Some(authority.trim_end_matches('/').to_owned())
    }

    /// The number to draw before asking a node for its report.
    pub(crate) fn begin_report(&self) -> Sequence {
        lock(&self.inner).next_sequence()
    }

    /// Notes how long a node took to report.
    pub(crate) fn note_latency(&self, id: &NodeId, latency: Duration) {
        if let Some(node) = lock(&self.inner).nodes.get_mut(id) {
            node.latency = Some(latency);
        }
    }

    /// Takes over a node's whole report, asked for at `began`.
    pub(crate) fn take_report(&self, report: &NodeReport, began: Sequence) -> Synchronised {
        let mut inner = lock(&self.inner);
        inner.node(&report.node);
        let state = inner.change_node(&report.node, |node| {
            let before = node.state();
            node.reported(report.total, Instant::now());
            (before, node.state())
        });
        let mut result = Synchronised {
            state,
            ..Synchronised::default()
        };
        let reported: BTreeMap<&SandboxId, &ObservedSandbox> = report
            .sandboxes
            .iter()
            .map(|seen| (&seen.id, seen))
            .collect();
        let mut learnt = Vec::new();
        for (id, entry) in &inner.sandboxes {
            let is_here = entry.node.as_ref() == Some(&report.node);
            // What is not written was told to no node, so none can miss it.
            if !is_here || !entry.is_written || entry.sequence > began {
                continue;
            }
            let seen = match reported.get(id) {
                Some(seen) if entry.generations.contains(&seen.generation) => {
                    Observed::Known((*seen).clone())
                }
                // An older placement that is still there is a stranger; ours is not.
                Some(_) | None => Observed::Absent,
            };
            if seen != entry.observed {
                learnt.push((id.clone(), seen));
            }
        }
        for (id, seen) in learnt {
            let changed = inner.change(&id, |entry| Learnt {
                id: id.clone(),
                generation: *entry.generations.end(),
                before: std::mem::replace(&mut entry.observed, seen.clone()),
                now: seen,
            });
            result.changed.extend(changed.filter(Learnt::is_news));
        }
        for seen in &report.sandboxes {
            let is_ours = inner.sandboxes.get(&seen.id).is_some_and(|entry| {
                entry.node.as_ref() == Some(&report.node)
                    && entry.generations.contains(&seen.generation)
            });
            if !is_ours {
                result.strangers.push((seen.id.clone(), seen.generation));
            }
        }
        result
    }

    /// What each sandbox holds of a node, by id.
    pub(crate) fn allocations(&self, node: &NodeId) -> Vec<AllocationView> {
        let inner = lock(&self.inner);
        let here = inner.sandboxes.iter();
        here.filter(|(_, entry)| entry.node.as_ref() == Some(node))
            .map(|(id, entry)| AllocationView {
                sandbox: id.clone(),
                team: entry.team.clone(),
                generation: *entry.generations.end(),
                resources: entry.held,
                seen: match &entry.observed {
                    Observed::Known(seen) => Some(seen.state),
                    Observed::Absent | Observed::Unknown => None,
                },
            })
            .collect()
    }

    /// The live sandboxes of a team.
    pub(crate) fn of_team(&self, team: &TeamId) -> Vec<SandboxId> {
        let inner = lock(&self.inner);
        let all = inner.sandboxes.iter();
        all.filter(|(_, entry)| entry.team == *team)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// How a node stands, and how many sandboxes it has; none: no such node.
    pub(crate) fn standing(&self, id: &NodeId) -> Option<(NodeState, u32)> {
        let inner = lock(&self.inner);
        let node = inner.nodes.get(id)?;
        Some((node.state(), node.sandboxes))
    }

    /// The nodes as operators see them.
    pub(crate) fn view(&self) -> Vec<NodeView> {
        let now = Instant::now();
        lock(&self.inner)
            .nodes
            .iter()
            .map(|(id, node)| NodeView {
                id: id.clone(),
                info: node.info.clone(),
                state: node.state(),
                drain: node.drain,
                breaker: node.breakers.starts(),
                total: node.total,
                allocatable: self.overcommit.apply(node.total),
                allocated: node.allocated,
                sandboxes: node.sandboxes,
                is_reachable: node.health == NodeHealth::Ready,
                has_joined: node.client.is_some(),
                latency: node.latency,
                joined_at: node.joined_at,
                last_heartbeat: node.heartbeat.as_ref().map(|received| HeartbeatView {
                    heartbeat: received.heartbeat.clone(),
                    received_at: received.at,
                    age: now.duration_since(received.instant),
                }),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
