//! Events: appended by the writer, read by everyone else.

use atoll_core::event::{Cursor, EventKind, Subject};
use atoll_core::time::Timestamp;

use super::apply::Prune;
use super::decode;
use super::dialect::{Reader, Tx, column, fetch, one};
use super::many::{Many, many};
use super::read::Clauses;
use super::statement::{self, Statement, query};
use crate::queries;
use crate::row::to_i64;
use crate::store::{
    EVENTS_PER_SANDBOX, EventFilter, EventGap, EventPage, EventQuery, Result, StoredEvent,
};

/// Events that one page looks at, wanted or not: what bounds the time of a page of something rare.
const SCAN_MAX: u64 = 50_000;

fn cursor(number: i64) -> Cursor {
    Cursor::new(u64::try_from(number).unwrap_or(0))
}

/// Appends what restricts events to a subject.
fn push_subject(clauses: &mut Clauses, subject: &Subject) {
    match subject {
        Subject::Sandbox(_) => clauses.push("sandbox = "),
        Subject::Node(_) => clauses.push("node = "),
        Subject::Fleet => clauses.text.push_str("sandbox IS NULL AND node IS NULL"),
    }
}

fn bind_subject<'q>(statement: Statement<'q>, subject: &'q Subject) -> Statement<'q> {
    match subject {
        Subject::Sandbox(id) => statement.bind(id.as_str()),
        Subject::Node(id) => statement.bind(id.as_str()),
        Subject::Fleet => statement,
    }
}

fn list_text(filter: &EventFilter, like: &str) -> String {
    let mut clauses = Clauses::new(queries::EVENT_LIST, 0);
    push_subject(&mut clauses, &filter.subject);
    if filter.start.is_some() {
        clauses.push(if filter.is_ascending {
            " AND at >= "
        } else {
            " AND at <= "
        });
    }
    if !filter.levels.is_empty() {
        clauses.push_list(" AND level IN (", filter.levels.len());
    }
    if filter.search.is_some() {
        clauses.text.push_str(" AND message ");
        clauses.text.push_str(like);
        clauses.push(" ");
        clauses.text.push_str(" ESCAPE '\\'");
    }
    clauses.push(if filter.is_ascending {
        " ORDER BY at, seq LIMIT "
    } else {
        " ORDER BY at DESC, seq DESC LIMIT "
    });
    clauses.text
}

pub(super) async fn list<R: Reader>(reader: &R, filter: &EventFilter) -> Result<Vec<StoredEvent>> {
    let mut statement = query(list_text(filter, R::TEXTS.like));
    statement = bind_subject(statement, &filter.subject);
    if let Some(start) = filter.start {
        statement = statement.bind(start.as_micros());
    }
    for level in &filter.levels {
        statement = statement.bind(*level);
    }
    if let Some(search) = &filter.search {
        statement = statement.bind(pattern(search));
    }
    let rows = reader
        .all("list events", statement.bind(i64::from(filter.limit)))
        .await?;
    rows.iter().map(decode::event).collect()
}

/// A LIKE pattern that matches the text itself anywhere.
fn pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for character in text.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

/// The text of a walk along the sequence, up to its order.
fn walk_clauses(query: &EventQuery) -> Clauses {
    let mut clauses = Clauses::new(queries::EVENT_LIST_AFTER, 2);
    if query.team.is_some() {
        clauses.push(" AND team = ");
    }
    if let Some(subject) = &query.subject {
        clauses.text.push_str(" AND ");
        push_subject(&mut clauses, subject);
    }
    if query.kinds.is_empty() {
        clauses.push(" AND kind <> ");
    } else {
        clauses.push_list(" AND kind IN (", query.kinds.len());
    }
    clauses
}

fn bind_walk<'q>(
    mut statement: Statement<'q>,
    query: &'q EventQuery,
    after: Cursor,
    last: i64,
) -> Statement<'q> {
    statement = statement.bind(to_i64(after.get())).bind(last);
    if let Some(team) = &query.team {
        statement = statement.bind(team.as_str());
    }
    if let Some(subject) = &query.subject {
        statement = bind_subject(statement, subject);
    }
    if query.kinds.is_empty() {
        statement = statement.bind(EventKind::Log.as_str());
    }
    for kind in &query.kinds {
        statement = statement.bind(kind.as_str());
    }
    statement
}

/// A page by cursors in either direction, after leaving out some.
pub(super) async fn page<R: Reader>(
    reader: &R,
    query: &EventQuery,
    is_ascending: bool,
    (offset, limit): (u32, u32),
) -> Result<Vec<StoredEvent>> {
    let mut clauses = walk_clauses(query);
    clauses.push(if is_ascending {
        " ORDER BY seq LIMIT "
    } else {
        " ORDER BY seq DESC LIMIT "
    });
    clauses.push(" OFFSET ");
    let statement = statement::query(clauses.text);
    let statement = bind_walk(statement, query, Cursor::START, i64::MAX)
        .bind(i64::from(limit))
        .bind(i64::from(offset));
    let rows = reader.all("page events", statement).await?;
    rows.iter().map(decode::event).collect()
}

/// The next events after a cursor, up to `head`, which can be read already.
pub(super) async fn list_after<R: Reader>(
    reader: &R,
    after: Cursor,
    head: Cursor,
    query: &EventQuery,
    limit: u32,
) -> Result<EventPage> {
    let last = head.get().min(after.get().saturating_add(SCAN_MAX));
    if last <= after.get() {
        return Ok(EventPage {
            events: Vec::new(),
            next: after,
        });
    }
    let mut clauses = walk_clauses(query);
    clauses.push(" ORDER BY seq LIMIT ");
    let statement = statement::query(clauses.text);
    let statement = bind_walk(statement, query, after, to_i64(last));
    let rows = reader
        .all("read events", statement.bind(i64::from(limit)))
        .await?;
    let events: Vec<_> = rows.iter().map(decode::event).collect::<Result<_>>()?;
    let is_full = events.len() as u64 >= u64::from(limit);
    let next = match events.last() {
        Some(event) if is_full => event.cursor,
        Some(_) | None => Cursor::new(last),
    };
    Ok(EventPage { events, next })
}

