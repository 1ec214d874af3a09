//! Reading one sandbox.

use atoll_core::id::SandboxId;

use super::ControlPlane;
use crate::error::Result;
use crate::view::{SandboxView, Tenant};

impl ControlPlane {
    /// One sandbox that serves, is paused, or begins anew.
    ///
    /// # Errors
    /// `NotFound` for an unknown, foreign or ended one.
    pub async fn sandbox_get(&self, tenant: &Tenant, id: &SandboxId) -> Result<SandboxView> {
        let row = self.inner.visible(tenant, id).await?;
        Ok(self.inner.view(row))
    }
}
