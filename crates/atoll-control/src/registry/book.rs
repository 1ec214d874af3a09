//! The account: every sandbox with what it holds, every node with the sums of that, and the
//! scheduler's fleet with the same sums.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use atoll_core::heartbeat::{Gauge, Heartbeat};
use atoll_core::id::{Generation, NodeId, SandboxId, TeamId};
use atoll_core::node::{ObservedSandbox, ObservedState};
use atoll_core::reconcile::Observed;
use atoll_core::resources::Resources;
use atoll_core::sandbox::{Sandbox, State};
use atoll_core::scheduler::amount::Amount;
use atoll_core::scheduler::decision::Reservation;
use atoll_core::scheduler::fleet::{self, Fleet, Holding};
use atoll_core::scheduler::forecast::{self, Key};
use atoll_core::scheduler::shares::Shares;
use atoll_core::scheduler::total::Total;
use atoll_core::time::Timestamp;
use tokio::time::Instant;

use super::Sequence;
use super::foresight::{Came, Foresight};
use super::node::{NodeEntry, Share};
use super::placing::{Standing, groups};
use crate::config::Overcommit;

/// How long a node's answer to a placement is waited for before the start counts as settled one way
/// or the other: twice what a node may take to start a sandbox. A placement that was never written
/// ends then; one that was is accounted for as long as its row says so.
pub(super) const RESERVATION_MAX: Duration = Duration::from_secs(120);

/// Bytes of a MiB, in which the scheduler counts.
const MIB: u64 = 1 << 20;

/// A sandbox.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) team: TeamId,
    pub(super) node: Option<NodeId>,
    /// What its node may report it under: from its last pause's placement, if it is kept, to the
    /// newest.
    pub(super) generations: RangeInclusive<Generation>,
    /// What it takes of its node.
    pub(super) held: Resources,
    /// Of the row that this entry follows.
    pub(super) revision: u64,
    /// Whether its row is in the store, as far as is known.
    pub(super) is_written: bool,
    pub(super) observed: Observed,
    pub(super) sequence: Sequence,
    pub(super) log_lines: u32,
    /// The groups it belongs to, for the scheduler; the same as long as it lives.
    groups: Vec<String>,
    /// The decision that its node has not answered yet: its place is reserved instead of allocated.
    pub(super) standing: Option<Standing>,
    /// When it came, if it is among those whose coming is forecast.
    pub(super) came: Option<Came>,
}

/// What an entry takes of the scheduler's fleet.
#[derive(Debug, PartialEq, Eq)]
struct Stake {
    node: NodeId,
    held: Resources,
    reservation: Option<Reservation>,
}

/// When a reservation is over.
#[derive(Debug)]
struct Ending {
    at: Instant,
    sandbox: SandboxId,
    reservation: Reservation,
}

/// The nodes and the sandboxes on them.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) nodes: BTreeMap<NodeId, NodeEntry>,
    pub(super) sandboxes: BTreeMap<SandboxId, Entry>,
    /// The same for decisions.
    pub(super) fleet: Fleet,
    /// The same by team.
    pub(super) shares: Shares,
    /// What all nodes together may give away; none: to be worked out anew.
    pub(super) whole: Option<Total>,
    /// Who is expected; none: nobody looks ahead.
    pub(super) foresight: Option<Foresight>,
    sequence: u64,
    overcommit: Overcommit,
    /// The fleet's time counts from here: it never jumps.
    begun: Instant,
    /// Reservations in the order in which they end.
    endings: VecDeque<Ending>,
}

impl Entry {
    fn share(&self) -> Share {
        Share::new(self.held, &self.observed)
    }

    fn stake(&self) -> Option<Stake> {
        let node = self.node.clone()?;
        Some(Stake {
            node,
            held: self.held,
            reservation: self.reservation(),
        })
    }

    fn reservation(&self) -> Option<Reservation> {
        self.standing.as_ref()?.decision.reservation
    }

