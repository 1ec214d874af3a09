//! A node that runs nothing and says what it is told.

use async_trait::async_trait;
use atoll_control::node_client::NodeClient;
use atoll_core::heartbeat::{Gauge, Heartbeat, MachineUsage, StateDigest};
use atoll_core::id::{BuildId, Generation, NodeId, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{
    CallOutcome, NodeInfo, NodeReport, ObservedSandbox, ObservedState, Refusal,
};
use atoll_core::resources::Resources;
use atoll_core::sandbox::SandboxSpec;
use atoll_core::template::TemplateSource;
use atoll_core::time::Clock as _;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;

/// Starts that it goes on with at a time: more than any test has.
const STARTS: usize = 1_000;

/// What it has.
const TOTAL: Resources = Resources {
    cpu_millis: 16_000,
    memory_mib: 16_384,
    disk_mib: 100_000,
};

#[derive(Debug)]
pub(crate) struct FakeNode {
    id: NodeId,
    info: NodeInfo,
    /// Whether it refuses whatever it is to start.
    is_full: AtomicBool,
    /// Whether it imports no template.
    is_bare: AtomicBool,
    /// How many starts it goes on with.
    starts: Semaphore,
    running: Mutex<BTreeMap<SandboxId, ObservedSandbox>>,
    specs: Mutex<BTreeMap<SandboxId, SandboxSpec>>,
    networks: Mutex<BTreeMap<SandboxId, NetworkPolicy>>,
}

impl FakeNode {
    pub(crate) fn new() -> Self {
        Self::named("node-1")
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::described(name, NodeInfo::default())
    }

    /// A node that says this of itself.
    pub(crate) fn described(id: &str, info: NodeInfo) -> Self {
        Self {
            id: id.parse().unwrap(),
            info,
            is_full: AtomicBool::new(false),
            is_bare: AtomicBool::new(false),
            starts: Semaphore::new(STARTS),
            running: Mutex::default(),
            specs: Mutex::default(),
            networks: Mutex::default(),
        }
    }

    /// Has it refuse whatever it is to start.
    pub(crate) fn refuse(&self) {
        self.is_full.store(true, Ordering::Relaxed);
    }

    /// Has it import no template.
    pub(crate) fn stay_bare(&self) {
        self.is_bare.store(true, Ordering::Relaxed);
    }

    /// Has starts wait on it, until [`Self::go_on`].
    pub(crate) fn hold_starts(&self) {
        self.starts.forget_permits(STARTS);
    }

    pub(crate) fn go_on(&self) {
        self.starts.add_permits(STARTS);
    }

    pub(crate) fn spec(&self, id: &str) -> SandboxSpec {
        self.specs.lock().unwrap()[&id.parse().unwrap()].clone()
    }

    pub(crate) fn network(&self, id: &str) -> NetworkPolicy {
        self.networks.lock().unwrap()[&id.parse().unwrap()].clone()
    }

    /// What it would say of itself now.
    pub(crate) fn heartbeat(&self) -> Heartbeat {
        let running = self.running.lock().unwrap();
        let half = |total| Gauge {
            total,
            used: total / 2,
        };
        Heartbeat {
            node: self.id.clone(),
            at: atoll_control::clock::SystemClock.now(),
            total: TOTAL,
            allocated: Resources::default(),
            sandboxes: u32::try_from(running.len()).unwrap(),
            usage: MachineUsage {
                cpu_millis: half(8_000),
                memory_bytes: half(1 << 30),
                disk_bytes: half(1 << 40),
                network_bps: half(1_000_000),
            },
            digest: StateDigest::of(running.values()),
            driver: "fake".to_owned(),
            driver_problem: None,
        }
    }

    /// Runs something that nobody ordered.
    pub(crate) fn plant(&self, id: &str) {
        let id: SandboxId = id.parse().unwrap();
        let seen = ObservedSandbox {
            id: id.clone(),
            generation: Generation::FIRST,
            state: ObservedState::Running,
            resources: Resources::default(),
            started_at: None,
            detail: None,
            snapshot: None,
        };
        self.running.lock().unwrap().insert(id, seen);
    }

    fn turn(
        &self,
        id: &SandboxId,
        generation: Option<Generation>,
        state: ObservedState,
    ) -> CallOutcome<ObservedSandbox> {
        match self.running.lock().unwrap().get_mut(id) {
            Some(seen) => {
                seen.generation = generation.unwrap_or(seen.generation);
                seen.state = state;
                CallOutcome::Done(seen.clone())
            }
            None => CallOutcome::Refused(Refusal::UnknownSandbox),
        }
    }

    pub(crate) fn running_count(&self) -> usize {
        self.running.lock().unwrap().len()
    }
}

#[async_trait]
impl NodeClient for FakeNode {
    fn node(&self) -> &NodeId {
        &self.id
    }

    fn info(&self) -> NodeInfo {
        self.info.clone()
    }

    async fn ensure(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        if self.is_full.load(Ordering::Relaxed) {
            return CallOutcome::Refused(Refusal::NoRoom("it says so".to_owned()));
        }
        let _start = self.starts.acquire().await;
        let observed = ObservedSandbox {
            id: spec.id.clone(),
            generation: spec.generation,
            state: ObservedState::Running,
            resources: spec.resources,
            started_at: Some(atoll_control::clock::SystemClock.now()),
            detail: None,
            snapshot: None,
        };
        self.specs
            .lock()
            .unwrap()
            .insert(spec.id.clone(), spec.clone());
        self.running
            .lock()
            .unwrap()
            .insert(spec.id.clone(), observed.clone());
        CallOutcome::Done(observed)
    }

    async fn remove(&self, id: &SandboxId, _: Generation) -> CallOutcome<()> {
        self.running.lock().unwrap().remove(id);
        CallOutcome::Done(())
    }

    async fn pause(&self, id: &SandboxId, _: Generation, _: bool) -> CallOutcome<ObservedSandbox> {
        self.turn(id, None, ObservedState::Paused)
    }

    async fn resume(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        self.turn(&spec.id, Some(spec.generation), ObservedState::Running)
    }

    async fn update_network(
        &self,
        id: &SandboxId,
        _: Generation,
        policy: &NetworkPolicy,
    ) -> CallOutcome<()> {
        self.networks
            .lock()
            .unwrap()
            .insert(id.clone(), policy.clone());
        CallOutcome::Done(())
    }

    async fn report(&self) -> CallOutcome<NodeReport> {
        CallOutcome::Done(NodeReport {
            node: self.id.clone(),
            total: TOTAL,
            allocated: Resources::default(),
            sandboxes: self.running.lock().unwrap().values().cloned().collect(),
        })
    }

    /// Imports everything but what is called `missing`.
    async fn import_template(
        &self,
        _: &TemplateId,
        _: &BuildId,
        source: &TemplateSource,
    ) -> CallOutcome<()> {
        if self.is_bare.load(Ordering::Relaxed) {
            return CallOutcome::Refused(Refusal::Failed("it takes none".to_owned()));
        }
        match source {
            TemplateSource::Directory(path) if path == Path::new("/missing") => {
                CallOutcome::Refused(Refusal::Failed("no such directory".to_owned()))
            }
            _ => CallOutcome::Done(()),
        }
    }

    async fn remove_template(&self, _: &TemplateId, _: &BuildId) -> CallOutcome<()> {
        CallOutcome::Done(())
    }
}
