//! Nodes that fail get less, then nothing until they recover; nodes that return begin slowly.
//!
//! A node's failure level rises by a quarter of what is missing to the highest with each failed
//! start, falls by an eighth with each that succeeds, and halves each [`HALF_LIFE`] by itself.
//! From [`LEVEL_LESS`] the node may start fewer at a time, in proportion; from [`LEVEL_NONE`] it
//! gets nothing until the level is down at [`LEVEL_BACK`]. Then, as after every return to ready,
//! one may start at a time, and twice as many after each [`RAMP_STEP`].

use std::time::Duration;

use super::amount::SHARE_MAX;
use crate::time::Timestamp;

/// Time in which the failure level halves: a node is out for a minute or two, not for an hour.
pub(super) const HALF_LIFE: Duration = Duration::from_secs(60);

/// Time after which a returning node may start twice as many: longer than a start takes, so that
/// the first ones tell before more are tried.
pub(super) const RAMP_STEP: Duration = Duration::from_secs(2);

/// From here on a node may start less.
const LEVEL_LESS: u32 = SHARE_MAX / 4;

/// From here on it gets nothing: four failures in a row reach 68 %.
const LEVEL_NONE: u32 = SHARE_MAX / 20 * 13;

/// Down to here it has to recover: well below, so that one more failure does not end it again.
const LEVEL_BACK: u32 = SHARE_MAX / 20 * 7;

/// The level is told in so many steps, so that decay alone does not change scores all the time.
const STEPS: u32 = 16;

/// What is known of a node's starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    level: u32,
    /// When the level was that.
    at: Timestamp,
    is_failing: bool,
    /// Since when it may start again; none: for long.
    returned_at: Option<Timestamp>,
    /// When it is looked at again by itself.
    again_at: Option<Timestamp>,
}

/// What follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) reliability: u32,
    pub(super) is_failing: bool,
    pub(super) starts_max: u16,
    /// When to look again; none: not by itself.
    pub(super) again_at: Option<Timestamp>,
    /// When that was to be before.
    pub(super) again_before: Option<Timestamp>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            level: 0,
            at: Timestamp::from_micros(0),
            is_failing: false,
            returned_at: None,
            again_at: None,
        }
    }
}

impl Record {
    /// A start succeeded or failed.
    pub(super) fn note(&mut self, has_failed: bool, now: Timestamp) {
        let level = self.level_at(now);
        self.level = if has_failed {
            level + (SHARE_MAX - level) / 4
        } else {
            level - level / 8
        };
        self.at = now;
    }

    /// Whether any start failed that is not forgotten yet.
    pub(super) const fn has_failed(&self) -> bool {
        self.level > 0
    }

    /// It became ready.
    pub(super) const fn note_return(&mut self, now: Timestamp) {
        self.returned_at = Some(now);
    }

    /// The level after this much decay.
    fn level_at(&self, now: Timestamp) -> u32 {
        let passed = now.saturating_since(self.at).as_millis();
        let half_life = HALF_LIFE.as_millis();
        let halvings = u32::try_from(passed / half_life).unwrap_or(u32::MAX);
        let level = self.level.checked_shr(halvings).unwrap_or(0);
        // Between halvings, on a straight line.
        let rest = u64::try_from(passed % half_life).unwrap_or(0);
        let whole = u64::try_from(half_life).unwrap_or(1);
        let part = u64::from(level / 2) * rest / whole;
        level - u32::try_from(part).unwrap_or(0)
    }

    /// How the node stands now.
    pub(super) fn stand(&mut self, starts_max: u16, now: Timestamp) -> Standing {
        let level = self.level_at(now);
        if level >= LEVEL_NONE {
            self.is_failing = true;
        } else if self.is_failing && level <= LEVEL_BACK {
            self.is_failing = false;
            self.note_return(now);
        }
        let mut limit = u32::from(starts_max);
        if level >= LEVEL_LESS {
            let part = u64::from(limit) * u64::from(SHARE_MAX - level) / u64::from(SHARE_MAX);
            limit = u32::try_from(part).unwrap_or(limit).max(1);
        }
        let mut again_at = (level > SHARE_MAX / STEPS).then(|| now.saturating_add(HALF_LIFE / 8));
        if let Some(since) = self.returned_at {
            let steps = now.saturating_since(since).as_millis() / RAMP_STEP.as_millis();
            let ramp = 1_u32.checked_shl(u32::try_from(steps).unwrap_or(u32::MAX));
            match ramp.filter(|ramp| *ramp < u32::from(starts_max)) {
                Some(ramp) => {
                    limit = limit.min(ramp);
                    let next = now.saturating_add(RAMP_STEP);
                    again_at = Some(again_at.map_or(next, |at| at.min(next)));
                }
                None => self.returned_at = None,
            }
        }
        let step = SHARE_MAX / STEPS;
        Standing {
            reliability: SHARE_MAX - level / step * step,
            is_failing: self.is_failing,
            starts_max: u16::try_from(limit).unwrap_or(starts_max),
            again_at,
            again_before: std::mem::replace(&mut self.again_at, again_at),
        }
    }
}
