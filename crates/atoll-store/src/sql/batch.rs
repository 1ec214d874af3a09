//! A group of writes in few statements.
//!
//! Each statement is a round trip to what owns the connection, which costs more than the statement
//! itself. So the writes of a group that only concern their own sandbox are gathered and carried
//! out kind by kind: all transitions in one execution, all new rows in one `INSERT`, all events in
//! one, and a team's sums once.
//!
//! Invariant: gathered writes concern different sandboxes and different idempotency keys, so their
//! order among themselves means nothing, and what is carried out is one of the orders in which they
//! could have come. Any other write first has what is gathered carried out.
//!
//! Where there are other writers, what is read to be changed is locked first, and locks are taken
//! in one order: sandboxes, then teams, each by their ids. So groups of several servers seldom
//! stand in each other's way, and where they do the database ends one of them, which is tried
//! again.

use std::collections::{BTreeMap, BTreeSet};

use atoll_core::id::{SandboxId, TeamId};
use atoll_core::quota::{Charge, Limits, admit};
use atoll_core::sandbox::{EndReason, Sandbox, State};

use super::apply::{self, Reply, Write};
use super::dialect::{Tx, column, fetch};
use super::many::{Many, many};
use super::statement::{Statement, query};
use super::{bind, decode, team};
use crate::queries;
use crate::row::{counts_as_paused, parse, to_i64};
use crate::store::{
    Admission, AuditRow, EventRow, Intent, IntentChange, NewSandbox, Readmission, Result, TeamRow,
    Transition,
};

const KEYS_TABLE: &str = "idempotency_keys";

static TRANSITIONS: Many = many!(queries::SANDBOX_TRANSITION, "ttnttnnnttnntnn");
static STOPS: Many = many!(queries::SANDBOX_STOP, "tntt");
static SANDBOXES: Many = many!(queries::SANDBOX_INSERT, "tttttttttntnnnnnttnnnnnntttntn");
static LABELS: Many = many!(queries::LABEL_INSERT, "ttttn");
static LABELS_GONE: Many = many!(queries::LABELS_DELETE, "t");
static LABELS_PAUSED: Many = many!(queries::LABELS_PAUSED, "tn");
static COUNTS: Many = many!(queries::TEAM_COUNT, "tnnnnn");
static KEYS: Many = many!(queries::IDEMPOTENCY_INSERT, "ttttn");
static KEYS_FOUND: Many = many!(queries::IDEMPOTENCY_FIND, "tt");

/// Carries out the writes inside the caller's transaction. Answers in their order.
pub(crate) async fn apply_all<'w, T: Tx>(
    tx: &mut T,
    writes: impl ExactSizeIterator<Item = &'w Write>,
) -> Result<Vec<Reply>> {
    let mut replies: Vec<Reply> = Vec::new();
    replies.resize_with(writes.len(), || Reply::Unit);
    let mut batch = Batch::default();
    for (index, write) in writes.enumerate() {
        if !batch.has_room(write) {
            std::mem::take(&mut batch).run(tx, &mut replies).await?;
        }
        if !batch.gather(index, write) {
            replies[index] = apply::apply(tx, write).await?;
        }
    }
    batch.run(tx, &mut replies).await?;
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

    async fn run<T: Tx>(mut self, tx: &mut T, replies: &mut [Reply]) -> Result<()> {
        let mut told = Told {
            audit: self.audit,
            events: Vec::new(),
        };
        if T::LOCKS_ROWS {
            self.transitions.sort_by_key(|(_, change)| &change.id);
            self.stops.sort_by_key(|(_, intent, _)| &intent.id);
        }
        let mut moves = Moves::new();
        transition_all(tx, &self.transitions, replies, &mut told, &mut moves).await?;
        stop_all(tx, &self.stops, replies, &mut told).await?;
        let mut teams: BTreeSet<_> = self
            .inserts
            .iter()
            .map(|(_, new)| &new.sandbox.team)
            .collect();
        if T::LOCKS_ROWS {
            teams.extend(moves.keys());
        }
        // Before anything is looked up for the new ones: whoever else makes one of these teams
        // waits from here on, and what was made before is seen.
        let teams = tx.teams(&teams.into_iter().collect::<Vec<_>>()).await?;
        let inserts = insert_all(tx, &self.inserts, &teams, replies, &mut moves).await?;
        for new in inserts {
            told.events.extend(&new.events);
        }
        count(tx, moves).await?;
        tx.tell(&told.events, &told.audit).await
    }
}

/// What is told of the writes of a batch that were carried out.
#[derive(Debug)]
struct Told<'w> {
    events: Vec<&'w EventRow>,
    audit: Vec<&'w AuditRow>,
}

