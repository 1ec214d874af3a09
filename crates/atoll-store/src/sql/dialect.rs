//! What a database must do for the store in it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;

use atoll_core::id::TeamId;

use tokio::time::Instant;

use super::many::Many;
use super::statement::Statement;
use crate::metrics;
use crate::store::{AuditRow, Error, EventRow, Result, TeamRow};

/// A row as it was read.
pub(crate) trait Columns {
    /// A text, which may be missing.
    fn text(&self, index: usize) -> std::result::Result<Option<&str>, sqlx::Error>;

    /// A number, which may be missing.
    fn number(&self, index: usize) -> std::result::Result<Option<i64>, sqlx::Error>;
}

/// A value that a column can be read as.
pub(crate) trait FromColumn<'r>: Sized {
    /// Reads the column.
    fn from_column(row: &'r impl Columns, index: usize) -> std::result::Result<Self, sqlx::Error>;
}

macro_rules! from_column {
    ($type:ty, $read:ident, $row:ident, $index:ident => $value:expr) => {
        impl<'r> FromColumn<'r> for Option<$type> {
            fn from_column(
                $row: &'r impl Columns,
                $index: usize,
            ) -> std::result::Result<Self, sqlx::Error> {
                Ok($value)
            }
        }

        impl<'r> FromColumn<'r> for $type {
            fn from_column(
                row: &'r impl Columns,
                index: usize,
            ) -> std::result::Result<Self, sqlx::Error> {
                let value: Option<Self> = FromColumn::from_column(row, index)?;
                value.ok_or_else(|| sqlx::Error::ColumnDecode {
                    index: index.to_string(),
                    source: "it is null".into(),
                })
            }
        }
    };
}

from_column!(&'r str, text, row, index => row.text(index)?);
from_column!(String, text, row, index => row.text(index)?.map(str::to_owned));
from_column!(i64, number, row, index => row.number(index)?);

/// Reads a column.
pub(crate) fn column<'r, T: FromColumn<'r>>(row: &'r impl Columns, index: usize) -> Result<T> {
    T::from_column(row, index).map_err(|source| Error::Database {
        operation: "read a column",
        source,
    })
}

/// What a write reads and then changes, so that others who would do the same must wait until its
/// transaction is over. Where there is one writer nobody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// The names of teams.
    TeamNames,
    /// The names of templates.
    TemplateNames,
    /// How many webhooks a team has.
    Webhooks,
    /// Who holds which lease.
    Leases,
}

/// Texts that differ between dialects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Texts {
    /// The beginning of a listing of those that carry a label.
    pub(crate) list_labelled: &'static str,
    /// The same for what counts as paused.
    pub(crate) list_labelled_paused: &'static str,
    /// The operator that compares with a pattern, whatever the case of ASCII letters.
    pub(crate) like: &'static str,
}

/// One transaction that is under way.
pub(crate) trait Tx: Send {
    /// A row as it was read.
    type Row: Columns + Send + Sync;

    /// Whether a row that is read to be changed must be locked, because there are other writers.
    const LOCKS_ROWS: bool;

    /// Carries out a statement. Answers how many rows it touched.
    fn execute(
        &mut self,
        operation: &'static str,
        statement: Statement<'_>,
    ) -> impl Future<Output = Result<u64>> + Send;

    /// Carries out a statement. Answers its rows.
    fn fetch_all(
        &mut self,
        operation: &'static str,
        statement: Statement<'_>,
    ) -> impl Future<Output = Result<Vec<Self::Row>>> + Send;

    /// Has others wait who would do the same.
    fn lock(&mut self, lock: Lock) -> impl Future<Output = Result<()>> + Send;

    /// Carries out a statement for each of many rows, in as few round trips as the database allows.
    /// Answers all rows that this brings.
    fn many(
        &mut self,
        operation: &'static str,
        many: &'static Many,
        rows: Vec<Statement<'_>>,
    ) -> impl Future<Output = Result<Vec<Self::Row>>> + Send;

    /// Reads teams, which nobody else changes until the transaction is over.
    fn teams(
        &mut self,
        teams: &[&TeamId],
    ) -> impl Future<Output = Result<BTreeMap<TeamId, TeamRow>>> + Send;

    /// Appends events and audit rows in their order, at the latest when the transaction commits.
    fn tell(
        &mut self,
        events: &[&EventRow],
        audit: &[&AuditRow],
    ) -> impl Future<Output = Result<()>> + Send;
}

/// Carries out a statement. Answers its first row.
pub(crate) async fn fetch<T: Tx>(
    tx: &mut T,
    operation: &'static str,
    statement: Statement<'_>,
) -> Result<Option<T::Row>> {
    Ok(tx.fetch_all(operation, statement).await?.into_iter().next())
}

/// Connections for reading.
pub(crate) trait Reader: Clone + Debug + Send + Sync + 'static {
    /// A row as it was read.
    type Row: Columns + Send + Sync;

    /// What the database is, in a word.
    const KIND: &'static str;

    /// The dialect's texts.
    const TEXTS: Texts;

    /// The rows of a query.
    fn all(
        &self,
        operation: &'static str,
        statement: Statement<'_>,
    ) -> impl Future<Output = Result<Vec<Self::Row>>> + Send;

    /// Whether the database answers, and takes writes as far as can be told without one.
    fn ping(&self) -> impl Future<Output = Result<()>> + Send;

    /// Closes the connections.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// Counts a read, and how long it took: waiting for a connection is part of it.
pub(crate) async fn timed<T>(
    operation: &'static str,
    reading: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    let begun = Instant::now();
    let read = reading.await;
    metrics::read(operation, begun.elapsed(), read.is_ok());
    read
}

/// The first row of a query.
pub(crate) async fn one<R: Reader>(
    reader: &R,
    operation: &'static str,
    statement: Statement<'_>,
) -> Result<Option<R::Row>> {
    Ok(reader.all(operation, statement).await?.into_iter().next())
}
