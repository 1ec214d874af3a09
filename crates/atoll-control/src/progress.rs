//! The rows a task commits, shown to those who wait for one.
//!
//! Not `tokio::sync::watch`: that wakes its receivers in an order drawn at random, and a run of
//! the simulation has to be repeatable.

use std::sync::{Arc, Mutex};

use atoll_core::sandbox::Sandbox;
use tokio::sync::Notify;

use crate::lock::lock;

#[derive(Debug, Default)]
struct Shown {
    row: Option<Arc<Sandbox>>,
    is_over: bool,
}

/// What a task shows.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    shown: Mutex<Shown>,
    changed: Notify,
}

impl Progress {
    /// Shows a committed row.
    pub(crate) fn show(&self, row: &Sandbox) {
        lock(&self.shown).row = Some(Arc::new(row.clone()));
        self.changed.notify_waiters();
    }

    /// Nothing more will be shown.
    pub(crate) fn end(&self) {
        lock(&self.shown).is_over = true;
        self.changed.notify_waiters();
    }

    /// Waits for a row that satisfies the condition; none if the task came to rest before.
    pub(crate) async fn until(&self, condition: impl Fn(&Sandbox) -> bool) -> Option<Arc<Sandbox>> {
        loop {
            // Made before the look, so that what changes after it is not missed.
            let changed = self.changed.notified();
            {
                let shown = lock(&self.shown);
                if let Some(row) = shown.row.as_ref().filter(|row| condition(row)) {
                    return Some(Arc::clone(row));
                }
                if shown.is_over {
                    return None;
                }
            }
            changed.await;
        }
    }
}