/// Has sandboxes change. Answers those that did.
async fn changed<'q, T: Tx>(
    tx: &mut T,
    operation: &'static str,
    many: &'static Many,
    rows: impl Iterator<Item = Statement<'q>>,
) -> Result<BTreeMap<SandboxId, Sandbox>> {
    let rows = tx.many(operation, many, rows.collect()).await?;
    let changed = rows.iter().map(|row| {
        let sandbox = decode::sandbox(row)?;
        Ok((sandbox.id.clone(), sandbox))
    });
    changed.collect()
}

async fn transition_all<'w, T: Tx>(
    tx: &mut T,
    changes: &[(usize, &'w Transition)],
    replies: &mut [Reply],
    told: &mut Told<'w>,
    moves: &mut Moves<'w>,
) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let rows = changes
        .iter()
        .map(|(_, change)| bind::transition(queries::SANDBOX_TRANSITION, change));
    let mut found = changed(tx, "change a sandbox's state", &TRANSITIONS, rows).await?;
    let mut labels = Labels::default();
    for (index, change) in changes {
        let row = found.remove(&change.id);
        if let Some(row) = &row {
            let (before, _) = change.expected;
            let moved = moves.entry(&change.team).or_default();
            moved.lost = moved.lost.saturating_add(row.charge_in(before));
            moved.gained = moved.gained.saturating_add(row.charge_in(change.next));
            moved.running += i64::from(change.next == State::Running);
            moved.running -= i64::from(before == State::Running);
            labels.follow(&change.id, row, before, change.next);
            told.events.extend(&change.events);
            told.audit.extend(change.audit.as_deref());
        }
        replies[*index] = Reply::Sandbox(row.map(Box::new));
    }
    labels.write(tx).await
}

/// Labels that follow the states of their sandboxes: they go with its end, and are found by what
/// counts as paused.
#[derive(Debug, Default)]
struct Labels<'w> {
    gone: Vec<&'w SandboxId>,
    paused: Vec<(&'w SandboxId, bool)>,
}

impl<'w> Labels<'w> {
    fn follow(&mut self, id: &'w SandboxId, row: &Sandbox, before: State, next: State) {
        if row.config.metadata.is_empty() {
            return;
        }
        let (was_paused, is_paused) = (counts_as_paused(before), counts_as_paused(next));
        if next == State::Stopped {
            self.gone.push(id);
        } else if was_paused != is_paused {
            self.paused.push((id, is_paused));
        }
    }

    async fn write<T: Tx>(&self, tx: &mut T) -> Result<()> {
        let operation = "move a sandbox's labels";
        let gone = self.gone.iter();
        let gone = gone.map(|id| query(queries::LABELS_DELETE).bind(id.as_str()));
        tx.many(operation, &LABELS_GONE, gone.collect()).await?;
        let paused = self.paused.iter().map(|(id, is_paused)| {
            query(queries::LABELS_PAUSED)
                .bind(id.as_str())
                .bind(i64::from(*is_paused))
        });
        tx.many(operation, &LABELS_PAUSED, paused.collect()).await?;
        Ok(())
    }
}

/// By how much a team's sums move.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Move {
    gained: Charge,
    lost: Charge,
    running: i64,
}

/// By how much the sums of each team move.
type Moves<'w> = BTreeMap<&'w TeamId, Move>;

impl Move {
    /// The differences, in the order of the placeholders of [`queries::TEAM_COUNT`].
    pub(crate) fn differences(&self) -> [i64; 5] {
        let Self {
            gained,
            lost,
            running,
        } = self;
        let by = |gained: u64, lost: u64| to_i64(gained).saturating_sub(to_i64(lost));
        [
            by(gained.places, lost.places),
            by(gained.cpu_millis, lost.cpu_millis),
            by(gained.memory_mib, lost.memory_mib),
            by(gained.disk_mib, lost.disk_mib),
            *running,
        ]
    }
}

async fn count<'t, T: Tx>(
    tx: &mut T,
    moves: impl IntoIterator<Item = (&'t TeamId, Move)>,
) -> Result<()> {
    let moves = moves.into_iter();
    let moves = moves.map(|(team, moved)| (team, moved.differences()));
    let rows = moves.filter(|(_, by)| *by != [0; 5]).map(|(team, by)| {
        let statement = query(queries::TEAM_COUNT).bind(team.as_str());
        by.into_iter().fold(statement, Statement::bind)
    });
    tx.many("count a team's sandboxes", &COUNTS, rows.collect())
        .await?;
    Ok(())
}

/// Changes the state of a sandbox that counts for more afterwards, if the quota allows.
pub(super) async fn readmit<T: Tx>(
    tx: &mut T,
    change: &Transition,
    limits: Limits,
) -> Result<Reply> {
    let answer = |readmission| Ok(Reply::Readmission(readmission));
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
    let statement = bind::transition(queries::SANDBOX_READMIT, change);
    let Some(row) = fetch(tx, "readmit a sandbox", statement).await? else {
        return answer(Readmission::Stale);
    };
    let running = |state| i64::from(state == State::Running);
    let moved = Move {
        gained,
        lost,
        running: running(change.next) - running(known.state),
    };
    count(tx, [(&change.team, moved)]).await?;
    let events: Vec<_> = change.events.iter().collect();
    tx.tell(&events, change.audit.as_deref().as_slice()).await?;
    let row = decode::sandbox(&row)?;
    let mut labels = Labels::default();
    labels.follow(&change.id, &row, known.state, change.next);
    labels.write(tx).await?;
    answer(Readmission::Accepted(Box::new(row)))
}

