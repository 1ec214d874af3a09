//! What a sandbox is about, for callers who want it elsewhere, and waiting until it is there.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::crash;
use atoll_core::error::ErrorKind;
use atoll_core::id::SandboxId;
use atoll_core::node::Refusal;
use atoll_core::sandbox::{Desired, Sandbox, State};
use atoll_store::store::{Intent, IntentChange};
use tokio::time::{Instant, timeout_at};

use super::create::{CAPACITY_RETRY_AFTER, quota_exceeded};
use super::{Inner, unavailable};
use crate::error::{Error, Result, code};
use crate::events;
use crate::reconciler::{Due, Setback, Watch, is_over};

/// When to try again what needs a node that is lost.
const NODE_RETRY_AFTER: Duration = Duration::from_secs(10);

/// What a sandbox is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stance {
    /// It serves, and nothing else is wanted.
    Serving,
    /// It is paused, and nothing else is wanted.
    Kept,
    /// It is on its way.
    Turning,
}

pub(super) const fn stance(row: &Sandbox) -> Stance {
    match (row.state, row.desired) {
        (State::Running, Desired::Running) if !row.is_restarting => Stance::Serving,
        (State::Paused, Desired::Paused) => Stance::Kept,
        _ => Stance::Turning,
    }
}

/// Where a sandbox came to rest.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) row: Sandbox,
    /// Why the last wish was taken back, if it was.
    pub(super) setback: Option<Setback>,
}

impl Inner {
    /// Writes a wish and has it carried out, for a request that is done with it, if there is one.
    /// None: it has no effect on the sandbox as it is now.
    pub(super) async fn intend(
        self: &Arc<Self>,
        row: &Sandbox,
        change: IntentChange,
        event: Option<atoll_store::store::EventRow>,
        due: Option<Due>,
    ) -> Result<Option<(Sandbox, Watch)>> {
        let intent = Intent {
            id: row.id.clone(),
            change,
            claimed_by: self.servers.claim(),
            at: self.clock.now(),
            events: event.into_iter().collect(),
            audit: None,
        };
        let intended = self.store.sandbox_intend(intent).await;
        let Some(intended) = intended.map_err(unavailable)? else {
            return Ok(None);
        };
        crash::reached("control.intent");
        let watch = self.reconciler.wake_for(self, &row.id, None, due);
        Ok(Some((intended, watch)))
    }

    /// Until when a request may wait for sandboxes to come to rest, however often it does.
    pub(super) fn wait_until(&self) -> Instant {
        Instant::now() + self.config.transition_timeout
    }

    /// Waits until a sandbox has come to rest, as it is after `row` was written.
    ///
    /// # Errors
    /// `NotFound` if it is unwanted then; `DeadlineExceeded`: it goes on.
    pub(super) async fn await_settled(
        self: &Arc<Self>,
        row: &Sandbox,
        mut watch: Watch,
        until: Instant,
    ) -> Result<Settled> {
        let is_settled = |seen: &Sandbox| {
            seen.revision >= row.revision && (is_over(seen) || stance(seen) != Stance::Turning)
        };
        let seen = match timeout_at(until, watch.until(is_settled)).await {
            Ok(Some(seen)) => Some(Arc::unwrap_or_clone(seen)),
            // Its task came to rest before we looked, or the server is shutting down.
            Ok(None) => self.store.sandbox_get(&row.id).await.map_err(unavailable)?,
            Err(_) => return Err(still_under_way(&row.id)),
        };
        let row = seen.ok_or_else(|| Error::no_sandbox(&row.id))?;
        let setback = watch.setback();
        Ok(Settled { row, setback })
    }

    /// The error for a pause or resume that did not happen.
    pub(super) fn set_back(&self, verb: &str, settled: &Settled) -> Error {
        let refused = |kind, detail: &str| {
            Error::new(kind, format!("the sandbox could not be {verb}: {detail}"))
        };
        match &settled.setback {
            Some(Setback::QuotaExceeded(exceeded)) => quota_exceeded(*exceeded),
            Some(Setback::NoRoom(short)) => no_room(refused(ErrorKind::NoCapacity, short)),
            Some(Setback::NodeLost) => refused(
                ErrorKind::Unavailable,
                "its node does not answer; it is kept there",
            )
            .with_retry_after(NODE_RETRY_AFTER),
            Some(Setback::Refused(refusal)) => match refusal {
                Refusal::NoRoom(detail) => no_room(refused(ErrorKind::NoCapacity, detail)),
                Refusal::Unsupported(_) => refused(ErrorKind::Unsupported, &refusal.to_string()),
                Refusal::StaleGeneration { .. }
                | Refusal::UnknownSandbox
                | Refusal::UnknownTemplate
                | Refusal::BadSource(_)
                | Refusal::BadSnapshot(_)
                | Refusal::Failed(_) => refused(ErrorKind::Internal, &refusal.to_string()),
            },
            None => {
                let detail = settled.row.last_error.as_deref();
                refused(
                    ErrorKind::Unavailable,
                    detail.unwrap_or("the server is stopping"),
                )
            }
        }
    }
}

fn no_room(error: Error) -> Error {
    error
        .with_code(code::CAPACITY_UNAVAILABLE)
        .with_retry_after(CAPACITY_RETRY_AFTER)
}

fn still_under_way(id: &SandboxId) -> Error {
    Error::new(
        ErrorKind::DeadlineExceeded,
        format!("sandbox {id} is still on its way to the state asked for"),
    )
}

/// The error for a sandbox whose state does not allow what is asked.
pub(super) fn conflict(row: &Sandbox, wanted: &str) -> Error {
    let is = match stance(row) {
        Stance::Serving => "is running".to_owned(),
        Stance::Kept => "is paused already".to_owned(),
        Stance::Turning => format!(
            "is changing its state ({})",
            atoll_core::lifecycle::state_name(row.state)
        ),
    };
    Error::new(
        ErrorKind::Conflict,
        format!("sandbox {} {is} and cannot be {wanted} now", row.id),
    )
}

/// The event for an accepted restart.
pub(super) fn restart_event(
    row: &Sandbox,
    at: atoll_core::time::Timestamp,
) -> atoll_store::store::EventRow {
    let event = events::announce(row, at, atoll_core::lifecycle::Announcement::Updated);
    events::with(event, "changed", "restart")
}
