//! When running sandboxes are due, ordered by time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use atoll_core::id::SandboxId;
use atoll_core::time::Timestamp;
use tokio::sync::Notify;

use crate::lock::lock;

#[derive(Debug, Default)]
struct Order {
    by_time: BTreeSet<(Timestamp, SandboxId)>,
    by_id: BTreeMap<SandboxId, Timestamp>,
}

/// The deadlines of all running sandboxes.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    order: Mutex<Order>,
    earlier: Notify,
}

impl Deadlines {
    /// Sets a sandbox's deadline.
    pub(crate) fn set(&self, id: &SandboxId, at: Timestamp) {
        let mut order = lock(&self.order);
        if let Some(before) = order.by_id.insert(id.clone(), at) {
            if before == at {
                return;
            }
            order.by_time.remove(&(before, id.clone()));
        }
        order.by_time.insert((at, id.clone()));
        if order.by_time.first().is_some_and(|(_, first)| first == id) {
            self.earlier.notify_one();
        }
    }

    /// Forgets a sandbox.
    pub(crate) fn forget(&self, id: &SandboxId) {
        let mut order = lock(&self.order);
        if let Some(at) = order.by_id.remove(id) {
            order.by_time.remove(&(at, id.clone()));
        }
    }

    /// The nearest deadline.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        lock(&self.order).by_time.first().map(|(at, _)| *at)
    }

    /// Takes out all that are due, earliest first. Whoever handles one sets it again if it turns
    /// out to be due later.
    pub(crate) fn take_due(&self, now: Timestamp) -> Vec<SandboxId> {
        let mut order = lock(&self.order);
        let mut due = Vec::new();
        while order.by_time.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, id)) = order.by_time.pop_first() else {
                break;
            };
            order.by_id.remove(&id);
            due.push(id);
        }
        due
    }

    /// Waits until a deadline became the nearest.
    pub(crate) async fn changed(&self) {
        self.earlier.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_deadline_of_a_sandbox_counts() {
        let deadlines = Deadlines::default();
        let id: SandboxId = "ia".parse().unwrap();
        let at = Timestamp::from_micros;
        deadlines.set(&id, at(10));
        deadlines.set(&id, at(30));
        deadlines.set(&"ib".parse().unwrap(), at(20));
        assert_eq!(deadlines.next(), Some(at(20)));
        assert_eq!(deadlines.take_due(at(10)), []);
        assert_eq!(deadlines.take_due(at(30)).len(), 2);
        assert_eq!(deadlines.next(), None);
    }
}