async fn stop_all<'w, T: Tx>(
    tx: &mut T,
    stops: &[(usize, &'w Intent, EndReason)],
    replies: &mut [Reply],
    told: &mut Told<'w>,
) -> Result<()> {
    if stops.is_empty() {
        return Ok(());
    }
    let rows = stops
        .iter()
        .map(|(_, intent, reason)| bind::stop(intent, *reason));
    let mut found = changed(tx, "end a sandbox", &STOPS, rows).await?;
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

/// Adds what its team's quota allows. Answers what was added.
async fn insert_all<'w, T: Tx>(
    tx: &mut T,
    inserts: &[(usize, &'w NewSandbox)],
    teams: &BTreeMap<TeamId, TeamRow>,
    replies: &mut [Reply],
    moves: &mut Moves<'w>,
) -> Result<Vec<&'w NewSandbox>> {
    if inserts.is_empty() {
        return Ok(Vec::new());
    }
    let replays = replays(tx, inserts).await?;
    let mut accepted = Vec::with_capacity(inserts.len());
    for (index, new) in inserts {
        let key = new.idempotency.as_ref();
        let replay = key.and_then(|key| replays.get(&(new.sandbox.team.clone(), key.key.clone())));
        let admission = match replay {
            Some((sandbox, fingerprint)) => Admission::Replayed {
                sandbox: sandbox.clone(),
                fingerprint: fingerprint.clone(),
            },
            None => {
                let team = &new.sandbox.team;
                admit_one(teams.get(team), new, moves.entry(team).or_default())
            }
        };
        if admission == Admission::Accepted {
            accepted.push(*new);
        }
        replies[*index] = Reply::Admission(admission);
    }
    insert_rows(tx, &accepted).await?;
    Ok(accepted)
}

/// What earlier requests made, and their fingerprints, by team and idempotency key.
type Replays = BTreeMap<(TeamId, String), (SandboxId, String)>;

async fn replays<T: Tx>(tx: &mut T, inserts: &[(usize, &NewSandbox)]) -> Result<Replays> {
    let rows = inserts.iter().filter_map(|(_, new)| {
        let idempotency = new.idempotency.as_ref()?;
        let statement = query(queries::IDEMPOTENCY_FIND).bind(new.sandbox.team.as_str());
        Some(statement.bind(&idempotency.key))
    });
    let rows: Vec<_> = rows.collect();
    let found = tx
        .many("find an idempotency key", &KEYS_FOUND, rows)
        .await?;
    let found = found.iter().map(|row| {
        let id: &str = column(row, 0)?;
        let team: &str = column(row, 2)?;
        let key = (parse(KEYS_TABLE, id, team)?, column(row, 3)?);
        Ok((key, (parse(KEYS_TABLE, id, id)?, column(row, 1)?)))
    });
    found.collect()
}

async fn insert_rows<T: Tx>(tx: &mut T, new: &[&NewSandbox]) -> Result<()> {
    let operation = "insert a sandbox";
    let rows = new.iter().map(|new| bind::sandbox(&new.sandbox));
    tx.many(operation, &SANDBOXES, rows.collect()).await?;
    let labels = new.iter().flat_map(|new| {
        let labels = new.sandbox.config.metadata.iter();
        labels.map(|(name, value)| bind::label(&new.sandbox, name, value))
    });
    tx.many(operation, &LABELS, labels.collect()).await?;
    let keys = new.iter().filter_map(|new| {
        let idempotency = new.idempotency.as_ref()?;
        Some(bind::key(&new.sandbox, idempotency))
    });
    tx.many("keep an idempotency key", &KEYS, keys.collect())
        .await?;
    Ok(())
}

/// Takes of the team's quota what one more needs, if that is free. The row was read in this
/// transaction, and nobody else writes it meanwhile; what the group freed before is free, too.
fn admit_one(team: Option<&TeamRow>, new: &NewSandbox, moved: &mut Move) -> Admission {
    let Some(team) = team.filter(|team| !team.is_disabled) else {
        return Admission::NoTeam;
    };
    let limits = team.overrides.over(new.limits);
    let more = new.sandbox.charge_in(new.sandbox.state);
    let used = team.usage.charged.saturating_add(moved.gained);
    match admit(limits, used.saturating_sub(moved.lost), more) {
        Ok(_) => {
            moved.gained = moved.gained.saturating_add(more);
            Admission::Accepted
        }
        Err(exceeded) => Admission::QuotaExceeded(exceeded),
    }
}
