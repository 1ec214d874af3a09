//! Group commit, where the database may go away.
//!
//! ```text
//!   take what waits ─▶ begin ─▶ writes ─▶ seal (events, mark) ─▶ commit ─▶ answer
//!        ▲               │         │                               │
//!        │            nothing was written:                      no answer came:
//!        └──── again, for PATIENCE ◀──────── not committed ◀── was the mark? ──▶ it was: answer
//! ```
//!
//! - Before the commit is sent, a group that fails left nothing, and is tried again as a whole if
//!   its failure passes. So a restart of the database costs time only.
//! - A write that is refused must not undo its neighbours: the group is run again with a savepoint
//!   around each write. That is rare (refusals are answers, not failures), so no savepoint is paid
//!   for otherwise.
//! - Once the commit is sent, only its answer tells what became of it. If none comes, the group is
//!   looked for by its mark, a number in a row of this writer's own. The row is locked by the
//!   transaction that marks it, so looking waits until the database has made an end of that
//!   transaction, and what it answers is final: the group is answered, or is run again, and never
//!   twice. Only if the database does not come back in time are callers told that nobody knows.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::event::Cursor;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::failure::Failure;
use super::transaction::PgTx;
use super::{CONNECT_TIMEOUT, LOCK_TIMEOUT, STATEMENT_TIMEOUT, connect, cursor, follow};
use crate::metrics;
use crate::queries;
use crate::sql::apply::Reply;
use crate::sql::batch;
use crate::sql::queue::{GROUP_MAX, Job};
use crate::store::{Error, Result};

/// For how long a group that could not be committed is tried again before its callers are told to
/// come back: as long as a restart takes, and shorter than they wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// For how long what became of a group is looked for. Callers who know that nothing was written are
/// better off than others, so this may take longer.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(15);

/// Until a group is tried again, at first; each time twice as long, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// See [`PAUSE_MIN`].
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How long a group may take up to its commit, and the commit itself, before the connection counts
/// as lost: the database would have ended a statement by itself.
const SILENCE_MAX: Duration = STATEMENT_TIMEOUT.saturating_add(LOCK_TIMEOUT);

/// Commits what comes until nothing more can come, each writer by itself. Moves `head` to the
/// newest event, whoever commits it.
pub(super) async fn run(
    options: PgConnectOptions,
    ids: Vec<String>,
    queue: mpsc::Receiver<Job>,
    head: watch::Sender<Cursor>,
) {
    let queue = Arc::new(Mutex::new(queue));
    let mut writers = JoinSet::new();
    for id in ids.clone() {
        let mut writer = GroupWriter {
            options: options.clone(),
            id,
            batch: 0,
            connection: None,
            is_down: false,
            head: head.clone(),
        };
        let queue = Arc::clone(&queue);
        writers.spawn(async move {
            let mut jobs = Vec::with_capacity(GROUP_MAX);
            loop {
                let taken = queue.lock().await.recv_many(&mut jobs, GROUP_MAX).await;
                if taken == 0 {
                    break;
                }
                writer.commit(&mut jobs).await;
            }
            if let Some(connection) = writer.connection.take() {
                // It is over either way.
                let _ = timeout(CONNECT_TIMEOUT, connection.close()).await;
            }
        });
    }
    let following = follow::run(options, ids, head);
    tokio::pin!(following);
    loop {
        tokio::select! {
            biased;
            ended = writers.join_next() => {
                if ended.is_none() {
                    break;
                }
            }
            () = &mut following => {
                // Nobody reads events any more; what is written still is.
                while writers.join_next().await.is_some() {}
                break;
            }
        }
    }
}

/// What was answered to each write of a group.
type Answers = Vec<Result<Reply>>;

/// How far an attempt at a group came.
enum Attempt {
    /// All is known.
    Done(Answers),
    /// One write was refused, which undid the others.
    Refused,
    /// Nothing was written; the reason may pass.
    Again(Error),
    /// The commit was sent and not answered. If it was carried out, these are the answers.
    Unknown {
        answers: Answers,
        newest: Option<i64>,
        error: Error,
    },
}

