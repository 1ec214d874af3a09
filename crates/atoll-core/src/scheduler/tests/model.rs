//! A plain model of a fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use crate::id::NodeId;
use crate::node::NodeState;
use crate::scheduler::amount::{Amount, SHARE_MAX};
use crate::scheduler::artifact::{Artifact, Kind};
use crate::scheduler::constraint::{
    Constraints, DriverNeed, Expression, Operator, Taint, Toleration, Version,
};
use crate::scheduler::decision::{Decision, Reservation};
use crate::scheduler::fleet::{Config, Fleet, Holding};
use crate::scheduler::node::{Node, Overcommit};
use crate::scheduler::policy::{Policy, Strategy as How};
use crate::scheduler::request::{Request, Sparing};
use crate::scheduler::score::{Term, Weights};
use crate::time::Timestamp;

const TTL: Duration = Duration::from_secs(30);

/// Something that happens.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Put(Box<Node>),
    Remove(u8),
    State(u8, NodeState),
    Beat(u8, Amount),
    Artifact(u8, Artifact, bool),
    Fail(u8),
    SetFailing(u8, bool),
    /// The oldest open reservation is committed, or cancelled.
    Answer(bool),
    /// The oldest sandbox ends.
    End,
    Pass(u16),
    Decide(Box<Request>),
}

#[derive(Debug, Default)]
pub(super) struct ModelNode {
    node: Option<Node>,
    state: Option<NodeState>,
    artifacts: BTreeSet<Artifact>,
    is_failing: bool,
}

#[derive(Debug)]
struct Held {
    node: NodeId,
    holding: Holding,
    /// Until when, and by what, unless it is committed.
    reserved: Option<(Reservation, Timestamp)>,
}

pub(super) struct World {
    pub(super) fleet: Fleet,
    pub(super) now: Timestamp,
    pub(super) nodes: BTreeMap<NodeId, ModelNode>,
    held: Vec<Held>,
}

fn id(number: u8) -> NodeId {
    format!("n{number}").parse().unwrap()
}

impl World {
    pub(super) fn new(classes_max: usize) -> Self {
        let config = Config {
            classes_max,
            reservation_ttl: TTL,
            ..Config::default()
        };
        Self {
            fleet: Fleet::new(config),
            now: Timestamp::from_micros(1_000_000_000),
            nodes: BTreeMap::new(),
            held: Vec::new(),
        }
    }

    /// The request with a node it excludes and one it wants to be near.
    pub(super) fn resolved(&self, request: &Request) -> Request {
        let mut request = request.clone();
        request.excluded.retain(|id| self.nodes.contains_key(id));
        request
    }

    pub(super) fn reserved(&mut self, decision: Decision, request: &Request) {
        self.held.push(Held {
            node: decision.node,
            holding: Holding {
                amount: request.amount,
                groups: request.groups.clone(),
            },
            reserved: Some((decision.reservation.unwrap(), self.now.saturating_add(TTL))),
        });
    }

