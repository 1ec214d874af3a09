//! Ending sandboxes.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::crash;
use atoll_core::id::SandboxId;
use atoll_core::route::RouteUpdate;
use atoll_core::sandbox::{EndReason, Sandbox, State};
use atoll_store::store::{Intent, IntentChange};
use tokio::time::timeout;

use super::{ControlPlane, Inner, demand_full, unavailable};
use crate::audit::Claim;
use crate::error::{Error, Result};
use crate::reconciler::Watch;
use crate::view::Tenant;

impl ControlPlane {
    /// Ends a sandbox. Answers when that is durable, its route is withdrawn, and the node
    /// confirmed or the bound passed; in the latter case the removal goes on.
    ///
    /// # Errors
    /// `NotFound` for an unknown, foreign or ended one.
    pub async fn sandbox_kill(&self, tenant: &Tenant, id: &SandboxId) -> Result<()> {
        demand_full(tenant)?;
        self.inner.visible(tenant, id).await?;
        let claim = tenant.claim().await;
        let watch = self
            .inner
            .intend_stop(id, EndReason::Killed, claim)
            .await?
            .ok_or_else(|| Error::no_sandbox(id))?;
        self.inner
            .await_stopped(id, watch, self.inner.config.delete_timeout)
            .await;
        Ok(())
    }

    /// Ends every sandbox of every team with reason `Shutdown`, and waits at most `limit` for it.
    /// Answers how many are still on their way.
    ///
    /// # Errors
    /// `Unavailable` for the store.
    pub async fn sandboxes_end_all(&self, limit: Duration) -> Result<usize> {
        let mut watches = Vec::new();
        for id in self.inner.registry.live() {
            let watch = self
                .inner
                .intend_stop(&id, EndReason::Shutdown, None)
                .await?;
            // One that is unwanted already is on its way, and is waited for all the same.
            let watch = watch.unwrap_or_else(|| self.inner.reconciler.wake(&self.inner, &id, None));
            watches.push(watch);
        }
        let all = async {
            for mut watch in watches {
                watch.until(|row| row.state == State::Stopped).await;
            }
        };
        // What does not end in time is counted by the caller's answer.
        let _ = timeout(limit, all).await;
        Ok(self.inner.registry.live().len())
    }
}

impl Inner {
    /// Makes a sandbox unwanted and has that carried out. None: it is unknown or unwanted already.
    pub(super) async fn intend_stop(
        self: &Arc<Self>,
        id: &SandboxId,
        reason: EndReason,
        claim: Option<Claim>,
    ) -> Result<Option<Watch>> {
        let at = self.clock.now();
        let intent = Intent {
            id: id.clone(),
            change: IntentChange::Stop(reason),
            claimed_by: self.servers.claim(),
            at,
            events: Vec::new(),
            audit: claim.as_ref().map(|claim| claim.row(id.as_str(), at)),
        };
        let row = self.store.sandbox_intend(intent).await;
        if row.is_err() {
            // It may be unwanted although the store said otherwise.
            self.wake(id);
        }
        let Some(row) = row.map_err(unavailable)? else {
            return Ok(None);
        };
        if let Some(claim) = claim {
            claim.keep();
        }
        crash::reached("control.intent");
        // At once: the transition that withdraws it again may wait for a start under way.
        self.routes
            .publish(RouteUpdate::Withdraw(row.id.clone(), row.generation));
        Ok(Some(self.reconciler.wake(self, id, Some(row))))
    }

    async fn await_stopped(&self, id: &SandboxId, mut watch: Watch, limit: Duration) {
        let is_stopped = |row: &Sandbox| row.state == State::Stopped;
        if timeout(limit, watch.until(is_stopped)).await.is_err() {
            tracing::warn!(sandbox = %id, "removal is not confirmed in time and goes on");
        }
    }
}
