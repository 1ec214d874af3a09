//! The way of writes to whoever commits them in groups.
//!
//! The sync of a commit costs far more than the statements in it, so its cost is shared by all
//! that arrive while the one before is under way. A write that fails must not undo its neighbours;
//! how is the dialect's affair.
//!
//! Those who commit have a thread to themselves. Each statement is a round trip to what owns the
//! connection, and on the runtime's threads its answer would wait behind whatever else is ready to
//! run: under load that is most of a group's time.

use std::future::Future;
use std::sync::Mutex;
use std::thread;

use atoll_core::event::Cursor;
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};

use super::apply::{Reply, Write};
use crate::store::{Error, Result};

/// Writes that may wait before their callers do. At a few thousand writes a second this is about
/// a second of work.
const QUEUE_MAX: usize = 4_096;

/// Writes in one transaction: enough to make the commit's cost small, few enough that the first of
/// a group does not wait long for the last.
pub(crate) const GROUP_MAX: usize = 256;

/// The thread's name, as the system's tools show it.
const THREAD_NAME: &str = "atoll-store";

/// A write whose caller waits.
pub(crate) struct Job {
    pub(crate) write: Write,
    pub(crate) answer: oneshot::Sender<Result<Reply>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

/// The way to those who commit.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    /// Closed once they are done.
    is_over: watch::Receiver<()>,
    head: watch::Receiver<Cursor>,
}

impl Writer {
    /// `head` is the newest event that can be read, as it moves; `run` makes what takes the writes
    /// until there are no more, in a thread and a runtime of its own.
    ///
    /// # Errors
    /// If there can be no such thread.
    pub(crate) fn spawn<F: Future<Output = ()>>(
        head: watch::Receiver<Cursor>,
        run: impl FnOnce(mpsc::Receiver<Job>) -> F + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let (ends, is_over) = watch::channel(());
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let name = THREAD_NAME.to_owned();
        thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(run(receiver));
            drop(ends);
        })?;
        Ok(Self {
            queue: Mutex::new(Some(sender)),
            is_over,
            head,
        })
    }

    /// The newest event that can be read, as it moves.
    pub(crate) fn head(&self) -> watch::Receiver<Cursor> {
        self.head.clone()
    }

    /// Has the write done; returns when it is durable.
    pub(crate) async fn submit(&self, write: Write) -> Result<Reply> {
        let queue = self.queue().clone().ok_or(Error::Closed)?;
        let (answer, answered) = oneshot::channel();
        queue
            .send(Job { write, answer })
            .await
            .map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)?
    }

    /// Takes no more writes, and waits for those that were accepted.
    pub(crate) async fn close(&self) {
        self.queue().take();
        let mut is_over = self.is_over.clone();
        while is_over.changed().await.is_ok() {}
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Job>>> {
        self.queue
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
