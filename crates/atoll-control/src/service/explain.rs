//! Why things are as they are: everything the control plane knows of one sandbox or one node.
//!
//! Reads only. What it shows is what the reconciler itself decides by: the row, what was last
//! observed, the plan that follows from both, and the history with its decisions, corrections and
//! errors.

use atoll_core::error::ErrorKind;
use atoll_core::event::{EventKind, Subject};
use atoll_core::id::{NodeId, SandboxId};
use atoll_core::reconcile::plan;
use atoll_store::store::EventFilter;

use super::{ControlPlane, unavailable};
use crate::error::{Error, Result};
use crate::request::LogLevel;
use crate::view::{EventView, NodeExplanation, SandboxExplanation, SandboxOnNode, Tenant};

/// Events of the history that are shown, the newest.
const HISTORY_MAX: u32 = 200;

/// Sandboxes of a node that are shown, by id.
const SANDBOXES_MAX: usize = 1_000;

impl ControlPlane {
    /// Everything that is known of a sandbox, also after it ended, as long as its history is kept.
    /// With a tenant only for its own team's; without one for the operator.
    ///
    /// # Errors
    /// `NotFound` for an unknown or foreign one; `Unavailable` for the store.
    pub async fn sandbox_explain(
        &self,
        tenant: Option<&Tenant>,
        id: &SandboxId,
    ) -> Result<SandboxExplanation> {
        let inner = &self.inner;
        let row = inner.store.sandbox_get(id).await.map_err(unavailable)?;
        let sandbox = row
            .filter(|row| tenant.is_none_or(|tenant| tenant.team == row.team))
            .ok_or_else(|| Error::no_sandbox(id))?;
        let history = self.history(Subject::Sandbox(id.clone())).await?;
        let nodes = inner.registry.health();
        let observed = inner.registry.observed(id);
        let now = inner.clock.now();
        Ok(SandboxExplanation {
            plan: plan(&sandbox, &observed, &nodes, now),
            is_driven: inner.reconciler.is_driven(id),
            node_health: sandbox
                .node
                .as_ref()
                .and_then(|node| nodes.get(node))
                .copied(),
            decisions: decisions(&history),
            corrections: of_kind(&history, EventKind::SandboxCorrected),
            errors: errors(&history),
            history,
            observed,
            sandbox,
            at: now,
        })
    }

    /// Everything that is known of a node.
    ///
    /// # Errors
    /// `NotFound` for an unknown one; `Unavailable` for the store.
    pub async fn node_explain(&self, id: &NodeId) -> Result<NodeExplanation> {
        let registry = &self.inner.registry;
        let node = registry.view().into_iter().find(|node| node.id == *id);
        let node = node.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("node \"{id}\" is not known"))
        })?;
        let history = self.history(Subject::Node(id.clone())).await?;
        let placed = registry.placed_on(id);
        let on_node = |sandbox: &SandboxId| SandboxOnNode {
            id: sandbox.clone(),
            observed: registry.observed(sandbox),
        };
        Ok(NodeExplanation {
            sandboxes: placed.iter().take(SANDBOXES_MAX).map(on_node).collect(),
            sandboxes_left_out: placed.len().saturating_sub(SANDBOXES_MAX),
            errors: errors(&history),
            history,
            node,
            at: self.inner.clock.now(),
        })
    }

    /// The newest part of a subject's history, oldest first.
    async fn history(&self, subject: Subject) -> Result<Vec<EventView>> {
        let filter = EventFilter {
            subject,
            start: None,
            is_ascending: false,
            levels: Vec::new(),
            search: None,
            limit: HISTORY_MAX,
        };
        let newest = self.inner.store.event_list(&filter).await;
        let newest = newest.map_err(unavailable)?;
        Ok(newest.iter().rev().map(EventView::from).collect())
    }
}

/// The events of placements and of those that were refused.
fn decisions(history: &[EventView]) -> Vec<EventView> {
    let is_decision =
        |event: &&EventView| event.kind == EventKind::SandboxPlaced || event.decision.is_some();
    history.iter().filter(is_decision).cloned().collect()
}

fn of_kind(history: &[EventView], kind: EventKind) -> Vec<EventView> {
    let events = history.iter().filter(|event| event.kind == kind);
    events.cloned().collect()
}

fn errors(history: &[EventView]) -> Vec<EventView> {
    let errors = history
        .iter()
        .filter(|event| event.level == LogLevel::Error);
    errors.cloned().collect()
}
