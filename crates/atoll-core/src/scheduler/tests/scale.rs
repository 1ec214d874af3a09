//! Fleets that are larger than a chunk: classes that have not seen all nodes, and what a decision
//! looks at.

use proptest::prelude::*;

use super::examples::{at, id, request};
use crate::node::NodeState;
use crate::scheduler::amount::Amount;
use crate::scheduler::artifact::{Artifact, Kind};
use crate::scheduler::constraint::{Expression, Operator};
use crate::scheduler::decide::LOOKS_MAX;
use crate::scheduler::decision::Decision;
use crate::scheduler::fleet::{Config, Fleet, Holding};
use crate::scheduler::node::Node;
use crate::scheduler::oracle::verdict;
use crate::scheduler::policy::{Policy, Strategy as How};
use crate::scheduler::request::Request;
use crate::scheduler::score::{Term, Weights};

/// Every seventh is large, every fifth has a label.
fn put(fleet: &mut Fleet, number: u32) {
    let cores = if number.is_multiple_of(7) {
        8_000
    } else {
        2_000
    };
    let mut node = Node::new(id(number), Amount::new(cores, 16_384, 102_400, 0));
    node.zone = format!("zone-{}", number % 3);
    if number.is_multiple_of(5) {
        node.labels.insert("pool".into(), "fast".into());
    }
    fleet.put_node(node, at(0));
    fleet.set_state(&id(number), NodeState::Ready, at(0));
    if number % 2 == 1 {
        fleet.set_artifact(&id(number), &Artifact::new(Kind::Template, "py"), true);
    }
}

fn fleet(nodes: u32, classes_max: usize) -> Fleet {
    let config = Config {
        classes_max,
        ..Config::default()
    };
    let mut fleet = Fleet::new(config);
    for number in 0..nodes {
        put(&mut fleet, number);
    }
    fleet.advance(at(100));
    fleet
}

/// One of many kinds: by size, label, template, zones, and the group to be apart from.
fn kind(number: u32) -> Request {
    let mut wanted = request(500 + 100 * (number % 4) * (number % 4), 256);
    if number.is_multiple_of(3) {
        wanted.constraints.labels.push(Expression {
            key: "pool".into(),
            operator: Operator::Equals("fast".into()),
        });
    }
    if number % 5 == 1 {
        wanted.template = Some("py".into());
    }
    if number % 5 == 2 {
        wanted.spread_group = Some("web".into());
        wanted.groups.push("web".into());
    }
    if number % 5 > 2 {
        let group = format!("team-{number}");
        wanted.constraints.apart_from.push(group.clone());
        wanted.groups.push(group);
    }
    wanted
}

fn policy(how: How) -> Policy {
    Policy {
        preferences: Weights::of(&[(Term::Template, 30), (Term::Zones, 20)]),
        ..Policy::new(how)
    }
}

fn keep(fleet: &mut Fleet, decision: &Decision) {
    assert!(fleet.commit(decision.reservation.unwrap(), at(100)));
}

/// However many kinds of requests take turns, a decision looks at a bounded number of nodes, and
/// not at more of them in a larger fleet.
#[test]
fn a_decision_looks_at_a_bounded_number_of_nodes() {
    let most_of = |nodes| {
        let mut fleet = fleet(nodes, 16);
        let mut most = 0;
        for turn in 0..600 {
            let before = fleet.looks();
            let decision = fleet.decide(&kind(turn % 97), &policy(How::BestFit), 1, at(100));
            most = most.max(fleet.looks() - before);
            keep(&mut fleet, &decision.unwrap());
        }
        most
    };
    let (small, large) = (most_of(2_000), most_of(16_000));
    let bound = u64::try_from(LOOKS_MAX).unwrap();
    assert!(small <= bound && large <= bound, "{small}, {large}");
    assert!(large <= small + 64, "{small}, then {large}");
}

/// That nothing fits is found out once, and known from then on.
#[test]
fn a_refusal_looks_at_all_nodes_once() {
    let mut fleet = fleet(5_000, 16);
    let wanted = request(9_000, 256);
    let mut looked = Vec::new();
    for turn in 0..3 {
        let before = fleet.looks();
        let refusal = fleet.decide(&wanted, &policy(How::BestFit), turn, at(100));
        assert_eq!(refusal.unwrap_err().counts.sum(), 5_000);
        looked.push(fleet.looks() - before);
    }
    assert_eq!(looked, [5_000, 0, 0]);
}

