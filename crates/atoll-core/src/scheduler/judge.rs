//! Whether a node can take a sandbox, and how good it is: for one node, from what the table has.
//!
//! Both the classes and the oracle judge with this. What a class keeps is the result for each node.

use super::amount::{Amount, SHARE_MAX};
use super::constraint::{Constraint, Constraints};
use super::lanes::{Offer, RATED, Wants, millionths, part, whole};
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

    /// How much of each there is.
    fn shares(self, located: &Located) -> [(Term, f32); 4] {
        let has = |has| if has { 1.0 } else { 0.0 };
        let wanted = f32::from(located.layers_wanted.max(1));
        [
            (Term::Template, has(self.has[0])),
            (Term::Snapshot, has(self.has[1])),
            (Term::Warm, has(self.has[2])),
            (Term::Layers, f32::from(self.layers) / wanted),
        ]
    }

    /// What that adds to a score.
    pub(super) fn sum(self, located: &Located, mix: &Mix) -> f32 {
        let shares = self.shares(located).into_iter();
        shares.map(|(term, share)| mix.weight(term) * share).sum()
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

/// The first constraint that the node falls to for the time being, whatever else is asked for.
pub(super) const fn judge_live(row: &Row, sparing: Sparing) -> Option<Constraint> {
    if row.is_failing && !matches!(sparing, Sparing::Nobody) {
        return Some(Constraint::Failing);
    }
    if row.sandboxes >= row.sandboxes_max {
        return Some(Constraint::Sandboxes);
    }
    let is_sparing = matches!(sparing, Sparing::All);
    let starts_max = if is_sparing {
        row.starts_max
    } else {
        row.starts_allowed
    };
    if row.starting >= starts_max {
        return Some(Constraint::Starts);
    }
    if row.is_pressed && is_sparing {
        return Some(Constraint::Pressure);
    }
    None
}

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
    if !view.apart.is_empty() && table.has_any_group(slot, view.apart) {
        return Err(Fall::of(Constraint::AntiAffinity));
    }
    if let Some(constraint) = judge_live(table.row(slot), view.sparing) {
        return Err(Fall::of(constraint));
    }
    let offer = Offer::of(table.row(slot), table.blend);
    let wants = Wants::one(view.amount, &view.mix);
    let fits = wants.fits(&offer);
    if let Some(constraint) = Constraint::ALL.get(usize::from(fits.verdict[0])) {
        return Err(Fall {
            constraint: *constraint,
            closeness: whole(fits.closeness[0]),
        });
    }
    Ok(score(table, slot, view, aside))
}

/// The score of a node that fits.
pub(super) fn score(table: &Table, slot: u32, view: &View<'_>, aside: Aside) -> Score {
    let offer = Offer::of(table.row(slot), table.blend);
    let wants = Wants::one(view.amount, &view.mix);
    let cold = table.cold(slot);
    let ready = cold.map_or_else(Ready::default, |cold| Ready::of(cold, view.located));
    let rates = wants.rate(&offer);
    let mut sum = wants.sum(&rates, &[ready.sum(view.located, &view.mix)])[0];
    let mut values = [0; TERMS];
    for (term, rate) in RATED.into_iter().zip(rates) {
        values[term.index()] = millionths(rate[0]);
    }
    for (term, share) in ready.shares(view.located) {
        values[term.index()] = millionths(share);
    }
    let near = if aside.is_near { SHARE_MAX } else { 0 };
    for (term, value) in [(Term::Near, near), (Term::Zones, aside.zones)] {
        values[term.index()] = value;
        sum += view.mix.weight(term) * part(value);
    }
    Score {
        total: millionths(sum),
        values,
        mix: view.mix,
    }
}
