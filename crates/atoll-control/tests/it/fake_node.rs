//! A node in memory: does what it is told, and what a test scripts it to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atoll_control::node_client::NodeClient;
use atoll_core::heartbeat::{Heartbeat, MachineUsage, StateDigest};
use atoll_core::id::{BuildId, Generation, NodeId, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{
    CallOutcome, NodeEvent, NodeInfo, NodeReport, ObservedSandbox, ObservedState, Refusal,
};
use atoll_core::resources::Resources;
use atoll_core::sandbox::SandboxSpec;
use atoll_core::snapshot::{Digest, STORE_LABEL, Snapshot, Stored, Unneeded};
use atoll_core::template::TemplateSource;
use tokio::sync::mpsc;

/// What a node has: room for every test.
pub(crate) const TOTAL: Resources = Resources {
    cpu_millis: 1_000_000,
    memory_mib: 10_000_000,
    disk_mib: 10_000_000,
};

/// How the next `ensure`, `pause` or `resume` ends instead of well.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// It refuses.
    Refuse(Refusal),
    /// It does it, and the answer is lost.
    LoseAnswer,
    /// It takes so long.
    Delay(Duration),
}

#[derive(Debug, Default)]
struct State {
    sandboxes: BTreeMap<SandboxId, ObservedSandbox>,
    specs: BTreeMap<SandboxId, SandboxSpec>,
    scripts: VecDeque<Script>,
    habit: Option<Script>,
    lost_removals: u32,
    is_silent: bool,
    ensures: u32,
    pauses: u32,
    resumes: u32,
    removes: u32,
    reports: u32,
    total: Resources,
    /// One for each server.
    storage: Option<Arc<Storage>>,
    events: Vec<mpsc::Sender<NodeEvent>>,
}

/// What nodes share: the snapshots of sandboxes, by id and placement.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    stored: Mutex<BTreeSet<(SandboxId, Generation)>>,
}

impl Storage {
    pub(crate) const ID: &str = "shared";

    pub(crate) fn put(&self, id: &SandboxId, generation: Generation) {
        self.stored.lock().unwrap().insert((id.clone(), generation));
    }

    pub(crate) fn generations(&self, id: &SandboxId) -> Vec<u64> {
        let stored = self.stored.lock().unwrap();
        let of = stored.iter().filter(|(stored, _)| stored == id);
        of.map(|(_, generation)| generation.get()).collect()
    }
}

/// The node. Outlives control planes, as real sandboxes do.
#[derive(Debug)]
pub(crate) struct FakeNode {
    id: NodeId,
    state: Mutex<State>,
}

impl FakeNode {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            id: id.parse().unwrap(),
            state: Mutex::new(State {
                total: TOTAL,
                ..State::default()
            }),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Has it share a storage, from its next join on.
    pub(crate) fn share(&self, storage: &Arc<Storage>) {
        self.state().storage = Some(Arc::clone(storage));
    }

    /// Has it store what it keeps of a sandbox, and tell of it.
    pub(crate) async fn store(&self, id: &SandboxId) -> Snapshot {
        let (event, snapshot) = {
            let mut state = self.state();
            let storage = state.storage.clone().unwrap();
            let seen = state.sandboxes.get_mut(id).unwrap();
            assert_eq!(seen.state, ObservedState::Paused);
            storage.put(id, seen.generation);
            let snapshot = Snapshot {
                store: Storage::ID.parse().unwrap(),
                generation: seen.generation,
                digest: Digest::new([1; 32]),
                bytes: 1,
            };
            seen.snapshot = Some(snapshot.clone());
            (NodeEvent::Changed(seen.clone()), snapshot)
        };
        self.send(event).await;
        snapshot
    }

    pub(crate) fn script(&self, script: Script) {
        self.state().scripts.push_back(script);
    }

    /// How every `ensure` ends that no script is for.
    pub(crate) fn set_habit(&self, habit: Option<Script>) {
        self.state().habit = habit;
    }

