use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::id::Generation;
use crate::lifecycle::{STATES, step};
use crate::network::NetworkPolicy;
use crate::resources::Resources;
use crate::sandbox::{OnTimeout, SandboxConfig};

const NOW: Timestamp = Timestamp::from_micros(1_000_000);

/// Everything the planner looks at, and a model of a world in which every action succeeds.
#[derive(Debug, Clone)]
struct World {
    sandbox: Sandbox,
    observed: Observed,
    nodes: Nodes,
}

fn sandbox(state: State, desired: Desired, node: Option<NodeId>, deadline: Timestamp) -> Sandbox {
    Sandbox {
        id: "isandbox".parse().unwrap(),
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
        },
        state,
        desired,
        stop_reason: None,
        generation: Generation::new(5),
        node,
        created_at: NOW,
        started_at: None,
        deadline,
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
    })
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
                self.observed = seen(self.sandbox.generation.get(), ObservedState::Running);
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
            Action::Expire => {
                self.sandbox.desired = Desired::Stopped;
                self.sandbox.stop_reason = Some(EndReason::Expired);
            }
        }
    }

    /// Plans and applies until there is nothing to do. Two rounds are the most it may take: one
    /// to start, one to expire what was started past its deadline.
    fn settled(mut self) -> Self {
        for _ in 0..2 {
            for action in self.plan() {
                self.apply(&action);
            }
        }
        assert_eq!(self.plan(), [], "{self:?}");
        self
    }

    fn advance(&mut self, event: Event) {
        // The planner never asks for what the lifecycle refuses.
        self.sandbox.state = step(self.sandbox.state, event).unwrap().next;
    }
}

fn every_world() -> Vec<World> {
    let nodes = Nodes::from([
        ("ready".parse().unwrap(), NodeHealth::Ready),
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
    let mut worlds = Vec::new();
    for state in STATES {
        for desired in [Desired::Running, Desired::Paused, Desired::Stopped] {
            for node in placements {
                for deadline in [NOW, later] {
                    for observed in &observations {
                        let node = node.map(|id| id.parse().unwrap());
                        worlds.push(World {
                            sandbox: sandbox(state, desired, node, deadline),
                            observed: observed.clone(),
                            nodes: nodes.clone(),
                        });
                    }
                }
            }
        }
    }
    worlds
}

/// Once a plan has been carried out, there is nothing left to plan, in every combination there is.
#[test]
fn a_plan_that_was_carried_out_leaves_nothing_to_do() {
    for start in every_world() {
        let mut world = start.clone();
        for action in start.plan() {
            world.apply(&action);
        }
        // A sandbox that was started past its deadline has that left to do, and it is all.
        if start.sandbox.deadline <= NOW
            && start.sandbox.state != world.sandbox.state
            && world.sandbox.state == State::Running
        {
            assert_eq!(world.plan().first(), Some(&Action::Expire), "{start:?}");
            for action in world.plan() {
                world.apply(&action);
            }
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

proptest! {
    /// Stopping half-way and planning again from there reaches the same rest as never stopping.
    #[test]
    fn an_interrupted_plan_converges(index in 0usize..10_000, cut in 0usize..6) {
        let worlds = every_world();
        let start = &worlds[index % worlds.len()];
        let straight = start.clone().settled();
        let mut interrupted = start.clone();
        for action in start.plan().iter().take(cut) {
            interrupted.apply(action);
        }
        let interrupted = interrupted.settled();
        prop_assert_eq!(straight.sandbox.state, interrupted.sandbox.state);
        prop_assert_eq!(straight.sandbox.desired, interrupted.sandbox.desired);
    }
}
