//! SQLite as a dialect: reads, and transactions.

use std::borrow::Cow;
use std::collections::BTreeMap;

use atoll_core::event::Cursor;
use atoll_core::id::TeamId;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, Sqlite};

use crate::queries;
use crate::sql::dialect::{self, Columns, Lock, Reader, Tx, timed};
use crate::sql::many::{Many, many, pieces};
use crate::sql::statement::{Statement, Value, query};
use crate::sql::{bind, team};
use crate::store::{AuditRow, Error, EventRow, Result, TeamRow};

static EVENTS: Many = many!(queries::EVENT_INSERT, bind::EVENT_KINDS);
static AUDIT: Many = many!(queries::AUDIT_INSERT, bind::AUDIT_KINDS);

/// What the driver takes.
type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// A statement for the driver.
pub(crate) fn bound<'s>(statement: &'s Statement<'_>) -> Query<'s> {
    let query = match &statement.text {
        Cow::Borrowed(text) => sqlx::query(*text),
        Cow::Owned(text) => sqlx::query(AssertSqlSafe(text.as_str())),
    };
    statement
        .values
        .iter()
        .fold(query, |query, value| match value {
            Value::Text(text) => query.bind(text.as_deref()),
            Value::Number(number) => query.bind(*number),
            Value::Texts(_) | Value::Numbers(_) => unreachable!("there are no arrays in SQLite"),
        })
}

impl Columns for SqliteRow {
    fn text(&self, index: usize) -> std::result::Result<Option<&str>, sqlx::Error> {
        self.try_get(index)
    }

    fn number(&self, index: usize) -> std::result::Result<Option<i64>, sqlx::Error> {
        self.try_get(index)
    }
}

impl Reader for SqlitePool {
    type Row = SqliteRow;

    const KIND: &'static str = "sqlite";

    const TEXTS: dialect::Texts = dialect::Texts {
        list_labelled: queries::SANDBOX_LIST_LABELLED,
        list_labelled_paused: queries::SANDBOX_LIST_LABELLED_PAUSED,
        like: "LIKE",
    };

    async fn all(
        &self,
        operation: &'static str,
        statement: Statement<'_>,
    ) -> Result<Vec<SqliteRow>> {
        let statement = bound(&statement);
        let reading = async {
            let rows = statement.fetch_all(self).await;
            rows.map_err(|source| Error::Database { operation, source })
        };
        timed(operation, reading).await
    }

    async fn ping(&self) -> Result<()> {
        self.all("ping", query(queries::PING)).await.map(drop)
    }

    async fn close(&self) {
        Self::close(self).await;
    }
}

/// One transaction that is under way.
pub(super) struct SqliteTx<'c> {
    pub(super) connection: &'c mut SqliteConnection,
    /// The newest event, its own included.
    pub(super) head: Cursor,
}

impl Tx for SqliteTx<'_> {
    type Row = SqliteRow;

    /// There is one writer.
    const LOCKS_ROWS: bool = false;

    async fn execute(&mut self, operation: &'static str, statement: Statement<'_>) -> Result<u64> {
        bound(&statement)
            .execute(&mut *self.connection)
            .await
            .map(|done| done.rows_affected())
            .map_err(|source| Error::Database { operation, source })
    }

    async fn fetch_all(
        &mut self,
        operation: &'static str,
        statement: Statement<'_>,
    ) -> Result<Vec<SqliteRow>> {
        bound(&statement)
            .fetch_all(&mut *self.connection)
            .await
            .map_err(|source| Error::Database { operation, source })
    }

    async fn lock(&mut self, _: Lock) -> Result<()> {
        Ok(())
    }

    async fn many(
        &mut self,
        operation: &'static str,
        many: &'static Many,
        rows: Vec<Statement<'_>>,
    ) -> Result<Vec<SqliteRow>> {
        let mut found = Vec::new();
        for (text, piece) in pieces(&many.repeated, rows) {
            let values = piece.into_iter().flat_map(|row| row.values);
            let values = values.collect();
            let text = Cow::Borrowed(text);
            found.extend(
                self.fetch_all(operation, Statement { text, values })
                    .await?,
            );
        }
        Ok(found)
    }

    async fn teams(&mut self, teams: &[&TeamId]) -> Result<BTreeMap<TeamId, TeamRow>> {
        let mut found = BTreeMap::new();
        for id in teams {
            if let Some(row) = team::get(self, id).await? {
                found.insert(row.id.clone(), row);
            }
        }
        Ok(found)
    }

    async fn tell(&mut self, events: &[&EventRow], audit: &[&AuditRow]) -> Result<()> {
        for (text, piece) in pieces(&EVENTS.repeated, events.to_vec()) {
            let values = piece.into_iter().flat_map(|row| bind::event(row).values);
            let statement = Statement {
                text: Cow::Borrowed(text),
                values: values.collect(),
            };
            let done = bound(&statement).execute(&mut *self.connection).await;
            let done = done.map_err(|source| Error::Database {
                operation: "append events",
                source,
            })?;
            self.head = Cursor::new(u64::try_from(done.last_insert_rowid()).unwrap_or(0));
        }
        let audit = audit.iter().map(|row| bind::audit(row));
        self.many("append to the audit", &AUDIT, audit.collect())
            .await?;
        Ok(())
    }
}
