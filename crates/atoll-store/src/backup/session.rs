//! What a backup needs of a database: one connection with one transaction.

use std::borrow::Cow;
use std::future::Future;

use futures::TryStreamExt as _;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::{Error, Layout, Result};
use crate::sql::dialect::{Columns, column};
use crate::sql::many;
use crate::sql::statement::{Statement, query};
use crate::{postgres, queries, sqlite, store};

/// A column, and what is in it: texts, or numbers.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) is_text: bool,
}

/// What is done with each row.
pub(super) type Visit<'v, R> = &'v mut (dyn FnMut(&R) -> Result<()> + Send);

/// The dialect, and the three ways to carry out a text.
pub(super) trait Session: Send {
    /// A row as it was read.
    type Row: Columns + Send + Sync;

    /// Begins to read one state of everything.
    const READING: &'static str;
    /// Tables with their columns and types.
    const LAYOUT: &'static str;
    /// The newest numbers given to events and to the audit.
    const HEADS: &'static str;
    /// Has numbers go on after these two.
    const HEADS_SET: &'static str;
    /// What must be done before that.
    const BEFORE_HEADS: &'static str;

    /// The text that begins to write, alone.
    fn writing(tables: &[&str]) -> String;

    /// The statement that adds rows, by its text for one row and what is in its columns.
    fn insertion(text: &str, kinds: &str, rows: Vec<Statement<'static>>) -> Statement<'static>;

    /// Carries out a text without values.
    fn run(&mut self, text: String) -> impl Future<Output = Result<()>> + Send;

    /// Carries out a statement. Answers its rows.
    fn fetch(
        &mut self,
        statement: Statement<'static>,
    ) -> impl Future<Output = Result<Vec<Self::Row>>> + Send;

    /// Carries out a statement, whose rows are looked at one after the other.
    fn visit(
        &mut self,
        text: String,
        visit: Visit<'_, Self::Row>,
    ) -> impl Future<Output = Result<()>> + Send;
}

fn failed(source: sqlx::Error) -> Error {
    Error::Store(store::Error::Database {
        operation: "back up or restore",
        source,
    })
}

macro_rules! ways {
    ($row:ty, $bound:path) => {
        async fn run(&mut self, text: String) -> Result<()> {
            let done = sqlx::raw_sql(AssertSqlSafe(text)).execute(self).await;
            done.map(drop).map_err(failed)
        }

        async fn fetch(&mut self, statement: Statement<'static>) -> Result<Vec<$row>> {
            $bound(&statement).fetch_all(self).await.map_err(failed)
        }

        async fn visit(&mut self, text: String, visit: Visit<'_, $row>) -> Result<()> {
            let statement = query(text);
            let mut rows = $bound(&statement).fetch(self);
            while let Some(row) = rows.try_next().await.map_err(failed)? {
                visit(&row)?;
            }
            Ok(())
        }
    };
}

impl Session for SqliteConnection {
    type Row = SqliteRow;

    const READING: &'static str = "BEGIN";
    const LAYOUT: &'static str = queries::SQLITE_LAYOUT;
    const HEADS: &'static str = queries::SQLITE_HEADS;
    const HEADS_SET: &'static str = queries::SQLITE_HEADS_SET;
    const BEFORE_HEADS: &'static str = queries::SQLITE_HEADS_CLEAR;

    fn writing(_: &[&str]) -> String {
        "BEGIN IMMEDIATE".to_owned()
    }

    fn insertion(text: &str, _: &str, rows: Vec<Statement<'static>>) -> Statement<'static> {
        Statement {
            text: Cow::Owned(many::more_rows(text, rows.len())),
            values: rows.into_iter().flat_map(|row| row.values).collect(),
        }
    }

    ways!(SqliteRow, sqlite::bound);
}

impl Session for PgConnection {
    type Row = PgRow;

    const READING: &'static str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    const LAYOUT: &'static str = queries::PG_LAYOUT;
    const HEADS: &'static str = queries::PG_HEADS_BOTH;
    const HEADS_SET: &'static str = queries::PG_HEADS_SET;
    const BEFORE_HEADS: &'static str = queries::PG_CORRECTIONS_GO_ON;

    fn writing(tables: &[&str]) -> String {
        format!(
            "BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
            tables.join(", ")
        )
    }

    fn insertion(text: &str, kinds: &str, rows: Vec<Statement<'static>>) -> Statement<'static> {
        Statement {
            text: Cow::Owned(many::over_columns(text, kinds)),
            values: many::columns(rows),
        }
    }

    ways!(PgRow, postgres::bound);
}

/// Every table there is.
pub(super) async fn layout<S: Session>(session: &mut S) -> Result<Layout> {
    let mut layout = Layout::new();
    for row in &session.fetch(query(S::LAYOUT)).await? {
        let kind: &str = column(row, 2)?;
        let found = Column {
            name: column(row, 1)?,
            is_text: kind.eq_ignore_ascii_case("text"),
        };
        let table: String = column(row, 0)?;
        layout.entry(table).or_default().push(found);
    }
    Ok(layout)
}

/// Whether there is anything in a table.
pub(super) async fn has_rows<S: Session>(session: &mut S, table: &str) -> Result<bool> {
    let text = format!("SELECT 1 FROM {table} LIMIT 1");
    Ok(!session.fetch(query(text)).await?.is_empty())
}

/// Adds rows.
pub(super) async fn insert<S: Session>(
    session: &mut S,
    table: &str,
    columns: &[Column],
    rows: Vec<Statement<'static>>,
) -> Result<()> {
    let names: Vec<_> = columns.iter().map(|it| it.name.as_str()).collect();
    let places: Vec<_> = (1..=columns.len()).map(|it| format!("${it}")).collect();
    let text = format!(
        "INSERT INTO {table} ({}) VALUES ({})",
        names.join(", "),
        places.join(", ")
    );
    let kinds = columns.iter().map(|it| if it.is_text { 't' } else { 'n' });
    let kinds: String = kinds.collect();
    session.fetch(S::insertion(&text, &kinds, rows)).await?;
    Ok(())
}
