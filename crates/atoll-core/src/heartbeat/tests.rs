use proptest::prelude::*;

use super::*;

fn seen(id: &str, generation: u64, state: ObservedState) -> ObservedSandbox {
    ObservedSandbox {
        id: id.parse().unwrap(),
        generation: Generation::new(generation),
        state,
        resources: Resources::default(),
        started_at: None,
        detail: None,
        snapshot: None,
    }
}

const STATES: [ObservedState; 4] = [
    ObservedState::Starting,
    ObservedState::Running,
    ObservedState::Paused,
    ObservedState::Exited,
];

fn any_seen() -> impl Strategy<Value = ObservedSandbox> {
    ("i[a-z0-9]{1,6}", 1_u64..9, 0_usize..4)
        .prop_map(|(id, generation, state)| seen(&id, generation, STATES[state]))
}

proptest! {
    #[test]
    fn the_order_does_not_matter(
        (sandboxes, shuffled) in prop::collection::vec(any_seen(), 0..40)
            .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
    ) {
        prop_assert_eq!(StateDigest::of(&sandboxes), StateDigest::of(&shuffled));
    }

    #[test]
    fn what_is_taken_out_leaves_no_trace(
        sandboxes in prop::collection::vec(any_seen(), 0..40),
        one in any_seen(),
    ) {
        let before = StateDigest::of(&sandboxes);
        let mut digest = before;
        digest.add(&one.id, one.generation, one.state);
        prop_assert_ne!(digest, before);
        digest.remove(&one.id, one.generation, one.state);
        prop_assert_eq!(digest, before);
    }
}

#[test]
fn every_part_of_a_member_counts() {
    let one = seen("iabc", 1, ObservedState::Running);
    let digest = StateDigest::of([&one]);
    assert_eq!(StateDigest::of([]), StateDigest::default());
    for other in [
        seen("iabd", 1, ObservedState::Running),
        seen("iabc", 2, ObservedState::Running),
        seen("iabc", 1, ObservedState::Paused),
        seen("iab", 1, ObservedState::Running),
    ] {
        assert_ne!(StateDigest::of([&other]), digest, "{other:?}");
    }
    assert_ne!(StateDigest::of([&one, &one]), StateDigest::default());
}

/// Nodes and servers of different versions compare digests: the function must not change.
#[test]
fn the_function_is_fixed() {
    let one = seen("iabc", 7, ObservedState::Running);
    assert_eq!(StateDigest::of([&one]).to_string(), "a9e0fcac27342887");
}

#[test]
fn silence_is_judged_at_its_bounds() {
    let just = Duration::from_nanos(1);
    for (silence, health) in [
        (Duration::ZERO, NodeHealth::Ready),
        (SUSPECT_AFTER - just, NodeHealth::Ready),
        (SUSPECT_AFTER, NodeHealth::Suspect),
        (LOST_AFTER - just, NodeHealth::Suspect),
        (LOST_AFTER, NodeHealth::Lost),
    ] {
        assert_eq!(health_after(silence), health, "{silence:?}");
    }
}
