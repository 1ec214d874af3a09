//! Recent usage samples of live sandboxes, in memory, bounded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use atoll_core::id::SandboxId;
use atoll_core::sandbox::UsageSample;
use atoll_core::time::Timestamp;

use crate::lock::lock;

/// Samples kept of one sandbox: an hour at one in five seconds.
const SAMPLES_MAX: usize = 720;

/// Samples of every live sandbox.
#[derive(Debug, Default)]
pub(crate) struct UsageBook {
    rings: Mutex<BTreeMap<SandboxId, VecDeque<UsageSample>>>,
}

impl UsageBook {
    /// Adds a sample; the caller checks that the sandbox lives.
    pub(crate) fn push(&self, id: SandboxId, sample: UsageSample) {
        let mut rings = lock(&self.rings);
        let ring = rings.entry(id).or_default();
        if ring.len() == SAMPLES_MAX {
            ring.pop_front();
        }
        ring.push_back(sample);
    }

    /// The samples with `start <= at <= end`, oldest first.
    pub(crate) fn range(
        &self,
        id: &SandboxId,
        start: Option<Timestamp>,
        end: Option<Timestamp>,
    ) -> Vec<UsageSample> {
        lock(&self.rings).get(id).map_or_else(Vec::new, |ring| {
            ring.iter()
                .filter(|sample| start.is_none_or(|start| sample.at >= start))
                .filter(|sample| end.is_none_or(|end| sample.at <= end))
                .copied()
                .collect()
        })
    }

    /// The newest sample.
    pub(crate) fn latest(&self, id: &SandboxId) -> Option<UsageSample> {
        lock(&self.rings).get(id)?.back().copied()
    }

    /// Forgets a sandbox that ended.
    pub(crate) fn forget(&self, id: &SandboxId) {
        lock(&self.rings).remove(id);
    }
}
