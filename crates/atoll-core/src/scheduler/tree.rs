//! Maxima over the nodes: a tree 16 wide, so that one level's siblings are one cache line.
//!
//! A leaf holds a number for its node; each inner number is the largest of the 16 below it.

use super::seed::Draws;

/// Siblings: 16 numbers of 4 bytes are a cache line of 64.
const WIDTH: usize = 16;

/// Leaves that one search may be asked for.
pub(super) const TOP_MAX: usize = 24;

/// A leaf and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) slot: u32,
    pub(super) value: u32,
}

#[derive(Debug)]
pub(super) struct Tree {
    /// The leaves first, then each level of maxima; the last has at most [`WIDTH`] numbers. Every
    /// level's length is a multiple of the width.
    levels: Vec<Vec<u32>>,
}

impl Tree {
    /// Builds the tree of these leaves.
    pub(super) fn new(mut leaves: Vec<u32>) -> Self {
        pad(&mut leaves);
        let mut levels = vec![leaves];
        loop {
            let below = &levels[levels.len() - 1];
            if below.len() <= WIDTH {
                return Self { levels };
            }
            let mut level: Vec<u32> = below.chunks_exact(WIDTH).map(largest).collect();
            pad(&mut level);
            levels.push(level);
        }
    }

    /// The number of a leaf.
    pub(super) fn get(&self, slot: u32) -> u32 {
        self.levels[0][slot as usize]
    }

    /// How many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.levels.iter().map(|level| level.capacity() * 4).sum()
    }

    /// Changes a leaf, and the maxima above it as far up as they change.
    pub(super) fn set(&mut self, slot: u32, value: u32) {
        let mut at = slot as usize;
        let mut value = value;
        for level in &mut self.levels {
            let before = std::mem::replace(&mut level[at], value);
            if before == value {
                return;
            }
            let begin = at - at % WIDTH;
            if value < before {
                // It may have been the largest: its siblings decide.
                value = largest(&level[begin..begin + WIDTH]);
            } else if level[begin..begin + WIDTH]
                .iter()
                .any(|other| *other > value)
            {
                return;
            }
            at /= WIDTH;
        }
    }

    /// The largest number.
    #[cfg(test)]
    fn best(&self) -> u32 {
        largest(&self.levels[self.levels.len() - 1])
    }

    /// One of the leaves whose number is at least `least`, by chance; none if there is none.
    ///
    /// The chance is even among siblings, not among all such leaves: good enough to spread a burst,
    /// and one line a level to read.
    pub(super) fn pick(&self, least: u32, draws: &mut Draws) -> Option<Leaf> {
        let mut block = 0;
        for level in self.levels.iter().rev() {
            let begin = block * WIDTH;
            let siblings = &level[begin..begin + WIDTH];
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
            });
            block = begin + chosen?;
        }
        Some(Leaf {
            slot: u32::try_from(block).ok()?,
            value: self.levels[0][block],
        })
    }

    /// The leaves with the largest numbers that are not 0, largest first, the lower slot first
    /// among equals; `count` of them, [`TOP_MAX`] at most.
    ///
    /// The largest `count` leaves lie below the largest `count` siblings of every level, so no more
    /// than those need to be looked into.
    pub(super) fn top(&self, count: usize) -> Top {
        let count = count.min(TOP_MAX);
        let mut blocks = Top::default();
        blocks.push(count, Leaf { slot: 0, value: 1 });
        for level in self.levels.iter().rev() {
            let mut chosen = Top::default();
            for block in blocks.as_slice() {
                let first = block.slot * u32::try_from(WIDTH).unwrap_or(0);
                let begin = first as usize;
                let floor = chosen.floor(count);
                for (slot, value) in (first..).zip(&level[begin..begin + WIDTH]) {
                    if *value >= floor.max(1) {
                        chosen.push(
                            count,
                            Leaf {
                                slot,
                                value: *value,
                            },
                        );
                    }
                }
            }
            blocks = chosen;
        }
        blocks
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

    /// What a leaf must have to be taken up among `count`.
    const fn floor(&self, count: usize) -> u32 {
        if self.length < count || count == 0 {
            return 0;
        }
        self.leaves[count - 1].value
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

fn pad(level: &mut Vec<u32>) {
    let length = level.len().max(1).next_multiple_of(WIDTH);
    level.resize(length, 0);
    level.shrink_to_fit();
}

fn largest(values: &[u32]) -> u32 {
    values.iter().copied().max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
