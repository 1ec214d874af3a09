//! A small store of things that take a while to make, kept full in the background.
//!
//! Taking one that is there is immediate. With an empty store takers wait their turn, the first to
//! come being the first served, for as long as their order is in time. A failure to make one is
//! passed over; several in a row are told to whoever waits.
//!
//! The store makes a bounded number at a time and holds a bounded number. One task,
//! [`Stock::fill`], does all the making.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Pause after a failure, so that a broken machine is not hammered.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// So many failures in a row mean that waiting does not help.
const MAX_FAILURES: u32 = 3;

/// How many are made at the same time. Most of the making is waiting inside the kernel.
const CONCURRENCY: usize = 4;

/// How long the store waits after something was taken before it makes another one: whoever took it
/// is busy with the same two or three cores just now.
const REFILL_DELAY: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    waiting: usize,
    failures_in_a_row: u32,
}

/// The store.
#[derive(Debug)]
pub(super) struct Stock<T> {
    target: usize,
    state: Mutex<State<T>>,
    /// One permit for each item; hands them out in the order of asking.
    available: Semaphore,
    /// The reason of the last failure that waiters are told.
    failure: watch::Sender<String>,
    /// Rung when something was taken or is waited for.
    wanted: Notify,
}

impl<T> Stock<T> {
    /// An empty store that will hold `target` things.
    pub(super) fn new(target: usize) -> Self {
        Self {
            target,
            state: Mutex::new(State {
                items: VecDeque::new(),
                waiting: 0,
                failures_in_a_row: 0,
            }),
            available: Semaphore::new(0),
            failure: watch::Sender::new(String::new()),
            wanted: Notify::new(),
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// Why none could be made, or that none was made before the time limit.
    pub(super) async fn take(&self, limit: Duration) -> Result<T, String> {
        let _waiting = Waiting::new(self);
        if self.available.available_permits() == 0 {
            self.wanted.notify_one();
        }
        let mut failure = self.failure.subscribe();
        let ready = async {
            tokio::select! {
                biased;
                permit = self.available.acquire() => match permit {
                    Ok(permit) => {
                        permit.forget();
                        Ok(())
                    }
                    Err(_) => Err("the store is closed".to_owned()),
                },
                Ok(()) = failure.changed() => Err(failure.borrow().clone()),
            }
        };
        match timeout(limit, ready).await {
            Ok(ready) => ready?,
            Err(_) => return Err("none was ready in time".to_owned()),
        }
        let item = self.lock().items.pop_front();
        Ok(item.expect("there is an item for each permit"))
    }

    /// Keeps the store full until cancelled, with things that `make` makes. What is being made then
    /// is finished first.
    pub(super) async fn fill<F, M, E>(&self, make: M, cancel: CancellationToken)
    where
        M: Fn() -> F,
        F: Future<Output = Result<T, E>>,
        E: std::fmt::Display,
    {
        let mut making = FuturesUnordered::new();
        while !cancel.is_cancelled() {
            while making.len() < self.missing(making.len()).min(CONCURRENCY) {
                making.push(make());
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                Some(made) = making.next() => {
                    if !self.put(made) {
                        sleep(RETRY_PAUSE).await;
                    }
                }
                () = self.wanted.notified() => {
                    if self.lock().waiting == 0 {
                        sleep(REFILL_DELAY).await;
                    }
                }
            }
        }
        while let Some(made) = making.next().await {
            self.put(made);
        }
    }

    /// Takes out everything.
    pub(super) fn drain(&self) -> Vec<T> {
        let mut state = self.lock();
        let count = self.available.forget_permits(state.items.len());
        state.items.drain(..count).collect()
    }

    fn put<E: std::fmt::Display>(&self, made: Result<T, E>) -> bool {
        let mut state = self.lock();
        match made {
            Ok(item) => {
                state.failures_in_a_row = 0;
                state.items.push_back(item);
                drop(state);
                self.available.add_permits(1);
                true
            }
            Err(error) => {
                state.failures_in_a_row += 1;
                if state.failures_in_a_row >= MAX_FAILURES {
                    // Without waiters there is nobody to tell.
                    let _ = self.failure.send(error.to_string());
                }
                false
            }
        }
    }

    /// How many should be in the making altogether, given how many are.
    fn missing(&self, making: usize) -> usize {
        let state = self.lock();
        (self.target + state.waiting)
            .saturating_sub(state.items.len())
            .max(making)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Every critical section leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a taker for as long as it waits, also if it gives up in the middle.
struct Waiting<'a, T>(&'a Stock<T>);

impl<'a, T> Waiting<'a, T> {
    fn new(stock: &'a Stock<T>) -> Self {
        stock.lock().waiting += 1;
        Self(stock)
    }
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
        self.0.wanted.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn it_is_kept_full_and_serves_more_takers_than_it_holds() {
        let (stock, made) = (Stock::new(2), AtomicU32::new(0));
        let cancel = CancellationToken::new();
        let make = || async {
            sleep(Duration::from_millis(20)).await;
            Ok::<_, String>(made.fetch_add(1, Ordering::Relaxed))
        };
        let take_ten = async {
            let takes = (0..10).map(|_| stock.take(LIMIT));
            let taken = futures::future::join_all(takes).await;
            let mut taken: Vec<_> = taken.into_iter().map(Result::unwrap).collect();
            taken.sort_unstable();
            assert_eq!(taken, (0..10).collect::<Vec<_>>());
            sleep(Duration::from_secs(1)).await;
            cancel.cancel();
        };
        tokio::join!(stock.fill(make, cancel.clone()), take_ten);
        assert_eq!(stock.drain().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_reach_those_who_wait_and_no_later_one() {
        let stock = Stock::<u32>::new(0);
        let cancel = CancellationToken::new();
        let attempts = AtomicU32::new(0);
        let make = || async {
            match attempts.fetch_add(1, Ordering::Relaxed) {
                0..3 => Err("broken"),
                number => Ok(number),
            }
        };
        let takes = async {
            assert_eq!(stock.take(LIMIT).await, Err("broken".to_owned()));
            assert_eq!(stock.take(LIMIT).await, Ok(3));
            cancel.cancel();
        };
        tokio::join!(stock.fill(make, cancel.clone()), takes);
    }
}
