//! A node that does at once whatever it is told and runs nothing: what is left of a sandbox's times
//! is what the control plane itself takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use async_trait::async_trait;
use atoll_control::ControlPlane;
use atoll_control::clock::SystemClock;
use atoll_control::node_client::NodeClient;
use atoll_core::heartbeat::{Gauge, Heartbeat, MachineUsage, StateDigest};
use atoll_core::id::{BuildId, Generation, NodeId, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{CallOutcome, NodeReport, ObservedSandbox, ObservedState, Refusal};
use atoll_core::resources::Resources;
use atoll_core::sandbox::SandboxSpec;
use atoll_core::template::TemplateSource;
use atoll_core::time::Clock as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::components::Components;

/// The node's name.
const NAME: &str = "instant";
/// More than any measurement asks for.
const ENDLESS: Resources = Resources {
    cpu_millis: u32::MAX,
    memory_mib: u32::MAX,
    disk_mib: u32::MAX,
};

/// Makes such a node known to the control plane, and has it send heartbeats.
///
/// # Errors
/// If it cannot join.
pub(crate) async fn join(control: &ControlPlane, components: &Components) -> anyhow::Result<()> {
    let node = Arc::new(InstantNode {
        id: NAME.parse()?,
        held: Mutex::default(),
    });
    // It never tells anything of its own accord.
    let (_, silent) = mpsc::channel(1);
    let client: Arc<dyn NodeClient> = Arc::clone(&node) as _;
    control
        .node_join(client, silent)
        .await
        .context("join the node")?;
    let (control, stop) = (control.clone(), components.cancel());
    components.start("heartbeats", async move { node.beat(&control, stop).await });
    Ok(())
}

#[derive(Debug)]
struct InstantNode {
    id: NodeId,
    held: Mutex<Held>,
}

/// What it would run.
#[derive(Debug, Default)]
struct Held {
    sandboxes: BTreeMap<SandboxId, ObservedSandbox>,
    allocated: Resources,
    digest: StateDigest,
}

impl Held {
    fn put(&mut self, seen: ObservedSandbox) {
        self.take(&seen.id);
        let (sum, more) = (self.allocated, seen.resources);
        self.allocated = Resources {
            cpu_millis: sum.cpu_millis.saturating_add(more.cpu_millis),
            memory_mib: sum.memory_mib.saturating_add(more.memory_mib),
            disk_mib: sum.disk_mib.saturating_add(more.disk_mib),
        };
        self.digest.add(&seen.id, seen.generation, seen.state);
        self.sandboxes.insert(seen.id.clone(), seen);
    }

    fn take(&mut self, id: &SandboxId) {
        if let Some(seen) = self.sandboxes.remove(id) {
            self.allocated = self
                .allocated
                .checked_sub(seen.resources)
                .unwrap_or_default();
            self.digest.remove(&seen.id, seen.generation, seen.state);
        }
    }
}

impl InstantNode {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        let seen = ObservedSandbox {
            id: spec.id.clone(),
            generation: spec.generation,
            state: ObservedState::Running,
            resources: spec.resources,
            started_at: Some(SystemClock.now()),
            detail: None,
            snapshot: None,
        };
        self.held().put(seen.clone());
        CallOutcome::Done(seen)
    }

    async fn beat(&self, control: &ControlPlane, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(atoll_core::heartbeat::HEARTBEAT_INTERVAL);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let heartbeat = self.heartbeat();
            if let Err(error) = control.node_heartbeat(heartbeat).await {
                tracing::warn!(%error, "a heartbeat is not taken");
            }
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        let held = self.held();
        Heartbeat {
            node: self.id.clone(),
            at: SystemClock.now(),
            total: ENDLESS,
            allocated: held.allocated,
            sandboxes: u32::try_from(held.sandboxes.len()).unwrap_or(u32::MAX),
            usage: MachineUsage {
                // All of it free, so that nobody is told that it runs out.
                disk_bytes: Gauge {
                    total: u64::MAX,
                    used: 0,
                },
                ..MachineUsage::default()
            },
            digest: held.digest,
            driver: NAME.to_owned(),
            driver_problem: None,
        }
    }
}

#[async_trait]
impl NodeClient for InstantNode {
    fn node(&self) -> &NodeId {
        &self.id
    }

    async fn ensure(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        self.serve(spec)
    }

    async fn remove(&self, id: &SandboxId, _: Generation) -> CallOutcome<()> {
        self.held().take(id);
        CallOutcome::Done(())
    }

    async fn update_network(
        &self,
        _: &SandboxId,
        _: Generation,
        _: &NetworkPolicy,
    ) -> CallOutcome<()> {
        CallOutcome::Done(())
    }

    async fn pause(&self, id: &SandboxId, _: Generation, _: bool) -> CallOutcome<ObservedSandbox> {
        let mut held = self.held();
        let Some(mut seen) = held.sandboxes.get(id).cloned() else {
            return CallOutcome::Refused(Refusal::UnknownSandbox);
        };
        seen.state = ObservedState::Paused;
        held.put(seen.clone());
        CallOutcome::Done(seen)
    }

    async fn resume(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        self.serve(spec)
    }

    async fn report(&self) -> CallOutcome<NodeReport> {
        let held = self.held();
        CallOutcome::Done(NodeReport {
            node: self.id.clone(),
            total: ENDLESS,
            allocated: held.allocated,
            sandboxes: held.sandboxes.values().cloned().collect(),
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
