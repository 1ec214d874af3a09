//! The nodes, what they have given away, and what is known of them.
//!
//! Whoever owns a fleet tells it what happens (nodes, heartbeats, ends of sandboxes) and asks it
//! for decisions. Each decision reserves its place at once, so that the next one sees it. The
//! node's own admission stays the last word: [`Fleet::commit`] when it took the sandbox,
//! [`Fleet::next`](Fleet::next) when it refused. A reservation of which nothing is heard ends by
//! itself.

use std::collections::BTreeSet;
use std::time::Duration;

use super::amount::{Amount, SHARE_MAX};
use super::artifact::Artifact;
use super::change::What;
use super::class::Classes;
use super::lanes::part;
use super::node::Node;
use super::reservation::{ReservationId, Reservations, Reserved};
use super::table::{Table, loads};
use crate::id::NodeId;
use crate::node::NodeState;
use crate::time::Timestamp;

/// What a fleet is run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Classes of requests that are kept up to date. Each costs some bytes a node, and a part of
    /// every change.
    pub classes_max: usize,
    /// How long a reservation holds unless the node's answer comes: longer than any create takes.
    pub reservation_ttl: Duration,
    /// How much measured use counts beside allocation, in percent.
    pub blend_percent: u32,
    /// Measured use of cpu or memory, in percent, from which on a node gets nothing.
    pub pressure_percent: u32,
    /// Whether a node's record of failed starts alone can have it get nothing. If not,
    /// [`Fleet::set_failing`] says so, and the record counts in scores and start slots only.
    pub judges_failures: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            classes_max: 128,
            reservation_ttl: Duration::from_secs(60),
            blend_percent: 25,
            pressure_percent: 97,
            judges_failures: true,
        }
    }
}

/// What a sandbox holds of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holding {
    /// What it takes.
    pub amount: Amount,
    /// The groups it belongs to.
    pub groups: Vec<String>,
}

/// What a fleet is, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Nodes.
    pub nodes: usize,
    /// Reservations that wait for an answer.
    pub reservations: usize,
    /// Classes that are kept up to date.
    pub classes: usize,
    /// Classes that were ever made.
    pub classes_made: u64,
    /// Bytes of what grows with the nodes.
    pub bytes: usize,
}

/// The nodes and what they have given away.
#[derive(Debug)]
pub struct Fleet {
    pub(super) table: Table,
    pub(super) classes: Classes,
    reservations: Reservations,
    /// When to look at a node again by itself.
    timers: BTreeSet<(Timestamp, u32)>,
    config: Config,
    /// Nodes that decisions looked at one by one.
    pub(super) looks: u64,
    /// The latest time heard of: time does not go back.
    now: Timestamp,
}

