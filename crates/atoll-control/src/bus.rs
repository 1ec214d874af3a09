//! The event bus: what was committed reaches those who want to know of it.
//!
//! The store's events are the one queue. A reader is a cursor into it; nothing is ever pushed at a
//! reader, so a slow one holds back nobody and costs nothing but its own page. A commit only says
//! how far events go now.
//!
//! ```text
//!  commit ──▶ head (a number that moves) ──▶ readers wake
//!                                             │ near the head: the tail, read once for all
//!                                             └ further back: the store
//! ```
//!
//! Invariants:
//! - A reader sees the events it wants in the order of their cursors, which is the order of their
//!   commits, each at least once.
//! - What a reader can no longer have, because it was pruned, it is told of before what follows.
//! - The tail is bounded; a reader that falls out of it goes on from the store.

mod subscriber;
mod watch;

use std::collections::VecDeque;
use std::sync::Arc;

use atoll_core::event::{Cursor, EventKind};
use atoll_store::store::{EventGap, EventQuery, Result, Store, StoredEvent};
use tokio::sync::{Mutex, watch as moving};

pub use subscriber::{EventHandler, HandlerError};
pub(crate) use subscriber::{delays, read, run as run_handler};
pub use watch::EventStream;
pub(crate) use watch::Places;

/// Events that the tail keeps: at some hundred bytes each a few megabytes, and seconds of the
/// busiest fleet for a reader to keep up in.
const TAIL_MAX: usize = 8_192;

/// Events read from the store at a time, and the most a reader holds.
pub(crate) const PAGE: u32 = 256;

/// Times that a page is read again because events were pruned meanwhile.
const REREADS_MAX: u32 = 8;

/// The way to all events.
#[derive(Debug)]
pub(crate) struct Bus {
    store: Arc<dyn Store>,
    head: moving::Receiver<Cursor>,
    tail: Mutex<Tail>,
    places: Arc<Places>,
}

/// The newest events, but for lines of logs: all of those after `after` up to `through`.
#[derive(Debug)]
struct Tail {
    after: Cursor,
    through: Cursor,
    events: VecDeque<Arc<StoredEvent>>,
}

/// What a reader gets.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// What was pruned before the reader came to it.
    pub(crate) gap: Option<EventGap>,
    /// What it wants, in order.
    pub(crate) events: Vec<Arc<StoredEvent>>,
    /// Where it goes on.
    pub(crate) next: Cursor,
}

impl Tail {
    const fn at(cursor: Cursor) -> Self {
        Self {
            after: cursor,
            through: cursor,
            events: VecDeque::new(),
        }
    }

    fn extend(&mut self, events: Vec<StoredEvent>, through: Cursor) {
        self.events.extend(events.into_iter().map(Arc::new));
        self.through = through;
        while self.events.len() > TAIL_MAX {
            if let Some(oldest) = self.events.pop_front() {
                self.after = oldest.cursor;
            }
        }
    }

    fn read(&self, after: Cursor, query: &EventQuery) -> Chunk {
        let first = self.events.partition_point(|event| event.cursor <= after);
        let events: Vec<_> = self
            .events
            .range(first..)
            .filter(|stored| query.matches(&stored.event))
            .take(PAGE as usize)
            .cloned()
            .collect();
        let next = match events.last() {
            Some(last) if events.len() >= PAGE as usize => last.cursor,
            Some(_) | None => self.through.max(after),
        };
        Chunk {
            gap: None,
            events,
            next,
        }
    }
}

impl Bus {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let head = store.event_head();
        let now = *head.borrow();
        Self {
            store,
            head,
            tail: Mutex::new(Tail::at(now)),
            places: Arc::default(),
        }
    }

    /// The newest event's cursor, as it moves.
    pub(crate) fn head(&self) -> moving::Receiver<Cursor> {
        self.head.clone()
    }

    /// The newest event's cursor.
    pub(crate) fn now(&self) -> Cursor {
        *self.head.borrow()
    }

    pub(crate) const fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// The next events that a reader wants. Nothing and no way onward: there is nothing more yet.
    pub(crate) async fn read(&self, after: Cursor, query: &EventQuery) -> Result<Chunk> {
        if query.kinds.contains(&EventKind::Log) {
            return self.read_store(after, query).await;
        }
        {
            let mut tail = self.tail.lock().await;
            let head = self.now();
            if after >= tail.through && tail.through < head {
                self.follow(&mut tail, after, head).await?;
            }
            if after >= tail.after {
                return Ok(tail.read(after, query));
            }
        }
        self.read_store(after, query).await
    }

    /// Has the tail go on towards the head.
    async fn follow(&self, tail: &mut Tail, after: Cursor, head: Cursor) -> Result<()> {
        if head.get() - tail.through.get() > TAIL_MAX as u64 {
            // Nobody followed for long: it begins anew where somebody does.
            *tail = Tail::at(after.min(head));
        }
        let all = EventQuery::default();
        let page = self
            .store
            .event_list_after(tail.through, &all, PAGE)
            .await?;
        if self.store.event_gap(tail.through).await?.is_some() {
            // Readers that stand here must hear of it, which the store tells them.
            *tail = Tail::at(head);
            return Ok(());
        }
        tail.extend(page.events, page.next);
        Ok(())
    }

    async fn read_store(&self, after: Cursor, query: &EventQuery) -> Result<Chunk> {
        let mut gap = self.store.event_gap(after).await?;
        let mut rereads = 0;
        loop {
            let page = self.store.event_list_after(after, query, PAGE).await?;
            let seen = self.store.event_gap(after).await?;
            if seen == gap || rereads == REREADS_MAX {
                return Ok(Chunk {
                    gap: seen,
                    events: page.events.into_iter().map(Arc::new).collect(),
                    next: page.next,
                });
            }
            // What was pruned between may be missing in the page, or may not.
            gap = seen;
            rereads += 1;
        }
    }
}
