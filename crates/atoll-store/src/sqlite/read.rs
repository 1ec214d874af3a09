//! Every read, on the pool of reading connections.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;

use atoll_core::id::{SandboxId, TeamId};
use atoll_core::lifecycle::state_name;
use atoll_core::sandbox::Sandbox;
use atoll_core::time::Timestamp;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::Instant;

use super::decode;
use crate::row::{counts_as_paused, to_i64};
use crate::store::{
    AuditFilter, AuditRow, Error, KeyRow, Result, SandboxFilter, TeamRow, TemplateRow,
};
use crate::{metrics, queries};

type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

pub(super) async fn one(
    pool: &SqlitePool,
    operation: &'static str,
    statement: Statement<'_>,
) -> Result<Option<SqliteRow>> {
    timed(operation, statement.fetch_optional(pool)).await
}

pub(super) async fn all(
    pool: &SqlitePool,
    operation: &'static str,
    statement: Statement<'_>,
) -> Result<Vec<SqliteRow>> {
    timed(operation, statement.fetch_all(pool)).await
}

/// Every read goes through here: waiting for a connection is part of it.
async fn timed<T>(
    operation: &'static str,
    reading: impl Future<Output = sqlx::Result<T>>,
) -> Result<T> {
    let begun = Instant::now();
    let read = reading.await;
    metrics::read(operation, begun.elapsed(), read.is_ok());
    read.map_err(|source| Error::Database { operation, source })
}

pub(super) async fn ping(pool: &SqlitePool) -> Result<()> {
    one(pool, "ping", sqlx::query(queries::PING)).await?;
    Ok(())
}

pub(super) async fn team_get(pool: &SqlitePool, team: &TeamId) -> Result<Option<TeamRow>> {
    let statement = sqlx::query(queries::TEAM_GET).bind(team.as_str());
    let row = one(pool, "get a team", statement).await?;
    row.as_ref().map(decode::team).transpose()
}

pub(super) async fn team_list(pool: &SqlitePool) -> Result<Vec<TeamRow>> {
    let rows = all(pool, "list teams", sqlx::query(queries::TEAM_LIST)).await?;
    rows.iter().map(decode::team).collect()
}

pub(super) async fn key_find(pool: &SqlitePool, hash: &str) -> Result<Option<KeyRow>> {
    let statement = sqlx::query(queries::KEY_FIND).bind(hash);
    let row = one(pool, "find a key", statement).await?;
    row.as_ref().map(decode::key).transpose()
}

pub(super) async fn key_list(pool: &SqlitePool, team: &TeamId) -> Result<Vec<KeyRow>> {
    let statement = sqlx::query(queries::KEY_LIST).bind(team.as_str());
    let rows = all(pool, "list keys", statement).await?;
    rows.iter().map(decode::key).collect()
}

pub(super) async fn template_list(pool: &SqlitePool) -> Result<Vec<TemplateRow>> {
    let operation = "list templates";
    let rows = all(pool, operation, sqlx::query(queries::TEMPLATE_LIST)).await?;
    let names = all(pool, operation, sqlx::query(queries::TEMPLATE_NAMES)).await?;
    let mut by_template: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &names {
        let failed = |source| Error::Database { operation, source };
        let template = row.try_get(0).map_err(failed)?;
        let name = row.try_get(1).map_err(failed)?;
        by_template.entry(template).or_default().push(name);
    }
    rows.iter()
        .map(|row| {
            let mut row = decode::template(row)?;
            row.template.names = by_template
                .remove(row.template.id.as_str())
                .unwrap_or_default();
            Ok(row)
        })
        .collect()
}

pub(super) async fn sandbox_get(pool: &SqlitePool, id: &SandboxId) -> Result<Option<Sandbox>> {
    let statement = sqlx::query(queries::SANDBOX_GET).bind(id.as_str());
    let row = one(pool, "get a sandbox", statement).await?;
    row.as_ref().map(decode::sandbox).transpose()
}

