//! Requests that are judged alike, and what each node is worth to them.

use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHasher};

use super::amount::Amount;
use super::bank::{Bank, Lane, Seldom, Tally};
use super::change::What;
use super::constraint::{Constraint, Constraints};
use super::judge::{Located, Ready, View, judge_fixed, judge_live};
use super::lanes::{LANES, Offer, VERDICT_FITS, Wants};
use super::request::Sparing;
use super::score::Mix;
use super::table::Table;

/// What requests of one class have in common. What is asked of nodes is compared by names, since
/// numbers may be given to other names; the numbers of artifacts and groups are in use as long as
/// the class is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind<'a> {
    pub(super) view: View<'a>,
    /// Only nodes of this zone.
    pub(super) zone: Option<u32>,
    /// Whether nodes are drawn by chance.
    pub(super) is_sampled: bool,
}

/// What makes a class; what it knows of the nodes is in its bank.
#[derive(Debug)]
struct Class {
    hash: u64,
    amount: Amount,
    mix: Mix,
    sparing: Sparing,
    constraints: [Constraints; 2],
    present: Vec<u32>,
    apart: Vec<u32>,
    located: Located,
    zone: Option<u32>,
    is_sampled: bool,
    used_at: u64,
}

impl Kind<'_> {
    fn hash(&self) -> u64 {
        let mut hasher = FxHasher::default();
        let view = &self.view;
        (view.amount, view.mix, view.sparing).hash(&mut hasher);
        (self.zone, self.is_sampled).hash(&mut hasher);
        for constraints in view.constraints.into_iter().filter(|c| !c.is_empty()) {
            constraints.hash_but_groups(&mut hasher);
        }
        view.apart.hash(&mut hasher);
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
            && self.is_sampled == kind.is_sampled
            && self.located == *view.located
            && self.apart == view.apart
            && self.constraints[0].is_same_but_groups(view.constraints[0])
            && self.constraints[1].is_same_but_groups(view.constraints[1])
    }

    fn new(kind: &Kind<'_>, hash: u64, table: &mut Table) -> Self {
        let view = &kind.view;
        let both = view.constraints.into_iter();
        for group in view.apart {
            table.groups.reuse(*group);
        }
        let present = both.flat_map(|c| &c.present);
        let present = present.map(|artifact| table.artifacts.retain(artifact));
        let present = present.collect();
        for artifact in view.located.iter() {
            table.artifacts.reuse(artifact);
        }
        if let Some(zone) = kind.zone {
            table.zones.reuse(zone);
        }
        Self {
            hash,
            amount: view.amount,
            mix: view.mix,
            sparing: view.sparing,
            constraints: view.constraints.map(Constraints::without_groups),
            present,
            apart: view.apart.to_vec(),
            located: view.located.clone(),
            zone: kind.zone,
            is_sampled: kind.is_sampled,
            used_at: 0,
        }
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

    /// What changes seldom about a node.
    fn seldom(&self, table: &Table, slot: u32) -> Seldom {
        let Some(cold) = table.cold(slot) else {
            return Seldom::ELSEWHERE;
        };
        if self.zone.is_some_and(|zone| zone != cold.zone) {
            return Seldom::ELSEWHERE;
        }
        if let Some(constraint) = judge_fixed(cold, &self.view()) {
            return Seldom {
                fixed: constraint as u8,
                ready: 0.0,
            };
        }
        let is_apart = self.apart.is_empty() || !table.has_any_group(slot, &self.apart);
        Seldom {
            fixed: if is_apart { VERDICT_FITS } else { APART },
            ready: Ready::of(cold, &self.located).sum(&self.located, &self.mix),
        }
    }

    /// Whether such a change matters to it beyond amounts.
    fn minds(&self, what: What) -> bool {
        what.has(What::ALL)
            || what.has(What::GROUPS) && !self.apart.is_empty()
            || what.has(What::ARTIFACTS) && !(self.present.is_empty() && self.located.is_empty())
    }
}

/// A verdict: the node has a sandbox that this one must be apart from.
const APART: u8 = Constraint::AntiAffinity as u8;

/// What a node falls to for the time being, as a verdict.
fn live(table: &Table, slot: u32, sparing: Sparing) -> u8 {
    judge_live(table.row(slot), sparing).map_or(VERDICT_FITS, |constraint| constraint as u8)
}

/// The classes that are in use, [`Classes::max`] at most.
#[derive(Debug)]
pub(super) struct Classes {
    all: Vec<Class>,
    /// The n-th class is in bank n / [`LANES`], in lane n % [`LANES`].
    banks: Vec<Bank>,
    /// Where those of a hash stand.
    by_hash: FxHashMap<u64, Vec<u32>>,
    asked: u64,
    max: usize,
    /// How many were made, for those who watch.
    made: u64,
    /// Nodes that were looked at, for those who watch.
    looks: u64,
    /// What is hidden from the class that is asked.
    hidden: Vec<(u32, f32)>,
}

impl Classes {
    pub(super) fn new(max: usize) -> Self {
        Self {
            all: Vec::new(),
            banks: Vec::new(),
            by_hash: FxHashMap::default(),
            asked: 0,
            max: max.max(1),
            made: 0,
            looks: 0,
            hidden: Vec::new(),
        }
    }

