//! What one team may have at once.
//!
//! The store counts; this module says what counts and when the answer is no, so that every store
//! and every door refuses alike.

use crate::sandbox::State;

/// A team's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sandboxes that are not paused and not on their way out.
    pub concurrent_sandboxes: u32,
}

/// What a team has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Sandboxes for which [`is_counted`] holds.
    pub concurrent_sandboxes: u32,
}

/// A limit that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {limit} concurrent sandboxes is used up")]
pub struct Exceeded {
    /// The limit.
    pub limit: u32,
}

/// Whether a sandbox in this state counts as concurrent.
///
/// One that is on its way out no longer counts: its owner was told that it is gone.
#[must_use]
pub const fn is_counted(state: State) -> bool {
    match state {
        State::Pending | State::Creating | State::Running | State::Pausing | State::Resuming => {
            true
        }
        State::Paused | State::Stopping | State::Stopped | State::Error => false,
    }
}

/// Whether one more sandbox may be made.
///
/// # Errors
/// [`Exceeded`] with the limit.
pub const fn admit_one(limits: Limits, usage: Usage) -> Result<(), Exceeded> {
    if usage.concurrent_sandboxes < limits.concurrent_sandboxes {
        Ok(())
    } else {
        Err(Exceeded {
            limit: limits.concurrent_sandboxes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_place_is_given_and_no_more() {
        let limits = Limits {
            concurrent_sandboxes: 2,
        };
        let with = |n| Usage {
            concurrent_sandboxes: n,
        };
        assert_eq!(admit_one(limits, with(1)), Ok(()));
        assert_eq!(admit_one(limits, with(2)), Err(Exceeded { limit: 2 }));
        assert_eq!(admit_one(limits, with(3)), Err(Exceeded { limit: 2 }));
    }
}