    pub(super) fn holding(&self, held: Resources) -> Holding {
        Holding {
            amount: held.into(),
            groups: self.groups.clone(),
        }
    }
}

/// What the node of a sandbox may report it under, if its newest placement is this.
pub(super) fn generations(sandbox: &Sandbox, newest: Generation) -> RangeInclusive<Generation> {
    let kept = sandbox.kept.filter(|_| !sandbox.is_elsewhere());
    kept.map_or(newest, |kept| kept.generation)..=newest
}

impl Inner {
    pub(super) fn new(overcommit: Overcommit, forecast: Option<forecast::Config>) -> Self {
        Self {
            nodes: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            fleet: Fleet::new(fleet::Config {
                // They are ended here, where the account is kept; this comes later.
                reservation_ttl: 2 * RESERVATION_MAX,
                // The breakers do: they also know silence, and probe.
                judges_failures: false,
                ..fleet::Config::default()
            }),
            shares: Shares::new(),
            whole: None,
            foresight: forecast.map(Foresight::new),
            sequence: 0,
            overcommit,
            begun: Instant::now(),
            endings: VecDeque::new(),
        }
    }

    pub(super) fn next_sequence(&mut self) -> Sequence {
        self.sequence += 1;
        Sequence(self.sequence)
    }

    /// The fleet's time.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_micros(0).saturating_add(self.begun.elapsed())
    }

    /// The node of that id, which is made known if it is not.
    pub(super) fn node(&mut self, id: &NodeId) -> &mut NodeEntry {
        if !self.nodes.contains_key(id) {
            self.put_node(id, |_| {});
        }
        self.nodes.entry(id.clone()).or_insert_with(NodeEntry::new)
    }

    /// Makes a node known, or changes what it is.
    pub(super) fn put_node<T>(
        &mut self,
        id: &NodeId,
        change: impl FnOnce(&mut NodeEntry) -> T,
    ) -> T {
        let node = self.nodes.entry(id.clone()).or_insert_with(NodeEntry::new);
        let result = change(node);
        let (described, state) = (node.described(id, self.overcommit), node.standing());
        self.whole = None;
        let now = self.now();
        self.fleet.put_node(described, now);
        self.fleet.set_state(id, state, now);
        result
    }

    /// Changes how a node stands, and its place in the fleet with it; none: no such node.
    pub(super) fn change_node<T>(
        &mut self,
        id: &NodeId,
        change: impl FnOnce(&mut NodeEntry) -> T,
    ) -> Option<T> {
        let node = self.nodes.get_mut(id)?;
        let before = (node.total, node.standing());
        let result = change(node);
        let state = node.standing();
        if (node.total, state) != before {
            self.whole = None;
        }
        let described = (node.total != before.0).then(|| node.described(id, self.overcommit));
        let now = self.now();
        if let Some(described) = described {
            self.fleet.put_node(described, now);
        }
        self.fleet.set_state(id, state, now);
        Some(result)
    }

    /// Takes over what a node measured of itself, as shares of what it gives to sandboxes.
    pub(super) fn measure(&mut self, heartbeat: &Heartbeat) {
        let usage = &heartbeat.usage;
        let total = Amount::from(heartbeat.total);
        let mib = |gauge: Gauge| Gauge {
            total: gauge.total / MIB,
            used: gauge.used / MIB,
        };
        let used = Amount::new(
            scaled(usage.cpu_millis),
            scaled(mib(usage.memory_bytes)),
            scaled(mib(usage.disk_bytes)),
            0,
        );
        let used = used.zip(total, |permyriad, total| {
            let part = u64::from(permyriad) * u64::from(total) / WHOLE;
            u32::try_from(part).unwrap_or(total)
        });
        self.fleet.heartbeat(&heartbeat.node, used);
    }

    /// Changes a sandbox's entry, and its share of its node with it.
    pub(super) fn change<T>(
        &mut self,
        id: &SandboxId,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut entry = self.sandboxes.remove(id)?;
        self.withdraw(id, &entry);
        let before = entry.stake();
        let result = change(&mut entry);
        let has_moved = before.as_ref().map(|stake| &stake.node) != entry.node.as_ref();
        self.shift(before, &mut entry);
        self.insert(id.clone(), entry);
        if has_moved {
            self.sweep_left();
        }
        Some(result)
    }

    /// Adds the share of an entry to its node, and the entry. Its stake is in the fleet.
    fn insert(&mut self, id: SandboxId, entry: Entry) {
        if let Some(node) = &entry.node {
            let share = entry.share();
            self.node(node).add(&id, &share);
        }
        self.sandboxes.insert(id, entry);
    }

    /// Forgets a sandbox.
    pub(super) fn remove(&mut self, id: &SandboxId) {
        if let Some(mut entry) = self.sandboxes.remove(id) {
            self.went(&entry);
            self.withdraw(id, &entry);
            let before = entry.stake();
            entry.node = None;
            self.shift(before, &mut entry);
        }
        self.sweep_left();
    }

    /// Makes a sandbox's entry what its row says.
    pub(super) fn follow(&mut self, sandbox: &Sandbox) {
        let generations = generations(sandbox, sandbox.generation);
        let known = self.sandboxes.get_mut(&sandbox.id);
        if let Some(entry) = known
            && entry.node == sandbox.node
            && entry.held == sandbox.held()
        {
            // Nothing moves on any node.
            entry.generations = generations;
            entry.revision = sandbox.revision;
            return;
        }
        let sequence = self.next_sequence();
        let changed = self.change(&sandbox.id, |entry| {
            if entry.node != sandbox.node {
                entry.observed = Observed::Unknown;
                entry.sequence = sequence;
            }
            entry.node.clone_from(&sandbox.node);
            entry.generations = generations.clone();
            entry.held = sandbox.held();
            entry.revision = sandbox.revision;
        });
        if changed.is_none() {
            let mut entry = Entry {
                team: sandbox.team.clone(),
                node: sandbox.node.clone(),
                generations,
                held: sandbox.held(),
                revision: sandbox.revision,
                is_written: false,
                observed: Observed::Unknown,
                sequence,
                log_lines: 0,
                groups: groups(sandbox),
                standing: None,
                came: None,
            };
            self.shift(None, &mut entry);
            self.insert(sandbox.id.clone(), entry);
        }
    }

    /// Makes what is believed of a sandbox what its row says, unless its node said more since: that
    /// it ended, or how an order that is under way went.
    pub(super) fn infer(&mut self, sandbox: &Sandbox) {
        let state = match sandbox.state {
            State::Running => Some((sandbox.generation, ObservedState::Running)),
            State::Paused => {
                let kept = sandbox.kept.map(|kept| kept.generation);
                kept.map(|generation| (generation, ObservedState::Paused))
            }
            _ => None,
        };
        let sequence = self.next_sequence();
        self.change(&sandbox.id, |entry| {
            if let Observed::Known(seen) = &entry.observed
                && entry.generations.contains(&seen.generation)
                && (state.is_none() || seen.state == ObservedState::Exited)
            {
                return;
            }
            entry.sequence = sequence;
            entry.observed = state.map_or(Observed::Unknown, |(generation, state)| {
                Observed::Known(ObservedSandbox {
                    id: sandbox.id.clone(),
                    generation,
                    state,
                    resources: sandbox.held(),
                    started_at: sandbox.started_at,
                    detail: None,
                    snapshot: sandbox.snapshot.clone(),
                })
            });
        });
    }

    /// Notes that a sandbox's row is in the store. What its node says of it counts from now on, not
    /// what it was asked before.
    pub(super) fn note_written(&mut self, id: &SandboxId) {
        let sequence = self.next_sequence();
        let unwritten = self.sandboxes.get_mut(id).filter(|entry| !entry.is_written);
        if let Some(entry) = unwritten {
            entry.is_written = true;
            entry.sequence = sequence;
        }
    }

    /// Tells the forecast that a sandbox ended, if it was told of its coming.
    fn went(&mut self, entry: &Entry) {
        if let (Some(foresight), Some(came)) = (&mut self.foresight, &entry.came) {
            let key = Key {
                team: entry.team.clone(),
                template: came.template.clone(),
            };
            foresight.ended(&key, came.at.elapsed());
        }
    }

    /// Forgets the nodes that left and run nothing more.
    pub(super) fn sweep_left(&mut self) {
        let (fleet, whole) = (&mut self.fleet, &mut self.whole);
        self.nodes.retain(|id, node| {
            let stays = !node.has_left || node.sandboxes > 0;
            if !stays {
                *whole = None;
                fleet.remove_node(id);
            }
            stays
        });
    }

    /// Takes an entry's share back from its node; the entry itself is out of the map.
    fn withdraw(&mut self, id: &SandboxId, entry: &Entry) {
        if let Some(node) = &entry.node
            && let Some(node) = self.nodes.get_mut(node)
        {
            node.subtract(id, &entry.share());
        }
    }

    /// Makes the fleet's account follow an entry whose stake was this before.
    ///
    /// A reservation is for one node and one amount: an entry that changes either is accounted for
    /// by an allocation from then on, unless it comes with a new reservation.
    fn shift(&mut self, before: Option<Stake>, entry: &mut Entry) {
        if before == entry.stake() {
            return;
        }
        let had = before.as_ref().map(|stake| stake.held);
        let has = entry.node.as_ref().map(|_| entry.held);
        if had != has {
            if let Some(had) = had {
                self.shares.give_back(&entry.team, had.into());
            }
            if let Some(has) = has {
                self.shares.take(&entry.team, has.into());
            }
        }
        let old = before.as_ref().and_then(|stake| stake.reservation);
        if let Some(stake) = before {
            match stake.reservation {
                Some(reservation) => {
                    self.fleet.cancel(reservation);
                }
                None => self.fleet.release(&stake.node, &entry.holding(stake.held)),
            }
        }
        if entry.reservation() == old || entry.node.is_none() {
            entry.standing = None;
        }
        if let Some(node) = &entry.node
            && entry.standing.is_none()
        {
            self.node(node);
            self.fleet.allocate(node, &entry.holding(entry.held));
        }
    }

    /// Notes when a reservation of a sandbox is over.
    pub(super) fn note_ending(&mut self, sandbox: &SandboxId, reservation: Reservation) {
        self.endings.push_back(Ending {
            at: Instant::now() + RESERVATION_MAX,
            sandbox: sandbox.clone(),
            reservation,
        });
    }

    /// Ends the reservations whose time is over: nobody said what became of them.
    pub(super) fn end_reservations(&mut self) {
        let now = Instant::now();
        while let Some(ending) = self.endings.front() {
            let entry = self.sandboxes.get(&ending.sandbox);
            let stands = entry.and_then(Entry::reservation) == Some(ending.reservation);
            if stands && ending.at > now {
                break;
            }
            let is_written = entry.is_some_and(|entry| entry.is_written);
            let Some(ending) = self.endings.pop_front().filter(|_| stands) else {
                continue;
            };
            if is_written {
                // It goes on holding its place, by its row.
                self.change(&ending.sandbox, |entry| entry.standing = None);
            } else {
                self.remove(&ending.sandbox);
            }
        }
    }
}

/// All of a gauge in the scale of [`scaled`].
const WHOLE: u64 = 10_000;

/// How much of a gauge is in use, in ten-thousandths.
fn scaled(gauge: Gauge) -> u32 {
    let share = gauge.used.min(gauge.total).saturating_mul(WHOLE) / gauge.total.max(1);
    u32::try_from(share).unwrap_or(0)
}