/// How the writes of a group are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// They are not: all or none.
    Whole,
    /// Each has a savepoint of its own.
    Apart,
}

/// One connection that writes.
struct GroupWriter {
    options: PgConnectOptions,
    id: String,
    /// The newest group that was begun.
    batch: i64,
    connection: Option<PgConnection>,
    /// Whether the last group could not be committed: then the next is tried once only, so that
    /// callers are told at once.
    is_down: bool,
    head: watch::Sender<Cursor>,
}

impl GroupWriter {
    /// Commits a group, and answers its callers.
    async fn commit(&mut self, jobs: &mut Vec<Job>) {
        let began = Instant::now();
        let answers = self.settle(jobs).await;
        metrics::committed(jobs.len(), began.elapsed(), answers.is_ok());
        match answers {
            Ok(answers) => {
                self.is_down = false;
                for (job, answer) in jobs.drain(..).zip(answers) {
                    // A caller that went away needs no answer; its write stands.
                    let _ = job.answer.send(answer);
                }
            }
            Err(error) => {
                self.is_down = true;
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "writes are refused"
                );
                for job in jobs.drain(..) {
                    let _ = job.answer.send(Err(again(&error)));
                }
            }
        }
    }

    /// Tries until all is known, or it takes too long.
    async fn settle(&mut self, jobs: &[Job]) -> Result<Answers> {
        let began = Instant::now();
        let patience = if self.is_down {
            Duration::ZERO
        } else {
            PATIENCE
        };
        let mut form = Form::Whole;
        let mut pause = PAUSE_MIN;
        loop {
            let error = match self.attempt(jobs, form).await {
                Attempt::Done(answers) => return Ok(answers),
                Attempt::Refused => {
                    form = Form::Apart;
                    continue;
                }
                Attempt::Unknown {
                    answers,
                    newest,
                    error,
                } => {
                    if self.was_committed(&error).await? {
                        self.advance(newest);
                        return Ok(answers);
                    }
                    error
                }
                Attempt::Again(error) => error,
            };
            if began.elapsed() >= patience {
                return Err(locked(&error));
            }
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a group is tried again"
            );
            sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    async fn attempt(&mut self, jobs: &[Job], form: Form) -> Attempt {
        // Not kept where anything goes wrong: what it is in the middle of ends with it.
        let mut connection = match self.connected().await {
            Ok(connection) => connection,
            Err(error) => return Attempt::Again(error),
        };
        self.batch += 1;
        let mark = (self.id.as_str(), self.batch);
        let (answers, newest) = match timeout(SILENCE_MAX, write(&mut connection, jobs, form, mark))
            .await
            .unwrap_or_else(|_| Err(silence("write")))
        {
            Ok(written) => written,
            Err(error) if Failure::of(&error) == Failure::Lost => return Attempt::Again(error),
            Err(error) => {
                let is_passing = Failure::of(&error) == Failure::Passing;
                if roll_back(&mut connection).await {
                    self.connection = Some(connection);
                }
                return match form {
                    _ if is_passing => Attempt::Again(error),
                    Form::Whole if jobs.len() > 1 => Attempt::Refused,
                    Form::Whole => Attempt::Done(vec![Err(error)]),
                    Form::Apart => Attempt::Done(jobs.iter().map(|_| Err(again(&error))).collect()),
                };
            }
        };
        let committed = timeout(SILENCE_MAX, execute(&mut connection, "COMMIT"))
            .await
            .unwrap_or_else(|_| Err(silence("commit")));
        if let Err(error) = committed {
            return Attempt::Unknown {
                answers,
                newest,
                error,
            };
        }
        self.connection = Some(connection);
        self.advance(newest);
        Attempt::Done(answers)
    }

    /// Moves the head to what can be read from now on.
    fn advance(&self, newest: Option<i64>) {
        if let Some(newest) = newest {
            follow::advance(&self.head, cursor(newest));
        }
    }

    /// The connection, made anew if there is none.
    async fn connected(&mut self) -> Result<PgConnection> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let mut connection = connect(&self.options).await?;
        sqlx::query(queries::PG_WRITER_INSERT)
            .bind(&self.id)
            .execute(&mut connection)
            .await
            .map_err(|source| Error::Database {
                operation: "connect",
                source,
            })?;
        Ok(connection)
    }

    /// Finds out whether the newest group was committed.
    async fn was_committed(&mut self, lost: &Error) -> Result<bool> {
        let began = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            match self.newest_committed().await {
                Ok(batch) => return Ok(batch >= self.batch),
                Err(error) if began.elapsed() >= UNKNOWN_PATIENCE => {
                    return Err(Error::Unknown {
                        detail: format!("{}; then: {}", told(lost), told(&error)),
                    });
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "what became of a commit is not known yet");
                }
            }
            sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    async fn newest_committed(&mut self) -> Result<i64> {
        let mut connection = self.connected().await?;
        let newest = sqlx::query_scalar(queries::PG_WRITER_BATCH)
            .bind(&self.id)
            .fetch_one(&mut connection);
        let newest = timeout(SILENCE_MAX, newest)
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
            .map_err(|source| Error::Database {
                operation: "look for a commit",
                source,
            })?;
        self.connection = Some(connection);
        Ok(newest)
    }
}