pub(super) async fn sandbox_list_live(
    pool: &SqlitePool,
    after: Option<&SandboxId>,
    limit: u32,
) -> Result<Vec<Sandbox>> {
    let statement = sqlx::query(queries::SANDBOX_LIST_LIVE)
        .bind(after.map_or("", SandboxId::as_str))
        .bind(i64::from(limit));
    let rows = all(pool, "list live sandboxes", statement).await?;
    rows.iter().map(decode::sandbox).collect()
}

pub(super) async fn sandbox_list_by_id(
    pool: &SqlitePool,
    ids: &[SandboxId],
) -> Result<Vec<Sandbox>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // In few lengths, so that the texts stay prepared; the last id fills up.
    let length = ids.len().next_power_of_two();
    let mut clauses = Clauses::new(queries::SANDBOX_LIST_BY_ID, 0);
    clauses.push_list(" IN (", length);
    let mut statement = sqlx::query(AssertSqlSafe(clauses.text));
    let filling = ids.iter().chain(ids.iter().cycle()).take(length);
    for id in filling {
        statement = statement.bind(id.as_str());
    }
    let rows = all(pool, "list sandboxes by id", statement).await?;
    rows.iter().map(decode::sandbox).collect()
}

/// Numbers placeholders while a statement is put together from fixed texts: values are only ever
/// bound.
pub(super) struct Clauses {
    pub(super) text: String,
    bound: usize,
}

impl Clauses {
    pub(super) fn new(text: &str, bound: usize) -> Self {
        Self {
            text: text.to_owned(),
            bound,
        }
    }

    /// Appends a fixed text and one more placeholder.
    pub(super) fn push(&mut self, text: &'static str) {
        self.bound += 1;
        let _ = write!(self.text, "{text}${}", self.bound);
    }

    /// Appends `prefix`, `count` placeholders with commas, and a closing bracket.
    pub(super) fn push_list(&mut self, prefix: &'static str, count: usize) {
        self.text.push_str(prefix);
        for index in 0..count {
            self.push(if index == 0 { "" } else { ", " });
        }
        self.text.push(')');
    }
}

fn list_text(filter: &SandboxFilter) -> String {
    let is_labelled = !filter.labels.is_empty();
    let is_paused = filter.states.iter().copied().all(counts_as_paused);
    let mut clauses = match (is_labelled, is_paused) {
        (true, true) => Clauses::new(queries::SANDBOX_LIST_LABELLED_PAUSED, 3),
        (true, false) => Clauses::new(queries::SANDBOX_LIST_LABELLED, 3),
        (false, _) => Clauses::new(queries::SANDBOX_LIST, 1),
    };
    clauses.text.push_str(if is_paused {
        queries::LIST_PAUSED
    } else {
        queries::LIST_VISIBLE
    });
    clauses.push_list(" AND state IN (", filter.states.len());
    for _ in filter.labels.iter().skip(1) {
        clauses.push(queries::LIST_BY_LABEL);
        clauses.push(" AND other.value = ");
        clauses.text.push(')');
    }
    if filter.template.is_some() {
        clauses.push(" AND template = ");
    }
    if filter.started_after.is_some() {
        clauses.push(" AND started_at >= ");
    }
    let [ascending, descending] = if is_labelled {
        [
            (
                " AND (listed_at, sandbox) > (",
                " ORDER BY listed_at, sandbox LIMIT ",
            ),
            (
                " AND (listed_at, sandbox) < (",
                " ORDER BY listed_at DESC, sandbox DESC LIMIT ",
            ),
        ]
    } else {
        [
            (
                " AND (created_at, id) > (",
                " ORDER BY created_at, id LIMIT ",
            ),
            (
                " AND (created_at, id) < (",
                " ORDER BY created_at DESC, id DESC LIMIT ",
            ),
        ]
    };
    let (comparison, order) = if filter.is_ascending {
        ascending
    } else {
        descending
    };
    if filter.after.is_some() {
        clauses.push_list(comparison, 2);
    }
    clauses.push(order);
    clauses.text
}

