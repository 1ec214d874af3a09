//! Maxima over the nodes: trees 16 wide, so that one level's siblings are one cache line.
//!
//! A leaf holds a number for its node; each inner number is the largest of the 16 below it. The
//! trees of [`LANES`] classes lie side by side, so that a node's leaves are in one piece.
//!
//! Numbers are whole and below 2^24, which single precision holds exactly: the largest of two is
//! one vector instruction on every processor, for integers it is not.

use super::lanes::{LANES, whole};
use super::seed::Draws;

/// Siblings: 16 numbers of 4 bytes are a cache line of 64.
const WIDTH: usize = 16;
const WIDTH_U32: u32 = 16;

/// Leaves below one line of the level above them: what is told of at a time.
pub(super) const CHUNK: u32 = WIDTH_U32 * WIDTH_U32;

/// Leaves that one search may be asked for.
pub(super) const TOP_MAX: usize = 24;

/// A leaf and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) slot: u32,
    pub(super) value: u32,
}

/// Siblings of one tree.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line([f32; WIDTH]);

impl Line {
    const ZERO: Self = Self([0.0; WIDTH]);

    fn largest(&self) -> f32 {
        // In halves: each step is one instruction for the whole half.
        let mut values = self.0;
        let mut length = WIDTH;
        while length > 1 {
            length /= 2;
            let (low, high) = values.split_at_mut(length);
            for (low, high) in low.iter_mut().zip(high) {
                *low = if *low > *high { *low } else { *high };
            }
        }
        values[0]
    }
}

#[derive(Debug)]
pub(super) struct Trees {
    /// The leaves first, then each level of maxima; the last has one line a tree. Lines stand in
    /// blocks, one line of each tree.
    levels: Vec<Vec<Line>>,
}

impl Trees {
    /// Trees with a leaf for each of so many slots, all 0.
    pub(super) fn new(slots: usize) -> Self {
        let mut trees = Self { levels: Vec::new() };
        trees.grow(slots);
        trees
    }

    /// Takes in leaves up to so many; new ones are 0.
    pub(super) fn grow(&mut self, slots: usize) {
        let mut blocks = slots.div_ceil(WIDTH).max(1);
        let mut at = 0;
        loop {
            let is_new = self.levels.len() == at;
            if is_new {
                self.levels.push(Vec::new());
            }
            let level = &mut self.levels[at];
            let wanted = (blocks * LANES).max(level.len());
            level.resize(wanted, Line::ZERO);
            if is_new && at > 0 {
                for lane in 0..LANES {
                    self.raise(at, lane);
                }
            }
            if blocks == 1 {
                return;
            }
            blocks = blocks.div_ceil(WIDTH);
            at += 1;
        }
    }

    /// Works out one level of a tree from the one below it.
    fn raise(&mut self, at: usize, lane: usize) {
        let (below, level) = self.levels.split_at_mut(at);
        let below = below[at - 1].iter().skip(lane).step_by(LANES);
        for (block, line) in below.enumerate() {
            let above = &mut level[0][block / WIDTH * LANES + lane];
            above.0[block % WIDTH] = line.largest();
        }
    }

    /// Makes a tree anew that is told of one chunk of its leaves after the other; nothing of those
    /// that it has not been told of is found in it. What it was told of another class's stays
    /// below until then: to clear that would be a step over all leaves.
    pub(super) fn begin(&mut self, lane: usize) {
        for level in self.levels.iter_mut().skip(2) {
            for line in level.iter_mut().skip(lane).step_by(LANES) {
                *line = Line::ZERO;
            }
        }
    }

    /// Tells a tree of the n-th chunk of its leaves.
    pub(super) fn fill(&mut self, lane: usize, chunk: usize, leaves: &[f32; CHUNK as usize]) {
        let (bottom, above) = self.levels.split_at_mut(1);
        let mut maxima = Line::ZERO;
        for (at, siblings) in leaves.as_chunks::<WIDTH>().0.iter().enumerate() {
            let block = chunk * WIDTH + at;
            if let Some(line) = bottom[0].get_mut(block * LANES + lane) {
                line.0 = *siblings;
                maxima.0[at] = line.largest();
            }
        }
        let Some((first, above)) = above.split_first_mut() else {
            return;
        };
        first[chunk * LANES + lane] = maxima;
        let (mut place, mut largest) = (chunk, maxima.largest());
        for level in above {
            let line = &mut level[place / WIDTH * LANES + lane];
            line.0[place % WIDTH] = largest;
            largest = line.largest();
            place /= WIDTH;
        }
    }

