//! What a team's requests pass before anything is done for them: whether the team may ask at all,
//! how fast, and how many creates it may have under way.
//!
//! Gates are kept in memory and made from the team's row when it first asks. A change of the row
//! replaces the gate at once; a limiter whose rate did not change stays, so that no change of
//! something else gives a team its burst again. What a team *has* is not counted here: that is
//! exact, and the store's.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_core::error::ErrorKind;
use atoll_core::id::TeamId;
use atoll_core::quota::{Limits, Rate};
use atoll_core::scheduler::overlay::Overlay;
use atoll_store::store::TeamRow;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::audit::Refusals;
use crate::error::{Error, Result, code};
use crate::limit::{GATES_MAX, TEAM_REFUSALS};
use crate::lock::lock;

/// When to try again after too many creates were under way: about what a create takes.
const IN_FLIGHT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a gate may be used without a look at its team, by what is no request of the team's own,
/// where other servers may change teams.
const GATE_TTL: Duration = Duration::from_secs(2);

/// Tokio's clock, which tests and simulations control.
#[derive(Debug, Clone)]
pub(crate) struct TokioClock {
    begun: Instant,
}

impl TokioClock {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
        }
    }
}

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.begun.elapsed())
    }
}

type Places = RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>;

/// Lets through what comes at a rate.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: Rate,
    clock: TokioClock,
    inner: Places,
    /// What is this server's of the rate, where so many share it.
    part: Mutex<Option<(u32, Places)>>,
}

impl Limiter {
    pub(crate) fn new(rate: Rate) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        let clock = TokioClock::new();
        Self {
            rate,
            inner: RateLimiter::direct_with_clock(quota, clock.clone()),
            clock,
            part: Mutex::default(),
        }
    }

    /// The rate.
    pub(crate) const fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one of the places that are this server's own where `servers` share the rate: as if
    /// each had its part of it.
    pub(crate) fn is_in_part(&self, servers: u32) -> bool {
        let mut part = lock(&self.part);
        let places = match &*part {
            Some((among, places)) if *among == servers => places,
            Some(_) | None => {
                let period = Duration::from_secs(1) * servers / self.rate.per_second.get();
                let burst = NonZeroU32::new(self.rate.burst.get() / servers);
                let quota =
                    Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MAX));
                let quota = quota.allow_burst(burst.unwrap_or(NonZeroU32::MIN));
                let places = RateLimiter::direct_with_clock(quota, self.clock.clone());
                &part.insert((servers, places)).1
            }
        };
        places.check().is_ok()
    }

    /// Takes one place, or tells how long until there is one.
    pub(crate) fn check(&self) -> std::result::Result<(), Duration> {
        self.inner
            .check()
            .map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    /// The error a team gets whose rate has no place for so long.
    pub(crate) fn used_up(&self, what: &str, wait: Duration) -> Error {
        let Rate { per_second, burst } = self.rate;
        Error::new(
            ErrorKind::RateLimited,
            format!("the team's rate of {what} is used up: {per_second} a second, {burst} at once"),
        )
        .with_code(code::RATE_LIMITED)
        .with_retry_after(wait)
    }
}

/// One team's gate.
#[derive(Debug)]
pub(crate) struct Gate {
    is_disabled: bool,
    policy: Option<Box<Overlay>>,
    requests: Arc<Limiter>,
    creates: Arc<Limiter>,
    creating: Arc<Semaphore>,
    refusals: Arc<Refusals>,
    creating_max: usize,
    made_at: Instant,
}

impl Gate {
    fn new(row: &TeamRow, defaults: Limits, creating_max: usize, before: Option<&Self>) -> Self {
        let limits = row.overrides.over(defaults);
        let limiter = |rate: Rate, before: Option<&Arc<Limiter>>| match before {
            Some(limiter) if limiter.rate == rate => Arc::clone(limiter),
            _ => Arc::new(Limiter::new(rate)),
        };
        Self {
            is_disabled: row.is_disabled,
            policy: row.policy.clone(),
            requests: limiter(limits.requests, before.map(|gate| &gate.requests)),
            creates: limiter(limits.creates, before.map(|gate| &gate.creates)),
            creating: before.map_or_else(
                || Arc::new(Semaphore::new(creating_max)),
                |gate| Arc::clone(&gate.creating),
            ),
            refusals: before.map_or_else(
                || Arc::new(Refusals::new(TEAM_REFUSALS)),
                |gate| Arc::clone(&gate.refusals),
            ),
            creating_max,
            made_at: Instant::now(),
        }
    }

