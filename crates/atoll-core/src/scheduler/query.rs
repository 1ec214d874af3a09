//! A request and a policy in the table's numbers.

use super::artifact::Kind as ArtifactKind;
use super::class::Kind;
use super::constraint::{Constraint, Counts};
use super::judge::{Aside, Located, UNKNOWN, View};
use super::policy::Policy;
use super::request::{EXCLUDED_MAX, Request};
use super::score::{Mix, Scale, Term};
use super::table::Table;

/// Nodes that are looked at one by one, at most: some microseconds' work. What more nodes have is
/// part of a class.
pub(super) const DIRECT_MAX: usize = 64;

/// Zones that count, at most: each has a class of its own. Where there are more, they are as good
/// as one another.
pub(super) const ZONES_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Query<'a> {
    request: &'a Request,
    policy: &'a Policy,
    mix: Mix,
    /// What a class has to know of `mix`.
    mix_by_class: Mix,
    pub(super) scale: Scale,
    present: Vec<u32>,
    apart: Vec<u32>,
    /// What a class has to know of `apart`: what has sandboxes on many nodes.
    apart_by_class: Vec<u32>,
    /// The nodes that have a sandbox of the rest, and those that are excluded, sorted.
    pub(super) hidden: Vec<u32>,
    located: Located,
    /// What a class has to know of `located`: what many nodes have.
    located_by_class: Located,
    /// The nodes that have what only few have.
    favoured: Vec<u32>,
    near: Option<u32>,
    pub(super) excluded: Vec<u32>,
    /// The zones and what each is worth; empty if zones do not count.
    pub(super) zones: Vec<(u32, u32)>,
}

impl<'a> Query<'a> {
    pub(super) fn new(table: &Table, request: &'a Request, policy: &'a Policy) -> Self {
        let weights = policy.strategy.weights().plus(&policy.preferences);
        let located = located(table, request, |term| weights.get(term) > 0);
        let near = request.near.as_ref().and_then(|id| table.slot(id));
        let has_zones = weights.get(Term::Zones) > 0 && request.spread_group.is_some();
        let zones = if has_zones {
            zones(table, request)
        } else {
            Vec::new()
        };
        let applies = |term| match term {
            Term::Template => request.template.is_some(),
            Term::Warm => located.warm.is_some(),
            Term::Snapshot => request.snapshot.is_some(),
            Term::Layers => !request.layers.is_empty(),
            Term::Near => near.is_some(),
            Term::Zones => !zones.is_empty(),
            Term::Spread
            | Term::Pack
            | Term::Balance
            | Term::Usage
            | Term::Reliability
            | Term::Starts => true,
        };
        let both = [&policy.constraints, &request.constraints].into_iter();
        let present = both.clone().flat_map(|c| &c.present);
        let present = present.map(|a| table.artifacts.get(a.kind, &a.name).unwrap_or(UNKNOWN));
        let apart = both.flat_map(|c| &c.apart_from);
        let apart = apart.filter_map(|group| table.groups.get(group.as_str()));
        let apart: Vec<u32> = apart.collect();
        let excluded = excluded(table, request);
        let (apart_by_class, hidden) = split_groups(table, &apart, &excluded);
        let (located_by_class, favoured) = split(table, &located);
        let is_known = |term| applies(term) && is_known(term, &located_by_class);
        let scale = Scale::new(weights.sum(is_known), weights.sum(applies));
        let mix_by_class = Mix::new(&weights, is_known);
        Self {
            request,
            policy,
            mix: Mix::new(&weights, applies),
            mix_by_class,
            scale,
            present: present.collect(),
            apart,
            apart_by_class,
            hidden,
            located,
            located_by_class,
            favoured,
            near,
            excluded,
            zones,
        }
    }

    /// As every node is judged by it.
    pub(super) fn view(&self) -> View<'_> {
        View {
            amount: self.request.amount,
            mix: self.mix,
            sparing: self.request.sparing,
            constraints: [&self.policy.constraints, &self.request.constraints],
            present: &self.present,
            apart: &self.apart,
            located: &self.located,
        }
    }

    /// The class that answers it, for a zone or for all.
    pub(super) fn kind(&self, zone: Option<u32>) -> Kind<'_> {
        Kind {
            view: View {
                mix: self.mix_by_class,
                apart: &self.apart_by_class,
                located: &self.located_by_class,
                ..self.view()
            },
            zone,
            is_sampled: self.policy.strategy.sample().is_some(),
        }
    }

    /// What only this request looks at, of a node.
    pub(super) fn aside(&self, table: &Table, slot: u32) -> Aside {
        let zone = table.cold(slot).map(|cold| cold.zone);
        let worth = |zone| self.zones.iter().find(|(other, _)| *other == zone);
        let worth = zone.and_then(worth).map_or(0, |(_, worth)| *worth);
        Aside {
            is_near: self.near == Some(slot),
            zones: worth,
        }
    }

    /// The nodes that have what must be there, if those are few.
    pub(super) fn holders<'t>(&self, table: &'t Table) -> Option<&'t [u32]> {
        let holders = self.present.iter().map(|artifact| table.holders(*artifact));
        let fewest = holders.min_by_key(|holders| holders.len());
        fewest.filter(|holders| holders.len() <= DIRECT_MAX)
    }

    /// The nodes that are better than the class knows.
    pub(super) fn favoured(&self) -> Vec<u32> {
        let mut slots = self.favoured.clone();
        slots.extend(self.near);
        slots.sort_unstable();
        slots.dedup();
        slots.retain(|slot| !self.excluded.contains(slot));
        slots
    }

    /// Whether a node is out of the question for this request alone.
    pub(super) fn is_hidden(&self, slot: u32) -> bool {
        self.hidden.binary_search(&slot).is_ok()
    }

    /// The counts of nodes that are excluded.
    pub(super) fn excluded_counts(&self) -> Counts {
        let mut counts = Counts::default();
        let excluded = u32::try_from(self.excluded.len()).unwrap_or(0);
        counts.add(Constraint::Excluded, excluded);
        counts
    }
}