    /// Changes a leaf of one tree.
    pub(super) fn set_one(&mut self, lane: usize, slot: u32, value: f32) {
        let (mut at, mut value) = (slot as usize, value);
        for level in &mut self.levels {
            let line = &mut level[at / WIDTH * LANES + lane];
            line.0[at % WIDTH] = value;
            value = line.largest();
            at /= WIDTH;
        }
    }

    /// The number of a leaf.
    pub(super) fn get(&self, lane: usize, slot: u32) -> f32 {
        let at = slot as usize;
        self.levels[0][at / WIDTH * LANES + lane].0[at % WIDTH]
    }

    /// How many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        let lines = self.levels.iter().map(Vec::capacity);
        lines.sum::<usize>() * size_of::<Line>()
    }

    /// Changes a slot's leaf in the first so many trees but the blind ones, and the maxima above it
    /// as far up as they change.
    pub(super) fn set(&mut self, slot: u32, values: &[f32; LANES], lanes: usize, blind: u16) {
        let mut at = slot as usize;
        let mut values = *values;
        // The trees that still change.
        let mut open: [u8; LANES] = std::array::from_fn(|lane| lane.to_le_bytes()[0]);
        let mut count = lanes.min(LANES);
        if blind != 0 {
            let mut seeing = 0;
            for lane in 0..count {
                if blind >> lane & 1 == 0 {
                    open[seeing] = lane.to_le_bytes()[0];
                    seeing += 1;
                }
            }
            count = seeing;
        }
        for level in &mut self.levels {
            let begin = at / WIDTH * LANES;
            let block = &mut level[begin..begin + LANES];
            let place = at % WIDTH;
            let mut still = 0;
            for turn in 0..count {
                let lane = open[turn];
                let line = &mut block[usize::from(lane) % LANES];
                let value = &mut values[usize::from(lane) % LANES];
                #[expect(clippy::float_cmp, reason = "whole numbers")]
                if line.0[place] != *value {
                    line.0[place] = *value;
                    *value = line.largest();
                    open[still] = lane;
                    still += 1;
                }
            }
            if still == 0 {
                return;
            }
            count = still;
            at /= WIDTH;
        }
    }

    /// One tree.
    pub(super) const fn tree(&self, lane: usize) -> Tree<'_> {
        Tree { trees: self, lane }
    }
}

/// The tree of one class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree<'a> {
    trees: &'a Trees,
    lane: usize,
}

impl Tree<'_> {
    /// The number of a leaf.
    pub(super) fn get(self, slot: u32) -> f32 {
        self.trees.get(self.lane, slot)
    }

    /// The largest number.
    #[cfg(test)]
    fn best(self) -> f32 {
        let levels = &self.trees.levels;
        levels[levels.len() - 1][self.lane].largest()
    }

    /// One of the leaves whose number is at least `least`, by chance; none if there is none.
    ///
    /// The chance is even among siblings, not among all such leaves: good enough to spread a burst,
    /// and one line a level to read.
    pub(super) fn pick(self, least: f32, draws: &mut Draws) -> Option<Leaf> {
        let mut block = 0;
        let mut value = 0.0;
        for level in self.trees.levels.iter().rev() {
            let siblings = &level[block * LANES + self.lane].0;
            let count: u32 = siblings
                .iter()
                .map(|value| u32::from(*value >= least))
                .sum();
            if count == 0 {
                return None;
            }
            let mut skip = draws.below(count);
            let chosen = siblings.iter().position(|value| {
                let is_eligible = *value >= least;
                let is_chosen = is_eligible && skip == 0;
                skip = skip.saturating_sub(u32::from(is_eligible));
                is_chosen
            })?;
            value = siblings[chosen];
            block = block * WIDTH + chosen;
        }
        Some(Leaf {
            slot: u32::try_from(block).ok()?,
            value: whole(value),
        })
    }

    /// The leaves with the largest numbers that are not 0, largest first, the lower slot first
    /// among equals; `count` of them, [`TOP_MAX`] at most.
    ///
    /// The largest `count` leaves lie below the largest `count` siblings of every level, so no more
    /// than those need to be looked into.
    pub(super) fn top(self, count: usize) -> Top {
        let count = count.min(TOP_MAX);
        let mut blocks = Keys::default();
        let mut chosen = Keys::default();
        blocks.push(count, 0, 1);
        for level in self.trees.levels.iter().rev() {
            chosen.length = 0;
            for key in &blocks.keys[..blocks.length] {
                let block = Keys::slot(*key);
                let line = &level[block as usize * LANES + self.lane].0;
                // Numbers are whole: only those count that are not 0.
                let floor = chosen.floor(count).max(1) as f32;
                let mut open = 0_u32;
                for (at, value) in line.iter().enumerate() {
                    open |= u32::from(*value >= floor) << at;
                }
                while open != 0 {
                    let at = open.trailing_zeros();
                    open &= open - 1;
                    let slot = block * WIDTH_U32 + at;
                    chosen.push(count, slot, whole(line[at as usize % WIDTH]));
                }
            }
            std::mem::swap(&mut blocks, &mut chosen);
        }
        let mut top = Top::default();
        for key in &blocks.keys[..blocks.length] {
            top.append(Leaf {
                slot: Keys::slot(*key),
                value: Keys::value(*key),
            });
        }
        top
    }
}

