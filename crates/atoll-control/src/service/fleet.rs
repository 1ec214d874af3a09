//! What operators decide about nodes.

use std::sync::Arc;

use atoll_core::correction::Correction;
use atoll_core::error::ErrorKind;
use atoll_core::id::NodeId;
use atoll_core::node::{DrainMode, NodeState};
use atoll_core::sandbox::{EndReason, State};

use super::{ControlPlane, Inner, unavailable};
use crate::corrections::RECENT_MAX;
use crate::error::{Error, Result};
use crate::node_events;
use crate::view::{NodeView, ServerView};

impl ControlPlane {
    /// The nodes, by id.
    #[must_use]
    pub fn node_list(&self) -> Vec<NodeView> {
        self.inner.registry.view()
    }

    /// One node.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn node_get(&self, id: &NodeId) -> Result<NodeView> {
        let views = self.inner.registry.view();
        let found = views.into_iter().find(|view| view.id == *id);
        found.ok_or_else(|| no_node(id))
    }

    /// Empties a node: it gets no new sandboxes from now on, restarts of the control plane
    /// included, until [`Self::node_undrain`]. With [`DrainMode::Evict`] those that run there are
    /// ended; paused ones stay, because their files are nowhere else. Does not wait for it: the
    /// node is empty once [`NodeView::sandboxes`] is zero. Repeating it is harmless.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` for the store, in which case nothing changed.
    pub async fn node_drain(&self, id: &NodeId, mode: DrainMode) -> Result<NodeView> {
        self.set_drain(id, Some(mode)).await?;
        if mode == DrainMode::Evict {
            self.inner.evict(id).await?;
        }
        self.node_get(id)
    }

    /// Lets a node have new sandboxes again.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` for the store, in which case nothing changed.
    pub async fn node_undrain(&self, id: &NodeId) -> Result<NodeView> {
        self.set_drain(id, None).await?;
        self.node_get(id)
    }

    /// Forgets a node for good. What it runs counts as lost; if it joins again, it is told to
    /// remove that. `force` is needed for a node that still has sandboxes.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` for a node that has sandboxes, or is ready and not drained, without
    /// `force`; `Unavailable` for the store.
    pub async fn node_remove(&self, id: &NodeId, force: bool) -> Result<()> {
        let inner = &self.inner;
        let (before, sandboxes) = inner.registry.standing(id).ok_or_else(|| no_node(id))?;
        if sandboxes > 0 && !force {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("node {id} has {sandboxes} sandbox(es): drain it first, or force it"),
            ));
        }
        if before == NodeState::Ready && !force {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("node {id} is ready: drain it first, or force it"),
            ));
        }
        let event = node_events::change(inner, id, before, NodeState::Left);
        let removed = inner.store.node_remove(id, vec![event.clone()]).await;
        if !removed.map_err(unavailable)? {
            // It joined while the store did not answer.
            inner.backlog.add([event], []);
        }
        let placed = inner.registry.placed_on(id);
        inner.registry.leave(id);
        for sandbox in placed {
            inner.wake(&sandbox);
        }
        Ok(())
    }

    /// The servers on this store, by id, as this one saw them last; none: it is alone.
    #[must_use]
    pub fn server_list(&self) -> Vec<ServerView> {
        self.inner.servers.view()
    }

    /// Whether this server does what only one of several may do.
    #[must_use]
    pub fn is_on_duty(&self) -> bool {
        self.inner.servers.is_on_duty()
    }

    /// The newest repairs, newest first.
    #[must_use]
    pub fn corrections(&self, limit: usize) -> Vec<Correction> {
        self.inner.corrections.newest(limit.min(RECENT_MAX))
    }

    async fn set_drain(&self, id: &NodeId, drain: Option<DrainMode>) -> Result<()> {
        let inner = &self.inner;
        let (before, _) = inner.registry.standing(id).ok_or_else(|| no_node(id))?;
        let now = inner.clock.now();
        let after = drained(before, drain);
        let events: Vec<_> = (before != after)
            .then(|| node_events::change(inner, id, before, after))
            .into_iter()
            .collect();
        let written = inner.store.node_drain(id, drain, now, events.clone());
        let written = written.await;
        if !written.map_err(unavailable)? {
            // It joined while the store did not answer.
            let info = self.node_get(id)?.info;
            inner
                .store
                .node_join(id, &info, now)
                .await
                .map_err(unavailable)?;
            inner
                .store
                .node_drain(id, drain, now, events)
                .await
                .map_err(unavailable)?;
        }
        inner
            .registry
            .set_drain(id, drain)
            .ok_or_else(|| no_node(id))?;
        Ok(())
    }
}

impl Inner {
    /// Ends what runs on a node. What is paused stays.
    async fn evict(self: &Arc<Self>, node: &NodeId) -> Result<()> {
        for id in self.registry.placed_on(node) {
            let row = self.store.sandbox_get(&id).await.map_err(unavailable)?;
            let is_kept = row.is_none_or(|row| {
                matches!(row.state, State::Paused | State::Pausing | State::Stopped)
            });
            if !is_kept {
                self.intend_stop(&id, EndReason::Evicted, None).await?;
            }
        }
        Ok(())
    }
}

/// How a node stands once it is drained, or no more: one that does not answer stands as before.
const fn drained(before: NodeState, drain: Option<DrainMode>) -> NodeState {
    match (before, drain) {
        (NodeState::Ready, Some(_)) => NodeState::Draining,
        (NodeState::Draining, None) => NodeState::Ready,
        (other, _) => other,
    }
}

fn no_node(id: &NodeId) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no node `{id}`"))
}
