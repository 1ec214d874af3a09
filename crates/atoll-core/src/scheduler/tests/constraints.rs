//! Each constraint and each preference by itself, on two nodes of which one has what is asked for.

use super::examples::{at, fleet, id, request};
use crate::node::NodeState;
use crate::scheduler::amount::Amount;
use crate::scheduler::artifact::{Artifact, Kind};
use crate::scheduler::constraint::{
    Constraint, Constraints, DriverNeed, Expression, Operator, Taint, Toleration, Version,
};
use crate::scheduler::fleet::{Fleet, Holding};
use crate::scheduler::node::Node;
use crate::scheduler::policy::{Policy, Strategy};
use crate::scheduler::request::Request;
use crate::scheduler::score::{Term, Weights};

/// Two nodes, the second of which is described anew.
fn pair(describe: impl FnOnce(&mut Node)) -> Fleet {
    let mut fleet = fleet(2);
    let mut node = Node::new(id(1), Amount::new(8_000, 16_384, 102_400, 0));
    describe(&mut node);
    fleet.put_node(node, at(100));
    fleet
}

/// The second node does and the first does not, which falls to this constraint; without the
/// constraints both do.
fn only_the_second(mut fleet: Fleet, wanted: Constraints, constraint: Constraint) {
    let plain = request(1_000, 1_024);
    let policy = Policy::new(Strategy::LeastAllocated);
    let free = fleet.preview(&plain, &policy, 1, at(100)).unwrap();
    assert_eq!(free.fitting, 2, "{constraint:?} falls without being asked");
    let asked = Request {
        constraints: wanted.clone(),
        ..plain.clone()
    };
    let by_policy = Policy {
        constraints: wanted,
        ..policy.clone()
    };
    for (request, policy) in [(&asked, &policy), (&plain, &by_policy)] {
        let decision = fleet.preview(request, policy, 1, at(100)).unwrap();
        assert_eq!((decision.node, decision.fitting), (id(1), 1));
        assert_eq!(decision.counts.get(constraint), 1, "{constraint:?}");
    }
}

fn labelled(operator: Operator) -> Constraints {
    Constraints {
        labels: vec![Expression {
            key: "pool".into(),
            operator,
        }],
        ..Constraints::default()
    }
}

#[test]
fn each_label_expression_tells_nodes_apart() {
    let with = |value: &'static str| {
        pair(|node| {
            node.labels.insert("pool".into(), value.into());
        })
    };
    only_the_second(
        with("a"),
        labelled(Operator::Equals("a".into())),
        Constraint::Label,
    );
    let among = Operator::In(vec!["b".into(), "a".into()]);
    only_the_second(with("a"), labelled(among), Constraint::Label);
    only_the_second(with("a"), labelled(Operator::Exists), Constraint::Label);
    // The same the other way round: here the first node has the label and the second has not.
    for operator in [
        Operator::NotEquals("a".into()),
        Operator::NotIn(vec!["b".into(), "a".into()]),
        Operator::Absent,
    ] {
        let mut fleet = fleet(2);
        let mut node = Node::new(id(0), Amount::new(8_000, 16_384, 102_400, 0));
        node.labels.insert("pool".into(), "a".into());
        fleet.put_node(node, at(100));
        only_the_second(fleet, labelled(operator), Constraint::Label);
    }
    // Another value is not excluded by these.
    for operator in [
        Operator::NotEquals("b".into()),
        Operator::NotIn(vec!["b".into(), "c".into()]),
    ] {
        let wanted = Request {
            constraints: labelled(operator),
            ..request(1_000, 1_024)
        };
        let policy = Policy::new(Strategy::BestFit);
        let decision = with("a").preview(&wanted, &policy, 1, at(100)).unwrap();
        assert_eq!(decision.fitting, 2);
    }
}

#[test]
fn each_property_of_a_machine_tells_nodes_apart() {
    let tagged = pair(|node| {
        node.tags.insert("fast".into());
    });
    let wanted = Constraints {
        tags: vec!["fast".into()],
        ..Constraints::default()
    };
    only_the_second(tagged, wanted, Constraint::Tag);
    let other = pair(|node| node.architecture = "arm64".into());
    let wanted = Constraints {
        architecture: Some("arm64".into()),
        ..Constraints::default()
    };
    only_the_second(other, wanted, Constraint::Architecture);
    let features = pair(|node| {
        node.cpu_features = ["avx2".to_owned(), "amx".to_owned()].into();
    });
    let wanted = Constraints {
        cpu_features: vec!["amx".into(), "avx2".into()],
        ..Constraints::default()
    };
    only_the_second(features, wanted, Constraint::CpuFeature);
    let driver = pair(|node| {
        node.drivers.insert("jail".into(), Version(1, 2, 0));
    });
    let wanted = Constraints {
        driver: Some(DriverNeed {
            name: "jail".into(),
            at_least: Version(1, 1, 9),
        }),
        ..Constraints::default()
    };
    only_the_second(driver, wanted, Constraint::Driver);
}