/// A few leaves, best first, each as one number: its value above what is left to the highest slot.
struct Keys {
    keys: [u64; TOP_MAX],
    length: usize,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            keys: [0; TOP_MAX],
            length: 0,
        }
    }
}

impl Keys {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    const fn slot(key: u64) -> u32 {
        !(key as u32)
    }

    const fn value(key: u64) -> u32 {
        (key >> 32) as u32
    }

    /// What a leaf must have to be taken up among `count`.
    const fn floor(&self, count: usize) -> u32 {
        if self.length < count || count == 0 {
            return 0;
        }
        Self::value(self.keys[count - 1])
    }

    /// Takes a leaf up at its place, if it has one among `count`.
    fn push(&mut self, count: usize, slot: u32, value: u32) {
        let key = u64::from(value) << 32 | u64::from(!slot);
        let mut at = self.length;
        if at == count {
            if at == 0 || self.keys[at - 1] >= key {
                return;
            }
            at -= 1;
        } else {
            self.length += 1;
        }
        while at > 0 && self.keys[at - 1] < key {
            self.keys[at] = self.keys[at - 1];
            at -= 1;
        }
        self.keys[at] = key;
    }
}

/// A few leaves, best first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Top {
    leaves: [Leaf; TOP_MAX],
    length: usize,
}

impl Default for Top {
    fn default() -> Self {
        Self {
            leaves: [Leaf { slot: 0, value: 0 }; TOP_MAX],
            length: 0,
        }
    }
}

impl Top {
    pub(super) fn as_slice(&self) -> &[Leaf] {
        &self.leaves[..self.length]
    }

    /// Takes a leaf up at its place, if it has one among `count`.
    pub(super) fn push(&mut self, count: usize, leaf: Leaf) {
        let better = |other: &Leaf| {
            other.value > leaf.value || (other.value == leaf.value && other.slot < leaf.slot)
        };
        let mut at = self.length;
        while at > 0 && !better(&self.leaves[at - 1]) {
            at -= 1;
        }
        if at >= count {
            return;
        }
        let end = (self.length + 1).min(count);
        self.leaves.copy_within(at..end - 1, at + 1);
        self.leaves[at] = leaf;
        self.length = end;
    }

    /// Adds a leaf at the end, whatever its number.
    pub(super) fn append(&mut self, leaf: Leaf) {
        if self.length < TOP_MAX {
            self.leaves[self.length] = leaf;
            self.length += 1;
        }
    }

    /// Puts a leaf first; `count` remain at most.
    pub(super) fn promote(&mut self, leaf: Leaf, count: usize) {
        self.remove(leaf.slot);
        self.length = self.length.min(count.saturating_sub(1));
        self.leaves.copy_within(..self.length, 1);
        self.leaves[0] = leaf;
        self.length += 1;
    }

    /// Sorts the first `count`, best first.
    pub(super) fn rank(&mut self, count: usize) {
        let end = self.length.min(count);
        self.leaves[..end].sort_unstable_by_key(|leaf| (!leaf.value, leaf.slot));
    }

    /// Keeps the first `count`.
    pub(super) fn truncate(&mut self, count: usize) {
        self.length = self.length.min(count);
    }

    /// Takes a slot out.
    pub(super) fn remove(&mut self, slot: u32) {
        if let Some(at) = self.as_slice().iter().position(|leaf| leaf.slot == slot) {
            self.leaves.copy_within(at + 1..self.length, at);
            self.length -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
