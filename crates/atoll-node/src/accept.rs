//! Taking connections: never more than there are places for, and on after what fails.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Pause after a failed accept: the usual cause, too few descriptors, passes only with time.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits for a place and for the next connection, which `accept` brings. None once cancelled.
pub(crate) async fn next<S, F>(
    slots: &Arc<Semaphore>,
    cancel: &CancellationToken,
    accept: impl Fn() -> F,
) -> Option<(OwnedSemaphorePermit, S)>
where
    F: Future<Output = io::Result<S>>,
{
    loop {
        let next = async {
            let slot = Arc::clone(slots).acquire_owned().await;
            (slot, accept().await)
        };
        if let (Ok(slot), Ok(stream)) = cancel.run_until_cancelled(next).await? {
            return Some((slot, stream));
        }
        tracing::warn!("accept failed; retrying");
        tokio::time::sleep(PAUSE).await;
    }
}
