//! What was noticed and is still to be written: repairs, and events of nodes whose change is in
//! memory only.
//!
//! It is written in the order in which it came, by one task. While the store takes nothing it waits
//! here, up to [`BACKLOG_MAX`]; what comes beyond that is counted, and the gap is told once the
//! store is back.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_core::correction::Correction;
use atoll_core::event::{EventKind, Subject};
use atoll_core::time::Timestamp;
use atoll_store::store::{EventRow, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::events::{about, with};
use crate::limit::BACKLOG_MAX;
use crate::lock::lock;
use crate::metrics;
use crate::service::Inner;

/// Notes that are written together: what one transaction carries in a millisecond.
const BATCH_MAX: usize = 256;

/// Pause before the store is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long the last of it may take when the control plane stops.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// One thing to write.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Note {
    Event(Box<EventRow>),
    Correction(Box<Correction>),
}

#[derive(Debug, Default)]
struct Waiting {
    notes: VecDeque<Note>,
    /// What found no place since the last time that was told.
    dropped: u64,
}

impl Waiting {
    /// The first of them that go together: events, or corrections.
    fn batch(&self) -> Vec<Note> {
        let mut notes = self.notes.iter().take(BATCH_MAX);
        let Some(first) = notes.next() else {
            return Vec::new();
        };
        let kind = std::mem::discriminant(first);
        let rest = notes.take_while(|note| std::mem::discriminant(*note) == kind);
        std::iter::once(first).chain(rest).cloned().collect()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    waiting: Mutex<Waiting>,
    more: Notify,
}

impl Backlog {
    /// Has events and corrections written, in this order.
    pub(crate) fn add(
        &self,
        events: impl IntoIterator<Item = EventRow>,
        corrections: impl IntoIterator<Item = Correction>,
    ) {
        let events = events.into_iter().map(Box::new).map(Note::Event);
        let corrections = corrections.into_iter().map(Box::new).map(Note::Correction);
        {
            let mut waiting = lock(&self.waiting);
            for note in events.chain(corrections) {
                if waiting.notes.len() < BACKLOG_MAX {
                    waiting.notes.push_back(note);
                } else {
                    waiting.dropped += 1;
                    metrics::unrecorded();
                }
            }
        }
        self.more.notify_one();
    }

    /// Writes all there is.
    ///
    /// # Errors
    /// What the store says; what it did not take stays.
    async fn flush(&self, store: &dyn Store, now: Timestamp) -> atoll_store::store::Result<()> {
        loop {
            let batch = lock(&self.waiting).batch();
            if batch.is_empty() {
                break;
            }
            let (mut events, mut corrections) = (Vec::new(), Vec::new());
            for note in batch {
                match note {
                    Note::Event(event) => events.push(*event),
                    Note::Correction(correction) => corrections.push(*correction),
                }
            }
            let count = events.len() + corrections.len();
            if !events.is_empty() {
                store.event_append(events).await?;
            }
            if !corrections.is_empty() {
                store.correction_append(corrections).await?;
            }
            // Nobody else takes from the front.
            lock(&self.waiting).notes.drain(..count);
        }
        let dropped = lock(&self.waiting).dropped;
        if dropped > 0 {
            store.event_append(vec![gap(now, dropped)]).await?;
            lock(&self.waiting).dropped -= dropped;
        }
        Ok(())
    }
}

/// Tells that something is missing.
fn gap(at: Timestamp, dropped: u64) -> EventRow {
    let message = format!("{dropped} repairs and events of nodes could not be recorded");
    let event = about(Subject::Fleet, None, at, EventKind::Log, "warn", message);
    with(event, "dropped", dropped.to_string())
}

/// Writes what comes until `cancel`, and what is left then.
pub(crate) async fn run(inner: &Arc<Inner>, cancel: &CancellationToken) {
    let backlog = &inner.backlog;
    let writing = async {
        let mut is_told = false;
        loop {
            match backlog.flush(&*inner.store, inner.clock.now()).await {
                Ok(()) => {
                    is_told = false;
                    backlog.more.notified().await;
                }
                Err(error) => {
                    if !is_told {
                        tracing::warn!(%error, "repairs and events of nodes wait to be recorded");
                    }
                    is_told = true;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = writing => {}
    }
}

/// Writes what is left when the control plane stops.
pub(crate) async fn finish(inner: &Inner) {
    let flush = inner.backlog.flush(&*inner.store, inner.clock.now());
    let flushed = tokio::time::timeout(FLUSH_LIMIT, flush).await;
    if !matches!(flushed, Ok(Ok(()))) {
        tracing::warn!("some repairs and events of nodes are not recorded");
    }
}

#[cfg(test)]
mod tests {
    use atoll_core::event::Cursor;
    use atoll_store::memory::MemStore;
    use atoll_store::store::EventQuery;

    use super::*;

    fn numbered(number: usize) -> EventRow {
        let at = Timestamp::from_micros(1);
        let message = number.to_string();
        about(Subject::Fleet, None, at, EventKind::Log, "info", message)
    }

    #[tokio::test]
    async fn what_is_beyond_the_limit_is_counted_and_told_after_the_rest() {
        const BEYOND: usize = 3;
        let (backlog, store) = (Backlog::default(), MemStore::default());
        let now = Timestamp::from_micros(2);
        backlog.add((0..BACKLOG_MAX + BEYOND).map(numbered), []);
        backlog.flush(&store, now).await.unwrap();
        backlog.add([numbered(BACKLOG_MAX + BEYOND)], []);
        backlog.flush(&store, now).await.unwrap();

        let limit = u32::try_from(BACKLOG_MAX + 2 * BEYOND).unwrap();
        let query = EventQuery {
            kinds: vec![EventKind::Log],
            ..EventQuery::default()
        };
        let listed = store.event_list_after(Cursor::START, &query, limit);
        let events = listed.await.unwrap().events;
        let messages: Vec<_> = events.iter().map(|stored| &stored.event.message).collect();
        assert_eq!(messages.len(), BACKLOG_MAX + 2);
        let in_order = (0..BACKLOG_MAX).map(|number| number.to_string());
        assert!(in_order.eq(messages[..BACKLOG_MAX].iter().map(ToString::to_string)));
        assert_eq!(
            messages[BACKLOG_MAX].as_str(),
            "3 repairs and events of nodes could not be recorded"
        );
        assert_eq!(
            *messages[BACKLOG_MAX + 1],
            (BACKLOG_MAX + BEYOND).to_string(),
            "what comes later is written again"
        );
    }
}
