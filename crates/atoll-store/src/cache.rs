//! What several servers share to be fairer and faster, and what each of them can do without.
//!
//! Everything here is advice. A cache may be stopped, emptied, slow, full, or tell what is not so,
//! and whoever asks it must go on: no answer in time is no answer (`None`), and each method says
//! how much a wrong one can do.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::quota::Rate;

pub mod redis;

/// How long an answer is waited for. One on the same network takes a tenth of a millisecond; what
/// takes longer than this costs more than it saves.
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(20);

/// What a shared rate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// There was a place, and it is taken.
    Place,
    /// There is none for so long.
    NoneFor(Duration),
}

/// See the module.
#[async_trait]
pub trait Cache: Debug + Send + Sync + 'static {
    /// Takes a place of the rate that all servers share under `bucket`, or tells how long there is
    /// none. A wrong answer lets through, or holds back, what the asker leaves to it.
    async fn rate_take(&self, bucket: &str, rate: Rate) -> Option<Taken>;

    /// Counts a place that is taken in any case.
    async fn rate_count(&self, bucket: &str, rate: Rate);

    /// Takes a lock for `hold` at most: whether nobody else has it. It saves work done twice, and
    /// guards nothing.
    async fn lock(&self, name: &str, holder: &str, hold: Duration) -> Option<bool>;

    /// Gives a lock back, if `holder` has it still.
    async fn unlock(&self, name: &str, holder: &str);

    /// Asks whether it takes and gives back.
    ///
    /// # Errors
    /// Why it does not.
    async fn check(&self) -> Result<(), String>;
}
