//! Resuming: asked for, by connecting, or because traffic comes.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::error::ErrorKind;
use atoll_core::id::SandboxId;
use atoll_core::sandbox::{Sandbox, State};
use atoll_store::store::IntentChange;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::outcome::{Settled, Stance, conflict, stance};
use super::timeout::Move;
use super::{ControlPlane, Inner, demand_full, is_visible, unavailable};
use crate::error::{Error, Result};
use crate::reconciler::{Due, Goal, is_over};
use crate::view::{Connected, SandboxView, Tenant};

/// How often a sandbox may have changed its state under a caller who wants it to serve, before the
/// caller is told so: others pause and resume it against each other then.
const TURNS_MAX: u32 = 4;

/// What traffic shows to be let into a paused sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrafficAccess {
    /// It is for the guest agent, which checks its own token.
    GuestAgent,
    /// It is for another port, with this traffic token.
    Port(Option<String>),
}

impl ControlPlane {
    /// Lets a paused sandbox serve again, for `timeout` from then; waits until it does. One that is
    /// being paused is waited for. Goes on to its end if the caller goes away.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if it is running; `InvalidArgument` for a timeout out of range;
    /// `QuotaExceeded`; `NoCapacity` if its node has no room, and whatever else its node refuses
    /// it for: it stays paused then; `Unavailable` while its node is lost; `DeadlineExceeded`: it
    /// goes on.
    pub async fn sandbox_resume(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        timeout: Duration,
    ) -> Result<SandboxView> {
        demand_full(tenant)?;
        self.inner.check_timeout(timeout)?;
        let row = self.inner.visible(tenant, id).await?;
        if stance(&row) == Stance::Serving {
            return Err(conflict(&row, "resumed"));
        }
        let (inner, tenant, id) = (Arc::clone(&self.inner), tenant.clone(), id.clone());
        let (row, _) = self
            .inner
            .detached(async move { inner.serve(&tenant, &id, timeout).await })
            .await?;
        Ok(self.inner.view(row))
    }

    /// Makes sure that a sandbox serves, for at least `timeout` from now: extends the deadline of
    /// one that runs, never shortens it, and resumes one that is paused. Goes on to its end if the
    /// caller goes away.
    ///
    /// # Errors
    /// As [`Self::sandbox_resume`], but for one that runs.
    pub async fn sandbox_connect(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        timeout: Duration,
    ) -> Result<(SandboxView, Connected)> {
        demand_full(tenant)?;
        self.inner.check_timeout(timeout)?;
        let (inner, tenant, id) = (Arc::clone(&self.inner), tenant.clone(), id.clone());
        let (row, connected) = self
            .inner
            .detached(async move { inner.serve(&tenant, &id, timeout).await })
            .await?;
        Ok((self.inner.view(row), connected))
    }

    /// Makes a paused sandbox serve because traffic came for it, if it was made so; for the time it
    /// was last asked to serve. Its route is published when this returns.
    ///
    /// # Errors
    /// `NotFound` for one that is unknown, has ended, or stays paused until it is resumed
    /// explicitly; `PermissionDenied` without its traffic token, where it has one; as
    /// [`Self::sandbox_resume`] otherwise.
    pub async fn sandbox_resume_for_traffic(
        &self,
        id: &SandboxId,
        access: TrafficAccess,
    ) -> Result<()> {
        // Strangers' traffic does not reach the store, or only at a rate.
        if !self.inner.registry.is_live(id) && !self.inner.may_look_up() {
            return Err(Error::no_sandbox(id));
        }
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        self.inner
            .detached(async move { inner.serve_traffic(&id, &access).await })
            .await
    }
}

