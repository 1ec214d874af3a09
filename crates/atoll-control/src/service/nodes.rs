//! Nodes joining, and what they report.

use std::sync::Arc;

use atoll_core::error::ErrorKind;
use atoll_core::node::{NodeEvent, ObservedSandbox};
use atoll_core::reconcile::Observed;
use atoll_store::store::EventRow;
use std::collections::BTreeMap;
use tokio::sync::mpsc;

use super::{ControlPlane, Inner};
use crate::error::{Error, Result};
use crate::events::LOG;
use crate::node_client::NodeClient;
use crate::tasks::sync::synchronise;
use crate::view::NodeView;

/// Node events handled in one go, so that their log lines share a commit.
const EVENTS_BATCH: usize = 256;

/// The longest message of a log line, in characters.
const LOG_MESSAGE_MAX: usize = 4_096;

impl ControlPlane {
    /// Adds a node and synchronises with it: what is intended is adopted, what is not is removed,
    /// what is missing fails. Returns when that is begun for every sandbox. `events` is what the
    /// node reports of its own accord; it is read until it closes.
    ///
    /// # Errors
    /// `Unavailable` if the node does not report.
    pub async fn node_join(
        &self,
        client: Arc<dyn NodeClient>,
        events: mpsc::Receiver<NodeEvent>,
    ) -> Result<()> {
        let inner = &self.inner;
        let node = client.node().clone();
        inner.registry.join(Arc::clone(&client), inner.clock.now());
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
        for id in inner.registry.placed_on(&node) {
            inner.wake(&id);
        }
        Ok(())
    }

    /// The nodes, by id.
    #[must_use]
    pub fn node_list(&self) -> Vec<NodeView> {
        self.inner.registry.view()
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
                        lines.push(EventRow {
                            sandbox: id,
                            team,
                            at,
                            kind: LOG.to_owned(),
                            level: level.to_owned(),
                            message: message.chars().take(LOG_MESSAGE_MAX).collect(),
                            fields: BTreeMap::new(),
                        });
                    }
                }
            }
        }
        if !lines.is_empty()
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