    /// The next removals are done, and their answers are lost.
    pub(crate) fn lose_removals(&self, count: u32) {
        self.state().lost_removals = count;
    }

    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.state().is_silent = is_silent;
    }

    /// What the node says of itself now, whether or not it is silent.
    pub(crate) fn heartbeat(&self) -> Heartbeat {
        let state = self.state();
        Heartbeat {
            node: self.id.clone(),
            at: atoll_core::time::Timestamp::from_micros(0),
            total: TOTAL,
            allocated: Resources::default(),
            sandboxes: u32::try_from(state.sandboxes.len()).unwrap(),
            usage: MachineUsage::default(),
            digest: StateDigest::of(state.sandboxes.values()),
            driver: "fake".to_owned(),
            driver_problem: None,
        }
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.state().is_silent
    }

    pub(crate) fn reports(&self) -> u32 {
        self.state().reports
    }

    pub(crate) fn connect(&self) -> mpsc::Receiver<NodeEvent> {
        let (sender, receiver) = mpsc::channel(64);
        let mut state = self.state();
        state.events.retain(|sender| !sender.is_closed());
        state.events.push(sender);
        receiver
    }

    pub(crate) async fn send(&self, event: NodeEvent) {
        let senders = self.state().events.clone();
        for sender in senders.iter().filter(|sender| !sender.is_closed()) {
            sender.send(event.clone()).await.unwrap();
        }
    }

    pub(crate) fn running(&self) -> Vec<SandboxId> {
        self.state().sandboxes.keys().cloned().collect()
    }

    pub(crate) fn spec(&self, id: &SandboxId) -> Option<SandboxSpec> {
        self.state().specs.get(id).cloned()
    }

    pub(crate) fn ensures(&self) -> u32 {
        self.state().ensures
    }

    pub(crate) fn pauses(&self) -> u32 {
        self.state().pauses
    }

    pub(crate) fn resumes(&self) -> u32 {
        self.state().resumes
    }

    /// What it has to give from its next report on.
    pub(crate) fn set_total(&self, total: Resources) {
        self.state().total = total;
    }

    /// What it runs or keeps under an id.
    pub(crate) fn seen(&self, id: &SandboxId) -> Option<ObservedSandbox> {
        self.state().sandboxes.get(id).cloned()
    }

    /// Plays the next script; answers whether the answer is to be lost, or the refusal.
    async fn play(&self) -> Result<bool, Refusal> {
        let script = {
            let mut state = self.state();
            state.scripts.pop_front().or_else(|| state.habit.clone())
        };
        match script {
            Some(Script::Refuse(refusal)) => return Err(refusal),
            Some(Script::Delay(delay)) => tokio::time::sleep(delay).await,
            Some(Script::LoseAnswer) => return Ok(true),
            None => {}
        }
        Ok(false)
    }

    pub(crate) fn removes(&self) -> u32 {
        self.state().removes
    }

    /// Forgets a sandbox, as after a reboot of the machine.
    pub(crate) fn lose(&self, id: &SandboxId) {
        self.state().sandboxes.remove(id);
    }

    /// Runs something that nobody ordered.
    pub(crate) fn plant(&self, id: &str) {
        let id: SandboxId = id.parse().unwrap();
        let seen = observed(&id, Generation::FIRST);
        self.state().sandboxes.insert(id, seen);
    }

    /// The first process of a sandbox ends.
    pub(crate) async fn exit(&self, id: &SandboxId) {
        let event = {
            let mut state = self.state();
            let seen = state.sandboxes.get_mut(id).unwrap();
            seen.state = ObservedState::Exited;
            seen.detail = Some("killed by signal 9".to_owned());
            NodeEvent::Changed(seen.clone())
        };
        self.send(event).await;
    }
}

fn observed(id: &SandboxId, generation: Generation) -> ObservedSandbox {
    ObservedSandbox {
        id: id.clone(),
        generation,
        state: ObservedState::Running,
        resources: Resources::default(),
        started_at: None,
        detail: None,
        snapshot: None,
    }
}

fn silent<T>() -> CallOutcome<T> {
    CallOutcome::Unknown("connection lost".to_owned())
}

#[async_trait]
impl NodeClient for FakeNode {
    fn node(&self) -> &NodeId {
        &self.id
    }

    fn info(&self) -> NodeInfo {
        let mut info = NodeInfo::default();
        if self.state().storage.is_some() {
            let label = (STORE_LABEL.to_owned(), Storage::ID.to_owned());
            info.descriptor.labels.extend([label]);
        }
        info
    }

    async fn ensure(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        self.state().ensures += 1;
        if self.state().is_silent {
            return silent();
        }
        let is_lost = match self.play().await {
            Ok(is_lost) => is_lost,
            Err(refusal) => return CallOutcome::Refused(refusal),
        };
        let seen = observed(&spec.id, spec.generation);
        let mut state = self.state();
        state.sandboxes.insert(spec.id.clone(), seen.clone());
        state.specs.insert(spec.id.clone(), spec.clone());
        if is_lost {
            return silent();
        }
        CallOutcome::Done(seen)
    }

