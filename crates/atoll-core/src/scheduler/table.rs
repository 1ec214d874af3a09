//! The nodes in slots: what every judgement reads in one array of two cache lines a node, the rest
//! aside.

use rustc_hash::FxHashMap;

use super::amount::{Amount, DIMENSIONS, SHARE_MAX, share};
use super::artifact::{Artifact, KINDS, Kind};
use super::change::{Changes, What};
use super::intern::Interner;
use super::lanes::inverse;
use super::node::Node;
use super::protection::Record;
use crate::id::NodeId;
use crate::node::NodeState;

/// What is read at every judgement.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
pub(super) struct Row {
    /// What may be allocated: overcommitment in, headroom out.
    pub(super) allocatable: Amount,
    /// What is allocated and reserved.
    pub(super) used: Amount,
    /// For shares of `allocatable` without division.
    pub(super) inverse: [f32; DIMENSIONS],
    /// Shares of the machine that are in use by measurement.
    pub(super) load: [u32; DIMENSIONS],
    pub(super) sandboxes: u32,
    pub(super) sandboxes_max: u32,
    /// 0: every start fails; the highest share: none.
    pub(super) reliability: u32,
    pub(super) starting: u16,
    /// As things stand: a node that returns may start less.
    pub(super) starts_max: u16,
    /// As the node's operator allows.
    pub(super) starts_allowed: u16,
    pub(super) has_load: bool,
    pub(super) is_pressed: bool,
    pub(super) is_failing: bool,
}

/// What is read when something seldom changes.
#[derive(Debug, Clone)]
pub(super) struct Cold {
    pub(super) node: Node,
    pub(super) state: NodeState,
    pub(super) zone: u32,
    pub(super) record: Record,
    /// Whoever watches its starts says that it fails.
    pub(super) is_failing: bool,
    /// Sorted.
    artifacts: Vec<u32>,
    /// Sorted by number.
    groups: Vec<Member>,
}

/// A group that has sandboxes on a node.
#[derive(Debug, Clone, Copy)]
struct Member {
    group: u32,
    /// How many.
    count: u32,
    /// Where the node stands among those of the group.
    place: u32,
}

impl Cold {
    pub(super) fn has(&self, artifact: u32) -> bool {
        self.artifacts.binary_search(&artifact).is_ok()
    }
}

/// Numbers for artifacts: those of a kind are told apart by the rest of the division by [`KINDS`].
#[derive(Debug)]
pub(super) struct Artifacts([Interner<String>; KINDS]);

impl Artifacts {
    fn new() -> Self {
        Self(std::array::from_fn(|_| Interner::new()))
    }

    pub(super) fn get(&self, kind: Kind, name: &str) -> Option<u32> {
        let number = self.0[kind.index()].get(name)?;
        Some(number * Self::STEP + Self::rest(kind))
    }

    pub(super) fn retain(&mut self, artifact: &Artifact) -> u32 {
        let number = self.0[artifact.kind.index()].retain(&artifact.name);
        number * Self::STEP + Self::rest(artifact.kind)
    }

    pub(super) fn reuse(&mut self, number: u32) {
        self.0[(number % Self::STEP) as usize].reuse(number / Self::STEP);
    }

    pub(super) fn release(&mut self, number: u32) {
        self.0[(number % Self::STEP) as usize].release(number / Self::STEP);
    }

    const STEP: u32 = 4;

    const fn rest(kind: Kind) -> u32 {
        kind as u32
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(Interner::bytes).sum()
    }
}

#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Row>,
    cold: Vec<Option<Cold>>,
    slots: FxHashMap<NodeId, u32>,
    free: Vec<u32>,
    pub(super) changes: Changes,
    pub(super) artifacts: Artifacts,
    /// The slots that have each artifact, sorted.
    holders: Vec<Vec<u32>>,
    pub(super) groups: Interner<String>,
    /// The slots that have a sandbox of each group, in no order.
    members: Vec<Vec<u32>>,
    pub(super) zones: Interner<String>,
    /// Sandboxes of a group in a zone.
    in_zone: FxHashMap<(u32, u32), u32>,
    /// How much measured use counts beside allocation: 0 to 1.
    pub(super) blend: f32,
}

impl Table {
    pub(super) fn new(blend: f32) -> Self {
        Self {
            rows: Vec::new(),
            cold: Vec::new(),
            slots: FxHashMap::default(),
            free: Vec::new(),
            changes: Changes::new(),
            artifacts: Artifacts::new(),
            holders: Vec::new(),
            groups: Interner::new(),
            members: Vec::new(),
            zones: Interner::new(),
            in_zone: FxHashMap::default(),
            blend,
        }
    }

    /// How many slots there are, vacant ones included.
    pub(super) const fn len(&self) -> usize {
        self.rows.len()
    }

    /// Every slot.
    pub(super) fn all(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    /// How many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn slot(&self, id: &NodeId) -> Option<u32> {
        self.slots.get(id).copied()
    }

    pub(super) fn row(&self, slot: u32) -> &Row {
        &self.rows[slot as usize]
    }

