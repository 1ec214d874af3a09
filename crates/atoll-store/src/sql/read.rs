//! Every read, on the pool of reading connections.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use atoll_core::id::{SandboxId, TeamId};
use atoll_core::lifecycle::state_name;
use atoll_core::sandbox::Sandbox;
use atoll_core::time::Timestamp;

use super::decode;
use super::dialect::{Reader, Texts, column, one};
use super::statement::{Statement, query};
use crate::queries;
use crate::row::{counts_as_paused, to_i64};
use crate::store::{AuditFilter, AuditRow, KeyRow, Result, SandboxFilter, TeamRow, TemplateRow};

pub(super) async fn team_get<R: Reader>(reader: &R, team: &TeamId) -> Result<Option<TeamRow>> {
    let statement = query(queries::TEAM_GET).bind(team.as_str());
    let row = one(reader, "get a team", statement).await?;
    row.as_ref().map(decode::team).transpose()
}

pub(super) async fn team_list<R: Reader>(reader: &R) -> Result<Vec<TeamRow>> {
    let rows = reader.all("list teams", query(queries::TEAM_LIST)).await?;
    rows.iter().map(decode::team).collect()
}

pub(super) async fn key_find<R: Reader>(reader: &R, hash: &str) -> Result<Option<KeyRow>> {
    let statement = query(queries::KEY_FIND).bind(hash);
    let row = one(reader, "find a key", statement).await?;
    row.as_ref().map(decode::key).transpose()
}

pub(super) async fn key_list<R: Reader>(reader: &R, team: &TeamId) -> Result<Vec<KeyRow>> {
    let statement = query(queries::KEY_LIST).bind(team.as_str());
    let rows = reader.all("list keys", statement).await?;
    rows.iter().map(decode::key).collect()
}

pub(super) async fn template_list<R: Reader>(reader: &R) -> Result<Vec<TemplateRow>> {
    let operation = "list templates";
    let rows = reader.all(operation, query(queries::TEMPLATE_LIST)).await?;
    let names = reader
        .all(operation, query(queries::TEMPLATE_NAMES))
        .await?;
    let mut by_template: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &names {
        let (template, name) = (column(row, 0)?, column(row, 1)?);
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

pub(super) async fn sandbox_get<R: Reader>(reader: &R, id: &SandboxId) -> Result<Option<Sandbox>> {
    let statement = query(queries::SANDBOX_GET).bind(id.as_str());
    let row = one(reader, "get a sandbox", statement).await?;
    row.as_ref().map(decode::sandbox).transpose()
}

pub(super) async fn sandbox_list_live<R: Reader>(
    reader: &R,
    after: Option<&SandboxId>,
    limit: u32,
) -> Result<Vec<Sandbox>> {
    let statement = query(queries::SANDBOX_LIST_LIVE)
        .bind(after.map_or("", SandboxId::as_str))
        .bind(i64::from(limit));
    let rows = reader.all("list live sandboxes", statement).await?;
    rows.iter().map(decode::sandbox).collect()
}

pub(super) async fn sandbox_list_by_id<R: Reader>(
    reader: &R,
    ids: &[SandboxId],
) -> Result<Vec<Sandbox>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // In few lengths, so that the texts stay prepared; the last id fills up.
    let length = ids.len().next_power_of_two();
    let mut clauses = Clauses::new(queries::SANDBOX_LIST_BY_ID, 0);
    clauses.push_list(" IN (", length);
    let filling = ids.iter().chain(ids.iter().cycle()).take(length);
    let statement = query(clauses.text);
    let statement = filling.fold(statement, |statement, id| statement.bind(id.as_str()));
    let rows = reader.all("list sandboxes by id", statement).await?;
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

pub(crate) fn list_text(filter: &SandboxFilter, texts: Texts) -> String {
    let is_labelled = !filter.labels.is_empty();
    let is_paused = filter.states.iter().copied().all(counts_as_paused);
    let mut clauses = match (is_labelled, is_paused) {
        (true, true) => Clauses::new(texts.list_labelled_paused, 3),
        (true, false) => Clauses::new(texts.list_labelled, 3),
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

pub(crate) fn bind_list<'q>(
    mut statement: Statement<'q>,
    filter: &'q SandboxFilter,
) -> Statement<'q> {
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

pub(super) async fn sandbox_list<R: Reader>(
    reader: &R,
    filter: &SandboxFilter,
) -> Result<Vec<Sandbox>> {
    let statement = bind_list(query(list_text(filter, R::TEXTS)), filter);
    let rows = reader.all("list sandboxes", statement).await?;
    rows.iter().map(decode::sandbox).collect()
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

pub(super) async fn audit_list<R: Reader>(
    reader: &R,
    filter: &AuditFilter,
) -> Result<Vec<AuditRow>> {
    let before = filter.before.unwrap_or(i64::MAX);
    let mut statement = query(audit_text(filter)).bind(before);
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
    let statement = statement.bind(i64::from(filter.limit));
    let rows = reader.all("list the audit", statement).await?;
    rows.iter().map(decode::audit).collect()
}

/// When the last of the ended sandboxes ended that are more than so many.
pub(super) async fn ended_beyond<R: Reader>(reader: &R, most: u64) -> Result<Option<Timestamp>> {
    let operation = "count ended sandboxes";
    let statement = query(queries::ENDED_BEYOND).bind(to_i64(most));
    let Some(row) = one(reader, operation, statement).await? else {
        return Ok(None);
    };
    decode::optional_time(&row, 0)
}
