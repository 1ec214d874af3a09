use super::*;
use crate::scheduler::constraint::{Expression, Operator, Version};

fn base() -> Policy {
    Policy {
        preferences: Weights::of(&[(Term::Template, 10)]),
        ..Policy::new(Strategy::LeastAllocated)
    }
}

fn metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), "db".to_owned())])
}

fn laid(levels: &[(Level, &Overlay)]) -> Result<Laid, Invalid> {
    let team = "t1".parse().unwrap();
    let metadata = metadata();
    let subject = Subject {
        team: &team,
        metadata: &metadata,
        build: "b1",
    };
    lay(&base(), levels, &subject)
}

fn label(key: &str) -> Overlay {
    let wanted = Expression {
        key: key.to_owned(),
        operator: Operator::Exists,
    };
    Overlay {
        constraints: Constraints {
            labels: vec![wanted],
            ..Constraints::default()
        },
        ..Overlay::default()
    }
}

#[test]
fn constraints_add_up_and_the_rest_is_the_lowest_levels() {
    let fleet = Overlay {
        strategy: Some(Strategy::BestFit),
        tolerance: Some(7),
        preferences: BTreeMap::from([(Term::Template, 30), (Term::Warm, 5)]),
        ..label("a")
    };
    let team = Overlay {
        preferences: BTreeMap::from([(Term::Template, 0)]),
        ..label("b")
    };
    let request = Overlay {
        strategy: Some(Strategy::Random),
        near: Some("iabc".parse().unwrap()),
        ..label("c")
    };
    let all = [
        (Level::Fleet, &fleet),
        (Level::Team, &team),
        (Level::Request, &request),
    ];
    let laid = laid(&all).unwrap();
    let keys: Vec<_> = laid
        .policy
        .constraints
        .labels
        .iter()
        .map(|l| l.key.as_str())
        .collect();
    assert_eq!(keys, ["a", "b", "c"]);
    assert_eq!(
        (laid.policy.strategy, laid.policy.tolerance),
        (Strategy::Random, 7)
    );
    let weight = |term| laid.policy.preferences.get(term);
    assert_eq!((weight(Term::Template), weight(Term::Warm)), (0, 5));
    assert_eq!(weight(Term::Near), WEIGHT_USUAL);
    assert_eq!(laid.near, request.near);
}

#[test]
fn what_is_ruled_out_above_is_refused_by_name() {
    let architecture = |name: &str| Overlay {
        constraints: Constraints {
            architecture: Some(name.to_owned()),
            ..Constraints::default()
        },
        ..Overlay::default()
    };
    let driver = |name: &str, at_least| Overlay {
        constraints: Constraints {
            driver: Some(DriverNeed {
                name: name.to_owned(),
                at_least,
            }),
            ..Constraints::default()
        },
        ..Overlay::default()
    };
    let under =
        |team: &Overlay, request: &Overlay| laid(&[(Level::Team, team), (Level::Request, request)]);
    let refused = under(&architecture("x86_64"), &architecture("aarch64")).unwrap_err();
    assert_eq!(refused.field, "constraints.architecture");
    let refused = under(
        &driver("jail", Version(1, 0, 0)),
        &driver("kvm", Version(0, 0, 0)),
    );
    assert_eq!(refused.unwrap_err().field, "constraints.driver");
    let both = under(
        &driver("jail", Version(2, 0, 0)),
        &driver("jail", Version(1, 0, 0)),
    );
    let kept = both.unwrap().policy.constraints.driver.unwrap();
    assert_eq!(
        kept.at_least,
        Version(2, 0, 0),
        "an older one would loosen it"
    );
    let apart = Overlay {
        apart_from: vec![Kin::Metadata("missing".to_owned())],
        ..Overlay::default()
    };
    let refused = under(&Overlay::default(), &apart).unwrap_err();
    assert_eq!(refused.field, "constraints.apartFrom[0]");
    assert!(
        under(&apart, &Overlay::default()).is_ok(),
        "a rule for all says nothing of it"
    );
}

#[test]
fn a_request_tolerates_what_the_operator_allows() {
    let gpu = |value: Option<&str>| Toleration {
        key: "gpu".to_owned(),
        value: value.map(str::to_owned),
    };
    let asks = |value| Overlay {
        tolerations: vec![gpu(value)],
        ..Overlay::default()
    };
    let allows = |value| Overlay {
        allow_tolerations: vec![gpu(value)],
        ..Overlay::default()
    };
    for (team, request, is_allowed) in [
        (Overlay::default(), asks(Some("a")), false),
        (allows(Some("a")), asks(Some("a")), true),
        (allows(Some("a")), asks(Some("b")), false),
        (allows(Some("a")), asks(None), false),
        (allows(None), asks(Some("b")), true),
        (allows(None), asks(None), true),
        (asks(None), Overlay::default(), true),
    ] {
        let laid = laid(&[(Level::Team, &team), (Level::Request, &request)]);
        match laid {
            Ok(laid) => assert!(is_allowed && laid.policy.constraints.tolerations.len() == 1),
            Err(invalid) => assert!(!is_allowed && invalid.field == "tolerations[0]"),
        }
    }
    let error = allows(None).check(Level::Request).unwrap_err();
    assert_eq!(error.field, "allowTolerations");
}

#[test]
fn who_is_apart_from_its_kin_is_one_of_them() {
    let team: TeamId = "t1".parse().unwrap();
    let overlay = Overlay {
        groups: ["g".to_owned()].into(),
        apart_from: vec![
            Kin::Team,
            Kin::Group("g".to_owned()),
            Kin::Metadata("app".to_owned()),
        ],
        ..Overlay::default()
    };
    let groups = memberships(&team, &metadata(), Some(&overlay));
    let laid = laid(&[(Level::Request, &overlay)]).unwrap();
    assert_eq!(laid.policy.constraints.apart_from, groups);
    let other = memberships(&"t2".parse().unwrap(), &metadata(), Some(&overlay));
    assert!(
        other.iter().all(|group| !groups.contains(group)),
        "teams have groups of their own"
    );
}
