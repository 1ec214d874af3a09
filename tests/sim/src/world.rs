//! What everything in a run shares: time, chance, the trace, and what went wrong lately.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_control::random::Random;
use atoll_core::id::NodeId;
use atoll_core::time::{Clock, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::options::{Options, Sabotage};
use crate::trace::Trace;

/// Wall-clock time when a run begins, in microseconds since 1970.
const EPOCH_MICROS: i64 = 1_700_000_000_000_000;

/// Violations that are kept: the first one is the one to look at.
const VIOLATIONS_MAX: usize = 10;

/// What a fault may touch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Server,
    Store,
    WallClock,
    Node(NodeId),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) tasks: TaskTracker,
    began: Instant,
    rng: Mutex<StdRng>,
    trace: Mutex<Trace>,
    wall_offset: AtomicI64,
    is_calm: AtomicBool,
    disturbed: Mutex<BTreeMap<Part, Instant>>,
    violations: Mutex<Vec<String>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A world at its first instant. Called inside the run's runtime.
    pub(crate) fn new(options: Options) -> Arc<Self> {
        Arc::new(Self {
            options,
            tasks: TaskTracker::new(),
            began: Instant::now(),
            rng: Mutex::new(StdRng::seed_from_u64(options.seed)),
            trace: Mutex::new(Trace::new(options.keeps_trace)),
            wall_offset: AtomicI64::new(0),
            is_calm: AtomicBool::new(false),
            disturbed: Mutex::default(),
            violations: Mutex::default(),
        })
    }

    /// Notes something that happened.
    pub(crate) fn note(&self, what: impl Display) {
        let at = self.began.elapsed();
        let line = format!("{:>5}.{:03} {what}", at.as_secs(), at.subsec_millis());
        lock(&self.trace).push(line);
    }

    /// Notes that a guarantee does not hold.
    pub(crate) fn violate(&self, what: impl Display) {
        self.note(format_args!("VIOLATION {what}"));
        let mut violations = lock(&self.violations);
        if violations.len() < VIOLATIONS_MAX {
            violations.push(what.to_string());
        }
    }

    pub(crate) fn is_violated(&self) -> bool {
        !lock(&self.violations).is_empty()
    }

    pub(crate) fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.violations))
    }

    pub(crate) fn trace(&self) -> MutexGuard<'_, Trace> {
        lock(&self.trace)
    }

    /// Whether this defect is switched on.
    pub(crate) fn has(&self, sabotage: Sabotage) -> bool {
        self.options.sabotage == Some(sabotage)
    }

    /// Whether faults have stopped for good.
    pub(crate) fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    pub(crate) fn calm_down(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
    }

    /// Whether something happens that has this chance in a thousand.
    pub(crate) fn happens(&self, per_mille: u32) -> bool {
        lock(&self.rng).random_ratio(per_mille, 1_000)
    }

    /// The same for what goes wrong: never once faults have stopped.
    pub(crate) fn goes_wrong(&self, per_mille: u32) -> bool {
        !self.is_calm() && self.happens(per_mille)
    }

    /// A number below the bound.
    pub(crate) fn below(&self, bound: usize) -> usize {
        lock(&self.rng).random_range(0..bound)
    }

    /// One of so many; where there is one, nothing is drawn.
    pub(crate) fn one_of(&self, count: usize) -> usize {
        if count > 1 { self.below(count) } else { 0 }
    }

    /// A time between the two, in milliseconds.
    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(lock(&self.rng).random_range(from..=to))
    }

    /// Notes that a part was touched by a fault just now: promises with a bound count from here.
    pub(crate) fn disturb(&self, part: Part) {
        self.disturb_for(part, Duration::ZERO);
    }

    /// The same for a fault whose effects go on for so long.
    pub(crate) fn disturb_for(&self, part: Part, time: Duration) {
        let until = Instant::now() + time;
        let mut disturbed = lock(&self.disturbed);
        let last = disturbed.entry(part).or_insert(until);
        *last = until.max(*last);
    }

    /// When a fault last touched any of these parts.
    pub(crate) fn last_disturbed(&self, parts: &[Part]) -> Option<Instant> {
        let disturbed = lock(&self.disturbed);
        parts
            .iter()
            .filter_map(|part| disturbed.get(part))
            .max()
            .copied()
    }

    /// Moves the wall clock.
    pub(crate) fn jump(&self, by_secs: i64) {
        self.wall_offset
            .fetch_add(by_secs * 1_000_000, Ordering::Relaxed);
    }
}

impl World {
    /// What a right clock says.
    pub(crate) fn wall_time(&self) -> Timestamp {
        let passed = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        let offset = self.wall_offset.load(Ordering::Relaxed);
        Timestamp::from_micros(EPOCH_MICROS + passed + offset)
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        if self.has(Sabotage::StopTheClock) {
            return Timestamp::from_micros(EPOCH_MICROS);
        }
        self.wall_time()
    }
}

impl Random for World {
    fn fill(&self, buffer: &mut [u8]) {
        lock(&self.rng).fill_bytes(buffer);
    }
}
