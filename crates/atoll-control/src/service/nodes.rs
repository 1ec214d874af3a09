//! Nodes joining, and what they report.

use std::sync::Arc;

use atoll_core::correction::CorrectionKind;
use atoll_core::error::ErrorKind;
use atoll_core::event::{EventKind, Subject};
use atoll_core::heartbeat::Heartbeat;
use atoll_core::node::{NodeEvent, NodeState, ObservedSandbox};
use atoll_core::reconcile::Observed;
use tokio::sync::mpsc;

use super::{ControlPlane, Inner};
use crate::corrections::Corrections;
use crate::error::{Error, Result};
use crate::events;
use crate::node_client::NodeClient;
use crate::node_events;
use crate::registry::node::Reason;
use crate::tasks::sync::{synchronise, synchronise_once};

/// Node events handled in one go, so that their log lines share a commit.
const EVENTS_BATCH: usize = 256;

/// The longest message of a log line, in characters.
const LOG_MESSAGE_MAX: usize = 4_096;

impl ControlPlane {
    /// Adds a node, has it make the templates that every node must have, and synchronises with it:
    /// what is intended is adopted, what is not is removed, what is missing fails. Returns when
    /// that is begun for every sandbox. `events` is what the node reports of its own accord; it is
    /// read until it closes.
    ///
    /// # Errors
    /// `Unavailable` if the node does not report.
    pub async fn node_join(
        &self,
        client: Arc<dyn NodeClient>,
        events: mpsc::Receiver<NodeEvent>,
    ) -> Result<()> {
        let inner = &self.inner;
        let builds = inner.prepare_node(client.as_ref()).await;
        let node = client.node().clone();
        let now = inner.clock.now();
        let (client, is_again) = inner.registry.join(client, now);
        for build in &builds {
            inner.registry.note_template(&node, build, true);
        }
        // A node serves also while the store does not: what its operator decided is in memory.
        if let Err(error) = inner.store.node_join(&node, &client.info(), now).await {
            tracing::warn!(%node, %error, "the node is not recorded");
        }
        inner.tasks.spawn(listen(Arc::clone(inner), events));
        synchronise(inner, client.as_ref())
            .await
            .map_err(|detail| {
                Error::new(
                    ErrorKind::Unavailable,
                    format!("node {node} does not report: {detail}"),
                )
            })?;
        // Also those of which nothing changed: their routes are published, and what was under way
        // goes on.
        let placed = inner.registry.placed_on(&node);
        for id in &placed {
            inner.wake(id);
        }
        if is_again && !placed.is_empty() {
            let why = format!(
                "it joined again: the routes to its {} sandbox(es) are published again",
                placed.len()
            );
            let mut corrections = Corrections::default();
            corrections.of_node(inner, &node, CorrectionKind::RouteRepublished, &why);
            corrections.record(inner);
        }
        Ok(())
    }

    /// Takes a heartbeat of a node that joined. Answers how the node stands with it, so that it can
    /// tell its operator.
    ///
    /// Does not wait for what the heartbeat leads to: a node that was lost, or whose digest differs
    /// from what is expected there, is synchronised with afterwards.
    ///
    /// # Errors
    /// `NotFound` if no such node has joined since the control plane started, or the operator
    /// removed it: it has to join (again).
    pub async fn node_heartbeat(&self, heartbeat: Heartbeat) -> Result<NodeState> {
        let inner = &self.inner;
        let node = heartbeat.node.clone();
        let driven = inner.reconciler.driven();
        let heard = inner.registry.hear(heartbeat, &driven, inner.clock.now());
        let Some(heard) = heard else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("no node {node} has joined"),
            ));
        };
        if heard.before != heard.state {
            node_events::changed(inner, &node, heard.before, heard.state);
        }
        if let Some(reason) = heard.synchronise
            && let Some(client) = inner.registry.client(&node)
        {
            let inner = Arc::clone(inner);
            self.inner.tasks.spawn(async move {
                if let Reason::Mismatch(why) = &reason {
                    let mut corrections = Corrections::default();
                    corrections.of_node(&inner, &node, CorrectionKind::DigestMismatch, why);
                    corrections.record(&inner);
                }
                synchronise_once(&inner, client.as_ref()).await;
            });
        }
        Ok(heard.state)
    }
}

async fn listen(inner: Arc<Inner>, mut events: mpsc::Receiver<NodeEvent>) {
    let mut batch = Vec::with_capacity(EVENTS_BATCH);
    loop {
        let received = tokio::select! {
            biased;
            () = inner.cancel.cancelled() => return,
            received = events.recv_many(&mut batch, EVENTS_BATCH) => received,
        };
        if received == 0 {
            return;
        }
        let mut lines = Vec::new();
        for event in batch.drain(..) {
            match event {
                NodeEvent::Changed(seen) => changed(&inner, seen),
                NodeEvent::Usage(id, sample) => {
                    if inner.registry.is_live(&id) {
                        inner.usage.push(id, sample);
                    }
                }
                NodeEvent::Log {
                    id,
                    at,
                    level,
                    message,
                } => {
                    if let Some(team) = inner.registry.take_log_line(&id) {
                        let message: String = message.chars().take(LOG_MESSAGE_MAX).collect();
                        let subject = Subject::Sandbox(id);
                        let kind = EventKind::Log;
                        let line = events::about(subject, Some(team), at, kind, level, message);
                        lines.push(line);
                    }
                }
            }
        }
        // Every server hears them; the one on duty keeps them.
        if !lines.is_empty()
            && inner.servers.is_on_duty()
            && let Err(error) = inner.store.event_append(lines).await
        {
            tracing::warn!(%error, "log lines of sandboxes are lost");
        }
    }
}

fn changed(inner: &Arc<Inner>, seen: ObservedSandbox) {
    let id = seen.id.clone();
    let generation = seen.generation;
    if inner
        .registry
        .observe(&id, generation, Observed::Known(seen))
    {
        inner.wake(&id);
    }
}
