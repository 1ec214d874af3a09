//! A group of writes in few statements.
//!
//! Each statement is a round trip to the thread that owns the connection, which costs more than
//! the statement itself. So the writes of a group that only concern their own sandbox are gathered
//! and carried out kind by kind: all transitions in one execution, all new rows in one `INSERT`,
//! all events in one, and a team's sums once.
//!
//! Invariants:
//! - Gathered writes concern different sandboxes and different idempotency keys, so their order
//!   among themselves means nothing, and what is carried out is one of the orders in which they
//!   could have come. Any other write first has what is gathered carried out.
//! - Texts come in the few lengths of [`LENGTHS`], so that all of them stay prepared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use atoll_core::event::Cursor;
use atoll_core::id::{SandboxId, TeamId};
use atoll_core::lifecycle::state_name;
use atoll_core::quota::{Charge, Limits, Usage, admit};
use atoll_core::sandbox::{EndReason, Sandbox, State};
use atoll_core::time::Timestamp;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};

use super::apply::{self, Reply, Write, execute};
use super::{decode, event, team};
use crate::queries;
use crate::row::{config_to_json, counts_as_paused, desired_name, micros, reason_name, to_i64};
use crate::store::{
    Admission, AuditRow, Error, EventRow, Intent, IntentChange, NewSandbox, Readmission, Result,
    Transition,
};

/// How many writes one statement's text is made for, longest first.
const LENGTHS: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];

type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

/// One statement's text in each of [`LENGTHS`].
pub(super) type Texts = LazyLock<[String; LENGTHS.len()]>;

static TRANSITIONS: Texts =
    LazyLock::new(|| LENGTHS.map(|n| repeated(queries::SANDBOX_TRANSITION, n)));
static STOPS: Texts = LazyLock::new(|| LENGTHS.map(|n| repeated(queries::SANDBOX_STOP, n)));
static SANDBOXES: Texts = LazyLock::new(|| LENGTHS.map(|n| more_rows(queries::SANDBOX_INSERT, n)));
static LABELS: Texts = LazyLock::new(|| LENGTHS.map(|n| more_rows(queries::LABEL_INSERT, n)));
pub(super) static EVENTS: Texts =
    LazyLock::new(|| LENGTHS.map(|n| more_rows(queries::EVENT_INSERT, n)));
static AUDIT: Texts = LazyLock::new(|| LENGTHS.map(|n| more_rows(queries::AUDIT_INSERT, n)));

/// Appends `text` with its placeholders moved up by `by`; answers the highest one of `text`.
fn push_shifted(target: &mut String, text: &str, by: usize) -> usize {
    let mut highest = 0;
    let mut parts = text.split('$');
    target.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let end = part
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(part.len());
        let (digits, rest) = part.split_at(end);
        let number: usize = digits.parse().unwrap_or(0);
        highest = highest.max(number);
        target.push('$');
        target.push_str(&(number + by).to_string());
        target.push_str(rest);
    }
    highest
}

/// The statement `count` times, to be executed as one.
fn repeated(text: &str, count: usize) -> String {
    let mut whole = String::new();
    let mut bound = 0;
    for _ in 0..count {
        bound += push_shifted(&mut whole, text, bound);
        whole.push(';');
    }
    whole
}

/// An `INSERT … VALUES (…)` with `count` rows, whose placeholders have no names: the time to bind
/// named ones grows with the square of their number. Its values come in the order of the columns.
///
/// One that fails may leave some of its rows: the whole group is rolled back then, so that the
/// database need not keep a copy of each page for the statement alone.
fn more_rows(text: &str, count: usize) -> String {
    let (head, row) = text.split_once("VALUES ").unwrap_or((text, ""));
    let head = head.replacen("INSERT", "INSERT OR FAIL", 1);
    let row = format!("({})", vec!["?"; row.matches('$').count()].join(", "));
    format!("{head}VALUES {}", vec![row; count].join(", "))
}

/// Cuts items into pieces of [`LENGTHS`], each with the text for its length.
pub(super) fn pieces<'i, T>(
    texts: &'static Texts,
    mut items: &'i [T],
) -> impl Iterator<Item = (&'static str, &'i [T])> {
    std::iter::from_fn(move || {
        let index = LENGTHS.iter().position(|length| *length <= items.len())?;
        let (piece, rest) = items.split_at(LENGTHS[index]);
        items = rest;
        Some((texts[index].as_str(), piece))
    })
}

