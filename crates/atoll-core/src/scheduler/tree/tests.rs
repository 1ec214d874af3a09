use proptest::prelude::*;

use super::*;

fn tell(trees: &mut Trees, lane: usize, leaves: &[f32]) {
    trees.begin(lane);
    for (chunk, some) in leaves.chunks(CHUNK as usize).enumerate() {
        let mut leaves = [0.0; CHUNK as usize];
        leaves[..some.len()].copy_from_slice(some);
        trees.fill(lane, chunk, &leaves);
    }
}

proptest! {
    #[test]
    fn maxima_are_exact_after_any_changes(
        leaves in prop::collection::vec(0_u16..50, 1..700),
        more in 0_usize..700,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_u16..50), 0..60),
        lane in 0..LANES,
        count in 1..TOP_MAX,
        seed: u64,
    ) {
        let mut model: Vec<f32> = leaves.into_iter().map(f32::from).collect();
        let mut trees = Trees::new(model.len());
        tell(&mut trees, lane, &model);
        model.resize(model.len() + more, 0.0);
        trees.grow(model.len());
        for (at, value) in changes {
            let at = at.index(model.len());
            model[at] = value.into();
            let mut values = [1.0; LANES];
            values[lane] = value.into();
            trees.set(u32::try_from(at).unwrap(), &values, LANES, 0);
        }
        let tree = trees.tree(lane);
        let best = model.iter().copied().fold(0.0, f32::max);
        prop_assert!((tree.best() - best).abs() < 0.5);
        let mut sorted: Vec<_> = (0..).zip(&model).filter(|(_, value)| **value > 0.0)
            .map(|(slot, value)| Leaf { slot, value: whole(*value) }).collect();
        sorted.sort_by_key(|leaf| (std::cmp::Reverse(leaf.value), leaf.slot));
        sorted.truncate(count);
        let top = tree.top(count);
        prop_assert_eq!(top.as_slice(), sorted.as_slice());
        let least = (best - 1.0).max(1.0);
        if let Some(leaf) = tree.pick(least, &mut Draws::new(seed)) {
            prop_assert!(leaf.value >= whole(least));
            prop_assert_eq!(whole(model[leaf.slot as usize]), leaf.value);
        } else {
            prop_assert!(best < least);
        }
    }
}
