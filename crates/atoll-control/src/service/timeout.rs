//! Deadlines: setting and extending them.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::error::ErrorKind;
use atoll_core::id::SandboxId;
use atoll_core::lifecycle::Announcement;
use atoll_core::sandbox::{Sandbox, State};
use atoll_core::time::Timestamp;
use atoll_store::store::{Intent, IntentChange};

use super::{ControlPlane, Inner, demand_full, unavailable};
use crate::audit::Claim;
use crate::error::{Error, Result};
use crate::events;
use crate::view::Tenant;

const SECONDS_PER_HOUR: u64 = 3600;

/// How a deadline may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// To the wanted time, earlier or later.
    Set,
    /// Only later.
    Extend,
}

impl ControlPlane {
    /// Sets the deadline to `timeout` from now; may shorten. Capped at the lifetime limit. Zero
    /// ends the sandbox as its deadline would: soon after this returns, and by its own rule.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it is paused; `InvalidArgument` for a timeout out of range.
    pub async fn sandbox_set_timeout(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        timeout: Duration,
    ) -> Result<()> {
        demand_full(tenant)?;
        let row = self.inner.visible(tenant, id).await?;
        check_not_paused(&row)?;
        self.inner.check_longest(timeout)?;
        let claim = tenant.claim().await;
        self.inner
            .move_deadline(&row, timeout, Move::Set, claim)
            .await?;
        Ok(())
    }

    /// Moves the deadline to at least `duration` from now; never shortens.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it is paused; `InvalidArgument` for a duration out of range.
    pub async fn sandbox_refresh(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        duration: Duration,
    ) -> Result<()> {
        demand_full(tenant)?;
        let row = self.inner.visible(tenant, id).await?;
        check_not_paused(&row)?;
        self.inner.check_timeout(duration)?;
        let claim = tenant.claim().await;
        self.inner
            .move_deadline(&row, duration, Move::Extend, claim)
            .await?;
        Ok(())
    }
}

impl Inner {
    /// Refuses a timeout with which no sandbox may begin or go on.
    pub(super) fn check_timeout(&self, timeout: Duration) -> Result<()> {
        if timeout.is_zero() {
            return Err(Error::invalid("Timeout must be greater than 0").with_field("timeout"));
        }
        self.check_longest(timeout)
    }

    fn check_longest(&self, timeout: Duration) -> Result<()> {
        let limit = self.config.lifetime_max;
        if timeout <= limit {
            return Ok(());
        }
        // The wording is E2B's, which clients look for.
        Err(Error::invalid(format!(
            "Timeout cannot be greater than {}",
            in_words(limit)
        ))
        .with_field("timeout"))
    }

    /// Moves the deadline of a sandbox that its caller was found to own, by a timeout that its
    /// caller has checked.
    pub(super) async fn move_deadline(
        self: &Arc<Self>,
        row: &Sandbox,
        timeout: Duration,
        how: Move,
        claim: Option<Claim>,
    ) -> Result<Sandbox> {
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
            claimed_by: None,
            at: now,
            events: vec![events::with(
                event,
                "timeout_s",
                timeout.as_secs().to_string(),
            )],
            audit: claim.as_ref().map(|claim| claim.row(row.id.as_str(), now)),
        };
        let moved = self.store.sandbox_intend(intent).await;
        if moved.is_err() {
            // It may have moved although the store said otherwise.
            self.wake(&row.id);
        }
        let moved = moved
            .map_err(unavailable)?
            .ok_or_else(|| Error::no_sandbox(&row.id))?;
        if let Some(claim) = claim {
            claim.keep();
        }
        self.deadlines.set(&moved.id, moved.deadline);
        Ok(moved)
    }
}

/// The deadline of a paused sandbox does not run; each resume sets a new one.
fn check_not_paused(row: &Sandbox) -> Result<()> {
    match row.state {
        State::Pausing | State::Paused | State::Resuming => Err(Error::new(
            ErrorKind::Conflict,
            format!("sandbox {} is paused: its time does not run", row.id),
        )),
        State::Pending
        | State::Creating
        | State::Running
        | State::Stopping
        | State::Stopped
        | State::Error => Ok(()),
    }
}

/// A limit as people say it: in hours, unless it is none.
fn in_words(limit: Duration) -> String {
    let seconds = limit.as_secs();
    match seconds % SECONDS_PER_HOUR {
        0 => format!("{} hours", seconds / SECONDS_PER_HOUR),
        _ => format!("{seconds} seconds"),
    }
}

fn latest_deadline(row: &Sandbox, lifetime_max: Duration) -> Timestamp {
    row.started_at
        .unwrap_or(row.created_at)
        .saturating_add(lifetime_max)
}
