use super::*;
use crate::scheduler::policy::Strategy;

const CREATES: u32 = 1_500;

fn setup(replicas: usize, stale_ms: u64, strategy: Strategy) -> Setup {
    Setup {
        replicas,
        nodes: 12,
        stale: Duration::from_millis(stale_ms),
        policy: Policy::new(strategy),
        fill_percent: 85,
        creates: CREATES,
        refusals_tell: false,
        seed: 3,
    }
}

const STRATEGIES: [Strategy; 3] = [
    Strategy::BestFit,
    Strategy::LeastAllocated,
    Strategy::BestOf(3),
];

#[test]
fn replicas_on_late_views_exceed_no_capacity_and_refuse_nothing_that_fits() {
    for strategy in STRATEGIES {
        for (replicas, stale_ms) in [(1, 1_000), (2, 200), (2, 5_000), (3, 1_000)] {
            let setup = setup(replicas, stale_ms, strategy);
            let outcome = rehearse(&setup);
            let text = format!("{replicas} {stale_ms} {strategy:?}: {outcome:?}");
            assert_eq!(outcome.over_capacity, 0, "{text}");
            assert_eq!(outcome.placed, CREATES, "{text}");
            assert!(outcome.retries_in_attempt_max <= NODES_ASKED_MAX, "{text}");
            assert!(outcome.has_converged, "{text}");
            // Who knows everything is never refused by a node.
            assert!(replicas > 1 || outcome.retries_at(1_000) == 0, "{text}");
        }
    }
}

#[test]
fn retries_are_few_where_views_are_fresh_or_nodes_are_spread_over() {
    let often = rehearse(&setup(2, 200, Strategy::BestFit));
    let seldom = rehearse(&setup(2, 5_000, Strategy::BestFit));
    let told = rehearse(&Setup {
        refusals_tell: true,
        ..setup(2, 5_000, Strategy::BestFit)
    });
    let spread = rehearse(&setup(2, 5_000, Strategy::LeastAllocated));
    let means = [&often, &seldom, &told, &spread].map(Outcome::retries_mean);
    // Packing sends everybody to the same node: only news helps.
    assert!(means[0] < means[1] / 2.0, "{means:?}");
    assert!(means[2] < means[1] / 2.0, "{means:?}");
    assert!(means[3] < means[1] / 2.0, "{means:?}");
}

#[test]
fn more_than_there_is_is_refused_within_bounds() {
    let outcome = rehearse(&Setup {
        fill_percent: 150,
        ..setup(3, 1_000, Strategy::LeastAllocated)
    });
    assert!(
        outcome.refused > 0 && outcome.over_capacity == 0,
        "{outcome:?}"
    );
    assert_eq!(outcome.placed + outcome.refused, CREATES);
    assert!(outcome.attempts <= CREATES * ATTEMPTS_MAX);
    assert!(outcome.has_converged, "{outcome:?}");
}

#[test]
fn a_seed_repeats_its_rehearsal_exactly() {
    let run = |seed| {
        rehearse(&Setup {
            seed,
            ..setup(2, 1_000, Strategy::BestOf(3))
        })
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
