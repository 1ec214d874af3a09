//! The nodes as control knows them: how to reach them, whether they answer, what is allocated on
//! them, and what was last seen of each sandbox there.
//!
//! Everything here is memory: it is rebuilt from the store when the control plane opens and from
//! the nodes when they join.
//!
//! Invariants:
//! - The allocation of a node is exactly the sum over the sandboxes that are placed on it and not
//!   stopped.
//! - An observation never replaces one that was made after it: each carries a number, and a
//!   report's number is drawn before the node is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use atoll_core::id::{Generation, NodeId, SandboxId, TeamId};
use atoll_core::node::{NodeReport, ObservedSandbox};
use atoll_core::placement::{self, NodeCapacity, Placed, Rejected};
use atoll_core::reconcile::{NodeHealth, Nodes, Observed};
use atoll_core::resources::Resources;
use atoll_core::sandbox::{Sandbox, State};
use atoll_core::time::Timestamp;

use crate::config::Overcommit;
use crate::lock::lock;
use crate::node_client::NodeClient;
use crate::view::NodeView;

/// Lines of log that are kept of one sandbox; what comes after is dropped, so that a noisy guest
/// cannot fill the store.
const LOG_LINES_MAX: u32 = 1_000;

/// Orders observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sequence(u64);

#[derive(Debug)]
struct NodeEntry {
    client: Option<Arc<dyn NodeClient>>,
    health: NodeHealth,
    /// When it last answered, or when we began to wait for it.
    last_seen: Timestamp,
    total: Resources,
    allocated: Resources,
    sandboxes: u32,
}

#[derive(Debug)]
struct Entry {
    team: TeamId,
    node: Option<NodeId>,
    generation: Generation,
    resources: Resources,
    observed: Observed,
    sequence: Sequence,
    log_lines: u32,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: BTreeMap<NodeId, NodeEntry>,
    sandboxes: BTreeMap<SandboxId, Entry>,
    sequence: u64,
}

/// What a report changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Synchronised {
    /// Sandboxes of which something new was learnt.
    pub(crate) changed: Vec<SandboxId>,
    /// What the node runs without being known here at that generation.
    pub(crate) strangers: Vec<(SandboxId, Generation)>,
}

/// The nodes and what runs on them.
#[derive(Debug)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    overcommit: Overcommit,
}

impl Inner {
    fn next_sequence(&mut self) -> Sequence {
        self.sequence += 1;
        Sequence(self.sequence)
    }

    fn node(&mut self, id: &NodeId, now: Timestamp) -> &mut NodeEntry {
        self.nodes.entry(id.clone()).or_insert_with(|| NodeEntry {
            client: None,
            health: NodeHealth::Suspect,
            last_seen: now,
            total: Resources::default(),
            allocated: Resources::default(),
            sandboxes: 0,
        })
    }

    fn allocate(&mut self, node: &NodeId, resources: Resources, now: Timestamp) {
        let entry = self.node(node, now);
        entry.sandboxes += 1;
        entry.allocated = Resources {
            cpu_millis: entry
                .allocated
                .cpu_millis
                .saturating_add(resources.cpu_millis),
            memory_mib: entry
                .allocated
                .memory_mib
                .saturating_add(resources.memory_mib),
            disk_mib: entry.allocated.disk_mib.saturating_add(resources.disk_mib),
        };
    }

    fn release(&mut self, node: &NodeId, resources: Resources) {
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.sandboxes = entry.sandboxes.saturating_sub(1);
            entry.allocated = entry.allocated.checked_sub(resources).unwrap_or_default();
        }
    }
}

impl Registry {
    pub(crate) fn new(overcommit: Overcommit) -> Self {
        Self {
            inner: Mutex::default(),
            overcommit,
        }
    }

    /// Takes a live sandbox into account, as its row says.
    pub(crate) fn adopt(&self, sandbox: &Sandbox, now: Timestamp) {
        let mut inner = lock(&self.inner);
        if inner.sandboxes.contains_key(&sandbox.id) {
            return;
        }
        let sequence = inner.next_sequence();
        if let Some(node) = &sandbox.node {
            inner.allocate(node, sandbox.config.resources, now);
        }
        inner.sandboxes.insert(
            sandbox.id.clone(),
            Entry {
                team: sandbox.team.clone(),
                node: sandbox.node.clone(),
                generation: sandbox.generation,
                resources: sandbox.config.resources,
                observed: Observed::Unknown,
                sequence,
                log_lines: 0,
            },
        );
    }

    /// Forgets a sandbox that ended.
    pub(crate) fn forget(&self, id: &SandboxId) {
        let mut inner = lock(&self.inner);
        if let Some(entry) = inner.sandboxes.remove(id)
            && let Some(node) = &entry.node
        {
            inner.release(node, entry.resources);
        }
    }

