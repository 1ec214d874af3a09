use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::id::Generation;
use crate::lifecycle::{STATES, step};
use crate::network::NetworkPolicy;
use crate::resources::Resources;
use crate::sandbox::{Kept, OnTimeout, SandboxConfig};
use crate::snapshot::{Digest, Snapshot};

const NOW: Timestamp = Timestamp::from_micros(1_000_000);

/// Everything the planner looks at, and a model of a world in which every action succeeds.
#[derive(Debug, Clone)]
struct World {
    sandbox: Sandbox,
    observed: Observed,
    nodes: Nodes,
}

fn sandbox(state: State, desired: Desired, node: Option<NodeId>, deadline: Timestamp) -> Sandbox {
    let is_kept = matches!(state, State::Paused | State::Resuming);
    Sandbox {
        id: "isandbox".parse().unwrap(),
        revision: 0,
        team: "team".parse().unwrap(),
        created_by: None,
        config: SandboxConfig {
            template: "template".parse().unwrap(),
            build: "build".parse().unwrap(),
            alias: None,
            resources: Resources::default(),
            metadata: BTreeMap::new(),
            env: BTreeMap::new(),
            network: NetworkPolicy::default(),
            is_secured: true,
            on_timeout: OnTimeout::Kill,
            auto_resume: false,
            scheduling: None,
        },
        state,
        desired,
        stop_reason: None,
        generation: Generation::new(5),
        kept_on: node.clone().filter(|_| is_kept),
        node,
        snapshot: None,
        created_at: NOW,
        started_at: None,
        timeout: Duration::from_secs(1),
        deadline,
        keep_memory: true,
        // What is paused or being resumed was paused under the placement before.
        kept: is_kept.then_some(Kept {
            generation: Generation::new(4),
            at: NOW,
        }),
        is_restarting: false,
        claimed_by: None,
        updated_at: NOW,
        ended: None,
        last_error: None,
    }
}

fn seen(generation: u64, state: ObservedState) -> Observed {
    Observed::Known(ObservedSandbox {
        id: "isandbox".parse().unwrap(),
        generation: Generation::new(generation),
        state,
        resources: Resources::default(),
        started_at: None,
        detail: None,
        snapshot: None,
    })
}

fn snapshot(generation: u64) -> Snapshot {
    Snapshot {
        store: "store".parse().unwrap(),
        generation: Generation::new(generation),
        digest: Digest::new([7; 32]),
        bytes: 1,
    }
}

