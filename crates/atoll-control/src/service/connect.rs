//! Connecting to a sandbox that exists.

use std::time::Duration;

use atoll_core::error::ErrorKind;
use atoll_core::id::SandboxId;
use atoll_core::sandbox::State;

use super::timeout::Move;
use super::{ControlPlane, demand_full};
use crate::error::{Error, Result};
use crate::view::{Connected, SandboxView, Tenant};

impl ControlPlane {
    /// Makes sure that a sandbox serves, for at least `timeout` from now; never shortens.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a timeout out of range.
    pub async fn sandbox_connect(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        timeout: Duration,
    ) -> Result<(SandboxView, Connected)> {
        demand_full(tenant)?;
        let row = self.inner.visible(tenant, id).await?;
        if row.state != State::Running {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "resuming a sandbox is not supported by this installation",
            ));
        }
        self.inner.check_timeout(timeout)?;
        let row = self
            .inner
            .move_deadline(&row, timeout, Move::Extend)
            .await?;
        Ok((self.inner.view(row), Connected::WasRunning))
    }

    /// One sandbox that serves or is paused.
    ///
    /// # Errors
    /// `NotFound` for an unknown, foreign or ended one.
    pub async fn sandbox_get(&self, tenant: &Tenant, id: &SandboxId) -> Result<SandboxView> {
        let row = self.inner.visible(tenant, id).await?;
        Ok(self.inner.view(row))
    }
}