    /// The class of that kind; all are to be up to date. A new one knows of no nodes yet.
    pub(super) fn ask(&mut self, kind: &Kind<'_>, table: &mut Table) -> usize {
        self.asked += 1;
        let hash = kind.hash();
        let known = self.by_hash.get(&hash).and_then(|places| {
            let mut places = places.iter().map(|place| *place as usize);
            places.find(|place| self.all[*place].is(kind))
        });
        let at = known.unwrap_or_else(|| self.make(kind, hash, table));
        self.all[at].used_at = self.asked;
        at
    }

    pub(super) fn lane(&self, at: usize) -> Lane<'_> {
        self.banks[at / LANES].lane(at % LANES)
    }

    fn make(&mut self, kind: &Kind<'_>, hash: u64, table: &mut Table) -> usize {
        self.made += 1;
        let class = Class::new(kind, hash, table);
        let at = if self.all.len() < self.max {
            self.all.push(class);
            self.all.len() - 1
        } else {
            self.replace(class, table)
        };
        let place = u32::try_from(at).unwrap_or(u32::MAX);
        self.by_hash.entry(hash).or_default().push(place);
        if at / LANES == self.banks.len() {
            self.banks.push(Bank::new(table.len()));
        }
        let (class, bank) = (&self.all[at], &mut self.banks[at / LANES]);
        bank.grow(table.len());
        let tally = Tally::new(class.is_sampled);
        let wanted = (class.amount, &class.mix, class.sparing);
        bank.begin(at % LANES, wanted, tally, self.made);
        at
    }

    /// Puts a class in the place of the one that was not asked for longest.
    fn replace(&mut self, class: Class, table: &mut Table) -> usize {
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
    }

    /// Looks at some more nodes for a class that has not seen all; answers whether there were any.
    pub(super) fn step(&mut self, at: usize, table: &Table) -> bool {
        let (class, lane) = (&self.all[at], at % LANES);
        let bank = &mut self.banks[at / LANES];
        if !bank.lane(lane).is_partial() {
            return false;
        }
        let wants = Wants::one(class.amount, &class.mix);
        let looked = bank.step(lane, &wants, |slot| {
            let seldom = class.seldom(table, slot);
            if seldom.fixed == VERDICT_FITS {
                let offer = Offer::of(table.row(slot), table.blend);
                (seldom, Some(offer), live(table, slot, class.sparing))
            } else {
                (seldom, None, VERDICT_FITS)
            }
        });
        self.looks += u64::from(looked.unwrap_or(0));
        looked.is_some()
    }

    /// Hides slots from searches in a class, until [`Self::show`].
    pub(super) fn hide(&mut self, at: usize, slots: &[u32]) {
        let bank = &mut self.banks[at / LANES];
        for slot in slots {
            if let Some(value) = bank.hide(at % LANES, *slot) {
                self.hidden.push((*slot, value));
            }
        }
    }

    /// Puts back what was hidden from a class.
    pub(super) fn show(&mut self, at: usize) {
        let bank = &mut self.banks[at / LANES];
        for (slot, value) in self.hidden.drain(..) {
            bank.show(at % LANES, slot, value);
        }
    }

    /// Nodes that were looked at, ever.
    pub(super) const fn looks(&self) -> u64 {
        self.looks
    }

    pub(super) const fn made(&self) -> u64 {
        self.made
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    /// Looks at what changed, for every class.
    pub(super) fn refresh(&mut self, table: &mut Table) {
        while let Some((slot, what)) = table.changes.take() {
            if self.all.is_empty() {
                continue;
            }
            self.looks += 1;
            if what != What::AMOUNTS {
                self.look_closely(table, slot, what);
            }
            let offer = Offer::of(table.row(slot), table.blend);
            let live = Sparing::STEPS.map(|sparing| live(table, slot, sparing));
            for bank in &mut self.banks {
                bank.look(slot, &offer, &live);
            }
        }
    }

    /// Works out what changes seldom about a node.
    fn look_closely(&mut self, table: &Table, slot: u32, what: What) {
        for bank in &mut self.banks {
            bank.grow(table.len());
        }
        for (at, class) in self.all.iter().enumerate() {
            if class.minds(what) {
                let seldom = class.seldom(table, slot);
                self.banks[at / LANES].set_seldom(at % LANES, slot, seldom);
            }
        }
    }

    /// What each class knows, for comparison.
    #[cfg(test)]
    pub(super) fn knowledge(&self) -> Vec<super::bank::Knowledge> {
        let all = 0..self.all.len();
        all.map(|at| self.lane(at).knowledge()).collect()
    }

    /// Looks at all that the classes have not seen.
    #[cfg(test)]
    pub(super) fn complete(&mut self, table: &Table) {
        for at in 0..self.all.len() {
            while self.step(at, table) {}
        }
    }

    /// Makes each class anew.
    #[cfg(test)]
    pub(super) fn rebuild(&mut self, table: &Table) {
        for at in 0..self.all.len() {
            let (class, bank) = (&self.all[at], &mut self.banks[at / LANES]);
            bank.grow(table.len());
            let tally = Tally::new(class.is_sampled);
            let wanted = (class.amount, &class.mix, class.sparing);
            bank.begin(at % LANES, wanted, tally, 0);
            while self.step(at, table) {}
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.banks.iter().map(Bank::bytes).sum()
    }
}