impl World {
    fn plan(&self) -> Vec<Action> {
        plan(&self.sandbox, &self.observed, &self.nodes, NOW)
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::Place => {
                self.advance(Event::Place);
                self.sandbox.generation = self.sandbox.generation.next();
                self.sandbox.node = Some("ready".parse().unwrap());
                self.observed = Observed::Unknown;
            }
            Action::Ensure => {
                assert!(self.sandbox.node.is_some(), "ensure without a node");
                let is_resumed = self.sandbox.kept.is_some();
                assert!(
                    !is_resumed || self.sandbox.snapshot.is_some(),
                    "files are lost"
                );
                self.observed = seen(self.sandbox.generation.get(), ObservedState::Running);
            }
            Action::Pause => {
                let generation = match &self.observed {
                    Observed::Known(seen) => seen.generation,
                    Observed::Absent | Observed::Unknown => self.sandbox.generation,
                };
                assert!(self.sandbox.is_own_generation(generation));
                self.observed = seen(generation.get(), ObservedState::Paused);
            }
            Action::Readmit => {
                self.advance(Event::Resume);
                self.sandbox.generation = self.sandbox.generation.next();
            }
            Action::NoteSnapshot => {
                let Observed::Known(seen) = &self.observed else {
                    panic!("nobody told of a snapshot");
                };
                self.sandbox.snapshot.clone_from(&seen.snapshot);
            }
            Action::Relocate => self.relocate(),
            Action::Resume => {
                assert!(self.sandbox.kept.is_some(), "resume without a pause");
                assert!(!self.sandbox.is_elsewhere(), "nothing is kept there");
                self.observed = seen(self.sandbox.generation.get(), ObservedState::Running);
            }
            Action::StayPaused => {
                assert_eq!(self.sandbox.state, State::Paused);
                self.sandbox.desired = Desired::Paused;
            }
            Action::Remove => {
                assert!(self.sandbox.node.is_some(), "remove without a node");
                self.observed = Observed::Absent;
            }
            Action::Advance(event) => self.advance(*event),
            Action::Fail { reason, .. } => {
                self.advance(Event::Fail);
                self.sandbox.desired = Desired::Stopped;
                self.sandbox.stop_reason = Some(*reason);
            }
            Action::Expire => match self.sandbox.config.on_timeout {
                OnTimeout::Kill => {
                    self.sandbox.desired = Desired::Stopped;
                    self.sandbox.stop_reason = Some(EndReason::Expired);
                }
                OnTimeout::Pause { keep_memory } => {
                    self.sandbox.desired = Desired::Paused;
                    self.sandbox.keep_memory = keep_memory;
                }
            },
        }
    }

    fn relocate(&mut self) {
        assert!(
            self.sandbox.snapshot.is_some(),
            "relocate without a snapshot"
        );
        self.advance(Event::Resume);
        self.sandbox.generation = self.sandbox.generation.next();
        self.sandbox.node = Some("spare".parse().unwrap());
        self.observed = Observed::Unknown;
    }

    fn settled(mut self) -> Self {
        for action in self.plan() {
            self.apply(&action);
        }
        assert_eq!(self.plan(), [], "{self:?}");
        self
    }

    fn advance(&mut self, event: Event) {
        // The planner never asks for what the lifecycle refuses.
        self.sandbox.state = step(self.sandbox.state, event).unwrap().next;
        let sandbox = &mut self.sandbox;
        match event {
            Event::Started => {
                sandbox.deadline = NOW.saturating_add(sandbox.timeout);
                sandbox.kept = None;
                sandbox.kept_on = None;
                sandbox.snapshot = None;
                sandbox.is_restarting = false;
            }
            Event::PauseDone => {
                sandbox.kept = Some(Kept {
                    generation: sandbox.generation,
                    at: NOW,
                });
                sandbox.kept_on.clone_from(&sandbox.node);
            }
            Event::ResumeFailed => {
                sandbox.desired = Desired::Paused;
                if sandbox.is_elsewhere() {
                    sandbox.node.clone_from(&sandbox.kept_on);
                    self.observed = Observed::Unknown;
                }
            }
            Event::Detach => {
                sandbox.node = None;
                sandbox.kept_on = None;
            }
            _ => {}
        }
    }
}

fn every_world() -> Vec<World> {
    let nodes = Nodes::from([
        ("ready".parse().unwrap(), NodeHealth::Ready),
        ("spare".parse().unwrap(), NodeHealth::Ready),
        ("suspect".parse().unwrap(), NodeHealth::Suspect),
        ("lost".parse().unwrap(), NodeHealth::Lost),
    ]);
    let mut observations = vec![Observed::Absent, Observed::Unknown];
    for generation in [4, 5, 6] {
        for state in [
            ObservedState::Starting,
            ObservedState::Running,
            ObservedState::Paused,
            ObservedState::Exited,
        ] {
            observations.push(seen(generation, state));
            if let Observed::Known(mut told) = seen(generation, state) {
                told.snapshot = Some(snapshot(generation));
                observations.push(Observed::Known(told));
            }
        }
    }
    let placements = [
        None,
        Some("ready"),
        Some("suspect"),
        Some("lost"),
        Some("unlisted"),
    ];
    let later = NOW.saturating_add(Duration::from_secs(1));
    let mut starts = Vec::new();
    for state in STATES {
        for desired in [Desired::Running, Desired::Paused, Desired::Stopped] {
            for node in placements {
                for deadline in [NOW, later] {
                    let node = node.map(|id| id.parse().unwrap());
                    let start = sandbox(state, desired, node, deadline);
                    let mut pausing = start.clone();
                    pausing.config.on_timeout = OnTimeout::Pause { keep_memory: true };
                    let mut restarting = start.clone();
                    // A failure takes back the wish to begin anew with every other wish.
                    restarting.is_restarting = state != State::Error;
                    let mut portable = start.clone();
                    portable.snapshot = start.kept.map(|_| snapshot(4));
                    let mut moving = portable.clone();
                    if state == State::Resuming {
                        moving.kept_on = Some("home".parse().unwrap());
                    }
                    starts.extend([start, pausing, restarting, portable, moving]);
                }
            }
        }
    }
    let world = |sandbox: &Sandbox, observed: &Observed| World {
        sandbox: sandbox.clone(),
        observed: observed.clone(),
        nodes: nodes.clone(),
    };
    starts
        .iter()
        .flat_map(|sandbox| observations.iter().map(move |observed| (sandbox, observed)))
        .map(|(sandbox, observed)| world(sandbox, observed))
        .collect()
}