impl Fleet {
    /// A fleet without nodes.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            table: Table::new(part(config.blend_percent.min(100) * (SHARE_MAX / 100))),
            classes: Classes::new(config.classes_max),
            reservations: Reservations::new(),
            timers: BTreeSet::new(),
            config,
            looks: 0,
            now: Timestamp::from_micros(i64::MIN),
        }
    }

    /// Adds a node, which is not ready yet, or describes one anew.
    pub fn put_node(&mut self, node: Node, now: Timestamp) {
        self.advance(now);
        let slot = self.table.put(node);
        self.stand(slot);
        self.settle_if_due();
    }

    /// Forgets a node with all that it holds.
    pub fn remove_node(&mut self, id: &NodeId) {
        if let Some(slot) = self.table.slot(id) {
            for reserved in self.reservations.take_on(slot) {
                for group in reserved.groups {
                    self.table.groups.release(group);
                }
            }
            self.timers.retain(|(_, other)| *other != slot);
            self.table.take(slot);
            self.settle_if_due();
        }
    }

    /// Notes how a node stands. One that becomes ready begins slowly.
    pub fn set_state(&mut self, id: &NodeId, state: NodeState, now: Timestamp) {
        self.advance(now);
        let now = self.now;
        let Some(slot) = self.table.slot(id) else {
            return;
        };
        let Some(cold) = self.table.cold_mut(slot) else {
            return;
        };
        if cold.state == state {
            return;
        }
        if state == NodeState::Ready {
            cold.record.note_return(now);
        }
        cold.state = state;
        self.table.changes.note(slot, What::ALL);
        self.stand(slot);
        self.settle_if_due();
    }

    /// Takes over what a node measured of itself.
    pub fn heartbeat(&mut self, id: &NodeId, used: Amount) {
        let Some(slot) = self.table.slot(id) else {
            return;
        };
        let Some(cold) = self.table.cold(slot) else {
            return;
        };
        let load = loads(used, cold.node.total);
        let limit = self.config.pressure_percent * (SHARE_MAX / 100);
        let row = self.table.row_mut(slot);
        let is_pressed = load[0] >= limit || load[1] >= limit;
        if row.has_load && row.load == load && row.is_pressed == is_pressed {
            return;
        }
        (row.load, row.has_load, row.is_pressed) = (load, true, is_pressed);
        self.table.changes.note(slot, What::AMOUNTS);
        self.settle_if_due();
    }

    /// Notes that a node has an artifact, or has it no more.
    pub fn set_artifact(&mut self, id: &NodeId, artifact: &Artifact, has: bool) {
        if let Some(slot) = self.table.slot(id) {
            self.table.set_artifact(slot, artifact, has);
            self.settle_if_due();
        }
    }

    /// Notes that a start on a node failed, or succeeded without a reservation.
    pub fn note_start(&mut self, id: &NodeId, has_failed: bool, now: Timestamp) {
        self.advance(now);
        if let Some(slot) = self.table.slot(id) {
            self.note_outcome(slot, has_failed);
        }
    }

    /// Takes over from whoever watches a node's starts whether it fails: then it gets
    /// nothing but requests that spare nobody.
    pub fn set_failing(&mut self, id: &NodeId, is_failing: bool, now: Timestamp) {
        self.advance(now);
        if let Some(slot) = self.table.slot(id)
            && let Some(cold) = self.table.cold_mut(slot)
            && cold.is_failing != is_failing
        {
            cold.is_failing = is_failing;
            self.stand(slot);
        }
    }

    /// Accounts for a sandbox that is on a node already.
    pub fn allocate(&mut self, id: &NodeId, holding: &Holding) {
        let Some(slot) = self.table.slot(id) else {
            return;
        };
        let row = self.table.row_mut(slot);
        row.used = row.used.saturating_add(holding.amount);
        row.sandboxes += 1;
        for group in &holding.groups {
            let number = self.table.groups.retain(group);
            self.table.add_group(slot, number);
            self.table.groups.release(number);
        }
        self.table.changes.note(slot, What::AMOUNTS);
        self.settle_if_due();
    }

    /// Gives back what a sandbox held.
    pub fn release(&mut self, id: &NodeId, holding: &Holding) {
        let Some(slot) = self.table.slot(id) else {
            return;
        };
        let row = self.table.row_mut(slot);
        row.used = row.used.saturating_sub(holding.amount);
        row.sandboxes = row.sandboxes.saturating_sub(1);
        for group in &holding.groups {
            if let Some(number) = self.table.groups.get(group) {
                self.table.subtract_group(slot, number);
            }
        }
        self.table.changes.note(slot, What::AMOUNTS);
        self.settle_if_due();
    }

    /// The node took the sandbox: what was reserved is its own from now on. Answers whether the
    /// reservation still stood; if not, [`Fleet::allocate`] accounts for it.
    pub fn commit(&mut self, reservation: ReservationId, now: Timestamp) -> bool {
        self.advance(now);
        let Some(reserved) = self.reservations.take(reservation) else {
            return false;
        };
        let row = self.table.row_mut(reserved.slot);
        row.starting = row.starting.saturating_sub(1);
        for group in reserved.groups {
            self.table.groups.release(group);
        }
        self.note_outcome(reserved.slot, false);
        true
    }

    /// Gives back what was reserved. Answers whether it still stood.
    pub fn cancel(&mut self, reservation: ReservationId) -> bool {
        let reserved = self.reservations.take(reservation);
        reserved.map(|reserved| self.give_back(reserved)).is_some()
    }

    /// Lets time pass: reservations end, nodes recover.
    pub fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        while let Some(reserved) = self.reservations.take_ended(self.now) {
            self.give_back(reserved);
        }
        while let Some((at, slot)) = self.timers.first().copied()
            && at <= self.now
        {
            self.timers.pop_first();
            self.stand(slot);
        }
    }

    /// What may be allocated on a node and what is, reservations included; none: no such node.
    #[must_use]
    pub fn account(&self, id: &NodeId) -> Option<(Amount, Amount)> {
        let row = self.table.row(self.table.slot(id)?);
        Some((row.allocatable, row.used))
    }

    /// How many sandboxes a node has, and how many of them are starting; none: no such node.
    #[must_use]
    pub fn sandboxes(&self, id: &NodeId) -> Option<(u32, u16)> {
        let row = self.table.row(self.table.slot(id)?);
        Some((row.sandboxes, row.starting))
    }

    /// How many nodes were ever looked at, by changes and by decisions.
    #[must_use]
    pub const fn looks(&self) -> u64 {
        self.looks + self.classes.looks()
    }

    /// What the fleet is, in numbers.
    #[must_use]
    pub fn size(&self) -> Size {
        Size {
            nodes: self.table.nodes(),
            reservations: self.reservations.len(),
            classes: self.classes.len(),
            classes_made: self.classes.made(),
            bytes: self.table.bytes() + self.classes.bytes(),
        }
    }

    /// Brings all classes up to date, as every decision does first.
    pub fn settle(&mut self) {
        self.classes.refresh(&mut self.table);
    }

    /// Looks at what changed if much did: nobody who decides pays for it.
    fn settle_if_due(&mut self) {
        if self.table.changes.is_due() {
            self.settle();
        }
    }

    /// Gives a place away until the node answers.
    pub(super) fn reserve(
        &mut self,
        slot: u32,
        amount: Amount,
        groups: &[String],
    ) -> ReservationId {
        let row = self.table.row_mut(slot);
        row.used = row.used.saturating_add(amount);
        row.sandboxes += 1;
        row.starting += 1;
        let numbers = groups.iter().map(|group| {
            let number = self.table.groups.retain(group);
            self.table.add_group(slot, number);
            number
        });
        let groups = numbers.collect();
        self.table.changes.note(slot, What::AMOUNTS);
        self.reservations.add(Reserved {
            slot,
            amount,
            groups,
            ends_at: self.now.saturating_add(self.config.reservation_ttl),
        })
    }

    fn give_back(&mut self, reserved: Reserved) {
        let row = self.table.row_mut(reserved.slot);
        row.used = row.used.saturating_sub(reserved.amount);
        row.sandboxes = row.sandboxes.saturating_sub(1);
        row.starting = row.starting.saturating_sub(1);
        for group in reserved.groups {
            self.table.subtract_group(reserved.slot, group);
            self.table.groups.release(group);
        }
        self.table.changes.note(reserved.slot, What::AMOUNTS);
        self.settle_if_due();
    }

    fn note_outcome(&mut self, slot: u32, has_failed: bool) {
        let now = self.now;
        if let Some(cold) = self.table.cold_mut(slot) {
            // A node without failures has nothing to be told of success.
            if has_failed || cold.record.has_failed() {
                cold.record.note(has_failed, now);
                return self.stand(slot);
            }
        }
        self.table.changes.note(slot, What::AMOUNTS);
    }

    /// Works out what a node's record means now.
    fn stand(&mut self, slot: u32) {
        let now = self.now;
        let Some(cold) = self.table.cold_mut(slot) else {
            return;
        };
        let standing = cold.record.stand(cold.node.starts_max, now);
        let is_failing = cold.is_failing || standing.is_failing && self.config.judges_failures;
        let row = self.table.row_mut(slot);
        let before = (row.reliability, row.is_failing, row.starts_max);
        row.reliability = standing.reliability;
        row.is_failing = is_failing;
        row.starts_max = standing.starts_max;
        if before != (row.reliability, row.is_failing, row.starts_max) {
            self.table.changes.note(slot, What::AMOUNTS);
            self.settle_if_due();
        }
        if let Some(at) = standing.again_before {
            self.timers.remove(&(at, slot));
        }
        if let Some(at) = standing.again_at {
            self.timers.insert((at, slot));
        }
    }
}