fn located(table: &Table, request: &Request, counts: impl Fn(Term) -> bool) -> Located {
    let find = |term, kind, name: Option<&String>| {
        let name = name.filter(|_| counts(term))?;
        table.artifacts.get(kind, name)
    };
    let template = request.template.as_ref();
    let mut located = Located {
        template: find(Term::Template, ArtifactKind::Template, template),
        snapshot: find(
            Term::Snapshot,
            ArtifactKind::Snapshot,
            request.snapshot.as_ref(),
        ),
        warm: find(Term::Warm, ArtifactKind::Warm, template),
        ..Located::default()
    };
    if counts(Term::Layers) {
        let layers = request.layers.iter();
        let known = layers.filter_map(|name| table.artifacts.get(ArtifactKind::Layer, name));
        located.layers = known.collect();
        located.layers_wanted = u8::try_from(request.layers.len()).unwrap_or(u8::MAX);
    }
    located
}

/// What a class has to know, and the nodes that have the rest: [`DIRECT_MAX`] at most.
fn split(table: &Table, located: &Located) -> (Located, Vec<u32>) {
    let mut favoured = Vec::new();
    let mut is_rare = |artifact: &u32| {
        let holders = table.holders(*artifact);
        let is_rare = favoured.len() + holders.len() <= DIRECT_MAX;
        if is_rare {
            favoured.extend_from_slice(holders);
        }
        is_rare
    };
    let by_class = Located {
        template: located.template.filter(|artifact| !is_rare(artifact)),
        snapshot: located.snapshot.filter(|artifact| !is_rare(artifact)),
        warm: located.warm.filter(|artifact| !is_rare(artifact)),
        layers: {
            let layers = located.layers.iter().copied();
            layers.filter(|artifact| !is_rare(artifact)).collect()
        },
        layers_wanted: located.layers_wanted,
    };
    if by_class.is_empty() {
        return (Located::default(), favoured);
    }
    (by_class, favoured)
}

/// Whether a class knows what a node is worth in that.
fn is_known(term: Term, located: &Located) -> bool {
    match term {
        Term::Template => located.template.is_some(),
        Term::Snapshot => located.snapshot.is_some(),
        Term::Warm => located.warm.is_some(),
        Term::Layers => !located.layers.is_empty(),
        Term::Near | Term::Zones => false,
        Term::Spread
        | Term::Pack
        | Term::Balance
        | Term::Usage
        | Term::Reliability
        | Term::Starts => true,
    }
}

/// The groups that a class has to know, and the nodes to hide: those of the other groups,
/// [`DIRECT_MAX`] at most, and those that are excluded.
fn split_groups(table: &Table, apart: &[u32], excluded: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut hidden = excluded.to_vec();
    if apart.is_empty() {
        return (Vec::new(), hidden);
    }
    let mut groups = apart.to_vec();
    groups.sort_unstable_by_key(|group| (table.members(*group).len(), *group));
    groups.dedup();
    let most = hidden.len() + DIRECT_MAX;
    groups.retain(|group| {
        let members = table.members(*group);
        let is_wide = hidden.len() + members.len() > most;
        if !is_wide {
            hidden.extend_from_slice(members);
        }
        is_wide
    });
    groups.sort_unstable();
    hidden.sort_unstable();
    hidden.dedup();
    (groups, hidden)
}

/// What each zone is worth: the fewer of the group are there, the more.
fn zones(table: &Table, request: &Request) -> Vec<(u32, u32)> {
    if table.zones.len() > ZONES_MAX {
        return Vec::new();
    }
    let group = request.spread_group.as_ref();
    let group = group.and_then(|group| table.groups.get(group.as_str()));
    let count = |zone| group.map_or(0, |group| table.group_in_zone(group, zone));
    let counts: Vec<_> = table
        .zones
        .numbers()
        .map(|zone| (zone, count(zone)))
        .collect();
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let worth = |count| super::amount::share(most - count, most.max(1));
    let zones = counts.into_iter().map(|(zone, count)| (zone, worth(count)));
    zones.collect()
}

fn excluded(table: &Table, request: &Request) -> Vec<u32> {
    let ids = request.excluded.iter().take(EXCLUDED_MAX);
    let mut slots: Vec<u32> = ids.filter_map(|id| table.slot(id)).collect();
    slots.sort_unstable();
    slots.dedup();
    slots
}
