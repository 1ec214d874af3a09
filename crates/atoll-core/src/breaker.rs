//! A circuit breaker: stops asking a target that keeps failing, and lets one request through from
//! time to time to see whether it has recovered.
//!
//! ```text
//!            failures in a row             cool-off passed
//!   closed ──────────────────────▶ open ──────────────────▶ half-open
//!     ▲                             ▲   the probe fails:       │ │
//!     │                             └── longer cool-off ◀──────┘ │
//!     └───────────────────── the probe succeeds ◀────────────────┘
//! ```
//!
//! Written here because the crates for this wrap the call and read the clock themselves: the
//! scheduler has to ask whether a node may be chosen without making a call, and the simulator has
//! to set the time. The time is any duration that only grows, such as that since the start.

use std::time::Duration;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open at first. Doubles with each probe that fails.
    pub cool_off: Duration,
    /// The longest it stays open.
    pub cool_off_max: Duration,
    /// How long a probe is waited for before another one may go.
    pub probe: Duration,
}

/// How a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Everything may pass.
    Closed,
    /// Nothing may.
    Open,
    /// One request may.
    HalfOpen,
}

impl State {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// One target's breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    policy: Policy,
    /// Failures since the last success.
    failures: u32,
    /// Set while it is not closed: when it was opened last, for how long, and the probe under way.
    tripped: Option<Tripped>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tripped {
    at: Duration,
    cool_off: Duration,
    /// When the last probe went.
    probed_at: Option<Duration>,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self {
            policy,
            failures: 0,
            tripped: None,
        }
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self, now: Duration) -> State {
        match self.tripped {
            None => State::Closed,
            Some(tripped) if now.saturating_sub(tripped.at) < tripped.cool_off => State::Open,
            Some(_) => State::HalfOpen,
        }
    }

    /// Failures since the last success.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether a request may pass now.
    #[must_use]
    pub fn allows(&self, now: Duration) -> bool {
        let is_probed = self.tripped.and_then(|tripped| tripped.probed_at);
        match self.state(now) {
            State::Closed => true,
            State::Open => false,
            State::HalfOpen => {
                is_probed.is_none_or(|at| now.saturating_sub(at) >= self.policy.probe)
            }
        }
    }

    /// Lets a request pass if one may: the first in the half-open state is the probe. Whoever is
    /// let through tells how it ended.
    pub fn admit(&mut self, now: Duration) -> bool {
        let is_allowed = self.allows(now);
        let is_probe = self.state(now) == State::HalfOpen;
        if is_allowed
            && is_probe
            && let Some(tripped) = &mut self.tripped
        {
            tripped.probed_at = Some(now);
        }
        is_allowed
    }

    /// A request succeeded: it is closed.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
        self.tripped = None;
    }

    /// A request failed. One that was under way when it opened changes nothing any more.
    pub fn failed(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        match (self.state(now), self.tripped) {
            (State::Closed, _) | (_, None) => {
                if self.failures >= self.policy.failures {
                    self.trip(now, self.policy.cool_off);
                }
            }
            (State::Open, Some(_)) => {}
            (State::HalfOpen, Some(tripped)) => {
                let longer = tripped.cool_off.saturating_mul(2);
                self.trip(now, longer.min(self.policy.cool_off_max));
            }
        }
    }

    const fn trip(&mut self, now: Duration, cool_off: Duration) {
        self.tripped = Some(Tripped {
            at: now,
            cool_off,
            probed_at: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        failures: 3,
        cool_off: Duration::from_secs(5),
        cool_off_max: Duration::from_secs(15),
        probe: Duration::from_secs(60),
    };

    const fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(POLICY);
        for _ in 0..3 {
            breaker.failed(at(0));
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut breaker = Breaker::new(POLICY);
        for _ in 0..2 {
            breaker.failed(at(0));
            breaker.failed(at(0));
            breaker.succeeded();
        }
        assert_eq!(breaker.state(at(0)), State::Closed);
        assert_eq!(opened().state(at(4)), State::Open);
        assert!(!opened().allows(at(4)));
    }

    #[test]
    fn one_probe_passes_after_the_cool_off() {
        let mut breaker = opened();
        assert!(!breaker.admit(at(4)));
        assert!(breaker.admit(at(5)));
        assert!(!breaker.admit(at(6)), "the probe is under way");
        assert!(breaker.admit(at(65)), "nobody heard of the probe");
        breaker.succeeded();
        assert_eq!(breaker.state(at(65)), State::Closed);
    }

    #[test]
    fn each_failed_probe_makes_the_cool_off_longer_up_to_its_bound() {
        let mut breaker = opened();
        let mut now = 5;
        for cool_off in [10, 15, 15] {
            assert!(breaker.admit(at(now)));
            breaker.failed(at(now));
            assert_eq!(breaker.state(at(now + cool_off - 1)), State::Open);
            assert_eq!(breaker.state(at(now + cool_off)), State::HalfOpen);
            now += cool_off;
        }
    }

    #[test]
    fn late_failures_do_not_prolong_it() {
        let mut breaker = opened();
        breaker.failed(at(4));
        assert_eq!(breaker.state(at(5)), State::HalfOpen);
    }

    proptest! {
        /// Whatever happened, it lets a request through within the longest cool-off and the
        /// longest wait for a probe, so no target is shut out for ever.
        #[test]
        fn nobody_is_shut_out_for_ever(
            steps in prop::collection::vec((0_u8..3, 0_u64..20), 0..60),
        ) {
            let mut breaker = Breaker::new(POLICY);
            let mut now = 0;
            for (step, later) in steps {
                now += later;
                match step {
                    0 => { breaker.admit(at(now)); }
                    1 => breaker.failed(at(now)),
                    _ => breaker.succeeded(),
                }
                let bound = POLICY.cool_off_max + POLICY.probe;
                prop_assert!(breaker.allows(at(now) + bound));
            }
        }
    }
}
