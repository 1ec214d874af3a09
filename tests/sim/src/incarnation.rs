//! One life of the server: what it does counts only while it lives.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Incarnation {
    is_dead: AtomicBool,
    died: Notify,
}

impl Incarnation {
    pub(crate) fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Relaxed)
    }

    /// Cuts the server off from the world.
    pub(crate) fn kill(&self) {
        self.is_dead.store(true, Ordering::Relaxed);
        self.died.notify_waiters();
    }

    /// Waits for the end of this life.
    pub(crate) async fn died(&self) {
        loop {
            let died = self.died.notified();
            if self.is_dead() {
                return;
            }
            died.await;
        }
    }

    /// Returns at once while the server lives, and never once it is dead: the caller's task ends
    /// here, as it would with its process.
    pub(crate) async fn live_on(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}
