//! Requests that are judged alike, and what each node is worth to them.

use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHasher};

use super::amount::Amount;
use super::constraint::{Constraint, Constraints, Counts};
use super::judge::{Located, Ready, View, judge_fixed, judge_live, total};
use super::request::Sparing;
use super::score::Mix;
use super::table::Table;
use super::tree::Tree;

/// Set in a leaf's number if the node fits; the rest is its score. Without it the number is how
/// near the node comes, 0 if more than room is missing.
pub(super) const FITS: u32 = 1 << 31;

/// A verdict: the node fits.
const VERDICT_FITS: u8 = u8::MAX;

/// A verdict: there is no node, or it is in another zone.
const VERDICT_ELSEWHERE: u8 = u8::MAX - 1;

/// What requests of one class have in common. What is asked of nodes is compared by names, since
/// numbers may be given to other names; the artifacts' numbers are in use as long as the class is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind<'a> {
    pub(super) view: View<'a>,
    /// Only nodes of this zone.
    pub(super) zone: Option<u32>,
    /// Whether nodes are drawn by chance.
    pub(super) is_sampled: bool,
}

#[derive(Debug)]
pub(super) struct Class {
    hash: u64,
    amount: Amount,
    mix: Mix,
    sparing: Sparing,
    constraints: [Constraints; 2],
    present: Vec<u32>,
    apart: Vec<u32>,
    located: Located,
    zone: Option<u32>,
    index: Index,
    used_at: u64,
    seen: u64,
}

/// What a class knows of each node.
#[derive(Debug)]
struct Index {
    tree: Tree,
    /// Side by side, so that a changed node is one cache line here.
    known: Vec<Known>,
    counts: Counts,
    fitting: u32,
    members: Option<Members>,
}

/// What a class knows of a node.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// What it falls to, or that it fits.
    verdict: u8,
    /// The same as far as it changes seldom.
    fixed: u8,
    /// Which artifacts it has ready.
    ready: Ready,
}

/// The nodes that fit, to draw from.
#[derive(Debug, Default)]
struct Members {
    slots: Vec<u32>,
    /// Where each slot stands among them.
    places: Vec<u32>,
}

impl Members {
    fn set(&mut self, slot: u32, is_member: bool) {
        let place = self.places[slot as usize];
        match (is_member, place) {
            (true, u32::MAX) => {
                self.places[slot as usize] = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
                self.slots.push(slot);
            }
            (false, place) if place != u32::MAX => {
                self.slots.swap_remove(place as usize);
                if let Some(moved) = self.slots.get(place as usize) {
                    self.places[*moved as usize] = place;
                }
                self.places[slot as usize] = u32::MAX;
            }
            (true | false, _) => {}
        }
    }
}