    pub(super) fn take(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Put(node) => {
                let known = self.nodes.entry(node.id.clone()).or_default();
                known.node = Some((*node).clone());
                self.fleet.put_node((*node).clone(), now);
                if known.state.is_none() {
                    known.state = Some(NodeState::Ready);
                    self.fleet.set_state(&node.id, NodeState::Ready, now);
                }
            }
            Step::Remove(number) => {
                self.nodes.remove(&id(number));
                self.fleet.remove_node(&id(number));
                self.held.retain(|held| held.node != id(number));
            }
            Step::State(number, state) => {
                if let Some(node) = self.nodes.get_mut(&id(number)) {
                    node.state = Some(state);
                }
                self.fleet.set_state(&id(number), state, now);
            }
            Step::Beat(number, used) => self.fleet.heartbeat(&id(number), used),
            Step::Artifact(number, artifact, has) => {
                self.fleet.set_artifact(&id(number), &artifact, has);
                let Some(node) = self.nodes.get_mut(&id(number)) else {
                    return;
                };
                if has {
                    node.artifacts.insert(artifact);
                } else {
                    node.artifacts.remove(&artifact);
                }
            }
            Step::Fail(number) => self.fleet.note_start(&id(number), true, now),
            Step::SetFailing(number, is_failing) => {
                self.fleet.set_failing(&id(number), is_failing, now);
                if let Some(node) = self.nodes.get_mut(&id(number)) {
                    node.is_failing = is_failing;
                }
            }
            Step::Answer(is_yes) => self.answer(is_yes),
            Step::End => {
                let ended = self.held.iter().position(|held| held.reserved.is_none());
                if let Some(at) = ended {
                    let held = self.held.remove(at);
                    self.fleet.release(&held.node, &held.holding);
                }
            }
            Step::Pass(seconds) => {
                self.now = now.saturating_add(Duration::from_secs(seconds.into()));
                self.fleet.advance(self.now);
                let now = self.now;
                let is_over = |held: &Held| held.reserved.is_some_and(|(_, end)| end <= now);
                self.held.retain(|held| !is_over(held));
            }
            Step::Decide(_) => panic!("the test decides"),
        }
    }

    fn answer(&mut self, is_yes: bool) {
        let Some(at) = self.held.iter().position(|held| held.reserved.is_some()) else {
            return;
        };
        let (reservation, _) = self.held[at].reserved.unwrap();
        if is_yes {
            assert!(self.fleet.commit(reservation, self.now));
            self.held[at].reserved = None;
        } else {
            assert!(self.fleet.cancel(reservation));
            self.held.remove(at);
        }
    }

    fn used(&self, node: &NodeId) -> Amount {
        let here = self.held.iter().filter(|held| held.node == *node);
        here.fold(Amount::ZERO, |sum, held| {
            sum.saturating_add(held.holding.amount)
        })
    }

    /// Whether a node may take the request, by the model alone.
    pub(super) fn check_fits(
        &self,
        id: &NodeId,
        request: &Request,
        policy: &Policy,
    ) -> Result<(), TestCaseError> {
        let known = &self.nodes[id];
        let node = known.node.as_ref().unwrap();
        prop_assert!(!request.excluded.contains(id));
        prop_assert_eq!(known.state, Some(NodeState::Ready));
        prop_assert!(!known.is_failing || request.sparing == Sparing::Nobody);
        let after = self.used(id).saturating_add(request.amount);
        prop_assert!(after.fits_in(node.allocatable()), "{after:?} on {node:?}");
        let here = || self.held.iter().filter(|held| held.node == *id);
        prop_assert!(here().count() < node.sandboxes_max as usize);
        let starting = here().filter(|held| held.reserved.is_some()).count();
        prop_assert!(starting < usize::from(node.starts_max));
        for wanted in [&policy.constraints, &request.constraints] {
            for e in &wanted.labels {
                prop_assert!(e.holds(node.labels.get(&e.key).map(String::as_str)));
            }
            for tag in &wanted.tags {
                prop_assert!(node.tags.contains(tag));
            }
            for feature in &wanted.cpu_features {
                prop_assert!(node.cpu_features.contains(feature));
            }
            if let Some(architecture) = &wanted.architecture {
                prop_assert_eq!(architecture, &node.architecture);
            }
            if let Some(need) = &wanted.driver {
                prop_assert!(node.drivers[&need.name] >= need.at_least);
            }
            for artifact in &wanted.present {
                prop_assert!(known.artifacts.contains(artifact));
            }
            for group in &wanted.apart_from {
                prop_assert!(!here().any(|held| held.holding.groups.contains(group)));
            }
        }
        let tolerated = |taint| {
            let both = [&policy.constraints, &request.constraints];
            let mut all = both.into_iter().flat_map(|c| &c.tolerations);
            all.any(|toleration| toleration.covers(taint))
        };
        prop_assert!(node.taints.iter().all(tolerated));
        Ok(())
    }

    pub(super) fn check_accounts(&self) -> Result<(), TestCaseError> {
        for (id, known) in &self.nodes {
            let (allocatable, used) = self.fleet.account(id).unwrap();
            prop_assert_eq!(allocatable, known.node.as_ref().unwrap().allocatable());
            prop_assert_eq!(used, self.used(id));
            let here = || self.held.iter().filter(|held| held.node == *id);
            let starting = here().filter(|held| held.reserved.is_some()).count();
            let expected = (here().count(), starting);
            let (sandboxes, starting) = self.fleet.sandboxes(id).unwrap();
            prop_assert_eq!((sandboxes as usize, usize::from(starting)), expected);
        }
        Ok(())
    }
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(words).prop_map(str::to_owned)
}