    /// Chooses a node and accounts for the choice in one step, so that decisions see one another.
    pub(crate) fn place(
        &self,
        sandbox: &Sandbox,
        excluded: &[NodeId],
        generation: Generation,
        seed: u64,
        now: Timestamp,
    ) -> Result<Placed, Rejected> {
        self.adopt(sandbox, now);
        let mut inner = lock(&self.inner);
        let fleet: Vec<_> = inner
            .nodes
            .iter()
            .map(|(id, node)| NodeCapacity {
                id: id.clone(),
                total: self.overcommit.apply(node.total),
                allocated: node.allocated,
                is_schedulable: node.health == NodeHealth::Ready && node.client.is_some(),
            })
            .collect();
        let request = placement::Request {
            resources: sandbox.config.resources,
            excluded: excluded.to_vec(),
        };
        let placed = placement::place(&fleet, &request, seed)?;
        let sequence = inner.next_sequence();
        let before = inner.sandboxes.get_mut(&sandbox.id).and_then(|entry| {
            entry.generation = generation;
            entry.observed = Observed::Unknown;
            entry.sequence = sequence;
            entry.node.replace(placed.node.clone())
        });
        if let Some(before) = before {
            inner.release(&before, sandbox.config.resources);
        }
        inner.allocate(&placed.node, sandbox.config.resources, now);
        Ok(placed)
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
        match inner.sandboxes.get_mut(id) {
            Some(entry) if entry.generation == generation => {
                entry.observed = seen;
                entry.sequence = sequence;
                true
            }
            _ => false,
        }
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

    /// Adds or replaces the way to a node. It becomes ready with its first report.
    pub(crate) fn join(&self, client: Arc<dyn NodeClient>, now: Timestamp) {
        let id = client.node().clone();
        let mut inner = lock(&self.inner);
        let node = inner.node(&id, now);
        node.client = Some(client);
        node.last_seen = now;
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

    /// The health of every node.
    pub(crate) fn health(&self) -> Nodes {
        lock(&self.inner)
            .nodes
            .iter()
            .map(|(id, node)| (id.clone(), node.health))
            .collect()
    }

    /// Notes that a node did not answer; answers its health then.
    pub(crate) fn mark_silent(&self, node: &NodeId, now: Timestamp) -> NodeHealth {
        let mut inner = lock(&self.inner);
        let entry = inner.node(node, now);
        let silent = now.saturating_since(entry.last_seen);
        entry.health = if silent >= crate::config::NODE_LOST_AFTER {
            NodeHealth::Lost
        } else {
            NodeHealth::Suspect
        };
        entry.health
    }

    /// Every node that has never joined since the control plane opened.
    pub(crate) fn absent_nodes(&self) -> Vec<NodeId> {
        lock(&self.inner)
            .nodes
            .iter()
            .filter(|(_, node)| node.client.is_none())
            .map(|(id, _)| id.clone())
            .collect()
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

    /// The number to draw before asking a node for its report.
    pub(crate) fn begin_report(&self) -> Sequence {
        lock(&self.inner).next_sequence()
    }

    /// Takes over a node's whole report, asked for at `began`.
    pub(crate) fn take_report(
        &self,
        report: &NodeReport,
        began: Sequence,
        now: Timestamp,
    ) -> Synchronised {
        let mut inner = lock(&self.inner);
        let node = inner.node(&report.node, now);
        node.health = NodeHealth::Ready;
        node.last_seen = now;
        node.total = report.total;
        let mut result = Synchronised::default();
        let reported: BTreeMap<&SandboxId, &ObservedSandbox> = report
            .sandboxes
            .iter()
            .map(|seen| (&seen.id, seen))
            .collect();
        for (id, entry) in &mut inner.sandboxes {
            let is_here = entry.node.as_ref() == Some(&report.node);
            if !is_here || entry.sequence > began {
                continue;
            }
            let seen = match reported.get(id) {
                Some(seen) if seen.generation == entry.generation => {
                    Observed::Known((*seen).clone())
                }
                // An older placement that is still there is a stranger; ours is not.
                Some(_) | None => Observed::Absent,
            };
            if seen != entry.observed {
                entry.observed = seen;
                result.changed.push(id.clone());
            }
        }
        for seen in &report.sandboxes {
            let is_ours = inner.sandboxes.get(&seen.id).is_some_and(|entry| {
                entry.node.as_ref() == Some(&report.node) && entry.generation == seen.generation
            });
            if !is_ours {
                result.strangers.push((seen.id.clone(), seen.generation));
            }
        }
        result
    }

    /// The nodes as operators see them.
    pub(crate) fn view(&self) -> Vec<NodeView> {
        lock(&self.inner)
            .nodes
            .iter()
            .map(|(id, node)| NodeView {
                id: id.clone(),
                total: node.total,
                allocated: node.allocated,
                sandboxes: node.sandboxes,
                is_reachable: node.health == NodeHealth::Ready,
            })
            .collect()
    }
}

/// Whether clients can see a sandbox in this state.
pub(crate) const fn is_visible(state: State) -> bool {
    match state {
        State::Running | State::Pausing | State::Paused | State::Resuming => true,
        State::Pending | State::Creating | State::Stopping | State::Stopped | State::Error => false,
    }
}
