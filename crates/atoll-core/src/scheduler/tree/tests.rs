use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn maxima_are_exact_after_any_changes(
        leaves in prop::collection::vec(0_u32..50, 1..700),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..50), 0..60),
        count in 1..TOP_MAX,
        seed: u64,
    ) {
        let mut model = leaves.clone();
        let mut tree = Tree::new(leaves);
        for (at, value) in changes {
            let at = at.index(model.len());
            model[at] = value;
            tree.set(u32::try_from(at).unwrap(), value);
        }
        prop_assert_eq!(tree.best(), model.iter().copied().max().unwrap());
        let mut sorted: Vec<_> = (0..).zip(&model).filter(|(_, value)| **value > 0).collect();
        sorted.sort_by_key(|(slot, value)| (std::cmp::Reverse(**value), *slot));
        let expected: Vec<Leaf> = sorted.into_iter().take(count)
            .map(|(slot, value)| Leaf { slot, value: *value }).collect();
        let top = tree.top(count);
        prop_assert_eq!(top.as_slice(), expected.as_slice());
        let least = tree.best().max(1) - 1;
        if let Some(leaf) = tree.pick(least.max(1), &mut Draws::new(seed)) {
            prop_assert!(leaf.value >= least.max(1));
            prop_assert_eq!(model[leaf.slot as usize], leaf.value);
        } else {
            prop_assert!(tree.best() < least.max(1));
        }
    }
}
