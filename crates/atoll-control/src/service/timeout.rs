//! Deadlines: setting and extending them.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::id::SandboxId;
use atoll_core::lifecycle::Announcement;
use atoll_core::sandbox::Sandbox;
use atoll_core::time::Timestamp;
use atoll_store::store::{Intent, IntentChange};

use super::{ControlPlane, Inner, demand_full, unavailable};
use crate::error::{Error, Result};
use crate::events;
use crate::view::Tenant;

/// How a deadline may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// To the wanted time, earlier or later.
    Set,
    /// Only later.
    Extend,
}

impl ControlPlane {
    /// Sets the deadline to `timeout` from now; may shorten. Capped at the lifetime limit.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a timeout out of range.
    pub async fn sandbox_set_timeout(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        timeout: Duration,
    ) -> Result<()> {
        demand_full(tenant)?;
        let row = self.inner.visible(tenant, id).await?;
        self.inner.move_deadline(&row, timeout, Move::Set).await?;
        Ok(())
    }

    /// Moves the deadline to at least `duration` from now; never shortens.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a duration out of range.
    pub async fn sandbox_refresh(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        duration: Duration,
    ) -> Result<()> {
        demand_full(tenant)?;
        let row = self.inner.visible(tenant, id).await?;
        self.inner
            .move_deadline(&row, duration, Move::Extend)
            .await?;
        Ok(())
    }
}

impl Inner {
    /// Refuses a timeout that no sandbox may have.
    pub(super) fn check_timeout(&self, timeout: Duration) -> Result<()> {
        if timeout.is_zero() {
            return Err(Error::invalid("timeout must be greater than 0"));
        }
        let limit = self.config.lifetime_max;
        if timeout > limit {
            return Err(Error::invalid(format!(
                "timeout must be at most {} seconds, the longest a sandbox may live here",
                limit.as_secs()
            )));
        }
        Ok(())
    }

    /// Moves the deadline of a sandbox that its caller was found to own.
    pub(super) async fn move_deadline(
        self: &Arc<Self>,
        row: &Sandbox,
        timeout: Duration,
        how: Move,
    ) -> Result<Sandbox> {
        self.check_timeout(timeout)?;
        let now = self.clock.now();
        let latest = latest_deadline(row, self.config.lifetime_max);
        let deadline = now.saturating_add(timeout).min(latest);
        if how == Move::Extend && deadline <= row.deadline {
            return Ok(row.clone());
        }
        let change = match how {
            Move::Set => IntentChange::SetDeadline(deadline),
            Move::Extend => IntentChange::ExtendDeadline(deadline),
        };
        let event = events::announce(row, now, Announcement::Updated);
        let intent = Intent {
            id: row.id.clone(),
            change,
            at: now,
            events: vec![events::with(
                event,
                "timeout_s",
                timeout.as_secs().to_string(),
            )],
        };
        let moved = self.store.sandbox_intend(intent).await;
        let moved = moved
            .map_err(unavailable)?
            .ok_or_else(|| Error::no_sandbox(&row.id))?;
        self.deadlines.set(&moved.id, moved.deadline);
        Ok(moved)
    }
}

fn latest_deadline(row: &Sandbox, lifetime_max: Duration) -> Timestamp {
    row.started_at
        .unwrap_or(row.created_at)
        .saturating_add(lifetime_max)
}
