//! A bounded memory of sandboxes that are gone.

use std::collections::{BTreeMap, VecDeque};

use atoll_core::id::SandboxId;

/// Ended sandboxes and removed generations that are remembered. The oldest are forgotten.
const MEMORY: usize = 4096;

/// A bounded map that forgets the oldest.
#[derive(Debug)]
pub(super) struct Remembered<T> {
    pub(super) values: BTreeMap<SandboxId, T>,
    order: VecDeque<SandboxId>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self {
            values: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<T> Remembered<T> {
    pub(super) fn insert(&mut self, id: &SandboxId, value: T) {
        if self.values.insert(id.clone(), value).is_none() {
            self.order.push_back(id.clone());
        }
        // Ids that were forgotten otherwise still stand in the order.
        while self.order.len() > MEMORY {
            if let Some(oldest) = self.order.pop_front() {
                self.values.remove(&oldest);
            }
        }
    }

    pub(super) fn remove(&mut self, id: &SandboxId) -> Option<T> {
        let removed = self.values.remove(id)?;
        self.order.retain(|other| other != id);
        Some(removed)
    }
}