/// Carries out the writes of a group in a transaction, up to its commit.
async fn write(
    connection: &mut PgConnection,
    jobs: &[Job],
    form: Form,
    (writer, batch): (&str, i64),
) -> Result<(Answers, Option<i64>)> {
    execute(connection, "BEGIN").await?;
    let mut tx = PgTx::new(connection);
    let answers = match form {
        Form::Whole => {
            let writes = jobs.iter().map(|job| &job.write);
            let replies = batch::apply_all(&mut tx, writes).await?;
            replies.into_iter().map(Ok).collect()
        }
        Form::Apart => {
            let mut answers = Vec::with_capacity(jobs.len());
            for job in jobs {
                answers.push(write_apart(&mut tx, job).await?);
            }
            answers
        }
    };
    let newest = tx.seal(writer, batch).await?;
    Ok((answers, newest))
}

/// Carries out one write; if it is refused, as if it had not been there.
async fn write_apart(tx: &mut PgTx<'_>, job: &Job) -> Result<Result<Reply>> {
    let told = tx.told();
    tx.run("SAVEPOINT one").await?;
    let applied = batch::apply_all(tx, std::iter::once(&job.write)).await;
    match applied.and_then(|mut replies| replies.pop().ok_or(Error::Closed)) {
        Ok(reply) => {
            tx.run("RELEASE SAVEPOINT one").await?;
            Ok(Ok(reply))
        }
        Err(error) if Failure::of(&error) == Failure::Refused => {
            tx.untell(told);
            tx.run("ROLLBACK TO SAVEPOINT one").await?;
            Ok(Err(error))
        }
        Err(error) => Err(error),
    }
}

/// Ends what was begun. Answers whether the connection is of further use.
async fn roll_back(connection: &mut PgConnection) -> bool {
    let ended = timeout(LOCK_TIMEOUT, execute(connection, "ROLLBACK")).await;
    matches!(ended, Ok(Ok(())))
}

/// Carries out a text without values, in one round trip.
pub(super) async fn execute(connection: &mut PgConnection, text: &'static str) -> Result<()> {
    sqlx::raw_sql(text)
        .execute(connection)
        .await
        .map(drop)
        .map_err(|source| Error::Database {
            operation: text,
            source,
        })
}

fn silence(operation: &'static str) -> Error {
    Error::Database {
        operation,
        source: sqlx::Error::PoolTimedOut,
    }
}

/// What all callers of a group are told where nothing was written.
fn locked(error: &Error) -> Error {
    Error::Locked {
        detail: told(error),
    }
}

/// The same error for one more caller.
fn again(error: &Error) -> Error {
    match error {
        Error::Unknown { detail } => Error::Unknown {
            detail: detail.clone(),
        },
        Error::Locked { detail } => Error::Locked {
            detail: detail.clone(),
        },
        other => locked(other),
    }
}

/// An error with its sources, for people.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
