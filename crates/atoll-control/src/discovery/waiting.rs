//! Sandboxes of which something may have changed, each once, until somebody looks.

use std::collections::BTreeSet;
use std::sync::Mutex;

use atoll_core::id::SandboxId;
use tokio::sync::Notify;

use crate::limit::DISCOVERY_WAITING_MAX;
use crate::lock::lock;
use crate::metrics;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    ids: Mutex<BTreeSet<SandboxId>>,
    more: Notify,
}

impl Waiting {
    /// Has somebody look. What finds no place is found by the next pass over everything.
    pub(super) fn add(&self, ids: impl IntoIterator<Item = SandboxId>) {
        {
            let mut waiting = lock(&self.ids);
            for id in ids {
                if waiting.len() < DISCOVERY_WAITING_MAX {
                    waiting.insert(id);
                }
            }
            metrics::discovery_waiting(waiting.len());
        }
        self.more.notify_one();
    }

    /// The first of them, which no longer wait; at most `limit`.
    pub(super) fn take(&self, limit: usize) -> Vec<SandboxId> {
        let mut waiting = lock(&self.ids);
        let taken: Vec<_> = waiting.iter().take(limit).cloned().collect();
        for id in &taken {
            waiting.remove(id);
        }
        metrics::discovery_waiting(waiting.len());
        taken
    }

    pub(super) fn has(&self, id: &SandboxId) -> bool {
        lock(&self.ids).contains(id)
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.ids).is_empty()
    }

    /// Waits until something may wait.
    pub(super) async fn more(&self) {
        self.more.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_most_and_each_waits_once() {
        let waiting = Waiting::default();
        let id = |number: usize| format!("i{number:019}").parse::<SandboxId>().unwrap();
        waiting.add((0..DISCOVERY_WAITING_MAX + 5).map(id));
        waiting.add([id(0)]);
        assert!(waiting.has(&id(0)));
        assert!(!waiting.has(&id(DISCOVERY_WAITING_MAX + 1)));
        assert_eq!(waiting.take(2), [id(0), id(1)]);
        assert_eq!(waiting.take(usize::MAX).len(), DISCOVERY_WAITING_MAX - 2);
        assert!(waiting.is_empty());
    }
}