    async fn pause(
        &self,
        id: &SandboxId,
        generation: Generation,
        _: bool,
    ) -> CallOutcome<ObservedSandbox> {
        self.state().pauses += 1;
        if self.state().is_silent {
            return silent();
        }
        let is_lost = match self.play().await {
            Ok(is_lost) => is_lost,
            Err(refusal) => return CallOutcome::Refused(refusal),
        };
        let mut state = self.state();
        let Some(seen) = state.sandboxes.get_mut(id) else {
            return CallOutcome::Refused(Refusal::UnknownSandbox);
        };
        assert_eq!(seen.generation, generation, "a pause of another placement");
        seen.state = ObservedState::Paused;
        if is_lost {
            return silent();
        }
        CallOutcome::Done(seen.clone())
    }

    async fn resume(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        self.state().resumes += 1;
        if self.state().is_silent {
            return silent();
        }
        let is_lost = match self.play().await {
            Ok(is_lost) => is_lost,
            Err(refusal) => return CallOutcome::Refused(refusal),
        };
        let mut state = self.state();
        let Some(seen) = state.sandboxes.get_mut(&spec.id) else {
            return CallOutcome::Refused(Refusal::UnknownSandbox);
        };
        assert!(seen.generation <= spec.generation, "an older resume");
        seen.generation = spec.generation;
        seen.state = ObservedState::Running;
        seen.snapshot = None;
        if is_lost {
            return silent();
        }
        CallOutcome::Done(seen.clone())
    }

    async fn list_snapshots(
        &self,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> CallOutcome<Vec<Stored>> {
        let storage = self.state().storage.clone().unwrap();
        let mut found = BTreeMap::new();
        for (id, generation) in storage.stored.lock().unwrap().iter() {
            if after.is_none_or(|after| id > after) {
                found.entry(id.clone()).or_insert(*generation);
            }
        }
        let found = found.into_iter().take(usize::try_from(limit).unwrap());
        CallOutcome::Done(found.map(|(id, oldest)| Stored { id, oldest }).collect())
    }

    async fn drop_snapshots(&self, unneeded: &Unneeded) -> CallOutcome<()> {
        let storage = self.state().storage.clone().unwrap();
        let goes = |(id, generation): &(SandboxId, Generation)| {
            *id == unneeded.id && *generation <= unneeded.through && unneeded.quiet_for.is_zero()
        };
        storage
            .stored
            .lock()
            .unwrap()
            .retain(|stored| !goes(stored));
        CallOutcome::Done(())
    }

    async fn remove(&self, id: &SandboxId, generation: Generation) -> CallOutcome<()> {
        let mut state = self.state();
        state.removes += 1;
        if state.is_silent {
            return silent();
        }
        if state
            .sandboxes
            .get(id)
            .is_some_and(|seen| seen.generation <= generation)
        {
            state.sandboxes.remove(id);
        }
        if state.lost_removals > 0 {
            state.lost_removals -= 1;
            return silent();
        }
        CallOutcome::Done(())
    }

    async fn update_network(
        &self,
        id: &SandboxId,
        _: Generation,
        policy: &NetworkPolicy,
    ) -> CallOutcome<()> {
        match self.state().specs.get_mut(id) {
            Some(spec) => {
                spec.network = policy.clone();
                CallOutcome::Done(())
            }
            None => CallOutcome::Refused(Refusal::UnknownSandbox),
        }
    }

    async fn report(&self) -> CallOutcome<NodeReport> {
        let mut state = self.state();
        if state.is_silent {
            return silent();
        }
        state.reports += 1;
        CallOutcome::Done(NodeReport {
            node: self.id.clone(),
            total: state.total,
            allocated: Resources::default(),
            sandboxes: state.sandboxes.values().cloned().collect(),
        })
    }

    async fn import_template(
        &self,
        _: &TemplateId,
        _: &BuildId,
        source: &TemplateSource,
    ) -> CallOutcome<()> {
        match source {
            TemplateSource::Directory(path) if path.as_os_str() == "/missing" => {
                CallOutcome::Refused(Refusal::Failed("no such directory".to_owned()))
            }
            _ => CallOutcome::Done(()),
        }
    }

    async fn remove_template(&self, _: &TemplateId, _: &BuildId) -> CallOutcome<()> {
        CallOutcome::Done(())
    }
}
