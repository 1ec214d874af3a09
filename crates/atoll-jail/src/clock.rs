//! Measures the steps of a start, so that the node can tell where the time went.

use std::time::Instant;

/// Time between laps.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    last: Instant,
    laps: Vec<(String, u64)>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "a process without an async runtime; measures only, decides nothing"
)]
fn now() -> Instant {
    Instant::now()
}

impl Stopwatch {
    /// Begins to measure.
    pub(crate) fn start() -> Self {
        Self {
            last: now(),
            laps: Vec::new(),
        }
    }

    /// Ends a step.
    pub(crate) fn lap(&mut self, name: &str) {
        let now = now();
        let micros = now.duration_since(self.last).as_micros();
        self.laps
            .push((name.to_owned(), u64::try_from(micros).unwrap_or(u64::MAX)));
        self.last = now;
    }

    /// The steps, in order, in microseconds.
    pub(crate) fn into_laps(self) -> Vec<(String, u64)> {
        self.laps
    }
}
