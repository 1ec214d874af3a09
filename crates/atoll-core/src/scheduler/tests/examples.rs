//! What people see of decisions, and rules with a time in them.

use std::time::Duration;

use crate::id::NodeId;
use crate::node::NodeState;
use crate::scheduler::amount::Amount;
use crate::scheduler::artifact::{Artifact, Kind};
use crate::scheduler::constraint::{Constraint, DriverNeed, Version};
use crate::scheduler::fleet::{Config, Fleet};
use crate::scheduler::node::Node;
use crate::scheduler::policy::{Policy, Strategy};
use crate::scheduler::request::{Request, Sparing};
use crate::scheduler::score::{Term, Weights};
use crate::time::Timestamp;

const START: Timestamp = Timestamp::from_micros(0);

pub(super) fn at(seconds: u64) -> Timestamp {
    START.saturating_add(Duration::from_secs(seconds))
}

pub(super) fn id(number: u32) -> NodeId {
    format!("n{number}").parse().unwrap()
}

/// So many nodes of 8 cores, 16 GiB and 100 GiB that have been ready for long.
pub(super) fn fleet(nodes: u32) -> Fleet {
    let mut fleet = Fleet::new(Config::default());
    for number in 0..nodes {
        let total = Amount::new(8_000, 16_384, 102_400, 0);
        fleet.put_node(Node::new(id(number), total), START);
        fleet.set_state(&id(number), NodeState::Ready, START);
    }
    fleet.advance(at(100));
    fleet
}

pub(super) fn request(cpu_millis: u32, memory_mib: u32) -> Request {
    Request {
        amount: Amount::new(cpu_millis, memory_mib, 1_024, 0),
        ..Request::default()
    }
}

#[test]
fn a_refusal_says_what_is_missing_and_where() {
    let mut fleet = fleet(3);
    let policy = Policy::new(Strategy::LeastAllocated);
    for turn in 0..3 {
        fleet
            .decide(&request(1_000, 13_107), &policy, turn, at(100))
            .unwrap();
    }
    let refusal = fleet
        .decide(&request(500, 4_096), &policy, 1, at(100))
        .unwrap_err();
    let text = "too little memory: 3 node(s); needs 4 GiB of memory; largest free is 3.2 GiB on 3 \
        node(s)";
    assert_eq!(refusal.to_string(), text);
    let mut wanted = request(1, 1);
    wanted.constraints.driver = Some(DriverNeed {
        name: "firecracker".into(),
        at_least: Version(1, 7, 0),
    });
    let refusal = fleet.decide(&wanted, &policy, 1, at(100)).unwrap_err();
    assert_eq!(refusal.counts.get(Constraint::Driver), 3);
    let none = Fleet::new(Config::default())
        .decide(&wanted, &policy, 1, at(1))
        .unwrap_err();
    assert_eq!(none.to_string(), "there are no nodes");
}

#[test]
fn a_decision_explains_itself() {
    let mut fleet = fleet(4);
    fleet.set_artifact(&id(2), &Artifact::new(Kind::Template, "py"), true);
    let mut policy = Policy::new(Strategy::LeastAllocated);
    policy.preferences = Weights::of(&[(Term::Template, 100)]);
    let wanted = Request {
        template: Some("py".into()),
        ..request(2_000, 1_024)
    };
    let decision = fleet.decide(&wanted, &policy, 3, at(100)).unwrap();
    assert_eq!(decision.node, id(2));
    assert_eq!(decision.alternatives.len(), 3);
    let text = "keeps most room free of 4 node(s) that fit: spread 75.0%, template 100.0%";
    assert_eq!(decision.reason().to_string(), text);
}

#[test]
fn a_dry_run_leaves_no_trace() {
    let mut fleet = fleet(1);
    let policy = Policy::new(Strategy::BestFit);
    let seen = fleet
        .preview(&request(8_000, 1_024), &policy, 1, at(100))
        .unwrap();
    assert_eq!((seen.node, seen.reservation), (id(0), None));
    fleet
        .decide(&request(8_000, 1_024), &policy, 1, at(100))
        .unwrap();
}

