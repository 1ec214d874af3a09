//! Whether a node can take a sandbox, and how good it is: for one node, from what the table has.
//!
//! Both the classes and the oracle judge with this. What a class keeps is the result for each node.

use super::amount::{Amount, DIMENSIONS, SHARE_MAX, share, share_by};
use super::constraint::{Constraint, Constraints};
use super::request::Sparing;
use super::score::{Mix, Score, TERMS, Term};
use super::table::{Cold, Row, Table};

/// An artifact that no node has.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// Why a node does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fall {
    pub(super) constraint: Constraint,
    /// How near it comes, if nothing but room is missing: 1 to [`SHARE_MAX`]; 0 otherwise.
    pub(super) closeness: u32,
}

impl Fall {
    const fn of(constraint: Constraint) -> Self {
        Self {
            constraint,
            closeness: 0,
        }
    }
}

/// The artifacts that a node should rather have, by their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Located {
    pub(super) template: Option<u32>,
    pub(super) snapshot: Option<u32>,
    pub(super) warm: Option<u32>,
    pub(super) layers: Vec<u32>,
    /// Of so many layers, those that no node has included.
    pub(super) layers_wanted: u8,
}

impl Located {
    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let single = [self.template, self.snapshot, self.warm];
        single
            .into_iter()
            .flatten()
            .chain(self.layers.iter().copied())
    }
}

/// Which of them a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ready {
    has: [bool; 3],
    layers: u8,
}

impl Ready {
    pub(super) fn of(cold: &Cold, located: &Located) -> Self {
        let has = |artifact: Option<u32>| artifact.is_some_and(|artifact| cold.has(artifact));
        let layers = located.layers.iter().filter(|layer| cold.has(**layer));
        Self {
            has: [
                has(located.template),
                has(located.snapshot),
                has(located.warm),
            ],
            layers: u8::try_from(layers.count()).unwrap_or(u8::MAX),
        }
    }

    fn note(self, located: &Located, values: &mut [u32; TERMS]) {
        let terms = [Term::Template, Term::Snapshot, Term::Warm];
        for (term, has) in terms.into_iter().zip(self.has) {
            values[term.index()] = if has { SHARE_MAX } else { 0 };
        }
        let wanted = u32::from(located.layers_wanted);
        values[Term::Layers.index()] = share(u32::from(self.layers), wanted);
    }
}

/// A request as nodes are judged by it.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) amount: Amount,
    pub(super) mix: Mix,
    /// Which nodes are spared.
    pub(super) sparing: Sparing,
    /// The policy's and the request's own.
    pub(super) constraints: [&'a Constraints; 2],
    /// The numbers of the artifacts that must be there.
    pub(super) present: &'a [u32],
    /// The numbers of the groups to be apart from.
    pub(super) apart: &'a [u32],
    pub(super) located: &'a Located,
}

/// What changes seldom: the first constraint that the node falls to, apart from amounts.
pub(super) fn judge_fixed(cold: &Cold, view: &View<'_>) -> Option<Constraint> {
    if view.present.iter().any(|artifact| !cold.has(*artifact)) {
        return Some(Constraint::Artifact);
    }
    if let Some(constraint) = Constraint::of_state(cold.state) {
        return Some(constraint);
    }
    let node = &cold.node;
    let all = view.constraints;
    let is_tolerated = |taint| {
        let mut tolerations = all.iter().flat_map(|constraints| &constraints.tolerations);
        tolerations.any(|toleration| toleration.covers(taint))
    };
    if !node.taints.iter().all(is_tolerated) {
        return Some(Constraint::Taint);
    }
    all.into_iter().find_map(|wanted| {
        let mut labels = wanted.labels.iter();
        if !labels.all(|e| e.holds(node.labels.get(&e.key).map(String::as_str))) {
            return Some(Constraint::Label);
        }
        if !wanted.tags.iter().all(|tag| node.tags.contains(tag)) {
            return Some(Constraint::Tag);
        }
        let architecture = wanted.architecture.as_ref();
        if architecture.is_some_and(|wanted| *wanted != node.architecture) {
            return Some(Constraint::Architecture);
        }
        let mut features = wanted.cpu_features.iter();
        if !features.all(|feature| node.cpu_features.contains(feature)) {
            return Some(Constraint::CpuFeature);
        }
        let has_driver = wanted.driver.as_ref().is_none_or(|need| {
            let version = node.drivers.get(&need.name);
            version.is_some_and(|version| *version >= need.at_least)
        });
        (!has_driver).then_some(Constraint::Driver)
    })
}