const GROUPS: &[&str] = &["red", "green", "blue"];
const KEYS: &[&str] = &["pool", "disk"];
const VALUES: &[&str] = &["a", "b"];

fn amounts() -> impl Strategy<Value = Amount> {
    // Few sizes, so that classes are used again.
    (1_u32..4, 1_u32..4, 0_u32..3, 0_u32..2).prop_map(|(cpu, memory, disk, network)| {
        Amount::new(cpu * 500, memory * 512, disk * 1_024, network * 100)
    })
}

fn nodes() -> impl Strategy<Value = Node> {
    let places = (0_u8..12, word(&["", "east", "west"]), word(&["x86", "arm"]));
    let labels = prop::collection::btree_map(word(KEYS), word(VALUES), 0..3);
    let limits = (1_u32..9, 1_u16..5, 50_u32..250);
    (places, labels, limits, any::<[bool; 4]>()).prop_map(|(place, labels, limits, flags)| {
        let mut node = Node::new(id(place.0), Amount::new(3_000, 4_096, 6_000, 400));
        node.zone = place.1;
        node.architecture = place.2;
        node.labels = labels;
        (node.sandboxes_max, node.starts_max) = (limits.0, limits.1);
        node.overcommit = Overcommit::new(limits.2, 100, 100, 100);
        if flags[0] {
            node.taints.push(Taint {
                key: "gpu".into(),
                value: "yes".into(),
            });
        }
        if flags[1] {
            node.tags.insert("fast".into());
            node.headroom = Amount::new(100, 100, 0, 0);
        }
        if flags[3] {
            node.cpu_features.insert("avx2".into());
        }
        let version = Version(1, u32::from(flags[2]), 0);
        node.drivers.insert("jail".into(), version);
        node
    })
}

fn artifacts() -> impl Strategy<Value = Artifact> {
    let kinds = [Kind::Template, Kind::Snapshot, Kind::Layer, Kind::Warm];
    (prop::sample::select(kinds.to_vec()), word(&["t1", "t2"]))
        .prop_map(|(kind, name)| Artifact::new(kind, name))
}

fn constraints() -> impl Strategy<Value = Constraints> {
    let operator = prop_oneof![
        word(VALUES).prop_map(Operator::Equals),
        word(VALUES).prop_map(Operator::NotEquals),
        Just(Operator::In(vec!["a".into(), "b".into()])),
        word(VALUES).prop_map(|value| Operator::NotIn(vec![value])),
        Just(Operator::Exists),
        Just(Operator::Absent),
    ];
    let labels = (word(KEYS), operator).prop_map(|(key, operator)| Expression { key, operator });
    let one = |words| prop::option::weighted(0.2, word(words));
    (
        prop::collection::vec(labels, 0..2),
        one(&["fast"]),
        one(&["x86", "arm"]),
        (one(&["avx2"]), prop::option::weighted(0.2, 0_u32..2)),
        prop::collection::vec(artifacts(), 0..2),
        one(GROUPS),
        any::<bool>(),
    )
        .prop_map(
            |(labels, tag, architecture, machine, present, apart, tolerates)| Constraints {
                labels,
                tags: tag.into_iter().collect(),
                architecture,
                cpu_features: machine.0.into_iter().collect(),
                driver: machine.1.map(|minor| DriverNeed {
                    name: "jail".into(),
                    at_least: Version(1, minor, 0),
                }),
                present,
                apart_from: apart.into_iter().collect(),
                tolerations: tolerates
                    .then(|| Toleration {
                        key: "gpu".into(),
                        value: None,
                    })
                    .into_iter()
                    .collect(),
            },
        )
}

