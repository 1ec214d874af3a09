//! Pausing: keeping a sandbox without serving.

use std::sync::Arc;

use atoll_core::id::SandboxId;
use atoll_core::sandbox::State;
use atoll_store::store::IntentChange;

use super::outcome::{Stance, conflict, stance};
use super::{ControlPlane, Inner, demand_full};
use crate::error::{Error, Result};
use crate::reconciler::{Due, Goal, is_over};
use crate::view::{SandboxView, Tenant};

impl ControlPlane {
    /// Pauses a running sandbox, and waits until what is kept of it would survive the end of its
    /// node's process. With `keep_memory` its processes stay as they are, without it only its
    /// files do. Goes on to its end if the caller goes away.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if it is not running; `Unsupported` or `Internal` if its node could
    /// not pause it: it runs on then; `DeadlineExceeded`: it goes on.
    pub async fn sandbox_pause(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        keep_memory: bool,
    ) -> Result<SandboxView> {
        demand_full(tenant)?;
        let (inner, tenant, id) = (Arc::clone(&self.inner), tenant.clone(), id.clone());
        self.inner
            .detached(async move { inner.pause(&tenant, &id, keep_memory).await })
            .await
    }
}

impl Inner {
    async fn pause(
        self: &Arc<Self>,
        tenant: &Tenant,
        id: &SandboxId,
        keep_memory: bool,
    ) -> Result<SandboxView> {
        let row = self.visible(tenant, id).await?;
        if stance(&row) != Stance::Serving {
            return Err(conflict(&row, "paused"));
        }
        let change = IntentChange::Pause { keep_memory };
        let due = Due::new(tenant.receipt.as_ref(), Goal::Paused);
        let Some((intended, watch)) = self.intend(&row, change, None, due).await? else {
            let row = self.visible(tenant, id).await?;
            return Err(conflict(&row, "paused"));
        };
        let settled = self
            .await_settled(&intended, watch, self.wait_until())
            .await?;
        let row = &settled.row;
        // Whoever resumed it meanwhile found it paused.
        let was_paused = row.kept.is_some() || row.generation != intended.generation;
        if is_over(row) {
            Err(Error::no_sandbox(id))
        } else if was_paused {
            Ok(self.view(settled.row))
        } else if row.state == State::Running {
            Err(self.set_back("paused", &settled))
        } else {
            Err(conflict(row, "paused"))
        }
    }
}
