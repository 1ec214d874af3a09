//! Waking paused sandboxes because traffic came for them: a seam that the composition fills.

use std::fmt;

use async_trait::async_trait;

use crate::answer::Answer;
use crate::target::Target;

/// Lets paused sandboxes serve again.
#[async_trait]
pub trait Waker: Send + Sync + fmt::Debug {
    /// Makes the sandbox that `target` names serve, if it is paused and was made to be resumed by
    /// traffic; its route is published when this returns. Any number of requests may ask at the
    /// same time for the same sandbox: it is resumed once.
    ///
    /// # Errors
    /// Why it does not serve.
    async fn wake(&self, target: &Target, traffic_token: Option<&str>) -> Result<(), WakeError>;
}

/// Why traffic did not wake a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeError {
    /// There is none of that id that traffic may wake.
    NotFound,
    /// It demands its traffic token.
    TokenMissing,
    /// It demands another traffic token.
    TokenInvalid,
    /// Others keep changing its state.
    Changing,
    /// Its team has as many sandboxes as it may.
    QuotaExceeded,
    /// It cannot be resumed now: its node has no room or does not answer, or it took too long.
    Unavailable,
}

impl WakeError {
    pub(crate) fn answer(self, target: Target) -> Answer {
        match self {
            Self::NotFound => Answer::NotFound(target),
            Self::TokenMissing => Answer::TokenMissing(target),
            Self::TokenInvalid => Answer::TokenInvalid(target),
            Self::Changing => Answer::Changing(target),
            Self::QuotaExceeded => Answer::QuotaExceeded(target),
            Self::Unavailable => Answer::NotResumed(target),
        }
    }
}
