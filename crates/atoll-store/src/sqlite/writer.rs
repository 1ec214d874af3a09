//! Group commit: one task owns the writing connection, takes all writes that wait, runs them in
//! one transaction, commits once and answers all.
//!
//! A group in which a write failed is rolled back, and each write is run again in a transaction of
//! its own. That is rare (refusals are answers, not failures), so no savepoint is paid for per
//! write.

use atoll_core::event::Cursor;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::transaction::SqliteTx;
use crate::metrics;
use crate::sql::apply::Reply;
use crate::sql::batch;
use crate::sql::queue::{GROUP_MAX, Job};
use crate::store::{Error, Result};

/// The connection that writes, and how to open it again.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: SqliteConnection,
    pub(super) options: SqliteConnectOptions,
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

/// Commits what comes until nothing more can come. Moves `head` to the newest event.
pub(super) async fn run(
    mut database: Database,
    mut queue: mpsc::Receiver<Job>,
    head: watch::Sender<Cursor>,
) {
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
    let mut writing = SqliteTx {
        connection: &mut tx,
        head: *head.borrow(),
    };
    let writes = jobs.iter().map(|job| &job.write);
    let replies = batch::apply_all(&mut writing, writes).await?;
    let newest = writing.head;
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