#[test]
fn one_cpu_feature_that_is_missing_is_enough_to_refuse() {
    let mut fleet = pair(|node| {
        node.cpu_features.insert("avx2".into());
    });
    let mut wanted = request(1_000, 1_024);
    wanted.constraints.cpu_features = vec!["avx2".into(), "amx".into()];
    let policy = Policy::new(Strategy::BestFit);
    let refusal = fleet.preview(&wanted, &policy, 1, at(100)).unwrap_err();
    assert_eq!(refusal.counts.get(Constraint::CpuFeature), 2);
}

#[test]
fn artifacts_groups_and_taints_tell_nodes_apart() {
    for kind in [Kind::Template, Kind::Snapshot, Kind::Layer, Kind::Warm] {
        let mut fleet = fleet(2);
        let artifact = Artifact::new(kind, "x");
        fleet.set_artifact(&id(1), &artifact, true);
        let wanted = Constraints {
            present: vec![artifact],
            ..Constraints::default()
        };
        only_the_second(fleet, wanted, Constraint::Artifact);
    }
    let mut grouped = fleet(2);
    let holding = Holding {
        amount: Amount::new(100, 128, 0, 0),
        groups: vec!["red".into()],
    };
    grouped.allocate(&id(0), &holding);
    let wanted = Constraints {
        apart_from: vec!["red".into()],
        ..Constraints::default()
    };
    only_the_second(grouped, wanted, Constraint::AntiAffinity);
    let mut tainted = pair(|node| {
        node.taints.push(Taint {
            key: "gpu".into(),
            value: "yes".into(),
        });
    });
    let policy = Policy::new(Strategy::LeastAllocated);
    let mut wanted = request(1_000, 1_024);
    for (value, fitting) in [(None, 2), (Some("yes"), 2), (Some("no"), 1)] {
        wanted.constraints.tolerations = vec![Toleration {
            key: "gpu".into(),
            value: value.map(str::to_owned),
        }];
        let decision = tainted.preview(&wanted, &policy, 1, at(100)).unwrap();
        assert_eq!(decision.fitting, fitting);
    }
}

#[test]
fn limits_of_a_node_are_kept() {
    let policy = Policy::new(Strategy::LeastAllocated);
    let mut fleet = pair(|node| node.sandboxes_max = 0);
    let decision = fleet.preview(&request(1_000, 1_024), &policy, 1, at(100));
    assert_eq!(decision.unwrap().counts.get(Constraint::Sandboxes), 1);
    fleet.set_state(&id(0), NodeState::Draining, at(100));
    let refusal = fleet.preview(&request(1_000, 1_024), &policy, 1, at(100));
    assert_eq!(refusal.unwrap_err().counts.get(Constraint::Draining), 1);
    fleet.set_state(&id(0), NodeState::Ready, at(100));
    // It begins with one start at a time.
    let first = fleet.decide(&request(1_000, 1_024), &policy, 1, at(100));
    assert_eq!(first.unwrap().node, id(0));
    let refusal = fleet.preview(&request(1_000, 1_024), &policy, 1, at(100));
    assert_eq!(refusal.unwrap_err().counts.get(Constraint::Starts), 1);
}

/// A preference alone draws to the node that has what it is about.
fn draws(mut fleet: Fleet, term: Term, wanted: &Request) {
    let policy = Policy::new(Strategy::Weighted(Weights::of(&[(term, 100)])));
    for seed in 0..8 {
        let decision = fleet.preview(wanted, &policy, seed, at(100)).unwrap();
        assert_eq!(decision.node, id(1), "{term:?}");
    }
}

#[test]
fn each_preference_draws_to_its_node() {
    let wanted = Request {
        template: Some("x".into()),
        snapshot: Some("x".into()),
        layers: vec!["x".into(), "y".into()],
        near: Some(id(1)),
        spread_group: Some("red".into()),
        ..request(1_000, 1_024)
    };
    for (kind, term) in [
        (Kind::Template, Term::Template),
        (Kind::Snapshot, Term::Snapshot),
        (Kind::Layer, Term::Layers),
        (Kind::Warm, Term::Warm),
    ] {
        let mut fleet = fleet(2);
        fleet.set_artifact(&id(1), &Artifact::new(kind, "x"), true);
        draws(fleet, term, &wanted);
    }
    draws(fleet(2), Term::Near, &wanted);
    let mut zones = pair(|node| node.zone = "west".into());
    let holding = Holding {
        amount: Amount::new(100, 128, 0, 0),
        groups: vec!["red".into()],
    };
    zones.allocate(&id(0), &holding);
    draws(zones, Term::Zones, &wanted);
    let mut failed = fleet(2);
    failed.note_start(&id(0), true, at(100));
    draws(failed, Term::Reliability, &wanted);
    let mut starting = fleet(2);
    let policy = Policy::new(Strategy::LeastAllocated);
    let alone = Request {
        excluded: vec![id(1)],
        ..request(1_000, 1_024)
    };
    starting.decide(&alone, &policy, 1, at(100)).unwrap();
    draws(starting, Term::Starts, &wanted);
    let mut busy = fleet(2);
    busy.heartbeat(&id(0), Amount::new(4_000, 1_024, 0, 0));
    busy.heartbeat(&id(1), Amount::new(1_000, 1_024, 0, 0));
    draws(busy, Term::Usage, &wanted);
}
