//! A machine with its node agent, as `atoll_node::agent` behaves.
//!
//! Copies of sandboxes live on the machine: they outlive the agent, as supervisors do. What the
//! agent keeps only in memory (which generations it removed, what ended by itself) is lost with
//! it. Work goes on when its caller has gone away, and stops half-way when the agent dies; the
//! next agent keeps what runs and removes what was half made or half removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use atoll_core::heartbeat::{Heartbeat, MachineUsage, StateDigest};
use atoll_core::id::{Generation, NodeId, SandboxId};
use atoll_core::node::{
    CallOutcome, NodeEvent, NodeReport, ObservedSandbox, ObservedState, Refusal,
};
use atoll_core::resources::Resources;
use atoll_core::sandbox::SandboxSpec;
use atoll_core::time::Clock as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use crate::options::Sabotage;
use crate::world::{Part, World, lock};

mod pausing;

/// Chance in a thousand that a sandbox cannot be made.
const FAILS_PER_MILLE: u32 = 20;

/// How much longer everything takes on a slow machine.
const SLOWNESS: u32 = 40;

/// Whether an order comes for the first time, or the network doubled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    First,
    Doubled,
}

/// One copy of a sandbox on the machine.
#[derive(Debug, Clone)]
pub(crate) struct MachineCopy {
    pub(crate) state: ObservedState,
    pub(crate) resources: Resources,
    /// Made by an order that the network doubled, after whoever gave it had moved on.
    pub(crate) delivery: Delivery,
    /// Being released; it no longer serves.
    pub(crate) is_ending: bool,
    /// Being paused or resumed; it does not serve.
    is_turning: bool,
    /// What it takes while it serves.
    full: Resources,
    /// Whether its memory is kept, once it is paused.
    keeps_memory: bool,
    detail: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    copies: BTreeMap<(SandboxId, Generation), MachineCopy>,
    /// What ended or vanished, for the defect of reporting it still.
    gone: BTreeMap<(SandboxId, Generation), Resources>,
    removed: BTreeMap<SandboxId, Generation>,
    /// What ended by itself or with the machine's power: nobody can be asked for it.
    lost: BTreeSet<SandboxId>,
    /// Which life of the agent this is; none while it is down.
    life: Option<u64>,
    lives: u64,
    is_slow: bool,
    /// By server.
    events: BTreeMap<usize, mpsc::Sender<NodeEvent>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    world: Arc<World>,
    id: NodeId,
    total: Resources,
    state: Mutex<State>,
    changed: Notify,
}

/// What an order to make a sandbox meets.
enum Met {
    Ready(CallOutcome<ObservedSandbox>),
    Starting,
    Older(Generation),
    Admitted,
}

/// What an order to remove a sandbox meets.
enum Removing {
    Ready(CallOutcome<()>),
    Busy,
    Begun((SandboxId, Generation)),
}

impl Machine {
    pub(crate) fn new(world: Arc<World>, id: NodeId, total: Resources) -> Self {
        Self {
            world,
            id,
            total,
            state: Mutex::new(State {
                life: Some(0),
                ..State::default()
            }),
            changed: Notify::new(),
        }
    }

    pub(crate) const fn id(&self) -> &NodeId {
        &self.id
    }

    pub(crate) const fn total(&self) -> Resources {
        self.total
    }

    /// What the agent says that there is.
    fn told_total(&self) -> Resources {
        if self.world.has(Sabotage::OverstateRoom) {
            return self.total.checked_add(self.total).unwrap_or(self.total);
        }
        self.total
    }

    pub(crate) fn is_up(&self) -> bool {
        lock(&self.state).life.is_some()
    }

    /// Which life of the agent this is; none while it is down.
    pub(crate) fn life(&self) -> Option<u64> {
        lock(&self.state).life
    }

    pub(crate) fn is_slow(&self) -> bool {
        lock(&self.state).is_slow
    }

    pub(crate) fn set_slow(&self, is_slow: bool) {
        lock(&self.state).is_slow = is_slow;
    }

    /// Everything on the machine.
    pub(crate) fn copies(&self) -> Vec<(SandboxId, Generation, MachineCopy)> {
        lock(&self.state)
            .copies
            .iter()
            .map(|((id, generation), copy)| (id.clone(), *generation, copy.clone()))
            .collect()
    }

    pub(crate) fn copy(&self, id: &SandboxId, generation: Generation) -> Option<MachineCopy> {
        lock(&self.state)
            .copies
            .get(&(id.clone(), generation))
            .cloned()
    }