#[test]
fn a_reservation_of_which_nothing_is_heard_ends() {
    let mut fleet = fleet(1);
    let policy = Policy::new(Strategy::BestFit);
    let held = fleet
        .decide(&request(8_000, 1_024), &policy, 1, at(100))
        .unwrap();
    assert!(
        fleet
            .decide(&request(1_000, 1_024), &policy, 1, at(159))
            .is_err()
    );
    assert!(
        fleet
            .decide(&request(1_000, 1_024), &policy, 1, at(160))
            .is_ok()
    );
    assert!(!fleet.commit(held.reservation.unwrap(), at(160)));
}

#[test]
fn decisions_of_a_batch_see_one_another() {
    let mut fleet = fleet(4);
    let policy = Policy::new(Strategy::LeastAllocated);
    let requests = vec![request(1_000, 1_024); 40];
    let answers = fleet.decide_batch(&requests, &policy, 1, at(100));
    let placed = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(placed, 32, "as many as there are cores");
    for number in 0..4 {
        assert_eq!(fleet.sandboxes(&id(number)), Some((8, 8)));
    }
}

#[test]
fn a_node_that_fails_gets_less_then_nothing_until_it_recovers() {
    let mut fleet = fleet(2);
    let policy = Policy::new(Strategy::LeastAllocated);
    let starts = |fleet: &mut Fleet, now| {
        let answers = fleet.decide_batch(&vec![request(50, 64); 200], &policy, 1, now);
        let placed = answers.into_iter().flatten();
        let placed: Vec<_> = placed.map(|d| (d.node, d.reservation.unwrap())).collect();
        for (_, reservation) in &placed {
            fleet.cancel(*reservation);
        }
        placed.iter().filter(|(node, _)| *node == id(0)).count()
    };
    assert_eq!(starts(&mut fleet, at(100)), 64);
    fleet.note_start(&id(0), true, at(100));
    fleet.note_start(&id(0), true, at(100));
    assert_eq!(starts(&mut fleet, at(100)), 36);
    for _ in 0..4 {
        fleet.note_start(&id(0), true, at(101));
    }
    assert_eq!(starts(&mut fleet, at(101)), 0);
    assert_eq!(starts(&mut fleet, at(140)), 0);
    // Recovered, it begins with one at a time.
    assert_eq!(starts(&mut fleet, at(190)), 1);
    assert_eq!(starts(&mut fleet, at(193)), 2);
    assert!(starts(&mut fleet, at(220)) > 30);
}

#[test]
fn a_returning_node_is_not_flooded() {
    let mut fleet = fleet(10);
    fleet.set_state(&id(3), NodeState::Lost, at(100));
    let policy = Policy::new(Strategy::LeastAllocated);
    for turn in 0..18 {
        let answer = fleet
            .decide(&request(2_000, 1_024), &policy, turn, at(100))
            .unwrap();
        assert!(fleet.commit(answer.reservation.unwrap(), at(100)));
    }
    fleet.set_state(&id(3), NodeState::Ready, at(101));
    // The emptiest by far, it gets one of them.
    for turn in 0..10 {
        fleet
            .decide(&request(100, 256), &policy, turn, at(101))
            .unwrap();
    }
    assert_eq!(fleet.sandboxes(&id(3)), Some((1, 1)));
}

