//! What changed, in order, for readers who come by when they need it.

/// A log of changed slots that forgets the oldest. A reader keeps the number up to which it read.
#[derive(Debug)]
pub(super) struct Changes {
    ring: Vec<u32>,
    /// The number of the newest entry; the first is 1.
    end: u64,
    /// The furthest that any reader is.
    read: u64,
    /// For each slot, the number of its newest entry.
    last: Vec<u64>,
    /// For each slot, the number of the newest entry that changed more than amounts.
    last_fixed: Vec<u64>,
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
            last_fixed: Vec::new(),
        }
    }

    /// Takes in one more slot. The log holds half as many entries as there are slots: whoever is
    /// further behind looks at all of them for less.
    pub(super) fn grow(&mut self) {
        self.last.push(0);
        self.last_fixed.push(0);
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
        if *last <= self.read {
            self.end += 1;
            *last = self.end;
            let at = place(self.end, self.ring.len());
            self.ring[at] = slot;
        }
        if is_fixed {
            self.last_fixed[slot as usize] = *last;
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

    /// What changed after `seen`, each slot once; none if that is forgotten.
    pub(super) fn since(&self, seen: u64) -> Option<impl Iterator<Item = Changed> + '_> {
        let length = u64::try_from(self.ring.len()).ok()?;
        if self.end - seen > length {
            return None;
        }
        let numbers = seen + 1..=self.end;
        Some(numbers.filter_map(move |number| {
            let slot = self.ring[place(number, self.ring.len())];
            // A later entry of the same slot stands for this one.
            (self.last[slot as usize] == number).then(|| Changed {
                slot,
                is_fixed: self.last_fixed[slot as usize] > seen,
            })
        }))
    }

    pub(super) fn bytes(&self) -> usize {
        self.ring.capacity() * 4 + (self.last.capacity() + self.last_fixed.capacity()) * 8
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
