//! Group commit: one task owns the writing connection, takes all writes that wait, runs them in
//! one transaction, commits once and answers all.
//!
//! The sync of a commit costs far more than the statements in it, so its cost is shared by all
//! that arrive while the one before is under way. A write that fails must not undo its
//! neighbours: the group is then rolled back and each write is run again in a transaction of its
//! own. That is rare (refusals are answers, not failures), so no savepoint is paid for per write.
//!
//! The task has a thread to itself. Each statement is a round trip to the thread that owns the
//! connection, and on the runtime's threads its answer would wait behind whatever else is ready to
//! run: under load that is most of a group's time.

use std::sync::Mutex;
use std::thread;

use atoll_core::event::Cursor;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::apply::{Reply, Write};
use super::batch;
use crate::metrics;
use crate::store::{Error, Result};

/// Writes that may wait before their callers do. At a few thousand writes a second this is about
/// a second of work.
const QUEUE_MAX: usize = 4_096;

/// Writes in one transaction: enough to make the commit's cost small, few enough that the first of
/// a group does not wait long for the last.
const GROUP_MAX: usize = 256;

struct Job {
    write: Write,
    answer: oneshot::Sender<Result<Reply>>,
}

/// The thread's name, as the system's tools show it.
const THREAD_NAME: &str = "atoll-store";

/// The way to the writing task.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    /// Closed once the task is over.
    is_over: watch::Receiver<()>,
    head: watch::Receiver<Cursor>,
}

impl Writer {
    /// `head` is the newest event that the database has given out. `options` opened the connection
    /// and open it again where that is needed.
    ///
    /// # Errors
    /// If there can be no such thread.
    pub(super) fn spawn(
        connection: SqliteConnection,
        options: SqliteConnectOptions,
        head: Cursor,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let (moved, head) = watch::channel(head);
        let (ends, is_over) = watch::channel(());
        let database = Database {
            connection,
            options,
        };
        let runtime = runtime::Builder::new_current_thread().build()?;
        let name = THREAD_NAME.to_owned();
        thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(run(database, receiver, moved));
            drop(ends);
        })?;
        Ok(Self {
            queue: Mutex::new(Some(sender)),
            is_over,
            head,
        })
    }

    /// The newest event that can be read, as it moves.
    pub(super) fn head(&self) -> watch::Receiver<Cursor> {
        self.head.clone()
    }

    /// Has the write done; returns when it is durable.
    pub(super) async fn submit(&self, write: Write) -> Result<Reply> {
        let queue = self.queue().clone().ok_or(Error::Closed)?;
        let (answer, answered) = oneshot::channel();
        queue
            .send(Job { write, answer })
            .await
            .map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)?
    }

    /// Takes no more writes, and waits for those that were accepted.
    pub(super) async fn close(&self) {
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

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

/// The connection that writes, and how to open it again.
struct Database {
    connection: SqliteConnection,
    options: SqliteConnectOptions,
}

impl Database {
    /// Opens the connection anew if it can begin no transaction: a full disk makes SQLite roll back
    /// by itself, which the driver does not notice, and it refuses every later one.
    async fn recover(&mut self) {
        // It locks nothing, so a database that somebody else holds is no reason.
        let begun = self.connection.begin_with("BEGIN").await.map(drop);
        if !matches!(begun, Err(sqlx::Error::InvalidSavePointStatement)) {
            return;
        }
        match SqliteConnection::connect_with(&self.options).await {
            Ok(fresh) => self.connection = fresh,
            Err(error) => tracing::warn!(%error, "the database cannot be opened again yet"),
        }
    }
}

async fn run(mut database: Database, mut queue: mpsc::Receiver<Job>, head: watch::Sender<Cursor>) {
    let mut jobs = Vec::with_capacity(GROUP_MAX);
    while queue.recv_many(&mut jobs, GROUP_MAX).await > 0 {
        match commit_group(&mut database, &jobs, &head).await {
            Ok(replies) => {
                for (job, reply) in jobs.drain(..).zip(replies) {
                    // A caller that went away needs no answer; its write stands.
                    let _ = job.answer.send(Ok(reply));
                }
            }
            // Each would wait as long as the group did, and fail the same way.
            Err(Error::Locked { detail }) => {
                for job in jobs.drain(..) {
                    let detail = detail.clone();
                    let _ = job.answer.send(Err(Error::Locked { detail }));
                }
            }
            Err(error) => {
                if jobs.len() == 1 {
                    answer_failed(&mut jobs, error);
                } else {
                    commit_each(&mut database, &mut jobs, &head).await;
                }
            }
        }
    }
    if let Err(error) = database.connection.close().await {
        tracing::warn!(%error, "the database did not close cleanly");
    }
}

fn answer_failed(jobs: &mut Vec<Job>, error: Error) {
    if let Some(job) = jobs.pop() {
        let _ = job.answer.send(Err(error));
    }
}

/// Commits a group; those who wait for events are told once for all of it.
async fn commit_group(
    database: &mut Database,
    jobs: &[Job],
    head: &watch::Sender<Cursor>,
) -> Result<Vec<Reply>> {
    let began = Instant::now();
    let committed = commit(&mut database.connection, jobs, head).await;
    metrics::committed(jobs.len(), began.elapsed(), committed.is_ok());
    if committed.is_err() {
        database.recover().await;
    }
    committed
}

async fn commit(
    connection: &mut SqliteConnection,
    jobs: &[Job],
    head: &watch::Sender<Cursor>,
) -> Result<Vec<Reply>> {
    let failed = |source| Error::Database {
        operation: "commit",
        source,
    };
    // Taking the write lock at once keeps a reader's snapshot from turning into a conflict.
    let began = connection.begin_with("BEGIN IMMEDIATE").await;
    let mut tx = began.map_err(|error| Error::Locked {
        detail: error.to_string(),
    })?;
    let mut newest = *head.borrow();
    let writes = jobs.iter().map(|job| &job.write);
    let replies = batch::apply_all(&mut tx, writes, &mut newest).await?;
    tx.commit().await.map_err(failed)?;
    head.send_if_modified(|head| std::mem::replace(head, newest) != newest);
    Ok(replies)
}

async fn commit_each(database: &mut Database, jobs: &mut Vec<Job>, head: &watch::Sender<Cursor>) {
    for job in jobs.drain(..) {
        let alone = std::slice::from_ref(&job);
        let answer = commit_group(database, alone, head)
            .await
            .and_then(|mut replies| replies.pop().ok_or(Error::Closed));
        let _ = job.answer.send(answer);
    }
}