/// Once a plan has been carried out, there is nothing left to plan, in every combination there is.
#[test]
fn a_plan_that_was_carried_out_leaves_nothing_to_do() {
    for start in every_world() {
        let mut world = start.clone();
        for action in start.plan() {
            world.apply(&action);
        }
        assert_eq!(world.plan(), [], "from {start:?}\nto {world:?}");
    }
}

/// Whatever the state, the wish that a sandbox be gone is fulfilled by one plan.
#[test]
fn a_delete_ends_from_every_state() {
    for start in every_world() {
        if start.sandbox.desired != Desired::Stopped {
            continue;
        }
        let mut world = start.clone();
        for action in start.plan() {
            world.apply(&action);
        }
        assert_eq!(world.sandbox.state, State::Stopped, "{start:?}");
    }
}

/// A silent node is never given up before it is lost, and never replaced by another.
#[test]
fn an_unknown_outcome_asks_the_same_node_again() {
    let node: NodeId = "ready".parse().unwrap();
    let later = NOW.saturating_add(Duration::from_secs(1));
    for health in [NodeHealth::Ready, NodeHealth::Suspect] {
        let nodes = Nodes::from([(node.clone(), health)]);
        let creating = sandbox(State::Creating, Desired::Running, Some(node.clone()), later);
        assert_eq!(
            plan(&creating, &Observed::Unknown, &nodes, NOW),
            [Action::Ensure, Action::Advance(Event::Started)]
        );
        let running = sandbox(State::Running, Desired::Running, Some(node.clone()), later);
        assert_eq!(plan(&running, &Observed::Unknown, &nodes, NOW), []);
    }
}

/// What a lost node kept is not given up: it may return with it.
#[test]
fn a_paused_sandbox_outlives_the_loss_of_its_node() {
    let node: NodeId = "n".parse().unwrap();
    let nodes = Nodes::from([(node.clone(), NodeHealth::Lost)]);
    for observed in [Observed::Unknown, seen(4, ObservedState::Paused)] {
        let with = |state, desired| sandbox(state, desired, Some(node.clone()), NOW);
        let paused = with(State::Paused, Desired::Paused);
        assert_eq!(plan(&paused, &observed, &nodes, NOW), []);
        let wanted = with(State::Paused, Desired::Running);
        assert_eq!(
            plan(&wanted, &observed, &nodes, NOW),
            [Action::StayPaused],
            "the resume is refused, and the sandbox is kept"
        );
        let resuming = with(State::Resuming, Desired::Running);
        assert_eq!(
            plan(&resuming, &observed, &nodes, NOW),
            [Action::Advance(Event::ResumeFailed)]
        );
    }
}

