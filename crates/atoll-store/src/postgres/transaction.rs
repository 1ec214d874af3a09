//! A transaction in PostgreSQL.
//!
//! # Cursors of events
//!
//! Whoever has seen the event of cursor N must never find one at or below N later: not from this
//! server, and not from another. A sequence of the database cannot promise that: it gives numbers
//! out as they are asked for, and of two transactions the one with the higher number may commit
//! first. So cursors come from a row, `heads`, that is locked from when they are given out until
//! their transaction is over. Then cursors rise in the order of commits, and a transaction that
//! fails leaves no gap, because it gives its numbers back.
//!
//! All writers of all servers wait for that row, so it is taken as late as can be: what a group
//! tells is gathered, and written in one statement, the last before the commit. What is under the
//! lock is one round trip and one sync.

use std::collections::BTreeMap;

use atoll_core::id::TeamId;
use sqlx::postgres::{PgConnection, PgRow};

use super::readers::bound;
use super::writer::execute;
use crate::queries;
use crate::sql::bind;
use crate::sql::decode;
use crate::sql::dialect::{Lock, Tx, column, fetch};
use crate::sql::many::{Many, columns};
use crate::sql::statement::{Statement, Value, query};
use crate::store::{AuditRow, Error, EventRow, Result, TeamRow};

/// What the locks of transactions are told apart by, from each other and from those of migrations.
const LOCKS: i64 = 0x0061_746f_6c6c_0000;

/// One transaction that is under way.
pub(super) struct PgTx<'c> {
    connection: &'c mut PgConnection,
    events: Vec<Statement<'static>>,
    audit: Vec<Statement<'static>>,
}

/// How much a transaction has told so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    events: usize,
    audit: usize,
}

impl<'c> PgTx<'c> {
    /// The transaction that this connection has begun.
    pub(super) const fn new(connection: &'c mut PgConnection) -> Self {
        Self {
            connection,
            events: Vec::new(),
            audit: Vec::new(),
        }
    }

    /// How much was told so far.
    pub(super) const fn told(&self) -> Told {
        Told {
            events: self.events.len(),
            audit: self.audit.len(),
        }
    }

    /// Takes back what was told since.
    pub(super) fn untell(&mut self, told: Told) {
        self.events.truncate(told.events);
        self.audit.truncate(told.audit);
    }

    /// Carries out a text without values.
    pub(super) async fn run(&mut self, text: &'static str) -> Result<()> {
        execute(self.connection, text).await
    }

    /// Writes what was told, and which group this is. Nothing but the commit may follow. Answers
    /// the newest event, if there is any.
    pub(super) async fn seal(mut self, writer: &str, batch: i64) -> Result<Option<i64>> {
        let operation = "end a group";
        let (events, audit) = (self.events.len(), self.audit.len());
        if events == 0 && audit == 0 {
            let mark = query(queries::PG_MARK).bind(writer).bind(batch);
            self.execute(operation, mark).await?;
            return Ok(None);
        }
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let mut tell = query(queries::PG_TELL)
            .bind(writer)
            .bind(batch)
            .bind(number(events))
            .bind(number(audit));
        let told = std::mem::take(&mut self.events);
        tell.values.extend(columns_of(told, bind::EVENT_KINDS));
        let told = std::mem::take(&mut self.audit);
        tell.values.extend(columns_of(told, bind::AUDIT_KINDS));
        let row = fetch(&mut self, operation, tell).await?;
        let head = row.as_ref().map(|row| column(row, 0)).transpose()?;
        Ok(head.filter(|_| events > 0))
    }
}

/// The rows' columns, which are there even if there are no rows.
fn columns_of(rows: Vec<Statement<'static>>, kinds: &str) -> Vec<Value<'static>> {
    if !rows.is_empty() {
        return columns(rows);
    }
    kinds
        .chars()
        .map(|kind| match kind {
            't' => Value::Texts(Vec::new()),
            _ => Value::Numbers(Vec::new()),
        })
        .collect()
}

impl Tx for PgTx<'_> {
    type Row = PgRow;

    /// Other servers write, too.
    const LOCKS_ROWS: bool = true;

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
    ) -> Result<Vec<PgRow>> {
        bound(&statement)
            .fetch_all(&mut *self.connection)
            .await
            .map_err(|source| Error::Database { operation, source })
    }

    async fn lock(&mut self, lock: Lock) -> Result<()> {
        let number = LOCKS
            + match lock {
                Lock::TeamNames => 1,
                Lock::TemplateNames => 2,
                Lock::Webhooks => 3,
                Lock::Leases => 4,
            };
        let statement = query(queries::PG_LOCK).bind(number);
        self.execute("take a lock", statement).await?;
        Ok(())
    }

    async fn many(
        &mut self,
        operation: &'static str,
        many: &'static Many,
        rows: Vec<Statement<'_>>,
    ) -> Result<Vec<PgRow>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut statement = query(many.over_columns.as_str());
        statement.values = columns(rows);
        self.fetch_all(operation, statement).await
    }

    async fn teams(&mut self, teams: &[&TeamId]) -> Result<BTreeMap<TeamId, TeamRow>> {
        if teams.is_empty() {
            return Ok(BTreeMap::new());
        }
        let ids = teams.iter().map(|id| Some(id.as_str().into())).collect();
        let mut statement = query(queries::TEAMS_HOLD);
        statement.values.push(Value::Texts(ids));
        let rows = self.fetch_all("get teams", statement).await?;
        let teams = rows.iter().map(|row| {
            let team = decode::team(row)?;
            Ok((team.id.clone(), team))
        });
        teams.collect()
    }

    async fn tell(&mut self, events: &[&EventRow], audit: &[&AuditRow]) -> Result<()> {
        let events = events.iter().map(|row| bind::event(row).into_owned());
        self.events.extend(events);
        let audit = audit.iter().map(|row| bind::audit(row).into_owned());
        self.audit.extend(audit);
        Ok(())
    }
}
