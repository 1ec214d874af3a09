//! The simulated node: it does at once what it is told, keeps what a node must know, and nothing
//! more.
//!
//! It stands in for a whole node, agent included, and is no driver under the real agent: that
//! writes a synced ledger record and speaks HTTP to a guest agent for every sandbox, which on one
//! disk and two cores costs more than the control plane whose speed is asked for. What it shares
//! with a real node is what the control plane sees: orders are idempotent by (id, generation),
//! reports and heartbeats tell everything that is there.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use atoll_control::clock::SystemClock;
use atoll_control::node_client::NodeClient;
use atoll_core::heartbeat::{Heartbeat, MachineUsage, StateDigest};
use atoll_core::id::{BuildId, Generation, NodeId, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{CallOutcome, NodeReport, ObservedSandbox, ObservedState, Refusal};
use atoll_core::resources::Resources;
use atoll_core::sandbox::SandboxSpec;
use atoll_core::template::TemplateSource;
use atoll_core::time::Clock as _;

/// More than any measurement takes.
const TOTAL: Resources = Resources {
    cpu_millis: u32::MAX,
    memory_mib: u32::MAX,
    disk_mib: u32::MAX,
};

#[derive(Debug, Default)]
struct State {
    sandboxes: BTreeMap<SandboxId, ObservedSandbox>,
    digest: StateDigest,
}

/// See the module.
#[derive(Debug)]
pub(super) struct SimulatedNode {
    id: NodeId,
    /// How long every order takes.
    delay: Duration,
    state: Mutex<State>,
}

impl SimulatedNode {
    pub(super) fn new(id: NodeId, delay: Duration) -> Self {
        Self {
            id,
            delay,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a node says of itself every other second.
    pub(super) fn heartbeat(&self) -> Heartbeat {
        let state = self.state();
        Heartbeat {
            node: self.id.clone(),
            at: SystemClock.now(),
            total: TOTAL,
            allocated: allocated(&state),
            sandboxes: u32::try_from(state.sandboxes.len()).unwrap_or(u32::MAX),
            usage: MachineUsage::default(),
            digest: state.digest,
            driver: "simulated".to_owned(),
            driver_problem: None,
        }
    }

    async fn work(&self) {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
    }
}

fn allocated(state: &State) -> Resources {
    state
        .sandboxes
        .values()
        .fold(Resources::default(), |sum, one| {
            sum.checked_add(one.resources).unwrap_or(sum)
        })
}

impl State {
    fn put(&mut self, seen: ObservedSandbox) {
        self.take(&seen.id.clone());
        self.digest.add(&seen.id, seen.generation, seen.state);
        self.sandboxes.insert(seen.id.clone(), seen);
    }

    fn take(&mut self, id: &SandboxId) {
        if let Some(seen) = self.sandboxes.remove(id) {
            self.digest.remove(&seen.id, seen.generation, seen.state);
        }
    }
}

#[async_trait]
impl NodeClient for SimulatedNode {
    fn node(&self) -> &NodeId {
        &self.id
    }

    async fn ensure(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        self.work().await;
        let mut state = self.state();
        if let Some(known) = state.sandboxes.get(&spec.id)
            && known.generation > spec.generation
        {
            return CallOutcome::Refused(Refusal::StaleGeneration {
                ordered: spec.generation,
                known: known.generation,
            });
        }
        let seen = ObservedSandbox {
            id: spec.id.clone(),
            generation: spec.generation,
            state: ObservedState::Running,
            resources: spec.resources,
            started_at: None,
            detail: None,
        };
        state.put(seen.clone());
        CallOutcome::Done(seen)
    }

    async fn remove(&self, id: &SandboxId, generation: Generation) -> CallOutcome<()> {
        self.work().await;
        let mut state = self.state();
        match state.sandboxes.get(id) {
            Some(known) if known.generation > generation => {
                CallOutcome::Refused(Refusal::StaleGeneration {
                    ordered: generation,
                    known: known.generation,
                })
            }
            Some(_) | None => {
                state.take(id);
                CallOutcome::Done(())
            }
        }
    }

    async fn update_network(
        &self,
        _: &SandboxId,
        _: Generation,
        _: &NetworkPolicy,
    ) -> CallOutcome<()> {
        CallOutcome::Done(())
    }

    async fn report(&self) -> CallOutcome<NodeReport> {
        let state = self.state();
        CallOutcome::Done(NodeReport {
            node: self.id.clone(),
            total: TOTAL,
            allocated: allocated(&state),
            sandboxes: state.sandboxes.values().cloned().collect(),
        })
    }

    async fn import_template(
        &self,
        _: &TemplateId,
        _: &BuildId,
        _: &TemplateSource,
    ) -> CallOutcome<()> {
        CallOutcome::Done(())
    }

    async fn remove_template(&self, _: &TemplateId, _: &BuildId) -> CallOutcome<()> {
        CallOutcome::Done(())
    }
}