fn bind_list<'q>(mut statement: Statement<'q>, filter: &'q SandboxFilter) -> Statement<'q> {
    statement = statement.bind(filter.team.as_str());
    let mut labels = filter.labels.iter();
    // The first label is where the walk goes along.
    if let Some((name, value)) = labels.next() {
        statement = statement.bind(name).bind(value);
    }
    for state in &filter.states {
        statement = statement.bind(state_name(*state));
    }
    for (name, value) in labels {
        statement = statement.bind(name).bind(value);
    }
    if let Some(template) = &filter.template {
        statement = statement.bind(template.as_str());
    }
    if let Some(start) = filter.started_after {
        statement = statement.bind(start.as_micros());
    }
    if let Some((at, id)) = &filter.after {
        statement = statement.bind(at.as_micros()).bind(id.as_str());
    }
    statement.bind(i64::from(filter.limit))
}

pub(super) async fn sandbox_list(
    pool: &SqlitePool,
    filter: &SandboxFilter,
) -> Result<Vec<Sandbox>> {
    let statement = bind_list(sqlx::query(AssertSqlSafe(list_text(filter))), filter);
    let rows = all(pool, "list sandboxes", statement).await?;
    rows.iter().map(decode::sandbox).collect()
}

#[cfg(test)]
pub(super) async fn explain_list(pool: &SqlitePool, filter: &SandboxFilter) -> String {
    let text = format!("EXPLAIN QUERY PLAN {}", list_text(filter));
    let statement = bind_list(sqlx::query(AssertSqlSafe(text)), filter);
    let rows = statement.fetch_all(pool).await.unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get(3)).collect();
    lines.join("\n")
}

fn audit_text(filter: &AuditFilter) -> String {
    let mut clauses = Clauses::new(queries::AUDIT_LIST, 1);
    for (is_set, text) in [
        (filter.team.is_some(), " AND team = "),
        (filter.actor.is_some(), " AND actor = "),
        (filter.operation.is_some(), " AND operation = "),
        (filter.object.is_some(), " AND object = "),
        (filter.outcome.is_some(), " AND outcome = "),
        (filter.start.is_some(), " AND at >= "),
        (filter.end.is_some(), " AND at < "),
    ] {
        if is_set {
            clauses.push(text);
        }
    }
    clauses.push(" ORDER BY seq DESC LIMIT ");
    clauses.text
}

pub(super) async fn audit_list(pool: &SqlitePool, filter: &AuditFilter) -> Result<Vec<AuditRow>> {
    let before = filter.before.unwrap_or(i64::MAX);
    let mut statement = sqlx::query(AssertSqlSafe(audit_text(filter))).bind(before);
    if let Some(team) = &filter.team {
        statement = statement.bind(team.as_str());
    }
    for text in [
        &filter.actor,
        &filter.operation,
        &filter.object,
        &filter.outcome,
    ]
    .into_iter()
    .flatten()
    {
        statement = statement.bind(text);
    }
    for time in [filter.start, filter.end].into_iter().flatten() {
        statement = statement.bind(time.as_micros());
    }
    let rows = all(
        pool,
        "list the audit",
        statement.bind(i64::from(filter.limit)),
    )
    .await?;
    rows.iter().map(decode::audit).collect()
}

/// When the last of the ended sandboxes ended that are more than so many.
pub(super) async fn ended_beyond(pool: &SqlitePool, most: u64) -> Result<Option<Timestamp>> {
    let operation = "count ended sandboxes";
    let statement = sqlx::query(queries::ENDED_BEYOND).bind(to_i64(most));
    let Some(row) = one(pool, operation, statement).await? else {
        return Ok(None);
    };
    decode::optional_time(&row, 0)
}