    /// Where the agent sends what it notices, from now on.
    pub(crate) fn connect(&self, server: usize, events: mpsc::Sender<NodeEvent>) {
        lock(&self.state).events.insert(server, events);
    }

    /// The agent's process ends.
    pub(crate) fn crash(&self) {
        let mut state = lock(&self.state);
        state.life = None;
        state.events.clear();
        drop(state);
        self.changed.notify_waiters();
    }

    /// The machine loses power: nothing that was in memory is left.
    pub(crate) fn lose_power(&self) {
        self.crash();
        let mut state = lock(&self.state);
        let copies = std::mem::take(&mut state.copies);
        for (key, copy) in copies {
            // What is only files is on the disk.
            if copy.state == ObservedState::Paused && !copy.keeps_memory && !copy.is_turning {
                state.copies.insert(key, copy);
                continue;
            }
            state.lost.insert(key.0.clone());
            state.gone.insert(key, copy.resources);
        }
    }

    /// Whether a copy of it ended by itself or with the machine's power.
    pub(crate) fn has_lost(&self, id: &SandboxId) -> bool {
        lock(&self.state).lost.contains(id)
    }

    /// The agent starts again: what runs is adopted, the rest is removed.
    pub(crate) fn start(&self) {
        let mut state = lock(&self.state);
        state.lives += 1;
        state.life = Some(state.lives);
        state.removed.clear();
        let forgets_paused = self.world.has(Sabotage::ForgetPaused);
        state.copies.retain(|_, copy| {
            // A pause or resume that was cut off did not happen.
            copy.is_turning = false;
            copy.resources = copy.held();
            let is_whole = match copy.state {
                ObservedState::Running => true,
                ObservedState::Paused => !forgets_paused,
                ObservedState::Starting | ObservedState::Exited => false,
            };
            is_whole && !copy.is_ending
        });
        drop(state);
        self.changed.notify_waiters();
    }

    /// The first process of a running sandbox ends; the agent tells of it if it lives.
    pub(crate) fn end_one(&self, index: usize) -> Option<SandboxId> {
        let mut state = lock(&self.state);
        let running = state.copies.iter().filter(|(_, copy)| is_serving(copy));
        let keys: Vec<_> = running.map(|(key, _)| key.clone()).collect();
        let key = keys.get(index % keys.len().max(1))?.clone();
        state.lost.insert(key.0.clone());
        if state.life.is_none() || self.world.has(Sabotage::ReportTheGone) {
            // Nobody is there to notice.
            let copy = state.copies.remove(&key)?;
            state.gone.insert(key.clone(), copy.resources);
            return Some(key.0);
        }
        let copy = state.copies.get_mut(&key)?;
        copy.state = ObservedState::Exited;
        copy.detail = Some("killed by signal 9".to_owned());
        copy.full = Resources::default();
        copy.resources = copy.full;
        let seen = observed(&key, copy);
        for events in state.events.values() {
            // A full queue loses it, as the agent's does; the next report tells it.
            let _ = events.try_send(NodeEvent::Changed(seen.clone()));
        }
        Some(key.0)
    }

    /// Makes the sandbox run; none if the agent died before it could answer.
    pub(crate) async fn ensure(
        &self,
        spec: SandboxSpec,
        delivery: Delivery,
    ) -> Option<CallOutcome<ObservedSandbox>> {
        let life = lock(&self.state).life?;
        loop {
            match self.admit(&spec, delivery) {
                Met::Ready(outcome) => return Some(outcome),
                Met::Starting => self.wait(life).await?,
                Met::Older(generation) => {
                    // Its own doing, in which no sabotage lies: it would be asked again at once.
                    self.take_down(&spec.id, generation, life).await?;
                }
                Met::Admitted => break,
            }
        }
        self.work(5, 200).await;
        let key = (spec.id.clone(), spec.generation);
        let is_failing = self.world.goes_wrong(FAILS_PER_MILLE);
        let mut state = lock(&self.state);
        if state.life != Some(life) {
            return None;
        }
        let outcome = if is_failing {
            state.copies.remove(&key);
            CallOutcome::Refused(Refusal::Failed("the disk image is damaged".to_owned()))
        } else {
            let copy = state.copies.get_mut(&key)?;
            copy.state = ObservedState::Running;
            CallOutcome::Done(observed(&key, copy))
        };
        drop(state);
        self.changed.notify_waiters();
        Some(outcome)
    }

