//! A policy for whoever keeps one.

use std::collections::BTreeMap;

use atoll_core::scheduler::artifact::{Artifact, Kind};
use atoll_core::scheduler::constraint::{
    Constraints, DriverNeed, Expression, Operator, Toleration, Version,
};
use atoll_core::scheduler::overlay::{Kin, Overlay};
use atoll_core::scheduler::policy::Strategy;
use atoll_core::scheduler::score::{Term, Weights};

/// One that says something of everything.
pub(super) fn full() -> Overlay {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let toleration = |value: Option<&str>| Toleration {
        key: "gpu".to_owned(),
        value: value.map(str::to_owned),
    };
    let list = || vec!["a".to_owned(), "b".to_owned()];
    let operators = [
        Operator::Equals("a".to_owned()),
        Operator::NotEquals("a".to_owned()),
        Operator::In(list()),
        Operator::NotIn(list()),
        Operator::Exists,
        Operator::Absent,
    ];
    let labels = operators.into_iter().map(|operator| Expression {
        key: "disk".to_owned(),
        operator,
    });
    Overlay {
        strategy: Some(Strategy::Weighted(Weights::of(&[
            (Term::Pack, 3),
            (Term::Warm, 4),
        ]))),
        tolerance: Some(5),
        preferences: BTreeMap::from([(Term::Zones, 6), (Term::Layers, 0)]),
        constraints: Constraints {
            labels: labels.collect(),
            tags: words(&["fast"]),
            architecture: Some("x86_64".to_owned()),
            cpu_features: words(&["avx2"]),
            driver: Some(DriverNeed {
                name: "jail".to_owned(),
                at_least: Version(1, 2, 3),
            }),
            present: vec![Artifact::new(Kind::Snapshot, "s")],
            ..Constraints::default()
        },
        needs_template: true,
        apart_from: vec![
            Kin::Team,
            Kin::Group("g".to_owned()),
            Kin::Metadata("m".to_owned()),
        ],
        tolerations: vec![toleration(None)],
        allow_tolerations: vec![toleration(Some("a100"))],
        spread: Some(Kin::Team),
        near: Some("iother".parse().unwrap()),
        groups: ["g".to_owned()].into(),
    }
}
