//! Sums of amounts over a fleet or a team, which are wider than one node's.

use super::amount::{Amount, DIMENSIONS, Dimension};

/// A sum of amounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Total([u64; DIMENSIONS]);

impl Total {
    /// Nothing.
    pub const ZERO: Self = Self([0; DIMENSIONS]);

    /// So many times an amount.
    #[must_use]
    pub fn times(amount: Amount, count: u32) -> Self {
        Self(
            amount
                .values()
                .map(|value| u64::from(value) * u64::from(count)),
        )
    }

    /// The sum of one dimension.
    #[must_use]
    pub const fn get(self, dimension: Dimension) -> u64 {
        self.0[dimension.index()]
    }

    pub(super) const fn values(self) -> [u64; DIMENSIONS] {
        self.0
    }

    /// Whether there is nothing of any dimension.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// Each dimension's value and its counterpart, combined.
    #[must_use]
    pub fn zip(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|i| combine(self.0[i], other.0[i])))
    }

    /// Sum; stops at the largest number.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// Difference; stops at zero.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    /// So many percent of it, rounded down.
    #[must_use]
    pub fn percent(self, percent: u32) -> Self {
        self.zip(Self::ZERO, |value, _| {
            let part = u128::from(value) * u128::from(percent) / 100;
            u64::try_from(part).unwrap_or(u64::MAX)
        })
    }

    /// How many of these it is enough for.
    #[must_use]
    pub fn holds(self, amount: Amount) -> u32 {
        let each = amount.values().iter().zip(self.0);
        let counts = each.filter(|(each, _)| **each > 0);
        let least = counts.map(|(each, whole)| whole / u64::from(*each)).min();
        u32::try_from(least.unwrap_or(u64::MAX)).unwrap_or(u32::MAX)
    }

    /// Whether every dimension is at most `room`'s.
    #[must_use]
    pub fn fits_in(self, room: Self) -> bool {
        self.0.iter().zip(room.0).all(|(part, of)| *part <= of)
    }

    /// The dimension of which this is the largest part of `whole`, and that part, 0 to 1; 1 of a
    /// dimension that `whole` lacks if there is anything of it here.
    #[must_use]
    pub fn dominant(self, whole: Self) -> (Dimension, f64) {
        let mut dominant = (Dimension::Cpu, 0.0);
        for dimension in Dimension::ALL {
            let part = self.part(dimension, whole);
            if part > dominant.1 {
                dominant = (dimension, part);
            }
        }
        dominant
    }

    /// The part of `whole` in one dimension, 0 to 1.
    #[must_use]
    pub fn part(self, dimension: Dimension, whole: Self) -> f64 {
        match (self.get(dimension), whole.get(dimension)) {
            (0, _) => 0.0,
            (_, 0) => 1.0,
            (part, of) => (part as f64 / of as f64).min(1.0),
        }
    }

    /// This part of it, 0 to 1, rounded up: a claim is never told smaller than it is.
    #[must_use]
    pub(super) fn scaled(self, part: f64) -> Self {
        self.zip(Self::ZERO, |value, _| {
            let scaled = (value as f64 * part.clamp(0.0, 1.0)).ceil();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and what it was; a cast stops at the bounds"
            )]
            let scaled = scaled as u64;
            scaled
        })
    }
}

impl From<Amount> for Total {
    fn from(amount: Amount) -> Self {
        Self::times(amount, 1)
    }
}