    /// To be followed by [`Changes::note`] if what changes matters to any judgement.
    pub(super) fn row_mut(&mut self, slot: u32) -> &mut Row {
        &mut self.rows[slot as usize]
    }

    pub(super) fn cold(&self, slot: u32) -> Option<&Cold> {
        self.cold.get(slot as usize)?.as_ref()
    }

    pub(super) fn cold_mut(&mut self, slot: u32) -> Option<&mut Cold> {
        self.cold.get_mut(slot as usize)?.as_mut()
    }

    /// The identity of the node in a slot, which is not vacant.
    pub(super) fn id(&self, slot: u32) -> &NodeId {
        let cold = self.cold(slot).expect("a slot in use has a node");
        &cold.node.id
    }

    /// Puts a node into a slot, or describes anew the one that is there.
    pub(super) fn put(&mut self, node: Node) -> u32 {
        let zone = self.zones.retain(&node.zone);
        let slot = self.slot(&node.id).unwrap_or_else(|| {
            let slot = self.free.pop().unwrap_or_else(|| {
                self.rows.push(Row::default());
                self.cold.push(None);
                self.changes.grow();
                u32::try_from(self.rows.len() - 1).unwrap_or(u32::MAX)
            });
            self.slots.insert(node.id.clone(), slot);
            slot
        });
        let row = &mut self.rows[slot as usize];
        row.allocatable = node.allocatable();
        row.inverse = row.allocatable.values().map(inverse);
        row.sandboxes_max = node.sandboxes_max;
        row.starts_allowed = node.starts_max;
        match &mut self.cold[slot as usize] {
            Some(cold) => {
                let before = std::mem::replace(&mut cold.zone, zone);
                cold.node = node;
                self.zones.release(before);
                if before != zone {
                    self.move_groups(slot, before, zone);
                }
            }
            vacant => {
                row.reliability = SHARE_MAX;
                row.starts_max = node.starts_max;
                *vacant = Some(Cold {
                    node,
                    state: NodeState::Suspect,
                    zone,
                    record: Record::default(),
                    is_failing: false,
                    artifacts: Vec::new(),
                    groups: Vec::new(),
                });
            }
        }
        self.changes.note(slot, What::ALL);
        slot
    }

    /// Empties a slot.
    pub(super) fn take(&mut self, slot: u32) {
        let Some(cold) = self.cold[slot as usize].take() else {
            return;
        };
        for artifact in &cold.artifacts {
            let holders = &mut self.holders[*artifact as usize];
            holders.retain(|holder| *holder != slot);
            self.artifacts.release(*artifact);
        }
        for member in &cold.groups {
            self.count_in_zone(member.group, cold.zone, 0, member.count);
            self.leave(member.group, member.place);
            self.groups.release(member.group);
        }
        self.zones.release(cold.zone);
        self.slots.remove(&cold.node.id);
        self.rows[slot as usize] = Row::default();
        self.free.push(slot);
        self.changes.note(slot, What::ALL);
    }

    /// Notes that a node has an artifact, or has it no more. Answers whether that is news.
    pub(super) fn set_artifact(&mut self, slot: u32, artifact: &Artifact, has: bool) -> bool {
        let known = self.artifacts.get(artifact.kind, &artifact.name);
        let has_already = known.is_some_and(|known| self.cold(slot).is_some_and(|c| c.has(known)));
        if has == has_already {
            return false;
        }
        let number = match known {
            Some(number) if !has => number,
            Some(_) | None => self.artifacts.retain(artifact),
        };
        let wanted = (number as usize + 1).max(self.holders.len());
        self.holders.resize_with(wanted, Vec::new);
        let holders = &mut self.holders[number as usize];
        let Some(cold) = &mut self.cold[slot as usize] else {
            return false;
        };
        if has {
            put_sorted(&mut cold.artifacts, number);
            put_sorted(holders, slot);
        } else {
            cold.artifacts.retain(|other| *other != number);
            holders.retain(|holder| *holder != slot);
            self.artifacts.release(number);
        }
        self.changes.note(slot, What::ARTIFACTS);
        true
    }

    /// The slots that have an artifact.
    pub(super) fn holders(&self, artifact: u32) -> &[u32] {
        self.holders
            .get(artifact as usize)
            .map_or(&[], Vec::as_slice)
    }

    pub(super) fn has_any_group(&self, slot: u32, groups: &[u32]) -> bool {
        let Some(cold) = self.cold(slot) else {
            return false;
        };
        groups.iter().any(|group| {
            let found = cold.groups.binary_search_by_key(group, |m| m.group);
            found.is_ok()
        })
    }

    /// The slots that have a sandbox of a group, in no order.
    pub(super) fn members(&self, group: u32) -> &[u32] {
        self.members.get(group as usize).map_or(&[], Vec::as_slice)
    }

    /// One more node of a group; answers where it stands.
    fn join(&mut self, group: u32, slot: u32) -> u32 {
        let wanted = (group as usize + 1).max(self.members.len());
        self.members.resize_with(wanted, Vec::new);
        let members = &mut self.members[group as usize];
        members.push(slot);
        u32::try_from(members.len() - 1).unwrap_or(u32::MAX)
    }

