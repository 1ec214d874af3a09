//! Restarting: the same sandbox, begun anew.

use std::sync::Arc;

use atoll_core::id::SandboxId;
use atoll_core::sandbox::State;
use atoll_store::store::IntentChange;

use super::create::not_created;
use super::outcome::{Stance, conflict, restart_event, stance};
use super::{ControlPlane, Inner, demand_full};
use crate::error::Result;
use crate::reconciler::{Due, Goal, is_over};
use crate::view::{SandboxView, Tenant};

impl ControlPlane {
    /// Ends what runs in a sandbox and begins it anew from its template, with the same identity,
    /// configuration and metadata, under a new generation; waits until it serves. Its timeout
    /// begins again. Goes on to its end if the caller goes away.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if it is not running; what a create answers if no node can take it
    /// again: it has ended then; `DeadlineExceeded`: it goes on.
    pub async fn sandbox_restart(&self, tenant: &Tenant, id: &SandboxId) -> Result<SandboxView> {
        demand_full(tenant)?;
        let (inner, tenant, id) = (Arc::clone(&self.inner), tenant.clone(), id.clone());
        self.inner
            .detached(async move { inner.restart(&tenant, &id).await })
            .await
    }
}

impl Inner {
    async fn restart(self: &Arc<Self>, tenant: &Tenant, id: &SandboxId) -> Result<SandboxView> {
        let row = self.visible(tenant, id).await?;
        if stance(&row) != Stance::Serving {
            return Err(conflict(&row, "restarted"));
        }
        let event = restart_event(&row, self.clock.now());
        let due = Due::new(tenant.receipt.as_ref(), Goal::Serving);
        let intended = self
            .intend(&row, IntentChange::Restart, Some(event), due)
            .await?;
        let Some((intended, watch)) = intended else {
            let row = self.visible(tenant, id).await?;
            return Err(conflict(&row, "restarted"));
        };
        let settled = self
            .await_settled(&intended, watch, self.wait_until())
            .await?;
        let row = settled.row;
        if is_over(&row) {
            return Err(not_created(&row));
        }
        if row.state != State::Running {
            return Err(conflict(&row, "restarted"));
        }
        Ok(self.view(row))
    }
}