    /// Whether another server may have changed the team since long.
    pub(crate) fn is_old(&self) -> bool {
        self.made_at.elapsed() >= GATE_TTL
    }

    /// What the team's sandboxes must and should have of their nodes.
    pub(crate) fn policy(&self) -> Option<&Overlay> {
        self.policy.as_deref()
    }

    /// Refuses a disabled team.
    pub(crate) fn demand_enabled(&self) -> Result<()> {
        if self.is_disabled {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "this team is disabled; ask the operator of this installation",
            ));
        }
        Ok(())
    }

    /// The team's rate of requests.
    pub(crate) fn requests(&self) -> &Limiter {
        &self.requests
    }

    /// The team's rate of creates.
    pub(crate) fn creates(&self) -> &Limiter {
        &self.creates
    }

    /// What bounds how many of the team's refused requests are recorded.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Lets one create be under way, for as long as the answer is kept.
    pub(crate) fn begin_create(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.creating).try_acquire_owned().map_err(|_| {
            let most = self.creating_max;
            Error::new(
                ErrorKind::RateLimited,
                format!("the team has {most} creates under way, which is the most"),
            )
            .with_code(code::OVERLOADED)
            .with_retry_after(IN_FLIGHT_RETRY_AFTER)
        })
    }
}

/// The gates of the teams that asked lately.
#[derive(Debug)]
pub(crate) struct Gates {
    defaults: Limits,
    creating_max: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    gates: BTreeMap<TeamId, Arc<Gate>>,
    /// Raised by each change of a team: a gate made from a row that was read before is not kept.
    epoch: u64,
}

impl Gates {
    pub(crate) fn new(defaults: Limits, creating_max: usize) -> Self {
        Self {
            defaults,
            creating_max,
            known: Mutex::default(),
        }
    }

    /// The team's gate if it is known, and what [`Self::keep`] must be told if it is not.
    pub(crate) fn find(&self, team: &TeamId) -> std::result::Result<Arc<Gate>, u64> {
        let known = lock(&self.known);
        known.gates.get(team).cloned().ok_or(known.epoch)
    }

    /// The gate of a team whose row was read after [`Self::find`] answered `epoch`.
    pub(crate) fn keep(&self, row: &TeamRow, epoch: u64) -> Arc<Gate> {
        let mut known = lock(&self.known);
        if let Some(gate) = known.gates.get(&row.id) {
            return Arc::clone(gate);
        }
        let gate = Arc::new(Gate::new(row, self.defaults, self.creating_max, None));
        if known.epoch == epoch {
            if known.gates.len() >= GATES_MAX {
                known.gates.clear();
            }
            known.gates.insert(row.id.clone(), Arc::clone(&gate));
        }
        gate
    }

    /// The gate of a team as its row is, which was read just now.
    pub(crate) fn renew(&self, row: &TeamRow) -> Arc<Gate> {
        let mut known = lock(&self.known);
        let before = known.gates.get(&row.id).cloned();
        if before.is_none() && known.gates.len() >= GATES_MAX {
            known.gates.clear();
        }
        let before = before.as_deref();
        let gate = Arc::new(Gate::new(row, self.defaults, self.creating_max, before));
        known.gates.insert(row.id.clone(), Arc::clone(&gate));
        gate
    }

    /// Puts the gate of a changed team in the place of the one before.
    pub(crate) fn replace(&self, row: &TeamRow) {
        let mut known = lock(&self.known);
        known.epoch += 1;
        let before = known.gates.get(&row.id);
        if let Some(before) = before {
            let gate = Gate::new(row, self.defaults, self.creating_max, Some(before));
            known.gates.insert(row.id.clone(), Arc::new(gate));
        }
    }
}
