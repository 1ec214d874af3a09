//! File work on helper threads, so that a slow disk never holds up the one thread that runs the
//! tasks.

use connectrpc::ConnectError;

use crate::rest::Refusal;

/// The work broke off because the agent ends.
#[derive(Debug, thiserror::Error)]
#[error("the agent is ending")]
pub(crate) struct Ending;

impl From<Ending> for Refusal {
    fn from(ending: Ending) -> Self {
        Self::internal(ending.to_string())
    }
}

impl From<Ending> for ConnectError {
    fn from(ending: Ending) -> Self {
        Self::unavailable(ending.to_string())
    }
}

/// Runs `work` where it may block.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Ending> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Ending)
}
