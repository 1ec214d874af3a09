//! Room that is held for those who are expected.
//!
//! What is held for one is free for it, and for those who are below their share, which nobody's
//! expectations cut short; everybody else must leave it. Nothing is bound to a node: held is a part
//! of what the fleet has free, so that what anybody ends fills it up again. Telephone networks
//! protect expected calls in this way (trunk reservation; P. B. Key, "Optimal control and trunk
//! reservation in loss networks", 1990): a small reserve is enough, because all that ends goes to
//! it first.

use std::collections::BTreeMap;
use std::fmt;

use super::Key;
use crate::scheduler::amount::{Amount, Dimension};
use crate::scheduler::total::Total;

/// What is held for one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// So many sandboxes.
    pub count: u32,
    /// Of this size each.
    pub each: Amount,
}

impl Hold {
    fn total(self) -> Total {
        Total::times(self.each, self.count)
    }
}

/// Room that is held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reserve {
    held: BTreeMap<Key, Hold>,
    sum: Total,
}

/// A refusal: what is free is held for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Held {
    /// The dimension that is short.
    pub dimension: Dimension,
    /// What is free of it.
    pub free: u64,
    /// What of that is held for others.
    pub for_others: u64,
    /// What the request needs.
    pub needs: u32,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |value: u64| {
            let value = u32::try_from(value).unwrap_or(u32::MAX);
            self.dimension.in_words(value)
        };
        write!(
            f,
            "needs {} of {}; of {} free in the fleet, {} are held for arrivals that are expected \
             of others",
            words(self.needs.into()),
            self.dimension.as_str(),
            words(self.free),
            words(self.for_others.min(self.free)),
        )
    }
}

impl Reserve {
    /// Holds what is needed, and in proportion less if that is more than `limit`.
    #[must_use]
    pub fn new(needs: impl IntoIterator<Item = (Key, Hold)>, limit: Total) -> Self {
        let needs: Vec<_> = needs
            .into_iter()
            .filter(|(_, need)| need.count > 0)
            .collect();
        let wanted = needs.iter().fold(Total::ZERO, |sum, (_, need)| {
            sum.saturating_add(need.total())
        });
        let ratio = |dimension| match (wanted.get(dimension), limit.get(dimension)) {
            (wanted, limit) if wanted > limit => limit as f64 / wanted as f64,
            _ => 1.0,
        };
        let part = Dimension::ALL.map(ratio).into_iter().fold(1.0, f64::min);
        let mut reserve = Self::default();
        // What rounding leaves goes on to the next, so that many small ones get some as well.
        let mut left = 0.0;
        for (key, need) in needs {
            let exact = f64::from(need.count) * part + left;
            let count = super::series::whole(exact).min(need.count);
            left = (exact - f64::from(count)).min(1.0);
            let hold = Hold { count, ..need };
            let sum = reserve.sum.saturating_add(hold.total());
            if count > 0 && sum.fits_in(limit) {
                reserve.sum = sum;
                reserve.held.insert(key, hold);
            }
        }
        reserve
    }

    /// All that is held.
    #[must_use]
    pub const fn total(&self) -> Total {
        self.sum
    }

    /// What is held for each.
    pub fn holds(&self) -> impl Iterator<Item = (&Key, Hold)> {
        self.held.iter().map(|(key, hold)| (key, *hold))
    }

    /// What everybody but this one must leave free.
    #[must_use]
    pub fn for_others(&self, key: &Key) -> Total {
        let own = self.held.get(key).map_or(Total::ZERO, |own| own.total());
        self.sum.saturating_sub(own)
    }

    /// Whether a request may take of what is free in the fleet. `room` is what its team may have
    /// until it has its share: as far as it goes, what is held for others is open to it.
    ///
    /// # Errors
    /// [`Held`] if what it would take is held for others.
    pub fn ask(&self, key: &Key, amount: Amount, free: Total, room: Total) -> Result<(), Held> {
        if Total::from(amount).fits_in(room) {
            return Ok(());
        }
        let for_others = self.for_others(key);
        for dimension in Dimension::ALL {
            let (needs, free) = (amount.get(dimension), free.get(dimension));
            let held = for_others.get(dimension);
            // Without the reserve it would not fit either: that is another refusal.
            let is_there = u64::from(needs) <= free;
            if needs > 0 && held > 0 && is_there && u64::from(needs) + held > free {
                return Err(Held {
                    dimension,
                    free,
                    for_others: held,
                    needs,
                });
            }
        }
        Ok(())
    }

    /// One of those who were expected came: its place is no longer held.
    pub fn take(&mut self, key: &Key) {
        let Some(hold) = self.held.get_mut(key) else {
            return;
        };
        self.sum = self.sum.saturating_sub(hold.each.into());
        hold.count -= 1;
        if hold.count == 0 {
            self.held.remove(key);
        }
    }
}
