//! What changed, in order, for readers who come by when they need it.

/// A log of changed slots that forgets the oldest. A reader keeps the number up to which it read.
#[derive(Debug)]
pub(super) struct Changes {
    ring: Vec<u32>,
    /// The number of the newest entry; the first is 1.
    end: u64,
    /// The furthest that any reader is.
    read: u64,
    /// For each slot.
    last: Vec<Last>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Last {
    /// The number of its newest entry.
    any: u64,
    /// The number of its newest entry that changed more than amounts.
    fixed: u64,
}

/// A slot to look at again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changed {
    pub(super) slot: u32,
    /// More than amounts changed.
    pub(super) is_fixed: bool,
}

/// The shortest log: small fleets change as often as large ones.
const RING_MIN: usize = 256;

impl Changes {
    pub(super) fn new() -> Self {
        Self {
            ring: vec![0; RING_MIN],
            end: 0,
            read: 0,
            last: Vec::new(),
        }
    }

    /// Takes in one more slot. The log holds about half as many entries as there are slots: whoever
    /// is further behind compares every slot's number for less.
    pub(super) fn grow(&mut self) {
        self.last.push(Last::default());
        let wanted = (self.last.len() / 2).next_power_of_two().max(RING_MIN);
        if wanted > self.ring.len() {
            // Old entries stand at other places now. No reader may use them.
            self.ring = vec![0; wanted];
            self.end += u64::try_from(wanted).unwrap_or(0) + 1;
            self.read = self.end;
        }
    }

    /// Notes that a slot changed; `is_fixed` if more than amounts did.
    pub(super) fn note(&mut self, slot: u32, is_fixed: bool) {
        let last = &mut self.last[slot as usize];
        if last.any <= self.read {
            self.end += 1;
            last.any = self.end;
            let at = place(self.end, self.ring.len());
            self.ring[at] = slot;
        }
        if is_fixed {
            last.fixed = last.any;
        }
    }

    /// The number of the newest entry.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Marks everything as read by somebody.
    pub(super) const fn mark_read(&mut self) {
        self.read = self.end;
    }

    /// What changed after `seen`, each slot once.
    pub(super) fn since(&self, seen: u64) -> Since<'_> {
        let length = u64::try_from(self.ring.len()).unwrap_or(0);
        let is_remembered = self.end - seen <= length;
        Since {
            changes: self,
            seen,
            is_remembered,
            // Numbers if they are remembered, slots otherwise.
            next: if is_remembered { seen + 1 } else { 0 },
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.ring.capacity() * 4 + self.last.capacity() * size_of::<Last>()
    }
}

/// What changed, for one reader.
pub(super) struct Since<'a> {
    changes: &'a Changes,
    seen: u64,
    is_remembered: bool,
    next: u64,
}

impl Iterator for Since<'_> {
    type Item = Changed;

    fn next(&mut self) -> Option<Changed> {
        let changes = self.changes;
        let slot = loop {
            let next = self.next;
            self.next += 1;
            if self.is_remembered {
                if next > changes.end {
                    return None;
                }
                let slot = changes.ring[place(next, changes.ring.len())];
                // A later entry of the same slot stands for this one.
                if changes.last[slot as usize].any == next {
                    break slot;
                }
            } else {
                // So many changes that a look at every slot's number is less than their sum.
                let slot = u32::try_from(next).ok()?;
                if changes.last.get(slot as usize)?.any > self.seen {
                    break slot;
                }
            }
        };
        Some(Changed {
            slot,
            is_fixed: changes.last[slot as usize].fixed > self.seen,
        })
    }
}

/// Where an entry stands in a ring whose length is a power of two.
#[expect(
    clippy::cast_possible_truncation,
    reason = "masked to the length of the ring"
)]
const fn place(number: u64, length: usize) -> usize {
    (number as usize) & (length - 1)
}
