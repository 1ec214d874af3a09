//! Reads, which are tried again on another connection where one broke.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgPool, PgRow};
use sqlx::{AssertSqlSafe, Postgres, Row as _};
use tokio::time::{Instant, sleep};

use super::failure::Failure;
use crate::queries;
use crate::sql::dialect::{Columns, Reader, Texts, column, timed};
use crate::sql::statement::{Statement, Value, query};
use crate::store::{Error, Result};

/// For how long a read is tried again: while a server restarts, and not so long that its caller has
/// given up.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long until a read is tried again: each time a pool's broken connection may be met, which
/// costs nothing, or a server that starts.
const PAUSE: Duration = Duration::from_millis(50);

/// What the driver takes.
type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// A statement for the driver.
///
/// PostgreSQL keeps no character of code 0 in a text. What we search by may hold one (a label's
/// value); the sandbox itself keeps it in JSON, where it is written with an escape.
pub(crate) fn bound<'s>(statement: &'s Statement<'_>) -> Query<'s> {
    let query = match &statement.text {
        Cow::Borrowed(text) => sqlx::query(*text),
        Cow::Owned(text) => sqlx::query(AssertSqlSafe(text.as_str())),
    };
    statement
        .values
        .iter()
        .fold(query, |query, value| match value {
            Value::Text(text) => query.bind(text.as_deref().map(storable)),
            Value::Number(number) => query.bind(*number),
            Value::Texts(texts) => {
                let texts = texts.iter().map(|text| text.as_deref().map(storable));
                query.bind(texts.collect::<Vec<_>>())
            }
            Value::Numbers(numbers) => query.bind(numbers.as_slice()),
        })
}

fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

impl Columns for PgRow {
    fn text(&self, index: usize) -> std::result::Result<Option<&str>, sqlx::Error> {
        self.try_get(index)
    }

    fn number(&self, index: usize) -> std::result::Result<Option<i64>, sqlx::Error> {
        self.try_get(index)
    }
}

/// Connections that read.
#[derive(Debug, Clone)]
pub struct PgReaders {
    pool: PgPool,
}

impl PgReaders {
    pub(super) const fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    async fn read(&self, operation: &'static str, statement: &Statement<'_>) -> Result<Vec<PgRow>> {
        let began = Instant::now();
        loop {
            let source = match bound(statement).fetch_all(&self.pool).await {
                Ok(rows) => return Ok(rows),
                Err(source) => source,
            };
            let is_over = self.pool.is_closed() || began.elapsed() >= PATIENCE;
            if is_over || Failure::of_driver(&source) == Failure::Refused {
                return Err(Error::Database { operation, source });
            }
            sleep(PAUSE).await;
        }
    }
}

impl Reader for PgReaders {
    type Row = PgRow;

    const KIND: &'static str = "postgres";

    const TEXTS: Texts = Texts {
        list_labelled: queries::PG_SANDBOX_LIST_LABELLED,
        list_labelled_paused: queries::PG_SANDBOX_LIST_LABELLED_PAUSED,
        like: "ILIKE",
    };

    async fn all(&self, operation: &'static str, statement: Statement<'_>) -> Result<Vec<PgRow>> {
        timed(operation, self.read(operation, &statement)).await
    }

    /// Once: whoever asks wants to know how it is now.
    async fn ping(&self) -> Result<()> {
        let session = query(queries::PG_SESSION);
        let row = bound(&session).fetch_one(&self.pool).await;
        let row = row.map_err(|source| Error::Database {
            operation: "ping",
            source,
        })?;
        let read_only: &str = column(&row, 0)?;
        if read_only == "on" {
            return Err(Error::Locked {
                detail: "it is read-only".to_owned(),
            });
        }
        Ok(())
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