/// What changes often: whether there is room, and what is left then.
fn judge_room(row: &Row, amount: Amount) -> Result<[u32; DIMENSIONS], Fall> {
    let mut left = [0; DIMENSIONS];
    let mut shortest = None;
    let mut shortage = 0;
    let used = row.used.values();
    let allocatable = row.allocatable.values();
    for (i, wanted) in amount.values().iter().enumerate() {
        let free = allocatable[i].saturating_sub(used[i]);
        if *wanted > free {
            shortest.get_or_insert(Constraint::OF_DIMENSIONS[i]);
            shortage = shortage.max(share(wanted - free, *wanted));
        } else {
            left[i] = free - wanted;
        }
    }
    match shortest {
        None => Ok(left),
        Some(constraint) => Err(Fall {
            constraint,
            closeness: SHARE_MAX - shortage.min(SHARE_MAX - 1),
        }),
    }
}

/// The first constraint that the node falls to for the time being, or what is left on it.
pub(super) fn judge_live(
    table: &Table,
    slot: u32,
    view: &View<'_>,
) -> Result<[u32; DIMENSIONS], Fall> {
    let row = table.row(slot);
    if !view.apart.is_empty() && table.has_any_group(slot, view.apart) {
        return Err(Fall::of(Constraint::AntiAffinity));
    }
    if row.is_failing && view.sparing != Sparing::Nobody {
        return Err(Fall::of(Constraint::Failing));
    }
    if row.sandboxes >= row.sandboxes_max {
        return Err(Fall::of(Constraint::Sandboxes));
    }
    let is_sparing = view.sparing == Sparing::All;
    let starts_max = if is_sparing {
        row.starts_max
    } else {
        row.starts_allowed
    };
    if row.starting >= starts_max {
        return Err(Fall::of(Constraint::Starts));
    }
    if row.is_pressed && is_sparing {
        return Err(Fall::of(Constraint::Pressure));
    }
    judge_room(row, view.amount)
}

/// What a node's terms are made from.
struct Shares {
    spread: u32,
    pack: u32,
    balance: u32,
    least_free: u32,
}

/// How much of the wanted dimensions stays free.
fn shares(row: &Row, blend: u32, view: &View<'_>, left: &[u32; 4]) -> Shares {
    let mut least_free = SHARE_MAX;
    let mut least_blended = SHARE_MAX;
    for (i, wanted) in view.amount.values().iter().enumerate() {
        if *wanted == 0 {
            continue;
        }
        let free = share_by(left[i], row.inverse[i]);
        least_free = least_free.min(free);
        let blended = (free * (BLEND_MAX - blend) + (SHARE_MAX - row.load[i]) * blend) / BLEND_MAX;
        least_blended = least_blended.min(if row.has_load { blended } else { free });
    }
    Shares {
        spread: least_blended,
        pack: SHARE_MAX - least_free,
        balance: balance(row, view, left),
        least_free,
    }
}

/// How much closer to each other cpu and memory get on the node: the middle if not at all. What is
/// free of one behind a lack of the other is stranded.
///
/// Counts the change, not the state: an empty node is as even as can be, which is no reason to
/// begin it.
fn balance(row: &Row, view: &View<'_>, left: &[u32; 4]) -> u32 {
    const MIDDLE: u32 = SHARE_MAX / 2;
    if view.mix.get(Term::Balance) == 0 {
        return MIDDLE;
    }
    let wanted = view.amount.values();
    let after = [0, 1].map(|i| share_by(left[i], row.inverse[i]));
    let before = [0, 1].map(|i| share_by(left[i] + wanted[i], row.inverse[i]));
    let gap = |free: [u32; 2]| free[0].abs_diff(free[1]);
    let (before, after) = (gap(before), gap(after));
    // One sandbox changes little.
    let change = before
        .abs_diff(after)
        .saturating_mul(BALANCE_GAIN)
        .min(MIDDLE);
    if before >= after {
        MIDDLE + change
    } else {
        MIDDLE - change
    }
}