pub(super) async fn gap<R: Reader>(reader: &R, after: Cursor) -> Result<Option<EventGap>> {
    let operation = "look for pruned events";
    let through = number(reader, operation, query(queries::EVENT_PRUNED_GET)).await?;
    if through <= after.get() {
        return Ok(None);
    }
    let left = query(queries::EVENT_COUNT_BETWEEN)
        .bind(to_i64(after.get()))
        .bind(to_i64(through));
    let left = number(reader, operation, left).await?;
    Ok(Some(EventGap {
        through: Cursor::new(through),
        missed: (through - after.get()).saturating_sub(left),
    }))
}

async fn number<R: Reader>(
    reader: &R,
    operation: &'static str,
    statement: Statement<'_>,
) -> Result<u64> {
    let Some(row) = one(reader, operation, statement).await? else {
        return Ok(0);
    };
    let number: i64 = column(&row, 0)?;
    Ok(u64::try_from(number).unwrap_or(0))
}

pub(super) async fn cursor_get<R: Reader>(reader: &R, name: &str) -> Result<Option<Cursor>> {
    let operation = "find a subscriber's cursor";
    let statement = query(queries::EVENT_CURSOR_GET).bind(name);
    let Some(row) = one(reader, operation, statement).await? else {
        return Ok(None);
    };
    Ok(Some(cursor(column(&row, 0)?)))
}

pub(super) async fn cursor_set<T: Tx>(
    tx: &mut T,
    name: &str,
    cursor: Cursor,
    at: Timestamp,
) -> Result<()> {
    let statement = query(queries::EVENT_CURSOR_SET)
        .bind(name)
        .bind(to_i64(cursor.get()))
        .bind(at.as_micros());
    tx.execute("keep a subscriber's cursor", statement).await?;
    Ok(())
}

async fn scalar<T: Tx>(
    tx: &mut T,
    operation: &'static str,
    statement: Statement<'_>,
) -> Result<i64> {
    let row = fetch(tx, operation, statement).await?;
    row.as_ref().map_or(Ok(0), |row| column(row, 0))
}

static NEWEST_OF: Many = many!(queries::EVENTS_NEWEST_OF, "t");
static GONE_OF: Many = many!(queries::EVENTS_DELETE, "t");
static GONE: Many = many!(queries::EVENT_DELETE, "n");

/// Removes the events of sandboxes. Answers the highest cursor among them.
pub(super) async fn forget_sandboxes<T: Tx>(tx: &mut T, ids: &[String]) -> Result<i64> {
    let operation = "prune events";
    let newest = ids
        .iter()
        .map(|id| query(queries::EVENTS_NEWEST_OF).bind(id));
    let newest = tx.many(operation, &NEWEST_OF, newest.collect()).await?;
    let gone = ids.iter().map(|id| query(queries::EVENTS_DELETE).bind(id));
    tx.many(operation, &GONE_OF, gone.collect()).await?;
    let newest = newest.iter().map(|row| column(row, 0));
    let newest: Vec<i64> = newest.collect::<Result<_>>()?;
    Ok(newest.into_iter().max().unwrap_or(0))
}

/// How many events are forgotten at a time.
fn most(prune: &Prune) -> i64 {
    i64::from(prune.limit) * i64::from(EVENTS_PER_SANDBOX)
}

/// Removes old events that belong to no sandbox. Answers the highest cursor among them, and
/// whether there are more.
pub(super) async fn forget_others<T: Tx>(tx: &mut T, prune: &Prune) -> Result<(i64, bool)> {
    let operation = "prune events";
    let old = query(queries::EVENTS_OF_NO_SANDBOX)
        .bind(prune.before.as_micros())
        .bind(most(prune));
    let old = tx.fetch_all(operation, old).await?;
    let old: Vec<i64> = old
        .iter()
        .map(|row| column(row, 0))
        .collect::<Result<_>>()?;
    let gone = old
        .iter()
        .map(|seq| query(queries::EVENT_DELETE).bind(*seq));
    tx.many(operation, &GONE, gone.collect()).await?;
    let is_more = i64::try_from(old.len()).unwrap_or(i64::MAX) >= most(prune);
    Ok((old.into_iter().max().unwrap_or(0), is_more))
}

/// Removes events that are too many. Answers the highest cursor among them, and whether there are
/// more.
pub(super) async fn forget_oldest<T: Tx>(tx: &mut T, prune: &Prune) -> Result<(i64, bool)> {
    let operation = "prune events";
    let oldest = query(queries::EVENTS_OLDEST)
        .bind(to_i64(prune.through.get()))
        .bind(most(prune));
    let through = scalar(tx, operation, oldest).await?;
    if through == 0 {
        return Ok((0, false));
    }
    let statement = query(queries::EVENTS_DELETE_THROUGH).bind(through);
    let removed = tx.execute(operation, statement).await?;
    Ok((through, to_i64(removed) >= most(prune)))
}

/// Keeps in mind up to where events were pruned.
pub(super) async fn mark_pruned<T: Tx>(tx: &mut T, through: i64) -> Result<()> {
    let statement = query(queries::EVENT_PRUNED_SET).bind(through);
    tx.execute("prune events", statement).await?;
    Ok(())
}