#[test]
fn measured_use_counts_beside_allocation() {
    let mut fleet = fleet(2);
    fleet.heartbeat(&id(0), Amount::new(6_000, 1_000, 0, 0));
    fleet.heartbeat(&id(1), Amount::new(500, 1_000, 0, 0));
    let policy = Policy::new(Strategy::LeastAllocated);
    let busy = fleet
        .preview(&request(1_000, 1_024), &policy, 1, at(100))
        .unwrap();
    assert_eq!(busy.node, id(1));
    // Whatever is allocated: a machine without cpu to give gets nothing more.
    fleet.heartbeat(&id(0), Amount::new(7_900, 1_000, 0, 0));
    fleet.heartbeat(&id(1), Amount::new(7_900, 1_000, 0, 0));
    let refusal = fleet
        .preview(&request(1_000, 1_024), &policy, 1, at(100))
        .unwrap_err();
    assert_eq!(refusal.counts.get(Constraint::Pressure), 2);
}

#[test]
fn best_fit_leaves_nothing_stranded() {
    let mut fleet = fleet(2);
    let policy = Policy::new(Strategy::BestFit);
    fleet.allocate(
        &id(0),
        &crate::scheduler::fleet::Holding {
            amount: Amount::new(6_000, 2_048, 0, 0),
            groups: Vec::new(),
        },
    );
    fleet.allocate(
        &id(1),
        &crate::scheduler::fleet::Holding {
            amount: Amount::new(2_000, 12_288, 0, 0),
            groups: Vec::new(),
        },
    );
    // Much cpu and little memory goes where cpu is left and memory is not.
    let decision = fleet
        .preview(&request(2_000, 512), &policy, 1, at(100))
        .unwrap();
    assert_eq!(decision.node, id(1));
}

#[test]
fn equal_nodes_share_a_burst_that_nobody_sees() {
    let mut fleet = fleet(100);
    let policy = Policy::new(Strategy::LeastAllocated);
    let mut nodes: Vec<_> = (0..100)
        .map(|seed| {
            fleet
                .preview(&request(1_000, 1_024), &policy, seed, at(100))
                .unwrap()
                .node
        })
        .collect();
    nodes.sort();
    nodes.dedup();
    assert!(
        nodes.len() > 50,
        "100 decisions on a stale view fell on {} nodes",
        nodes.len()
    );
}

#[test]
fn spared_nodes_are_taken_where_there_is_no_other() {
    let mut fleet = fleet(2);
    let policy = Policy::new(Strategy::LeastAllocated);
    fleet.set_failing(&id(0), true, at(100));
    fleet.heartbeat(&id(1), Amount::new(8_000, 0, 0, 0));
    let request = |sparing| Request {
        sparing,
        ..request(100, 64)
    };
    let all = request(Sparing::All);
    let refusal = fleet.preview(&all, &policy, 1, at(100)).unwrap_err();
    assert_eq!(
        refusal.counts.to_string(),
        "failing too often lately: 1 node(s), under too much measured load: 1 node(s)"
    );
    for (sparing, fitting) in [(Sparing::Failing, 1), (Sparing::Nobody, 2)] {
        let decision = fleet.preview(&request(sparing), &policy, 1, at(100));
        assert_eq!(decision.unwrap().fitting, fitting, "{sparing:?}");
    }
    // Neither class is taken for the other, and what is said is taken back.
    fleet.set_failing(&id(0), false, at(100));
    let decision = fleet.preview(&all, &policy, 1, at(100)).unwrap();
    assert_eq!(decision.node, id(0));
}

#[test]
fn what_a_node_is_in_keeps_it_apart_in_the_counts() {
    let mut fleet = fleet(4);
    fleet.set_state(&id(0), NodeState::Draining, at(100));
    fleet.set_state(&id(1), NodeState::Suspect, at(100));
    fleet.set_state(&id(2), NodeState::Lost, at(100));
    fleet.set_failing(&id(3), true, at(100));
    let policy = Policy::new(Strategy::LeastAllocated);
    let refusal = fleet
        .decide(&request(100, 64), &policy, 1, at(100))
        .unwrap_err();
    assert_eq!(
        refusal.counts.to_string(),
        "draining: 1 node(s), not answering: 1 node(s), lost: 1 node(s), failing too often lately: \
         1 node(s)"
    );
}