/// A change by a sixteenth of the node counts in full.
const BALANCE_GAIN: u32 = 8;

fn usage(row: &Row, shares: &Shares) -> u32 {
    let load = row.load.iter().max().copied().unwrap_or(0);
    let known = SHARE_MAX - load;
    if row.has_load {
        known
    } else {
        shares.least_free
    }
}

fn starts(row: &Row) -> u32 {
    let free = row.starts_max.saturating_sub(row.starting);
    share(u32::from(free), u32::from(row.starts_max))
}

/// The values of the terms that depend on amounts, with what is left on the node.
fn rate(row: &Row, blend: u32, view: &View<'_>, left: &[u32; 4]) -> [u32; TERMS] {
    let shares = shares(row, blend, view, left);
    let mut values = [0; TERMS];
    values[Term::Spread.index()] = shares.spread;
    values[Term::Pack.index()] = shares.pack;
    values[Term::Balance.index()] = shares.balance;
    values[Term::Usage.index()] = usage(row, &shares);
    values[Term::Reliability.index()] = row.reliability;
    values[Term::Starts.index()] = starts(row);
    values
}

/// The total of [`score`] for a node with nothing aside, in fewer steps: every changed node is
/// judged by every class.
pub(super) fn total(
    table: &Table,
    slot: u32,
    view: &View<'_>,
    left: &[u32; 4],
    ready: Ready,
) -> u32 {
    let row = table.row(slot);
    let shares = shares(row, table.blend, view, left);
    let mix = &view.mix;
    let mut sum = mix.part(Term::Spread, shares.spread)
        + mix.part(Term::Pack, shares.pack)
        + mix.part(Term::Balance, shares.balance)
        + mix.part(Term::Reliability, row.reliability);
    if mix.get(Term::Usage) > 0 {
        sum += mix.part(Term::Usage, usage(row, &shares));
    }
    if mix.get(Term::Starts) > 0 {
        sum += mix.part(Term::Starts, starts(row));
    }
    if ready != Ready::default() {
        let mut values = [0; TERMS];
        ready.note(view.located, &mut values);
        sum += mix.sum(&values);
    }
    Mix::scale(sum)
}

/// How finely measured use is blended with allocation.
pub(super) const BLEND_MAX: u32 = 256;

/// What only some requests look at.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Aside {
    pub(super) is_near: bool,
    pub(super) zones: u32,
}

/// A node's score, or what it falls to. Everything counts but what was excluded.
pub(super) fn judge(
    table: &Table,
    slot: u32,
    view: &View<'_>,
    aside: Aside,
) -> Result<Score, Fall> {
    let cold = table.cold(slot).ok_or(Fall::of(Constraint::Lost))?;
    if let Some(constraint) = judge_fixed(cold, view) {
        return Err(Fall::of(constraint));
    }
    let left = judge_live(table, slot, view)?;
    let ready = Ready::of(cold, view.located);
    Ok(score(table, slot, view, &left, ready, aside))
}

/// The score of a node that fits.
fn score(
    table: &Table,
    slot: u32,
    view: &View<'_>,
    left: &[u32; 4],
    ready: Ready,
    aside: Aside,
) -> Score {
    let mut values = rate(table.row(slot), table.blend, view, left);
    if !view.located.is_empty() {
        ready.note(view.located, &mut values);
    }
    values[Term::Near.index()] = if aside.is_near { SHARE_MAX } else { 0 };
    values[Term::Zones.index()] = aside.zones;
    Score {
        total: view.mix.total(&values),
        values,
        mix: view.mix,
    }
}