    fn admit(&self, spec: &SandboxSpec, delivery: Delivery) -> Met {
        let ignores = self.world.has(Sabotage::IgnoreGenerations);
        let mut state = lock(&self.state);
        let stale = |known| {
            Met::Ready(CallOutcome::Refused(Refusal::StaleGeneration {
                ordered: spec.generation,
                known,
            }))
        };
        if let Some(removed) = state.removed.get(&spec.id)
            && *removed >= spec.generation
            && !ignores
        {
            return stale(*removed);
        }
        let key = (spec.id.clone(), spec.generation);
        if let Some(copy) = state.copies.get(&key) {
            return match copy.state {
                ObservedState::Starting => Met::Starting,
                ObservedState::Exited => {
                    let detail = copy.detail.clone().unwrap_or_default();
                    Met::Ready(CallOutcome::Refused(Refusal::Failed(detail)))
                }
                ObservedState::Running | ObservedState::Paused if copy.is_busy() => Met::Starting,
                ObservedState::Running | ObservedState::Paused => {
                    Met::Ready(CallOutcome::Done(observed(&key, copy)))
                }
            };
        }
        let newest = state.copies.keys().rev().find(|(id, _)| *id == spec.id);
        match newest.map(|(_, generation)| *generation) {
            Some(known) if known > spec.generation && !ignores => return stale(known),
            Some(known) if known < spec.generation => return Met::Older(known),
            _ => {}
        }
        let wanted = state.allocated().checked_add(spec.resources);
        let has_room = wanted.is_some_and(|wanted| wanted.fits_in(self.told_total()));
        if !has_room {
            return Met::Ready(CallOutcome::Refused(Refusal::NoRoom("full".to_owned())));
        }
        let copy = MachineCopy {
            state: ObservedState::Starting,
            resources: spec.resources,
            delivery,
            is_ending: false,
            is_turning: false,
            full: spec.resources,
            keeps_memory: false,
            detail: None,
        };
        state.copies.insert(key, copy);
        Met::Admitted
    }

    /// Removes the sandbox; none if the agent died before it could answer.
    pub(crate) async fn remove(
        &self,
        id: SandboxId,
        generation: Generation,
    ) -> Option<CallOutcome<()>> {
        let life = lock(&self.state).life?;
        if self.world.has(Sabotage::RefuseRemovals) {
            let why = "the disk is busy".to_owned();
            return Some(CallOutcome::Refused(Refusal::Failed(why)));
        }
        if self.world.has(Sabotage::LieAboutRemovals) {
            return Some(CallOutcome::Done(()));
        }
        self.take_down(&id, generation, life).await
    }

    async fn take_down(
        &self,
        id: &SandboxId,
        generation: Generation,
        life: u64,
    ) -> Option<CallOutcome<()>> {
        loop {
            let key = match self.begin_removal(id, generation) {
                Removing::Ready(outcome) => return Some(outcome),
                Removing::Busy => {
                    self.wait(life).await?;
                    continue;
                }
                Removing::Begun(key) => key,
            };
            self.work(5, 100).await;
            {
                let mut state = lock(&self.state);
                if state.life != Some(life) {
                    return None;
                }
                state.copies.remove(&key);
            }
            self.changed.notify_waiters();
        }
    }

    fn begin_removal(&self, id: &SandboxId, generation: Generation) -> Removing {
        let mut state = lock(&self.state);
        let newest = state.copies.keys().rev().find(|key| key.0 == *id).cloned();
        if let Some((_, known)) = &newest
            && *known > generation
        {
            return Removing::Ready(CallOutcome::Refused(Refusal::StaleGeneration {
                ordered: generation,
                known: *known,
            }));
        }
        let removed = state.removed.entry(id.clone()).or_insert(generation);
        *removed = generation.max(*removed);
        let Some(key) = newest else {
            return Removing::Ready(CallOutcome::Done(()));
        };
        match state.copies.get_mut(&key) {
            Some(copy) if !copy.is_busy() => {
                copy.is_ending = true;
                Removing::Begun(key)
            }
            // It is being made or removed: what it waits for comes to an end.
            Some(_) | None => Removing::Busy,
        }
    }

