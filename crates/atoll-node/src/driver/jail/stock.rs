//! A small store of things that take a while to make, kept full in the background.
//!
//! Taking one that is there is immediate. With an empty store the taker waits while one is made,
//! for as long as its order is in time; a failure to make one is told to whoever waits.
//!
//! The store makes a bounded number at a time and holds a bounded number. One task,
//! [`Stock::fill`], does all the making.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// Pause after a failure, so that a broken machine is not hammered.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How many are made at the same time. Most of the making is waiting inside the kernel.
const CONCURRENCY: usize = 4;

/// How long the store waits after something was taken before it makes another one: whoever took it
/// is busy with the same two or three cores just now.
const REFILL_DELAY: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    waiting: usize,
    /// The last failure, with its number, so that a waiter can tell a new one.
    failure: Option<(u64, String)>,
    failures: u64,
}

/// The store.
#[derive(Debug)]
pub(super) struct Stock<T> {
    target: usize,
    state: Mutex<State<T>>,
    /// Rung when an item or a failure is there.
    news: Notify,
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
                failure: None,
                failures: 0,
            }),
            news: Notify::new(),
            wanted: Notify::new(),
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// Why none could be made, or that none was made before the time limit.
    pub(super) async fn take(&self, limit: Duration) -> Result<T, String> {
        let deadline = Instant::now() + limit;
        let waiting = Waiting::new(self);
        let seen = self.lock().failures;
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // Registered before the look, so that nothing between the two is missed.
            news.as_mut().enable();
            {
                let mut state = self.lock();
                if let Some(item) = state.items.pop_front() {
                    drop(state);
                    drop(waiting);
                    return Ok(item);
                }
                match &state.failure {
                    Some((number, reason)) if *number > seen => return Err(reason.clone()),
                    _ => {}
                }
            }
            self.wanted.notify_one();
            if timeout_at(deadline, news).await.is_err() {
                return Err("none was ready in time".to_owned());
            }
        }
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
        self.lock().items.drain(..).collect()
    }

    fn put<E: std::fmt::Display>(&self, made: Result<T, E>) -> bool {
        let mut state = self.lock();
        let is_made = match made {
            Ok(item) => {
                state.items.push_back(item);
                true
            }
            Err(error) => {
                state.failures += 1;
                state.failure = Some((state.failures, error.to_string()));
                false
            }
        };
        drop(state);
        self.news.notify_waiters();
        is_made
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
    async fn a_failure_reaches_those_who_wait_and_no_later_one() {
        let stock = Stock::<u32>::new(0);
        let cancel = CancellationToken::new();
        let attempts = AtomicU32::new(0);
        let make = || async {
            match attempts.fetch_add(1, Ordering::Relaxed) {
                0 => Err("broken"),
                number => Ok(number),
            }
        };
        let takes = async {
            assert_eq!(stock.take(LIMIT).await, Err("broken".to_owned()));
            assert_eq!(stock.take(LIMIT).await, Ok(1));
            cancel.cancel();
        };
        tokio::join!(stock.fill(make, cancel.clone()), takes);
    }
}
