//! Places for connections, and who has to give one up.
//!
//! Whoever runs inside the sandbox can connect to the agent, and must not lock out the edge by
//! holding every place. A connection is *busy* from the head of a request until the last byte of
//! its answer, and *idle* at any other time. When all places are taken and another client waits,
//! the connection that has been idle for the longest is closed.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::Notify;

use crate::server::Body;

/// Connections at once; more wait in the socket's backlog. A quarter of the 1,024 descriptors that
/// a process usually has stays free for work.
const CONNECTIONS_MAX: usize = 768;

/// All connections. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Connections {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ledger: Mutex<Ledger>,
    /// Told when a place becomes free or a connection idle.
    changed: Notify,
}

#[derive(Default)]
struct Ledger {
    taken: usize,
    /// Those told to go that are not gone yet.
    leaving: usize,
    /// Counts the times a connection became idle.
    turns: u64,
    /// Idle connections by the turn at which they became so.
    idle: BTreeMap<u64, Arc<Notify>>,
}

/// The place of one connection; free again when dropped.
pub(crate) struct Seat {
    shared: Arc<Shared>,
    evict: Arc<Notify>,
    /// When it became idle; none while it is busy.
    turn: Mutex<Option<u64>>,
    has_worked: AtomicBool,
}

/// A request under way.
pub(crate) struct Work {
    seat: Arc<Seat>,
}

impl Connections {
    /// A place, as soon as there is one.
    pub(crate) async fn seat(&self) -> Arc<Seat> {
        loop {
            if let Some(seat) = self.try_seat() {
                return seat;
            }
            if self.shared.lock().leaving == 0 {
                self.evict();
            }
            self.shared.changed.notified().await;
        }
    }

    fn try_seat(&self) -> Option<Arc<Seat>> {
        let mut ledger = self.shared.lock();
        if ledger.taken >= CONNECTIONS_MAX {
            return None;
        }
        ledger.taken += 1;
        let evict = Arc::new(Notify::new());
        let turn = ledger.enter_idle(&evict);
        Some(Arc::new(Seat {
            shared: Arc::clone(&self.shared),
            evict,
            turn: Mutex::new(Some(turn)),
            has_worked: AtomicBool::new(false),
        }))
    }

    /// Tells the connection that has been idle for the longest to go, if any is idle.
    pub(crate) fn evict(&self) {
        let mut ledger = self.shared.lock();
        if let Some((_, evict)) = ledger.idle.pop_first() {
            ledger.leaving += 1;
            evict.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn enter_idle(&mut self, evict: &Arc<Notify>) -> u64 {
        self.turns += 1;
        self.idle.insert(self.turns, Arc::clone(evict));
        self.turns
    }
}

impl Seat {
    /// Marks the begin of a request.
    pub(crate) fn work(self: &Arc<Self>) -> Work {
        self.has_worked.store(true, Ordering::Relaxed);
        let mut ledger = self.shared.lock();
        let mut turn = self.lock_turn();
        // One that was told to go stays out: its turn is kept, and not found in the ledger.
        if let Some(known) = *turn
            && ledger.idle.remove(&known).is_some()
        {
            *turn = None;
        }
        Work {
            seat: Arc::clone(self),
        }
    }

    /// Whether a request ever began.
    pub(crate) fn has_worked(&self) -> bool {
        self.has_worked.load(Ordering::Relaxed)
    }

    /// Waits until the place is wanted for another.
    pub(crate) async fn evicted(&self) {
        self.evict.notified().await;
    }

    fn lock_turn(&self) -> MutexGuard<'_, Option<u64>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let turn = *self.lock_turn();
        let mut ledger = self.shared.lock();
        ledger.taken -= 1;
        if let Some(turn) = turn
            && ledger.idle.remove(&turn).is_none()
        {
            ledger.leaving -= 1;
        }
        drop(ledger);
        self.shared.changed.notify_one();
    }
}

impl Work {
    /// Lasts until the body of the answer is sent, or dropped.
    pub(crate) fn until_sent(self, body: Body) -> Body {
        Sent { body, _work: self }.boxed_unsync()
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut ledger = self.seat.shared.lock();
        let mut turn = self.seat.lock_turn();
        if turn.is_none() {
            *turn = Some(ledger.enter_idle(&self.seat.evict));
        }
        drop(ledger);
        self.seat.shared.changed.notify_one();
    }
}

/// An answer's body that keeps its connection busy.
struct Sent {
    body: Body,
    _work: Work,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_idle_goes_and_the_busy_stay() {
        let connections = Connections::default();
        let mut seats = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            seats.push(connections.seat().await);
        }
        let busy = seats[0].work();
        drop(seats[1].work());
        assert!(connections.try_seat().is_none());
        connections.evict();
        // The third: the first is busy, the second has just been.
        seats[2].evicted().await;
        assert!(connections.try_seat().is_none(), "told to go, and not gone");
        drop(seats.remove(2));
        seats.push(connections.seat().await);
        drop((busy, seats));
        let ledger = connections.shared.lock();
        assert_eq!((ledger.taken, ledger.leaving, ledger.idle.len()), (0, 0, 0));
    }
}