    /// Replaces a policy; none if the agent died.
    pub(crate) async fn update_network(
        &self,
        id: SandboxId,
        generation: Generation,
    ) -> Option<CallOutcome<()>> {
        let life = lock(&self.state).life?;
        self.work(1, 10).await;
        let state = lock(&self.state);
        if state.life != Some(life) {
            return None;
        }
        Some(match state.copies.get(&(id, generation)) {
            Some(copy) if is_serving(copy) => CallOutcome::Done(()),
            Some(_) | None => CallOutcome::Refused(Refusal::UnknownSandbox),
        })
    }

    /// Everything the agent knows; none if it is down.
    pub(crate) async fn report(&self) -> Option<CallOutcome<NodeReport>> {
        let life = lock(&self.state).life?;
        self.work(0, 5).await;
        let state = lock(&self.state);
        if state.life != Some(life) {
            return None;
        }
        Some(CallOutcome::Done(NodeReport {
            node: self.id.clone(),
            total: self.told_total(),
            allocated: state.allocated(),
            sandboxes: self.told(&state),
        }))
    }

    /// What the agent says of itself every other second.
    pub(crate) fn heartbeat(&self) -> Heartbeat {
        let state = lock(&self.state);
        let sandboxes = self.told(&state);
        Heartbeat {
            node: self.id.clone(),
            at: self.world.now(),
            total: self.told_total(),
            allocated: state.allocated(),
            sandboxes: u32::try_from(sandboxes.len()).unwrap_or(u32::MAX),
            usage: MachineUsage::default(),
            digest: StateDigest::of(&sandboxes),
            driver: "simulated".to_owned(),
            driver_problem: None,
        }
    }

    /// What the agent says of every sandbox.
    fn told(&self, state: &State) -> Vec<ObservedSandbox> {
        let copies = state.copies.iter();
        let mut sandboxes: Vec<_> = copies.map(|(key, copy)| observed(key, copy)).collect();
        if self.world.has(Sabotage::ReportTheGone) {
            let is_kept = |key: &(SandboxId, Generation)| state.copies.contains_key(key);
            let gone = state.gone.iter().filter(|(key, _)| !is_kept(key));
            sandboxes.extend(gone.map(|(key, resources)| as_running(key, *resources)));
        }
        sandboxes
    }

    /// Takes the time of some work, and more on a slow machine.
    async fn work(&self, from_ms: u64, to_ms: u64) {
        let mut time = self.world.millis(from_ms, to_ms);
        if self.is_slow() {
            time *= SLOWNESS;
            self.world.disturb(Part::Node(self.id.clone()));
        }
        sleep(time).await;
    }

    /// Waits until something changes; none if the agent dies.
    async fn wait(&self, life: u64) -> Option<()> {
        let changed = self.changed.notified();
        if lock(&self.state).life != Some(life) {
            return None;
        }
        changed.await;
        (lock(&self.state).life == Some(life)).then_some(())
    }
}

impl State {
    fn allocated(&self) -> Resources {
        self.copies
            .values()
            .fold(Resources::default(), |sum, copy| {
                sum.checked_add(copy.resources).unwrap_or(sum)
            })
    }
}

impl MachineCopy {
    /// Whether an order is being carried out on it.
    fn is_busy(&self) -> bool {
        self.state == ObservedState::Starting || self.is_ending || self.is_turning
    }

    /// What it takes in its state.
    const fn held(&self) -> Resources {
        match self.state {
            ObservedState::Paused => self.full.held_when_paused(self.keeps_memory),
            ObservedState::Starting | ObservedState::Running | ObservedState::Exited => self.full,
        }
    }
}

/// Whether traffic that reaches the machine reaches this copy.
pub(crate) fn is_serving(copy: &MachineCopy) -> bool {
    copy.state == ObservedState::Running && !copy.is_ending && !copy.is_turning
}

/// Whether it is kept without serving.
pub(crate) fn is_kept(copy: &MachineCopy) -> bool {
    copy.state == ObservedState::Paused && !copy.is_ending
}

fn observed(key: &(SandboxId, Generation), copy: &MachineCopy) -> ObservedSandbox {
    ObservedSandbox {
        id: key.0.clone(),
        generation: key.1,
        state: copy.state,
        resources: copy.resources,
        started_at: None,
        detail: copy.detail.clone(),
        snapshot: None,
    }
}

fn as_running(key: &(SandboxId, Generation), resources: Resources) -> ObservedSandbox {
    ObservedSandbox {
        id: key.0.clone(),
        generation: key.1,
        state: ObservedState::Running,
        resources,
        started_at: None,
        detail: None,
        snapshot: None,
    }
}
