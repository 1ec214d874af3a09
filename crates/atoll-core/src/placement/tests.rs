use proptest::prelude::*;

use super::*;

fn resources(cpu_millis: u32, memory_mib: u32, disk_mib: u32) -> Resources {
    Resources {
        cpu_millis,
        memory_mib,
        disk_mib,
    }
}

fn node(id: &str, allocated: Resources) -> NodeCapacity {
    NodeCapacity {
        id: id.parse().unwrap(),
        total: resources(4_000, 8_192, 16_384),
        allocated,
        is_schedulable: true,
    }
}

fn request(resources: Resources) -> Request {
    Request {
        resources,
        excluded: Vec::new(),
    }
}

#[test]
fn the_emptiest_node_wins_and_the_rest_are_alternatives() {
    let fleet = [
        node("a", resources(3_000, 0, 0)),
        node("b", resources(0, 0, 0)),
        node("c", resources(1_000, 0, 0)),
    ];
    let placed = place(&fleet, &request(resources(1_000, 512, 512)), 1).unwrap();
    assert_eq!(placed.node.as_str(), "b");
    let alternatives: Vec<_> = placed
        .alternatives
        .iter()
        .map(|candidate| candidate.node.as_str())
        .collect();
    assert_eq!(alternatives, ["c", "a"]);
    assert!(placed.reason.contains("3 node(s)"), "{}", placed.reason);
}

#[test]
fn a_refusal_counts_nodes_and_names_the_smallest_change() {
    let mut drained = node("d", resources(0, 0, 0));
    drained.is_schedulable = false;
    let fleet = [
        node("a", resources(0, 8_000, 0)),
        node("b", resources(0, 5_000, 0)),
        node("c", resources(3_500, 0, 0)),
        drained,
    ];
    let rejected = place(&fleet, &request(resources(1_000, 4_096, 0)), 1).unwrap_err();
    assert_eq!(
        rejected.counts,
        BTreeMap::from([
            (Constraint::NotSchedulable, 1),
            (Constraint::Cpu, 1),
            (Constraint::Memory, 2),
        ])
    );
    assert_eq!(
        rejected.smallest_change.as_deref(),
        Some("needs 4096 MiB of memory, the closest node has 3192 MiB free")
    );
    assert!(
        rejected
            .to_string()
            .contains("too little memory: 2 node(s)")
    );
}

#[test]
fn an_empty_fleet_is_said_to_be_empty() {
    let rejected = place(&[], &request(resources(1, 1, 1)), 1).unwrap_err();
    assert_eq!(rejected.to_string(), "there are no nodes");
}

#[test]
fn equal_nodes_share_a_burst() {
    let fleet: Vec<_> = (0..8)
        .map(|n| node(&format!("n{n}"), resources(0, 0, 0)))
        .collect();
    let mut hits = BTreeMap::new();
    for seed in 0..800 {
        let placed = place(&fleet, &request(resources(1, 1, 1)), seed).unwrap();
        *hits.entry(placed.node).or_insert(0u32) += 1;
    }
    assert_eq!(hits.len(), 8);
    assert!(
        hits.values().all(|count| (50..=150).contains(count)),
        "{hits:?}"
    );
}

fn amounts() -> impl Strategy<Value = Resources> {
    (0u32..5_000, 0u32..10_000, 0u32..20_000).prop_map(|(c, m, d)| resources(c, m, d))
}

proptest! {
    /// Feasible exactly when some schedulable node has room; the choice fits; the seed decides.
    #[test]
    fn the_choice_fits_and_is_repeatable(
        allocated in proptest::collection::vec((amounts(), any::<bool>()), 0..12),
        wanted in amounts(),
        seed in any::<u64>(),
    ) {
        let fleet: Vec<_> = allocated
            .iter()
            .enumerate()
            .map(|(n, (allocated, is_schedulable))| NodeCapacity {
                is_schedulable: *is_schedulable,
                ..node(&format!("n{n}"), *allocated)
            })
            .collect();
        let fits = |node: &NodeCapacity| {
            node.is_schedulable && wanted.fits_in(free(node))
        };
        let outcome = place(&fleet, &request(wanted), seed);
        prop_assert_eq!(outcome.is_ok(), fleet.iter().any(fits));
        prop_assert_eq!(&outcome, &place(&fleet, &request(wanted), seed));
        match outcome {
            Ok(placed) => {
                let chosen = fleet.iter().find(|node| node.id == placed.node).unwrap();
                prop_assert!(fits(chosen));
            }
            Err(rejected) => {
                let counted: u32 = rejected.counts.values().sum();
                prop_assert_eq!(counted as usize, fleet.len());
            }
        }
    }
}
