//! Repairs are told: in a list for operators, in memory and in the store, and in the history of the
//! sandbox they are about.

use std::collections::VecDeque;
use std::sync::Mutex;

use atoll_core::correction::{Correction, CorrectionKind};
use atoll_core::event::EventKind;
use atoll_core::id::{Generation, NodeId, SandboxId};
use atoll_core::sandbox::Sandbox;
use atoll_store::store::EventRow;

use crate::events;
use crate::lock::lock;
use crate::service::Inner;

/// Corrections in memory, which is where they are read from: a page for an operator and the night
/// before it. The store keeps more.
pub(crate) const RECENT_MAX: usize = 1_000;

/// The newest corrections, oldest first.
#[derive(Debug, Default)]
pub(crate) struct CorrectionBook {
    recent: Mutex<VecDeque<Correction>>,
}

impl CorrectionBook {
    pub(crate) fn extend(&self, corrections: impl IntoIterator<Item = Correction>) {
        let mut recent = lock(&self.recent);
        recent.extend(corrections);
        let excess = recent.len().saturating_sub(RECENT_MAX);
        recent.drain(..excess);
    }

    /// At most `limit`, newest first.
    pub(crate) fn newest(&self, limit: usize) -> Vec<Correction> {
        lock(&self.recent)
            .iter()
            .rev()
            .take(limit)
            .cloned()
            .collect()
    }
}

/// Corrections in the making, told together.
#[derive(Debug, Default)]
pub(crate) struct Corrections {
    all: Vec<Correction>,
    events: Vec<EventRow>,
}

impl Corrections {
    /// Adds one that is about a node only.
    pub(crate) fn of_node(
        &mut self,
        inner: &Inner,
        node: &NodeId,
        kind: CorrectionKind,
        why: &str,
    ) {
        self.all.push(Correction {
            at: inner.clock.now(),
            kind,
            node: Some(node.clone()),
            sandbox: None,
            generation: None,
            reason: why.to_owned(),
        });
    }

    /// Adds one about a sandbox. With its row it is told in its history, too.
    pub(crate) fn of_sandbox(
        &mut self,
        inner: &Inner,
        (node, id, generation): (&NodeId, &SandboxId, Generation),
        (kind, why): (CorrectionKind, &str),
        row: Option<&Sandbox>,
    ) {
        let at = inner.clock.now();
        if let Some(row) = row {
            let event = events::event(row, at, EventKind::SandboxCorrected, "warn", why);
            let event = events::with(event, "correction", kind.as_str());
            let event = events::with(event, "node", node.as_str());
            self.events
                .push(events::with(event, "generation", generation.to_string()));
        }
        self.all.push(Correction {
            at,
            kind,
            node: Some(node.clone()),
            sandbox: Some(id.clone()),
            generation: Some(generation),
            reason: why.to_owned(),
        });
    }

    /// Tells of them; they are written as soon as the store takes them.
    pub(crate) fn record(self, inner: &Inner) {
        // Every server notices; the one on duty repairs, and tells.
        if self.all.is_empty() || !inner.servers.is_on_duty() {
            return;
        }
        for correction in &self.all {
            tracing::warn!(
                kind = correction.kind.as_str(),
                node = correction.node.as_ref().map(NodeId::as_str),
                sandbox = correction.sandbox.as_ref().map(SandboxId::as_str),
                reason = correction.reason,
                "corrected"
            );
        }
        inner.corrections.extend(self.all.iter().cloned());
        inner.backlog.add(self.events, self.all);
    }
}
