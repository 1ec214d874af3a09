//! How fast snapshots come and go, so that they leave room on the line for what serves.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Whoever wants to pass waits for those who came before, at so many bytes a second.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<f64>,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// None: as fast as it goes.
    pub(super) fn new(mib_per_second: Option<NonZeroU32>) -> Self {
        let bytes = |mib: NonZeroU32| f64::from(mib.get()) * f64::from(1 << 20);
        Self {
            bytes_per_second: mib_per_second.map(bytes),
            free_at: Mutex::default(),
        }
    }

    /// Waits until so many bytes may pass.
    pub(super) async fn pass(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        #[expect(clippy::cast_precision_loss, reason = "an object has some megabytes")]
        let takes = Duration::from_secs_f64(bytes as f64 / rate);
        let begins = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let begins = free_at.unwrap_or_else(Instant::now).max(Instant::now());
            *free_at = Some(begins + takes);
            begins
        };
        sleep_until(begins).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_passes_keeps_to_the_rate() {
        let pace = Pace::new(NonZeroU32::new(1));
        let began = Instant::now();
        for _ in 0..4 {
            pace.pass(1 << 20).await;
        }
        // The first one does not wait.
        assert_eq!(began.elapsed().as_secs(), 3);
        Pace::new(None).pass(u64::MAX).await;
        assert_eq!(began.elapsed().as_secs(), 3);
    }
}