    /// One node of a group less: the last one takes its place.
    fn leave(&mut self, group: u32, place: u32) {
        let members = &mut self.members[group as usize];
        members.swap_remove(place as usize);
        let moved = members.get(place as usize).copied();
        if members.is_empty() {
            // Numbers come and go with groups: none keeps what a large one needed.
            *members = Vec::new();
        }
        let Some(Some(cold)) = moved.and_then(|slot| self.cold.get_mut(slot as usize)) else {
            return;
        };
        if let Ok(at) = cold.groups.binary_search_by_key(&group, |m| m.group) {
            cold.groups[at].place = place;
        }
    }

    /// One more sandbox of a group on a node.
    pub(super) fn add_group(&mut self, slot: u32, group: u32) {
        self.groups.reuse(group);
        let Some(cold) = &mut self.cold[slot as usize] else {
            return;
        };
        let zone = cold.zone;
        match cold.groups.binary_search_by_key(&group, |m| m.group) {
            Ok(at) => {
                cold.groups[at].count += 1;
                // A node uses a number once, however many sandboxes it has.
                self.groups.release(group);
            }
            Err(at) => {
                let member = Member {
                    group,
                    count: 1,
                    place: u32::MAX,
                };
                cold.groups.insert(at, member);
                let place = self.join(group, slot);
                if let Some(cold) = &mut self.cold[slot as usize] {
                    cold.groups[at].place = place;
                }
                self.changes.note(slot, What::GROUPS);
            }
        }
        self.count_in_zone(group, zone, 1, 0);
    }

    /// One sandbox of a group less on a node.
    pub(super) fn subtract_group(&mut self, slot: u32, group: u32) {
        let Some(cold) = &mut self.cold[slot as usize] else {
            return;
        };
        let zone = cold.zone;
        let Ok(at) = cold.groups.binary_search_by_key(&group, |m| m.group) else {
            return;
        };
        cold.groups[at].count -= 1;
        if cold.groups[at].count == 0 {
            let left = cold.groups.remove(at);
            self.leave(group, left.place);
            self.groups.release(group);
            self.changes.note(slot, What::GROUPS);
        }
        self.count_in_zone(group, zone, 0, 1);
    }

    /// Sandboxes of a group in a zone.
    pub(super) fn group_in_zone(&self, group: u32, zone: u32) -> u32 {
        self.in_zone.get(&(group, zone)).copied().unwrap_or(0)
    }

    fn count_in_zone(&mut self, group: u32, zone: u32, more: u32, less: u32) {
        let count = self.in_zone.entry((group, zone)).or_default();
        *count = (*count + more).saturating_sub(less);
        if *count == 0 {
            self.in_zone.remove(&(group, zone));
        }
    }

    fn move_groups(&mut self, slot: u32, from: u32, to: u32) {
        let groups = self.cold(slot).map(|cold| cold.groups.clone());
        for Member { group, count, .. } in groups.unwrap_or_default() {
            self.count_in_zone(group, from, 0, count);
            self.count_in_zone(group, to, count, 0);
        }
    }

    /// Bytes of all that grows with the nodes; an estimate for what is on the heap behind names.
    pub(super) fn bytes(&self) -> usize {
        let groups = |cold: &Cold| cold.groups.capacity() * size_of::<Member>();
        let artifacts = |cold: &Cold| cold.artifacts.capacity() * 4 + groups(cold);
        let lists = self.holders.iter().chain(&self.members);
        let names = |cold: &Cold| {
            let node = &cold.node;
            let labels = node.labels.iter().map(|(k, v)| k.len() + v.len() + 48);
            let words = node.tags.iter().chain(&node.cpu_features);
            let drivers = node.drivers.keys().map(|name| name.len() + 36);
            2 * node.id.as_str().len()
                + node.zone.len()
                + node.architecture.len()
                + labels.sum::<usize>()
                + words.map(|word| word.len() + 24).sum::<usize>()
                + drivers.sum::<usize>()
        };
        let aside = self.cold.iter().flatten();
        self.rows.capacity() * size_of::<Row>()
            + self.cold.capacity() * size_of::<Option<Cold>>()
            + aside
                .map(|cold| artifacts(cold) + names(cold))
                .sum::<usize>()
            + self.slots.capacity() * (size_of::<(NodeId, u32)>() + 1)
            + self.changes.bytes()
            + self.artifacts.bytes()
            + self.groups.bytes()
            + lists.map(|list| list.capacity() * 4 + 24).sum::<usize>()
            + self.in_zone.capacity() * 13
    }
}

fn put_sorted(list: &mut Vec<u32>, number: u32) {
    if let Err(at) = list.binary_search(&number) {
        list.insert(at, number);
    }
}

/// Which shares of a machine are in use.
pub(super) fn loads(used: Amount, total: Amount) -> [u32; DIMENSIONS] {
    std::array::from_fn(|i| {
        let exact = share(used.values()[i], total.values()[i]);
        // In steps of 1 %: a node whose use trembles is not judged anew each time.
        exact - exact % (SHARE_MAX / 100)
    })
}