fn requests() -> impl Strategy<Value = Request> {
    let asked = prop_oneof![2 => Just(Constraints::default()), 1 => constraints()];
    let wanted = (
        prop::option::of(word(&["t1", "t2"])),
        prop::option::of(0_u8..12),
        prop::collection::vec(word(&["t1", "t2", "t3"]), 0..3),
    );
    let groups = prop::collection::vec(word(GROUPS), 0..3);
    let excluded = prop::collection::vec(0_u8..12, 0..3);
    let sparing = [Sparing::All, Sparing::Failing, Sparing::Nobody];
    let aside = (groups, excluded, prop::sample::select(sparing.to_vec()));
    (amounts(), asked, wanted, aside).prop_map(
        |(amount, constraints, (template, near, layers), aside)| {
            let (mut groups, excluded, sparing) = aside;
            groups.sort();
            groups.dedup();
            Request {
                amount,
                constraints,
                snapshot: template.clone(),
                template,
                layers,
                near: near.map(id),
                spread_group: groups.first().cloned(),
                groups,
                sparing,
                excluded: excluded.into_iter().map(id).collect(),
            }
        },
    )
}

pub(super) fn policies() -> impl Strategy<Value = Policy> {
    let weighted = Weights::of(&[
        (Term::Balance, 30),
        (Term::Usage, 20),
        (Term::Reliability, 30),
        (Term::Starts, 20),
    ]);
    let how = prop_oneof![
        Just(How::BestFit),
        Just(How::LeastAllocated),
        (1_u8..5).prop_map(How::BestOf),
        Just(How::Weighted(weighted)),
        Just(How::Random),
    ];
    let preferences = Weights::of(&[
        (Term::Template, 50),
        (Term::Snapshot, 20),
        (Term::Layers, 30),
        (Term::Warm, 25),
        (Term::Near, 35),
        (Term::Zones, 40),
        (Term::Reliability, 10),
    ]);
    let preferences = prop::option::of(Just(preferences));
    let tolerance = prop_oneof![Just(0), 0..SHARE_MAX / 5];
    (how, preferences, tolerance, 0_usize..9).prop_map(|(how, preferences, tolerance, more)| {
        Policy {
            preferences: preferences.unwrap_or_default(),
            tolerance,
            alternatives: more,
            ..Policy::new(how)
        }
    })
}

pub(super) fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    let number = 0_u8..12;
    let states = [NodeState::Ready, NodeState::Draining, NodeState::Lost];
    let use_of = amounts().prop_map(|amount| amount.saturating_add(amount));
    let step = prop_oneof![
        4 => nodes().prop_map(|node| Step::Put(Box::new(node))),
        1 => number.clone().prop_map(Step::Remove),
        1 => (number.clone(), prop::sample::select(states.to_vec()))
            .prop_map(|(number, state)| Step::State(number, state)),
        1 => (number.clone(), use_of).prop_map(|(number, used)| Step::Beat(number, used)),
        3 => (number.clone(), artifacts(), any::<bool>())
            .prop_map(|(number, artifact, has)| Step::Artifact(number, artifact, has)),
        1 => number.clone().prop_map(Step::Fail),
        1 => (number, any::<bool>()).prop_map(|(number, is)| Step::SetFailing(number, is)),
        4 => any::<bool>().prop_map(Step::Answer),
        1 => Just(Step::End),
        2 => (0_u16..40).prop_map(Step::Pass),
        12 => requests().prop_map(|request| Step::Decide(Box::new(request))),
    ];
    prop::collection::vec(step, 1..count)
}