/// Carries out the writes inside the caller's transaction. Answers in their order; moves the head
/// to the newest event among them.
pub(super) async fn apply_all<'w>(
    tx: &mut SqliteConnection,
    writes: impl ExactSizeIterator<Item = &'w Write>,
    head: &mut Cursor,
) -> Result<Vec<Reply>> {
    let mut replies: Vec<Reply> = Vec::new();
    replies.resize_with(writes.len(), || Reply::Unit);
    let mut batch = Batch::default();
    for (index, write) in writes.enumerate() {
        if !batch.has_room(write) {
            let full = std::mem::take(&mut batch);
            full.run(tx, &mut replies, head).await?;
        }
        if !batch.gather(index, write) {
            replies[index] = apply::apply(tx, write, head).await?;
        }
    }
    batch.run(tx, &mut replies, head).await?;
    Ok(replies)
}

/// Writes that can be carried out together, with their places among the group's.
#[derive(Debug, Default)]
struct Batch<'w> {
    sandboxes: BTreeSet<&'w SandboxId>,
    keys: BTreeSet<(&'w TeamId, &'w str)>,
    transitions: Vec<(usize, &'w Transition)>,
    stops: Vec<(usize, &'w Intent, EndReason)>,
    inserts: Vec<(usize, &'w NewSandbox)>,
    /// What is told of requests: it concerns no other write.
    audit: Vec<&'w AuditRow>,
}

impl<'w> Batch<'w> {
    /// Whether the write may be carried out before, with or after what is gathered.
    fn has_room(&self, write: &Write) -> bool {
        match write {
            Write::SandboxTransition(change) => !self.sandboxes.contains(&change.id),
            Write::SandboxIntend(intent) => !self.sandboxes.contains(&intent.id),
            Write::SandboxInsert(new) => {
                let key = new.idempotency.as_ref();
                !self.sandboxes.contains(&new.sandbox.id)
                    && key.is_none_or(|key| {
                        let key = (&new.sandbox.team, key.key.as_str());
                        !self.keys.contains(&key)
                    })
            }
            Write::AuditAppend(_) => true,
            _ => self.sandboxes.is_empty(),
        }
    }

    /// Gathers the write if it is of a kind that is gathered.
    fn gather(&mut self, index: usize, write: &'w Write) -> bool {
        match write {
            Write::SandboxTransition(change) => {
                self.sandboxes.insert(&change.id);
                self.transitions.push((index, change));
            }
            Write::SandboxIntend(intent) => {
                let IntentChange::Stop(reason) = intent.change else {
                    return false;
                };
                self.sandboxes.insert(&intent.id);
                self.stops.push((index, intent, reason));
            }
            Write::SandboxInsert(new) => {
                self.sandboxes.insert(&new.sandbox.id);
                if let Some(key) = &new.idempotency {
                    self.keys.insert((&new.sandbox.team, &key.key));
                }
                self.inserts.push((index, new));
            }
            Write::AuditAppend(rows) => self.audit.extend(rows),
            _ => return false,
        }
        true
    }

    async fn run(
        self,
        tx: &mut SqliteConnection,
        replies: &mut [Reply],
        head: &mut Cursor,
    ) -> Result<()> {
        let mut told = Told {
            audit: self.audit,
            events: Vec::new(),
        };
        // What transitions free may be taken by the new ones of the same group.
        transition_all(tx, &self.transitions, replies, &mut told).await?;
        stop_all(tx, &self.stops, replies, &mut told).await?;
        insert_all(tx, &self.inserts, replies, &mut told.events).await?;
        event::append(tx, &told.events, head).await?;
        append_audit(tx, &told.audit).await
    }
}

/// What is told of the writes of a batch that were carried out.
#[derive(Debug)]
struct Told<'w> {
    events: Vec<&'w EventRow>,
    audit: Vec<&'w AuditRow>,
}

async fn fetch_sandboxes(
    tx: &mut SqliteConnection,
    operation: &'static str,
    statement: Statement<'_>,
    found: &mut BTreeMap<SandboxId, Sandbox>,
) -> Result<()> {
    let rows: Vec<SqliteRow> = statement
        .fetch_all(tx)
        .await
        .map_err(|source| Error::Database { operation, source })?;
    for row in &rows {
        let sandbox = decode::sandbox(row)?;
        found.insert(sandbox.id.clone(), sandbox);
    }
    Ok(())
}

async fn transition_all<'w>(
    tx: &mut SqliteConnection,
    changes: &[(usize, &'w Transition)],
    replies: &mut [Reply],
    told: &mut Told<'w>,
) -> Result<()> {
    let mut found = BTreeMap::new();
    for (text, piece) in pieces(&TRANSITIONS, changes) {
        let mut statement = sqlx::query(text);
        for (_, change) in piece {
            statement = bind_transition(statement, change);
        }
        fetch_sandboxes(tx, "change a sandbox's state", statement, &mut found).await?;
    }
    let mut moves: BTreeMap<&TeamId, Move> = BTreeMap::new();
    for (index, change) in changes {
        let row = found.remove(&change.id);
        if let Some(row) = &row {
            let (before, _) = change.expected;
            let moved = moves.entry(&change.team).or_default();
            moved.lost = moved.lost.saturating_add(row.charge_in(before));
            moved.gained = moved.gained.saturating_add(row.charge_in(change.next));
            moved.running += i64::from(change.next == State::Running);
            moved.running -= i64::from(before == State::Running);
            move_labels(tx, row, before, change.next).await?;
            told.events.extend(&change.events);
            told.audit.extend(change.audit.as_deref());
        }
        replies[*index] = Reply::Sandbox(row.map(Box::new));
    }
    for (team, moved) in moves {
        count(tx, team, moved).await?;
    }
    Ok(())
}

/// Has a sandbox's labels follow its state: they go with its end, and are found by what counts as
/// paused.
async fn move_labels(
    tx: &mut SqliteConnection,
    row: &Sandbox,
    before: State,
    next: State,
) -> Result<()> {
    if row.config.metadata.is_empty() {
        return Ok(());
    }
    let (was_paused, is_paused) = (counts_as_paused(before), counts_as_paused(next));
    let labels = if next == State::Stopped {
        sqlx::query(queries::LABELS_DELETE).bind(row.id.as_str())
    } else if was_paused != is_paused {
        sqlx::query(queries::LABELS_PAUSED)
            .bind(row.id.as_str())
            .bind(i64::from(is_paused))
    } else {
        return Ok(());
    };
    execute(tx, "move a sandbox's labels", labels).await?;
    Ok(())
}

/// By how much a team's sums move.
#[derive(Debug, Default)]
struct Move {
    gained: Charge,
    lost: Charge,
    running: i64,
}

async fn count(tx: &mut SqliteConnection, team: &TeamId, moved: Move) -> Result<()> {
    let Move {
        gained,
        lost,
        running,
    } = moved;
    if gained == lost && running == 0 {
        return Ok(());
    }
    let by = |gained: u64, lost: u64| to_i64(gained).saturating_sub(to_i64(lost));
    let statement = sqlx::query(queries::TEAM_COUNT)
        .bind(team.as_str())
        .bind(by(gained.places, lost.places))
        .bind(by(gained.cpu_millis, lost.cpu_millis))
        .bind(by(gained.memory_mib, lost.memory_mib))
        .bind(by(gained.disk_mib, lost.disk_mib))
        .bind(running);
    execute(tx, "count a team's sandboxes", statement).await?;
    Ok(())
}

/// Changes the state of a sandbox that counts for more afterwards, if the quota allows.
pub(super) async fn readmit(
    tx: &mut SqliteConnection,
    change: &Transition,
    limits: Limits,
    head: &mut Cursor,
) -> Result<Reply> {
    let answer = |readmission| Ok(Reply::Readmission(readmission));
    let operation = "readmit a sandbox";
    let known = apply::get(tx, &change.id).await?;
    let team = team::get(tx, &change.team).await?;
    let (Some(known), Some(team)) = (known, team) else {
        return answer(Readmission::Stale);
    };
    let lost = known.charge_in(known.state);
    let gained = known.charge_in(change.next);
    let limits = team.overrides.over(limits);
    if let Err(exceeded) = admit(limits, team.usage.charged, gained.saturating_sub(lost)) {
        return answer(Readmission::QuotaExceeded(exceeded));
    }
    let statement = bind_transition(sqlx::query(queries::SANDBOX_READMIT), change);
    let row = statement
        .fetch_optional(&mut *tx)
        .await
        .map_err(|source| Error::Database { operation, source })?;
    let Some(row) = row else {
        return answer(Readmission::Stale);
    };
    let running = |state| i64::from(state == State::Running);
    let moved = Move {
        gained,
        lost,
        running: running(change.next) - running(known.state),
    };
    count(tx, &change.team, moved).await?;
    event::append(tx, &change.events.iter().collect::<Vec<_>>(), head).await?;
    append_audit(tx, change.audit.as_deref().as_slice()).await?;
    let row = decode::sandbox(&row)?;
    move_labels(tx, &row, known.state, change.next).await?;
    answer(Readmission::Accepted(Box::new(row)))
}

fn bind_transition<'q>(statement: Statement<'q>, change: &'q Transition) -> Statement<'q> {
    let (state, generation) = change.expected;
    let placement = change.placement.as_ref();
    statement
        .bind(change.id.as_str())
        .bind(state_name(state))
        .bind(to_i64(generation.get()))
        .bind(state_name(change.next))
        .bind(placement.map(|(node, _)| node.as_str()))
        .bind(placement.map(|(_, generation)| to_i64(generation.get())))
        .bind(change.started_at.map(Timestamp::as_micros))
        .bind(change.ended_at.map(Timestamp::as_micros))
        .bind(change.stop_reason.map(reason_name))
        .bind(change.last_error.as_deref())
        .bind(change.at.as_micros())
        .bind(change.paused_at.map(Timestamp::as_micros))
        .bind(change.desired.map(desired_name))
        .bind(change.deadline.map(Timestamp::as_micros))
}

async fn stop_all<'w>(
    tx: &mut SqliteConnection,
    stops: &[(usize, &'w Intent, EndReason)],
    replies: &mut [Reply],
    told: &mut Told<'w>,
) -> Result<()> {
    let mut found = BTreeMap::new();
    for (text, piece) in pieces(&STOPS, stops) {
        let mut statement = sqlx::query(text);
        for (_, intent, reason) in piece {
            statement = statement
                .bind(intent.id.as_str())
                .bind(intent.at.as_micros())
                .bind(reason_name(*reason))
                .bind(intent.claimed_by.as_ref().map(|server| server.as_str()));
        }
        fetch_sandboxes(tx, "end a sandbox", statement, &mut found).await?;
    }
    for (index, intent, _) in stops {
        let row = found.remove(&intent.id);
        if row.is_some() {
            told.events.extend(&intent.events);
            told.audit.extend(intent.audit.as_deref());
        }
        replies[*index] = Reply::Sandbox(row.map(Box::new));
    }
    Ok(())
}

async fn insert_all<'w>(
    tx: &mut SqliteConnection,
    inserts: &[(usize, &'w NewSandbox)],
    replies: &mut [Reply],
    events: &mut Vec<&'w EventRow>,
) -> Result<()> {
    let mut by_team: BTreeMap<&TeamId, Vec<(usize, &NewSandbox)>> = BTreeMap::new();
    for (index, new) in inserts {
        match apply::replay(tx, new).await? {
            Some(replayed) => replies[*index] = Reply::Admission(replayed),
            None => by_team
                .entry(&new.sandbox.team)
                .or_default()
                .push((*index, new)),
        }
    }
    let mut accepted = Vec::with_capacity(inserts.len());
    for (team, wanted) in by_team {
        for (index, new, admission) in admit_all(tx, team, wanted).await? {
            if admission == Admission::Accepted {
                accepted.push(new);
            }
            replies[index] = Reply::Admission(admission);
        }
    }
    insert_rows(tx, &accepted).await?;
    for new in accepted {
        if let Some(key) = &new.idempotency {
            apply::keep_key(tx, &new.sandbox, key).await?;
        }
        events.extend(&new.events);
    }
    Ok(())
}

/// Takes of the team's quota for one after the other, and writes the sum once. The row was read in
/// this transaction, and there is one writer: what was free is free.
async fn admit_all<'w>(
    tx: &mut SqliteConnection,
    team: &TeamId,
    wanted: Vec<(usize, &'w NewSandbox)>,
) -> Result<Vec<(usize, &'w NewSandbox, Admission)>> {
    let row = team::get(tx, team).await?.filter(|row| !row.is_disabled);
    let mut gained = Usage::default();
    let decided = wanted.into_iter().map(|(index, new)| {
        let Some(row) = &row else {
            return (index, new, Admission::NoTeam);
        };
        let limits = row.overrides.over(new.limits);
        let more = new.sandbox.charge_in(new.sandbox.state);
        let used = row.usage.charged.saturating_add(gained);
        match admit(limits, used, more) {
            Ok(_) => {
                gained = gained.saturating_add(more);
                (index, new, Admission::Accepted)
            }
            Err(exceeded) => (index, new, Admission::QuotaExceeded(exceeded)),
        }
    });
    let decided: Vec<_> = decided.collect();
    let moved = Move {
        gained,
        ..Move::default()
    };
    count(tx, team, moved).await?;
    Ok(decided)
}

async fn insert_rows(tx: &mut SqliteConnection, new: &[&NewSandbox]) -> Result<()> {
    let operation = "insert a sandbox";
    for (text, piece) in pieces(&SANDBOXES, new) {
        let mut statement = sqlx::query(text);
        for new in piece {
            statement = bind_row(statement, &new.sandbox);
        }
        execute(tx, operation, statement).await?;
    }
    let labels: Vec<_> = new
        .iter()
        .flat_map(|new| {
            let labels = new.sandbox.config.metadata.iter();
            labels.map(|label| (&new.sandbox, label))
        })
        .collect();
    for (text, piece) in pieces(&LABELS, &labels) {
        let mut statement = sqlx::query(text);
        for (sandbox, (name, value)) in piece {
            statement = statement
                .bind(sandbox.id.as_str())
                .bind(sandbox.team.as_str())
                .bind(name.as_str())
                .bind(value.as_str())
                .bind(sandbox.created_at.as_micros());
        }
        execute(tx, operation, statement).await?;
    }
    Ok(())
}

fn bind_row<'q>(statement: Statement<'q>, sandbox: &'q Sandbox) -> Statement<'q> {
    statement
        .bind(sandbox.id.as_str())
        .bind(sandbox.team.as_str())
        .bind(sandbox.config.template.as_str())
        .bind(sandbox.config.build.as_str())
        .bind(sandbox.config.alias.as_deref())
        .bind(config_to_json(&sandbox.config))
        .bind(state_name(sandbox.state))
        .bind(desired_name(sandbox.desired))
        .bind(sandbox.stop_reason.map(reason_name))
        .bind(to_i64(sandbox.generation.get()))
        .bind(sandbox.node.as_ref().map(|node| node.as_str()))
        .bind(sandbox.created_at.as_micros())
        .bind(sandbox.started_at.map(Timestamp::as_micros))
        .bind(sandbox.deadline.as_micros())
        .bind(sandbox.updated_at.as_micros())
        .bind(sandbox.ended.map(|(at, _)| at.as_micros()))
        .bind(sandbox.last_error.as_deref())
        .bind(sandbox.created_by.as_ref().map(|key| key.as_str()))
        .bind(to_i64(sandbox.revision))
        .bind(micros(sandbox.timeout))
        .bind(i64::from(sandbox.keep_memory))
        .bind(sandbox.kept.map(|kept| to_i64(kept.generation.get())))
        .bind(sandbox.kept.map(|kept| kept.at.as_micros()))
        .bind(i64::from(sandbox.is_restarting))
        .bind(sandbox.claimed_by.as_ref().map(|server| server.as_str()))
}

pub(super) async fn append_audit(tx: &mut SqliteConnection, rows: &[&AuditRow]) -> Result<()> {
    for (text, piece) in pieces(&AUDIT, rows) {
        let mut statement = sqlx::query(text);
        for row in piece {
            statement = statement
                .bind(row.at.as_micros())
                .bind(row.team.as_ref().map(TeamId::as_str))
                .bind(row.actor.as_str())
                .bind(row.operation.as_str())
                .bind(row.object.as_deref())
                .bind(row.outcome.as_str())
                .bind(row.address.as_deref())
                .bind(row.agent.as_deref())
                .bind(row.trace.as_deref())
                .bind(to_i64(row.left_out));
        }
        execute(tx, "append to the audit", statement).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_texts_have_a_placeholder_for_each_value() {
        assert_eq!(
            repeated("UPDATE t SET a = $2, b = $2 WHERE id = $1", 2),
            "UPDATE t SET a = $2, b = $2 WHERE id = $1;UPDATE t SET a = $4, b = $4 WHERE id = $3;"
        );
        assert_eq!(
            more_rows("INSERT INTO t (a, b) VALUES ($1, $2)", 3),
            "INSERT OR FAIL INTO t (a, b) VALUES (?, ?), (?, ?), (?, ?)"
        );
    }

    #[test]
    fn pieces_cover_everything_once() {
        for count in 0..140 {
            let items: Vec<_> = (0..count).collect();
            let seen: Vec<_> = pieces(&EVENTS, &items)
                .flat_map(|(_, piece)| piece)
                .collect();
            assert_eq!(seen, items.iter().collect::<Vec<_>>());
        }
    }
}
