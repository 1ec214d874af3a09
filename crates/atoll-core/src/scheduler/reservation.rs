//! What is given away until the node has answered. A reservation that nobody confirms ends.
//!
//! All live equally long, so the oldest ends first: a list through the slab keeps that order, and
//! everything is one step.

use super::amount::Amount;
use crate::time::Timestamp;

/// Names a reservation; never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReservationId {
    index: u32,
    turn: u32,
}

/// What is reserved where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reserved {
    pub(super) slot: u32,
    pub(super) amount: Amount,
    /// The numbers of its groups, each of them used once.
    pub(super) groups: Vec<u32>,
    pub(super) ends_at: Timestamp,
}

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Entry {
    turn: u32,
    before: u32,
    after: u32,
    reserved: Option<Reserved>,
}

#[derive(Debug)]
pub(super) struct Reservations {
    entries: Vec<Entry>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
}

impl Reservations {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Adds one, which ends no sooner than any other.
    pub(super) fn add(&mut self, reserved: Reserved) -> ReservationId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry {
                turn: 0,
                before: NONE,
                after: NONE,
                reserved: None,
            });
            u32::try_from(self.entries.len() - 1).unwrap_or(NONE)
        });
        let before = std::mem::replace(&mut self.newest, index);
        if let Some(before) = self.entries.get_mut(before as usize) {
            before.after = index;
        } else {
            self.oldest = index;
        }
        let entry = &mut self.entries[index as usize];
        entry.turn = entry.turn.wrapping_add(1);
        entry.before = before;
        entry.after = NONE;
        entry.reserved = Some(reserved);
        ReservationId {
            index,
            turn: entry.turn,
        }
    }

    /// Takes one out; none if it ended.
    pub(super) fn take(&mut self, id: ReservationId) -> Option<Reserved> {
        let entry = self.entries.get_mut(id.index as usize)?;
        if entry.turn != id.turn {
            return None;
        }
        let reserved = entry.reserved.take()?;
        let (before, after) = (entry.before, entry.after);
        match self.entries.get_mut(before as usize) {
            Some(entry) => entry.after = after,
            None => self.oldest = after,
        }
        match self.entries.get_mut(after as usize) {
            Some(entry) => entry.before = before,
            None => self.newest = before,
        }
        self.free.push(id.index);
        Some(reserved)
    }

    /// Takes out the oldest one if its time is over.
    pub(super) fn take_ended(&mut self, now: Timestamp) -> Option<Reserved> {
        let entry = self.entries.get(self.oldest as usize)?;
        let is_over = entry.reserved.as_ref().is_some_and(|r| r.ends_at <= now);
        let id = ReservationId {
            index: self.oldest,
            turn: entry.turn,
        };
        if is_over { self.take(id) } else { None }
    }

    /// Takes out all on a slot.
    pub(super) fn take_on(&mut self, slot: u32) -> Vec<Reserved> {
        let on = |(index, entry): (usize, &Entry)| {
            let is_on = entry.reserved.as_ref().is_some_and(|r| r.slot == slot);
            is_on.then(|| ReservationId {
                index: u32::try_from(index).unwrap_or(NONE),
                turn: entry.turn,
            })
        };
        let ids: Vec<_> = self.entries.iter().enumerate().filter_map(on).collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }
}