impl Inner {
    /// Runs a use case to its end although its caller may go away: a wish that was written must not
    /// be left to the next full pass.
    pub(super) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.tasks
            .spawn(work.in_current_span())
            .await
            .map_err(|error| {
                Error::new(ErrorKind::Internal, "the request did not end").with_source(error)
            })?
    }

    async fn serve(
        self: &Arc<Self>,
        tenant: &Tenant,
        id: &SandboxId,
        timeout: Duration,
    ) -> Result<(Sandbox, Connected)> {
        let until = self.wait_until();
        let mut connected = Connected::WasRunning;
        for _ in 0..TURNS_MAX {
            let row = self.visible(tenant, id).await?;
            match stance(&row) {
                Stance::Serving => {
                    // Once it was resumed, the request's row is written.
                    let claim = tenant.claim().await;
                    let row = self
                        .move_deadline(&row, timeout, Move::Extend, claim)
                        .await?;
                    return Ok((row, connected));
                }
                Stance::Turning => {
                    if row.state != State::Running {
                        connected = Connected::Resumed;
                    }
                    self.await_turn(&row, until).await?;
                }
                Stance::Kept => {
                    let due = Due::new(tenant.receipt.as_ref(), Goal::Serving);
                    if let Some(row) = self.resume(&row, timeout, due, until).await? {
                        return Ok((row, Connected::Resumed));
                    }
                }
            }
        }
        let row = self.visible(tenant, id).await?;
        Err(conflict(&row, "resumed"))
    }

    async fn serve_traffic(self: &Arc<Self>, id: &SandboxId, access: &TrafficAccess) -> Result<()> {
        let until = self.wait_until();
        for _ in 0..TURNS_MAX {
            let row = self.store.sandbox_get(id).await.map_err(unavailable)?;
            let row = row
                .filter(is_visible)
                .ok_or_else(|| Error::no_sandbox(id))?;
            self.check_access(&row, access)?;
            let will_serve = row.config.auto_resume
                || row.state == State::Resuming
                || row.is_restarting
                || stance(&row) == Stance::Serving;
            if !will_serve {
                return Err(Error::no_sandbox(id));
            }
            match stance(&row) {
                Stance::Serving => {
                    self.publish_route(&row);
                    return Ok(());
                }
                Stance::Turning => self.await_turn(&row, until).await?,
                Stance::Kept => {
                    let resumed = self.resume(&row, row.timeout, None, until).await?;
                    if resumed.is_some() {
                        return Ok(());
                    }
                }
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("sandbox {id} is paused and resumed by others"),
        ))
    }

    fn check_access(&self, row: &Sandbox, access: &TrafficAccess) -> Result<()> {
        let TrafficAccess::Port(given) = access else {
            return Ok(());
        };
        let Some(token) = self.tokens.traffic(row) else {
            return Ok(());
        };
        let is_right = given
            .as_deref()
            .is_some_and(|given| is_same(given.as_bytes(), token.expose().as_bytes()));
        if is_right {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::PermissionDenied,
            "the traffic token of the sandbox is missing or wrong",
        ))
    }

    /// Waits until a sandbox that is on its way has come to rest.
    async fn await_turn(self: &Arc<Self>, row: &Sandbox, until: Instant) -> Result<()> {
        let watch = self.reconciler.wake(self, &row.id, None);
        let Settled { row, .. } = self.await_settled(row, watch, until).await?;
        if is_over(&row) {
            return Err(Error::no_sandbox(&row.id));
        }
        Ok(())
    }

    /// Resumes a paused sandbox. None: it is no longer paused, for whatever reason.
    async fn resume(
        self: &Arc<Self>,
        row: &Sandbox,
        timeout: Duration,
        due: Option<Due>,
        until: Instant,
    ) -> Result<Option<Sandbox>> {
        let change = IntentChange::Resume { timeout };
        let Some((intended, watch)) = self.intend(row, change, None, due).await? else {
            return Ok(None);
        };
        let settled = self.await_settled(&intended, watch, until).await?;
        if is_over(&settled.row) {
            return Err(Error::no_sandbox(&row.id));
        }
        if stance(&settled.row) == Stance::Serving {
            return Ok(Some(settled.row));
        }
        // The same pause as before, not one that came after the resume.
        if settled.row.kept == intended.kept {
            return Err(self.set_back("resumed", &settled));
        }
        Ok(None)
    }
}

/// Compares without telling, by the time it takes, how much was right.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}
