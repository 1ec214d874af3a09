//! What changed since the classes were last brought up to date.

/// Changes that wait, at most, before whoever makes one more looks at them: what a decision may
/// find to be done is bounded by this.
pub(super) const WAITING_MAX: usize = 16;

/// What changed about a node, beside its amounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct What(u8);

impl What {
    /// Amounts and measurements only.
    pub(super) const AMOUNTS: Self = Self(1);
    /// Which groups have a sandbox on it.
    pub(super) const GROUPS: Self = Self(1 | 2);
    /// Which artifacts it has.
    pub(super) const ARTIFACTS: Self = Self(1 | 4);
    /// Anything.
    pub(super) const ALL: Self = Self(1 | 2 | 4 | 8);

    const NONE: Self = Self(0);

    /// Whether it covers the other.
    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The slots that changed, each once.
#[derive(Debug)]
pub(super) struct Changes {
    waiting: Vec<u32>,
    /// For each slot.
    what: Vec<What>,
}

impl Changes {
    pub(super) const fn new() -> Self {
        Self {
            waiting: Vec::new(),
            what: Vec::new(),
        }
    }

    /// Takes in one more slot.
    pub(super) fn grow(&mut self) {
        self.what.push(What::NONE);
    }

    /// Notes that a slot changed.
    pub(super) fn note(&mut self, slot: u32, what: What) {
        let known = &mut self.what[slot as usize];
        if *known == What::NONE {
            self.waiting.push(slot);
        }
        known.0 |= what.0;
    }

    /// Whether so many wait that they have to be looked at.
    pub(super) const fn is_due(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// Takes one that waits.
    pub(super) fn take(&mut self) -> Option<(u32, What)> {
        let slot = self.waiting.pop()?;
        let what = std::mem::replace(&mut self.what[slot as usize], What::NONE);
        Some((slot, what))
    }

    pub(super) fn bytes(&self) -> usize {
        self.waiting.capacity() * 4 + self.what.capacity()
    }
}