impl Kind<'_> {
    fn hash(&self) -> u64 {
        let mut hasher = FxHasher::default();
        let view = &self.view;
        (view.amount, view.mix, view.sparing).hash(&mut hasher);
        (self.zone, self.is_sampled).hash(&mut hasher);
        for constraints in view.constraints.into_iter().filter(|c| !c.is_empty()) {
            constraints.hash(&mut hasher);
        }
        if !view.located.is_empty() {
            view.located.hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl Class {
    fn is(&self, kind: &Kind<'_>) -> bool {
        let view = &kind.view;
        self.amount == view.amount
            && self.mix == view.mix
            && self.sparing == view.sparing
            && self.zone == kind.zone
            && self.index.members.is_some() == kind.is_sampled
            && self.located == *view.located
            && self.constraints[0] == *view.constraints[0]
            && self.constraints[1] == *view.constraints[1]
    }

    fn new(kind: &Kind<'_>, hash: u64, table: &mut Table) -> Self {
        let view = &kind.view;
        let both = view.constraints.into_iter();
        let apart = both.clone().flat_map(|c| &c.apart_from);
        let apart = apart.map(|group| table.groups.retain(group)).collect();
        let present = both.flat_map(|c| &c.present);
        let present = present.map(|artifact| table.artifacts.retain(artifact));
        let present = present.collect();
        for artifact in view.located.iter() {
            table.artifacts.reuse(artifact);
        }
        if let Some(zone) = kind.zone {
            table.zones.reuse(zone);
        }
        let mut class = Self {
            hash,
            amount: view.amount,
            mix: view.mix,
            sparing: view.sparing,
            constraints: view.constraints.map(Clone::clone),
            present,
            apart,
            located: view.located.clone(),
            zone: kind.zone,
            index: Index {
                tree: Tree::new(Vec::new()),
                known: Vec::new(),
                counts: Counts::default(),
                fitting: 0,
                members: kind.is_sampled.then(Members::default),
            },
            used_at: 0,
            seen: 0,
        };
        class.build(table);
        class
    }

    /// Uses no number any more.
    fn end(&self, table: &mut Table) {
        for group in &self.apart {
            table.groups.release(*group);
        }
        for artifact in self.present.iter().copied().chain(self.located.iter()) {
            table.artifacts.release(artifact);
        }
        if let Some(zone) = self.zone {
            table.zones.release(zone);
        }
    }

    fn view(&self) -> View<'_> {
        View {
            amount: self.amount,
            mix: self.mix,
            sparing: self.sparing,
            constraints: [&self.constraints[0], &self.constraints[1]],
            present: &self.present,
            apart: &self.apart,
            located: &self.located,
        }
    }

    /// The verdict as far as it changes seldom.
    fn fixed(&self, table: &Table, slot: u32) -> (u8, Ready) {
        let Some(cold) = table.cold(slot) else {
            return (VERDICT_ELSEWHERE, Ready::default());
        };
        if self.zone.is_some_and(|zone| zone != cold.zone) {
            return (VERDICT_ELSEWHERE, Ready::default());
        }
        match judge_fixed(cold, &self.view()) {
            None => (VERDICT_FITS, Ready::of(cold, &self.located)),
            Some(constraint) => (verdict(constraint), Ready::default()),
        }
    }

    /// A leaf's number and the verdict, with what changes seldom given.
    fn leaf(&self, table: &Table, slot: u32, fixed: u8, ready: Ready) -> (u32, u8) {
        if fixed != VERDICT_FITS {
            return (0, fixed);
        }
        let view = self.view();
        match judge_live(table, slot, &view) {
            Ok(left) => {
                let total = total(table, slot, &view, &left, ready);
                (FITS | total, VERDICT_FITS)
            }
            Err(fall) => (fall.closeness, verdict(fall.constraint)),
        }
    }

    /// Looks at every node.
    fn build(&mut self, table: &mut Table) {
        let mut leaves = Vec::with_capacity(table.len());
        let mut index = Index {
            tree: Tree::new(Vec::new()),
            known: Vec::with_capacity(table.len()),
            counts: Counts::default(),
            fitting: 0,
            members: self.index.members.is_some().then(|| Members {
                slots: Vec::new(),
                places: vec![u32::MAX; table.len()],
            }),
        };
        for slot in table.all() {
            let (fixed, ready) = self.fixed(table, slot);
            let (value, verdict) = self.leaf(table, slot, fixed, ready);
            leaves.push(value);
            index.known.push(Known {
                verdict: VERDICT_ELSEWHERE,
                fixed,
                ready,
            });
            index.note(slot, verdict);
        }
        index.tree = Tree::new(leaves);
        self.index = index;
        self.seen = table.changes.end();
        table.changes.mark_read();
    }

    /// Looks at what changed since the class was last asked.
    fn refresh(&mut self, table: &mut Table) {
        if self.index.known.len() != table.len() {
            return self.build(table);
        }
        for change in table.changes.since(self.seen) {
            let at = change.slot as usize;
            if change.is_fixed {
                let (fixed, ready) = self.fixed(table, change.slot);
                let known = &mut self.index.known[at];
                (known.fixed, known.ready) = (fixed, ready);
            }
            let known = self.index.known[at];
            let (value, verdict) = self.leaf(table, change.slot, known.fixed, known.ready);
            self.index.tree.set(change.slot, value);
            self.index.note(change.slot, verdict);
        }
        self.seen = table.changes.end();
        table.changes.mark_read();
    }

    pub(super) const fn tree(&self) -> &Tree {
        &self.index.tree
    }

    pub(super) const fn counts(&self) -> &Counts {
        &self.index.counts
    }

    /// How many nodes fit.
    pub(super) const fn fitting(&self) -> u32 {
        self.index.fitting
    }

    /// What a node falls to; none if it fits, or there is none.
    pub(super) fn fallen(&self, slot: u32) -> Option<Constraint> {
        let known = self.index.known.get(slot as usize)?;
        Constraint::ALL.get(usize::from(known.verdict)).copied()
    }

    /// The nodes that fit, in no order, if the class draws from them.
    pub(super) fn members(&self) -> &[u32] {
        let members = self.index.members.as_ref();
        members.map_or(&[], |members| &members.slots)
    }

    /// What the class knows, for comparison with what it would know if it were made now.
    #[cfg(test)]
    pub(super) fn known(&self) -> (Vec<u32>, Vec<u8>, Counts, u32, Vec<u32>) {
        let slots = 0..u32::try_from(self.index.known.len()).unwrap();
        let leaves = slots.map(|slot| self.index.tree.get(slot)).collect();
        let mut members = self.members().to_vec();
        members.sort_unstable();
        let index = &self.index;
        let verdicts = index.known.iter().map(|known| known.verdict).collect();
        (leaves, verdicts, index.counts, index.fitting, members)
    }

    #[cfg(test)]
    pub(super) fn rebuild(&mut self, table: &mut Table) {
        self.build(table);
    }

    fn bytes(&self) -> usize {
        let members = self.index.members.as_ref();
        let drawn = members.map_or(0, |m| (m.slots.capacity() + m.places.capacity()) * 4);
        self.index.tree.bytes() + self.index.known.capacity() * size_of::<Known>() + drawn
    }
}

impl Index {
    fn note(&mut self, slot: u32, verdict: u8) {
        let before = std::mem::replace(&mut self.known[slot as usize].verdict, verdict);
        if before == verdict {
            return;
        }
        match Constraint::ALL.get(usize::from(before)) {
            Some(constraint) => self.counts.subtract(*constraint),
            None => self.fitting -= u32::from(before == VERDICT_FITS),
        }
        match Constraint::ALL.get(usize::from(verdict)) {
            Some(constraint) => self.counts.add(*constraint, 1),
            None => self.fitting += u32::from(verdict == VERDICT_FITS),
        }
        if let Some(members) = &mut self.members {
            members.set(slot, verdict == VERDICT_FITS);
        }
    }
}

fn verdict(constraint: Constraint) -> u8 {
    u8::try_from(constraint.index()).unwrap_or(VERDICT_ELSEWHERE)
}

/// The classes that are in use, [`Classes::max`] at most.
#[derive(Debug)]
pub(super) struct Classes {
    all: Vec<Class>,
    /// Where those of a hash stand.
    by_hash: FxHashMap<u64, Vec<u32>>,
    asked: u64,
    max: usize,
    /// How many were made, for those who watch.
    made: u64,
}

impl Classes {
    pub(super) fn new(max: usize) -> Self {
        Self {
            all: Vec::new(),
            by_hash: FxHashMap::default(),
            asked: 0,
            max: max.max(1),
            made: 0,
        }
    }

    /// The class of that kind, up to date.
    pub(super) fn ask(&mut self, kind: &Kind<'_>, table: &mut Table) -> &Class {
        self.asked += 1;
        let hash = kind.hash();
        let known = self.by_hash.get(&hash).and_then(|places| {
            let mut places = places.iter().map(|place| *place as usize);
            places.find(|place| self.all[*place].is(kind))
        });
        let at = match known {
            Some(at) => {
                self.all[at].refresh(table);
                at
            }
            None => self.make(kind, hash, table),
        };
        let class = &mut self.all[at];
        class.used_at = self.asked;
        class
    }

    fn make(&mut self, kind: &Kind<'_>, hash: u64, table: &mut Table) -> usize {
        self.made += 1;
        let class = Class::new(kind, hash, table);
        let at = if self.all.len() < self.max {
            self.all.push(class);
            self.all.len() - 1
        } else {
            let oldest = self.all.iter().enumerate().min_by_key(|(_, c)| c.used_at);
            let at = oldest.map_or(0, |(at, _)| at);
            let ended = std::mem::replace(&mut self.all[at], class);
            ended.end(table);
            let place = u32::try_from(at).unwrap_or(u32::MAX);
            if let Some(places) = self.by_hash.get_mut(&ended.hash) {
                places.retain(|other| *other != place);
                if places.is_empty() {
                    self.by_hash.remove(&ended.hash);
                }
            }
            at
        };
        let place = u32::try_from(at).unwrap_or(u32::MAX);
        self.by_hash.entry(hash).or_default().push(place);
        at
    }

    pub(super) const fn made(&self) -> u64 {
        self.made
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    /// Brings every class up to date.
    pub(super) fn refresh(&mut self, table: &mut Table) {
        for class in &mut self.all {
            class.refresh(table);
        }
    }

    #[cfg(test)]
    pub(super) fn all_mut(&mut self) -> &mut [Class] {
        &mut self.all
    }

    pub(super) fn bytes(&self) -> usize {
        self.all.iter().map(Class::bytes).sum()
    }
}
