//! The system's wall clock, the one place where it is read.

use std::time::{Duration, UNIX_EPOCH};

use atoll_core::time::{Clock, Timestamp};

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one implementation of Clock that reads the system's"
        )]
        let now = std::time::SystemTime::now();
        // A clock before 1970 is a broken machine; time zero keeps everything defined.
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}