#[test]
fn a_request_of_a_new_kind_says_what_it_has_not_looked_at() {
    let mut fleet = fleet(1_000, 16);
    let decide = |fleet: &mut Fleet| {
        let wanted = request(500, 256);
        fleet.decide(&wanted, &Policy::new(How::LeastAllocated), 1, at(100))
    };
    let first = decide(&mut fleet).unwrap();
    assert!(first.unseen >= 700, "{}", first.unseen);
    let text = format!("({} not looked at yet)", first.unseen);
    assert!(first.reason().to_string().contains(&text));
    let last = (0..4).map(|_| decide(&mut fleet).unwrap()).last().unwrap();
    assert_eq!((last.unseen, last.fitting), (0, 1_000));
}

#[derive(Debug, Clone)]
enum Step {
    Decide(u32),
    End(usize),
    Drain(u32),
    Ready(u32),
    Remove(u32),
    Put(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = 0_u32..900;
    let step = prop_oneof![
        8 => (0_u32..20).prop_map(Step::Decide),
        2 => (0_usize..1_000).prop_map(Step::End),
        1 => number.clone().prop_map(Step::Drain),
        1 => number.clone().prop_map(Step::Ready),
        1 => number.clone().prop_map(Step::Remove),
        2 => number.prop_map(Step::Put),
    ];
    prop::collection::vec(step, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A class that has not seen all nodes says what fits if anything does, chooses what fits, and
    /// is exact as soon as it has; what it knows then is what it would know if it were made anew.
    #[test]
    fn a_class_in_the_making_is_the_oracles(
        nodes in prop_oneof![Just(250_u32), 256_u32..800],
        steps in steps(),
        classes_max in 1_usize..6,
        how in prop_oneof![Just(How::BestFit), Just(How::LeastAllocated), Just(How::BestOf(3))],
    ) {
        let mut fleet = fleet(nodes, classes_max);
        let policy = policy(how);
        let mut running: Vec<(crate::id::NodeId, Holding)> = Vec::new();
        for step in steps {
            match step {
                Step::Decide(number) => {
                    let wanted = kind(number);
                    let expected = verdict(&fleet, &wanted, &policy);
                    let answer = fleet.decide(&wanted, &policy, number.into(), at(100));
                    let Ok(decision) = answer else {
                        prop_assert_eq!(expected.fitting.len(), 0);
                        prop_assert_eq!(answer.unwrap_err().counts, expected.counts);
                        continue;
                    };
                    prop_assert!(expected.fitting.contains(&decision.node));
                    if decision.unseen == 0 {
                        prop_assert_eq!(decision.counts, expected.counts);
                        prop_assert_eq!(decision.fitting as usize, expected.fitting.len());
                        let best = expected.best.unwrap().1;
                        let score = decision.score.total();
                        prop_assert!(how == How::BestOf(3) || score + 2 >= best);
                    }
                    keep(&mut fleet, &decision);
                    let (amount, groups) = (wanted.amount, wanted.groups);
                    running.push((decision.node, Holding { amount, groups }));
                }
                Step::End(at) if !running.is_empty() => {
                    let (node, holding) = running.swap_remove(at % running.len());
                    fleet.release(&node, &holding);
                }
                Step::End(_) => {}
                Step::Drain(number) => fleet.set_state(&id(number), NodeState::Draining, at(100)),
                Step::Ready(number) => fleet.set_state(&id(number), NodeState::Ready, at(100)),
                Step::Remove(number) => {
                    running.retain(|(node, _)| *node != id(number));
                    fleet.remove_node(&id(number));
                }
                Step::Put(number) => put(&mut fleet, number),
            }
        }
        fleet.settle();
        fleet.classes.complete(&fleet.table);
        let known = fleet.classes.knowledge();
        fleet.classes.rebuild(&fleet.table);
        prop_assert_eq!(fleet.classes.knowledge(), known);
    }
}
