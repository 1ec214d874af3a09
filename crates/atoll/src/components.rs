//! The parts that run in one process: started, watched and stopped together.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the components may take to end after they were told to.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The components of this process. One that stops by itself stops all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Components {
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Components {
    /// Runs a component; it ends when it is cancelled.
    pub(crate) fn start(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            work.await;
            if !cancel.is_cancelled() {
                tracing::error!(name, "a component stopped by itself");
                cancel.cancel();
            }
        });
    }

    /// What tells everything to stop.
    pub(crate) fn cancel(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Where tasks of components run, so that the stop waits for them.
    pub(crate) fn tasks(&self) -> TaskTracker {
        self.tasks.clone()
    }

    /// Waits for a component to stop by itself, which none should.
    pub(crate) async fn failed(&self) {
        self.cancel.cancelled().await;
    }

    /// Stops everything and waits for it.
    pub(crate) async fn stop(&self) {
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(tasks = self.tasks.len(), "components cut at shutdown");
        }
    }
}
