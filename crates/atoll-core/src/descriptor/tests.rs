use super::*;

#[test]
fn a_taint_is_written_as_key_value_and_effect() {
    for (text, key, value) in [
        ("gpu:no_schedule", "gpu", ""),
        ("gpu=a100:no_schedule", "gpu", "a100"),
        ("example.org/gpu=a:b:no_schedule", "example.org/gpu", "a:b"),
    ] {
        let taint: WrittenTaint = text.parse().unwrap();
        assert_eq!((taint.0.key.as_str(), taint.0.value.as_str()), (key, value));
        assert_eq!(taint.to_string(), text);
    }
    for (text, problem) in [
        ("gpu", "lacks the effect"),
        ("gpu:evict", "`no_schedule` is the only one"),
        ("=a:no_schedule", "a name is 1 to 64"),
        ("g u:no_schedule", "a name is 1 to 64"),
        ("gpu=\n:no_schedule", "a value is at most 128"),
    ] {
        let error = text.parse::<WrittenTaint>().unwrap_err();
        assert_eq!(error.field, "taints");
        assert!(error.problem.contains(problem), "{text:?}: {error}");
    }
}

#[test]
fn what_is_beyond_a_limit_is_named() {
    let plain = Descriptor::default();
    assert_eq!(plain.check(), Ok(()));
    let many = |count: usize| (0..count).map(|i| format!("n{i}"));
    let label = |key: &str, value: &str| Descriptor {
        labels: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        ..Descriptor::default()
    };
    let limited = |sandboxes_max, starts_max| Descriptor {
        sandboxes_max,
        starts_max,
        ..Descriptor::default()
    };
    let taint = |key: String| Taint {
        key,
        value: String::new(),
    };
    let wrong = [
        ("labels", label("a b", "")),
        ("labels", label("a", &"x".repeat(VALUE_LEN_MAX + 1))),
        (
            "labels",
            Descriptor {
                labels: many(LABELS_MAX + 1)
                    .map(|key| (key, String::new()))
                    .collect(),
                ..plain.clone()
            },
        ),
        (
            "taints",
            Descriptor {
                taints: many(TAINTS_MAX + 1).map(taint).collect(),
                ..plain.clone()
            },
        ),
        (
            "zone",
            Descriptor {
                zone: "z".repeat(NAME_LEN_MAX + 1),
                ..plain.clone()
            },
        ),
        (
            "cpu_features",
            Descriptor {
                cpu_features: many(CPU_FEATURES_MAX + 1).collect(),
                ..plain.clone()
            },
        ),
        (
            "drivers",
            Descriptor {
                drivers: many(DRIVERS_MAX + 1)
                    .map(|name| (name, Version::default()))
                    .collect(),
                ..plain
            },
        ),
        ("sandboxes_max", limited(Some(0), None)),
        ("starts_max", limited(None, Some(0))),
    ];
    for (field, descriptor) in wrong {
        assert_eq!(descriptor.check().map_err(|error| error.field), Err(field));
    }
}

#[test]
fn the_scheduler_knows_a_node_as_it_describes_itself() {
    let info = NodeInfo {
        tags: BTreeMap::from([
            ("fast".to_owned(), String::new()),
            ("rack".to_owned(), "4".to_owned()),
        ]),
        descriptor: Descriptor {
            zone: "a".to_owned(),
            sandboxes_max: Some(3),
            headroom: Resources {
                memory_mib: 512,
                ..Resources::default()
            },
            ..Descriptor::default()
        },
        ..NodeInfo::default()
    };
    let total = Amount::new(4_000, 8_192, 100, 0);
    let node = scheduled("n1".parse().unwrap(), total, Overcommit::NONE, &info);
    let tags: Vec<_> = node.tags.iter().map(String::as_str).collect();
    assert_eq!(tags, ["fast", "rack=4"]);
    assert_eq!((node.zone.as_str(), node.sandboxes_max), ("a", 3));
    assert_eq!(node.allocatable(), Amount::new(4_000, 7_680, 100, 0));
}

#[test]
fn versions_are_read_and_ordered_as_numbers() {
    let version = |text: &str| text.parse::<Version>().unwrap();
    assert!(version("0.10.0") > version("0.9.12"));
    assert_eq!(version("2"), Version(2, 0, 0));
    assert_eq!(version("1.2").to_string(), "1.2.0");
    for text in ["", "1.", "1.2.3.4", "v1", "-1", "1.2.3-rc1", "99999999999"] {
        assert!(text.parse::<Version>().is_err(), "{text}");
    }
}