/// What shared storage has of a sandbox goes on on another node when its own is lost or does not
/// have it any more; until it is wanted, it is left where it is.
#[test]
fn a_portable_sandbox_goes_on_elsewhere() {
    let node: NodeId = "n".parse().unwrap();
    let elsewhere = [
        Action::Relocate,
        Action::Ensure,
        Action::Advance(Event::Started),
    ];
    let with = |desired| {
        let mut paused = sandbox(State::Paused, desired, Some(node.clone()), NOW);
        paused.snapshot = Some(snapshot(4));
        paused
    };
    let lost = Nodes::from([(node.clone(), NodeHealth::Lost)]);
    let plan_of = |desired, observed: &Observed, nodes| plan(&with(desired), observed, nodes, NOW);
    assert_eq!(
        plan_of(Desired::Running, &Observed::Unknown, &lost),
        elsewhere
    );
    assert_eq!(plan_of(Desired::Paused, &Observed::Unknown, &lost), []);
    let ready = Nodes::from([(node.clone(), NodeHealth::Ready)]);
    let gone = plan_of(Desired::Paused, &Observed::Absent, &ready);
    assert_eq!(gone, [Action::Advance(Event::Detach)], "it is not failed");
    // As long as its own node works, what is there is taken.
    let here = plan_of(Desired::Running, &seen(4, ObservedState::Paused), &ready);
    assert_eq!(here[0], Action::Readmit);
}

/// A resume elsewhere that fails leaves the sandbox with the node that keeps it.
#[test]
fn a_failed_relocation_goes_back_to_the_node_that_keeps_it() {
    let (home, other): (NodeId, NodeId) = ("home".parse().unwrap(), "lost".parse().unwrap());
    let mut moving = sandbox(State::Resuming, Desired::Running, Some(other.clone()), NOW);
    moving.kept_on = Some(home.clone());
    moving.snapshot = Some(snapshot(4));
    let world = World {
        sandbox: moving,
        observed: Observed::Unknown,
        nodes: Nodes::from([(other, NodeHealth::Lost), (home.clone(), NodeHealth::Lost)]),
    };
    assert_eq!(world.plan(), [Action::Advance(Event::ResumeFailed)]);
    let world = world.settled();
    assert_eq!(world.sandbox.node, Some(home));
    assert_eq!(world.sandbox.state, State::Paused);
    assert!(world.sandbox.snapshot.is_some());
}

/// An order whose outcome is unknown goes to the same node again, under the same generation.
#[test]
fn an_unknown_pause_or_resume_is_asked_again() {
    let node: NodeId = "n".parse().unwrap();
    let nodes = Nodes::from([(node.clone(), NodeHealth::Suspect)]);
    let pausing = sandbox(State::Pausing, Desired::Paused, Some(node.clone()), NOW);
    assert_eq!(
        plan(&pausing, &Observed::Unknown, &nodes, NOW),
        [Action::Pause, Action::Advance(Event::PauseDone)]
    );
    let resuming = sandbox(State::Resuming, Desired::Running, Some(node), NOW);
    assert_eq!(
        plan(&resuming, &Observed::Unknown, &nodes, NOW),
        [Action::Resume, Action::Advance(Event::Started)]
    );
}

/// A restart is never an end in between.
#[test]
fn a_restart_never_stops_the_sandbox() {
    for start in every_world() {
        if !start.sandbox.is_restarting || start.sandbox.desired == Desired::Stopped {
            continue;
        }
        if !matches!(start.sandbox.state, State::Running | State::Stopping) {
            continue;
        }
        let mut world = start.clone();
        for action in start.plan() {
            world.apply(&action);
            assert_ne!(world.sandbox.state, State::Stopped, "{start:?}");
        }
        assert!(world.sandbox.generation > start.sandbox.generation);
    }
}

proptest! {
    /// Stopping half-way and planning again from there reaches the same rest as never stopping.
    #[test]
    fn an_interrupted_plan_converges(index in 0usize..20_000, cut in 0usize..9) {
        static WORLDS: LazyLock<Vec<World>> = LazyLock::new(every_world);
        let worlds = &*WORLDS;
        let start = &worlds[index % worlds.len()];
        let straight = start.clone().settled();
        let mut interrupted = start.clone();
        for action in start.plan().iter().take(cut) {
            interrupted.apply(action);
        }
        let interrupted = interrupted.settled();
        prop_assert_eq!(
            straight.sandbox.state,
            interrupted.sandbox.state,
            "from {:?}",
            start
        );
        prop_assert_eq!(straight.sandbox.desired, interrupted.sandbox.desired);
    }
}
