//! What one team may have at once, and how fast it may ask.
//!
//! The store counts; this module says what counts and when the answer is no, so that every store
//! and every door refuses alike. A sandbox's [`Charge`] follows from its state and its size alone:
//! each change of state moves the team's [`Usage`] by the difference of two charges, and what
//! raises it (a new sandbox, a resume) asks [`admit`] first, in the same transaction.

use std::fmt;
use std::num::NonZeroU32;

use crate::resources::Resources;
use crate::sandbox::State;

/// How fast a team may ask: so many a second on average, so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// What is given back a second.
    pub per_second: NonZeroU32,
    /// How many may come at once after a pause.
    pub burst: NonZeroU32,
}

/// A team's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sandboxes that are not paused and not on their way out.
    pub concurrent_sandboxes: u32,
    /// CPU of all its sandboxes together, in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory of all its sandboxes together, in MiB.
    pub memory_mib: u64,
    /// Disk of all its sandboxes together, in MiB.
    pub disk_mib: u64,
    /// Creates.
    pub creates: Rate,
    /// Requests of any kind.
    pub requests: Rate,
}

/// What an operator set for one team; what is none is the installation's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overrides {
    /// In the place of [`Limits::concurrent_sandboxes`].
    pub concurrent_sandboxes: Option<u32>,
    /// In the place of [`Limits::cpu_millis`].
    pub cpu_millis: Option<u64>,
    /// In the place of [`Limits::memory_mib`].
    pub memory_mib: Option<u64>,
    /// In the place of [`Limits::disk_mib`].
    pub disk_mib: Option<u64>,
    /// In the place of [`Limits::creates`].
    pub creates: Option<Rate>,
    /// In the place of [`Limits::requests`].
    pub requests: Option<Rate>,
}

impl Overrides {
    /// The limits that hold for the team.
    #[must_use]
    pub fn over(self, defaults: Limits) -> Limits {
        Limits {
            concurrent_sandboxes: self
                .concurrent_sandboxes
                .unwrap_or(defaults.concurrent_sandboxes),
            cpu_millis: self.cpu_millis.unwrap_or(defaults.cpu_millis),
            memory_mib: self.memory_mib.unwrap_or(defaults.memory_mib),
            disk_mib: self.disk_mib.unwrap_or(defaults.disk_mib),
            creates: self.creates.unwrap_or(defaults.creates),
            requests: self.requests.unwrap_or(defaults.requests),
        }
    }
}

/// What sandboxes count against a team's limits: one sandbox's share, or a team's sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Charge {
    /// Places among the concurrent sandboxes.
    pub places: u64,
    /// CPU, in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Disk, in MiB.
    pub disk_mib: u64,
}

/// What a team has.
pub type Usage = Charge;

impl Charge {
    /// What a sandbox of this size takes in this state. `keep_memory` matters while it is paused.
    ///
    /// One that is on its way out no longer counts: its owner was told that it is gone.
    #[must_use]
    pub const fn of(state: State, size: Resources, keep_memory: bool) -> Self {
        match state {
            State::Pending
            | State::Creating
            | State::Running
            | State::Pausing
            | State::Resuming => Self::taking(1, size),
            State::Paused => Self::taking(0, size.held_when_paused(keep_memory)),
            State::Stopping | State::Stopped | State::Error => Self {
                places: 0,
                cpu_millis: 0,
                memory_mib: 0,
                disk_mib: 0,
            },
        }
    }

    const fn taking(places: u64, size: Resources) -> Self {
        Self {
            places,
            cpu_millis: size.cpu_millis as u64,
            memory_mib: size.memory_mib as u64,
            disk_mib: size.disk_mib as u64,
        }
    }

    /// What is left of `self` when `other` no longer counts: never less than nothing.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self {
            places: self.places.saturating_sub(other.places),
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
            disk_mib: self.disk_mib.saturating_sub(other.disk_mib),
        }
    }

    /// Both together.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self {
            places: self.places.saturating_add(other.places),
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            disk_mib: self.disk_mib.saturating_add(other.disk_mib),
        }
    }
}

/// One of the limits on what a team has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quota {
    /// [`Limits::concurrent_sandboxes`].
    ConcurrentSandboxes,
    /// [`Limits::cpu_millis`].
    Cpu,
    /// [`Limits::memory_mib`].
    Memory,
    /// [`Limits::disk_mib`].
    Disk,
}

impl Quota {
    /// Its name, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConcurrentSandboxes => "concurrent_sandboxes",
            Self::Cpu => "cpu_millis",
            Self::Memory => "memory_mib",
            Self::Disk => "disk_mib",
        }
    }
}

/// A limit that leaves no room for what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Exceeded {
    /// Which limit.
    pub quota: Quota,
    /// How much of it is used.
    pub used: u64,
    /// How much more was asked for.
    pub wanted: u64,
    /// The limit.
    pub limit: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            quota,
            used,
            wanted,
            limit,
        } = self;
        match quota {
            // The wording up to the bracket is E2B's, which clients look for.
            Quota::ConcurrentSandboxes => write!(
                f,
                "you have reached the maximum number of concurrent E2B sandboxes ({limit}): \
                 {used} of {limit} are in use"
            ),
            Quota::Cpu => write!(
                f,
                "the team's cpu quota leaves no room: {used} of {limit} millicores are in use, \
                 {wanted} more were asked for"
            ),
            Quota::Memory => write!(
                f,
                "the team's memory quota leaves no room: {used} of {limit} MiB are in use, \
                 {wanted} more were asked for"
            ),
            Quota::Disk => write!(
                f,
                "the team's disk quota leaves no room: {used} of {limit} MiB are in use, \
                 {wanted} more were asked for"
            ),
        }
    }
}

