//! Durable subscribers: readers whose cursor is kept, so that nothing is lost between a commit and
//! its delivery, whatever dies in between.
//!
//! A cursor is written after what it stands behind was handled, never before: what was handled
//! since is handled again after a crash. It is written at most once in [`KEEP_INTERVAL`], so that
//! subscribers do not double the commits.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::event::{Cursor, EventKind};
use atoll_store::store::EventQuery;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::service::Inner;
use crate::view::EventView;

/// How often a cursor is written at most: what a crash has handled twice.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a handler may take for one event. One that takes longer has failed and is asked again.
const HANDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long after the first failure there is another attempt; it doubles from there.
const RETRY_MIN: Duration = Duration::from_millis(50);

/// The longest wait between attempts: a cause that passes is noticed within this.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Why a handler did not handle an event.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// Something in this process that acts on events.
///
/// Events come in the order of their cursors, one at a time, each at least once: after a failure,
/// and after a crash, again. So handling one must be repeatable, and what fails holds up what
/// follows for this handler, and for no other.
#[async_trait]
pub trait EventHandler: Send + Sync + std::fmt::Debug {
    /// The name under which its cursor is kept: unique, and the same in every version.
    fn name(&self) -> &str;

    /// What it wants; empty means every kind but lines of logs.
    fn kinds(&self) -> Vec<EventKind>;

    /// Handles one event.
    ///
    /// # Errors
    /// Any: the same event comes again, after a while.
    async fn handle(&self, event: &EventView) -> Result<(), HandlerError>;

    /// Called before what follows if events were pruned before they were handled: how many, of all
    /// kinds and teams, up to which cursor.
    async fn lagged(&self, missed: u64, through: Cursor) {
        tracing::warn!(
            handler = self.name(),
            missed,
            %through,
            "events were pruned before they were handled"
        );
    }
}

/// Waits between attempts, for ever.
pub(crate) fn delays(min: Duration, max: Duration) -> impl Iterator<Item = Duration> + Send {
    let policy = ExponentialBuilder::default()
        .with_min_delay(min)
        .with_max_delay(max)
        .with_jitter()
        .without_max_times();
    policy.build().map(move |delay| delay.min(max))
}

/// Has the handler handle events until `cancel`. One that was never here begins with what comes
/// now.
pub(crate) async fn run(
    inner: Arc<Inner>,
    handler: Arc<dyn EventHandler>,
    mut cursor: Cursor,
    cancel: CancellationToken,
) {
    let query = EventQuery {
        kinds: handler.kinds(),
        ..EventQuery::default()
    };
    let mut head = inner.bus.head();
    let mut kept = (cursor, Instant::now());
    let mut told = cursor;
    loop {
        let newest = *head.borrow_and_update();
        if newest <= cursor {
            // Whether the cursor still has to be written decides how long to wait.
            let due = kept.1 + KEEP_INTERVAL;
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                moved = head.changed() => if moved.is_err() { break },
                () = tokio::time::sleep_until(due), if kept.0 < cursor => {
                    keep(&inner, handler.name(), cursor, &mut kept).await;
                }
            }
            continue;
        }
        let Some(chunk) = read(&inner, cursor, &query, &cancel).await else {
            break;
        };
        if let Some(gap) = chunk.gap.filter(|gap| gap.through > told) {
            told = gap.through;
            handler.lagged(gap.missed, gap.through).await;
        }
        for stored in &chunk.events {
            let event = EventView::from(&**stored);
            if !insist(&*handler, &event, &cancel).await {
                keep(&inner, handler.name(), cursor, &mut kept).await;
                return;
            }
            cursor = event.cursor;
            if kept.1.elapsed() >= KEEP_INTERVAL {
                keep(&inner, handler.name(), cursor, &mut kept).await;
            }
        }
        cursor = chunk.next;
    }
    keep(&inner, handler.name(), cursor, &mut kept).await;
}

/// Reads on; tries again while the store does not answer. None: cancelled.
pub(crate) async fn read(
    inner: &Inner,
    cursor: Cursor,
    query: &EventQuery,
    cancel: &CancellationToken,
) -> Option<super::Chunk> {
    let mut waits = delays(RETRY_MIN, RETRY_MAX);
    loop {
        match inner.bus.read(cursor, query).await {
            Ok(chunk) => return Some(chunk),
            Err(error) => tracing::warn!(%error, "events cannot be read"),
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return None,
            () = tokio::time::sleep(waits.next().unwrap_or(RETRY_MAX)) => {}
        }
    }
}

/// Has one event handled, however often that takes. Answers false if cancelled.
async fn insist(handler: &dyn EventHandler, event: &EventView, cancel: &CancellationToken) -> bool {
    let mut waits = delays(RETRY_MIN, RETRY_MAX);
    loop {
        let attempt = AssertUnwindSafe(handler.handle(event)).catch_unwind();
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => return false,
            outcome = tokio::time::timeout(HANDLE_TIMEOUT, attempt) => outcome,
        };
        let failure = match outcome {
            Ok(Ok(Ok(()))) => return true,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_)) => "it panicked".to_owned(),
            Err(_) => format!("it took more than {} s", HANDLE_TIMEOUT.as_secs()),
        };
        tracing::warn!(
            handler = handler.name(),
            cursor = %event.cursor,
            kind = %event.kind,
            failure,
            "an event is not handled and comes again"
        );
        tokio::select! {
            biased;
            () = cancel.cancelled() => return false,
            () = tokio::time::sleep(waits.next().unwrap_or(RETRY_MAX)) => {}
        }
    }
}

async fn keep(inner: &Inner, name: &str, cursor: Cursor, kept: &mut (Cursor, Instant)) {
    if kept.0 == cursor {
        return;
    }
    let now = inner.clock.now();
    kept.1 = Instant::now();
    match inner.store.event_cursor_set(name, cursor, now).await {
        Ok(()) => kept.0 = cursor,
        Err(error) => tracing::warn!(handler = name, %error, "a handler's cursor is not kept"),
    }
}