/// Whether a team that uses `usage` may use `more` as well; answers what it uses then.
///
/// Only what is asked for is checked: a team above a limit that was lowered meanwhile may still do
/// what takes none of it.
///
/// # Errors
/// The first limit that leaves no room, in the order of [`Quota`].
pub fn admit(limits: Limits, usage: Usage, more: Charge) -> Result<Usage, Exceeded> {
    let places = u64::from(limits.concurrent_sandboxes);
    for (quota, used, wanted, limit) in [
        (
            Quota::ConcurrentSandboxes,
            usage.places,
            more.places,
            places,
        ),
        (
            Quota::Cpu,
            usage.cpu_millis,
            more.cpu_millis,
            limits.cpu_millis,
        ),
        (
            Quota::Memory,
            usage.memory_mib,
            more.memory_mib,
            limits.memory_mib,
        ),
        (Quota::Disk, usage.disk_mib, more.disk_mib, limits.disk_mib),
    ] {
        let after = used.saturating_add(wanted);
        if wanted > 0 && after > limit {
            return Err(Exceeded {
                quota,
                used,
                wanted,
                limit,
            });
        }
    }
    Ok(usage.saturating_add(more))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Resources = Resources {
        cpu_millis: 2_000,
        memory_mib: 512,
        disk_mib: 1_024,
    };

    fn rate(per_second: u32) -> Rate {
        let per_second = NonZeroU32::new(per_second).unwrap();
        Rate {
            per_second,
            burst: per_second,
        }
    }

    fn limits() -> Limits {
        Limits {
            concurrent_sandboxes: 3,
            cpu_millis: 5_000,
            memory_mib: 1_500,
            disk_mib: 4_096,
            creates: rate(1),
            requests: rate(10),
        }
    }

    fn one() -> Charge {
        Charge::of(State::Pending, SIZE, false)
    }

    #[test]
    fn the_last_place_is_given_and_no_more() {
        let mut limits = limits();
        limits.cpu_millis = 6_000;
        limits.memory_mib = 1_536;
        let two = one().saturating_add(one());
        let three = admit(limits, two, one()).unwrap();
        assert_eq!(three.places, 3);
        let refused = admit(limits, three, one()).unwrap_err();
        assert_eq!(
            (refused.quota, refused.used, refused.limit),
            (Quota::ConcurrentSandboxes, 3, 3)
        );
        assert!(refused.to_string().contains("sandboxes (3): 3 of 3"));
    }

    #[test]
    fn each_sum_is_a_limit_of_its_own() {
        let two = one().saturating_add(one());
        let refused = admit(limits(), two, one()).unwrap_err();
        assert_eq!((refused.quota, refused.wanted), (Quota::Cpu, 2_000));
        let mut roomy = limits();
        roomy.cpu_millis = 6_000;
        let refused = admit(roomy, two, one()).unwrap_err();
        assert_eq!((refused.quota, refused.used), (Quota::Memory, 1_024));
        roomy.memory_mib = u64::MAX;
        roomy.disk_mib = 3_071;
        let refused = admit(roomy, two, one()).unwrap_err();
        assert_eq!((refused.quota, refused.limit), (Quota::Disk, 3_071));
        roomy.disk_mib += 1;
        assert_eq!(admit(roomy, two, one()).unwrap().disk_mib, 3_072);
    }

    #[test]
    fn what_a_paused_one_holds_counts_and_its_resume_asks_for_the_rest() {
        let paused = Charge::of(State::Paused, SIZE, true);
        assert_eq!(
            (paused.places, paused.cpu_millis, paused.memory_mib),
            (0, 0, 512)
        );
        assert_eq!(Charge::of(State::Paused, SIZE, false).memory_mib, 0);
        let resuming = Charge::of(State::Resuming, SIZE, true);
        let more = resuming.saturating_sub(paused);
        assert_eq!((more.places, more.cpu_millis), (1, 2_000));
        assert_eq!((more.memory_mib, more.disk_mib), (0, 0));
        assert_eq!(paused.saturating_add(more), resuming);
    }

    #[test]
    fn a_lowered_limit_refuses_only_what_takes_of_it() {
        let usage = Charge {
            places: 1,
            cpu_millis: 9_000,
            memory_mib: 0,
            disk_mib: 0,
        };
        let more = Charge {
            memory_mib: 1,
            ..Charge::default()
        };
        assert!(admit(limits(), usage, more).is_ok());
        assert_eq!(admit(limits(), usage, one()).unwrap_err().quota, Quota::Cpu);
    }

    #[test]
    fn an_override_replaces_its_limit_alone() {
        let overrides = Overrides {
            memory_mib: Some(7),
            creates: Some(rate(5)),
            ..Overrides::default()
        };
        let changed = overrides.over(limits());
        assert_eq!(
            changed,
            Limits {
                memory_mib: 7,
                creates: rate(5),
                ..limits()
            }
        );
        assert_eq!(Overrides::default().over(limits()), limits());
    }
}
