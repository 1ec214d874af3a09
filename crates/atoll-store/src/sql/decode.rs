//! Rows into domain values.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use atoll_core::event::{Cursor, EventKind, Subject};
use atoll_core::id::Generation;
use atoll_core::lifecycle::state_from_name;
use atoll_core::quota::{Overrides, Rate, Usage};
use atoll_core::resources::Resources;
use atoll_core::sandbox::{EndReason, Kept, Sandbox};
use atoll_core::snapshot::Snapshot;
use atoll_core::template::Template;
use atoll_core::time::Timestamp;

use super::dialect::{Columns, column};
use crate::row::{
    config_from_json, corrupt, decision_from_json, desired_from_name, fields_from_json, parse,
    policy_from_json, reason_from_name, status_from_name,
};
use crate::store::{
    AuditRow, EventRow, KeyRow, Result, StoredEvent, TeamRow, TeamUsage, TemplateRow,
};

pub(crate) fn time(row: &impl Columns, index: usize) -> Result<Timestamp> {
    column(row, index).map(Timestamp::from_micros)
}

pub(crate) fn optional_time(row: &impl Columns, index: usize) -> Result<Option<Timestamp>> {
    let micros: Option<i64> = column(row, index)?;
    Ok(micros.map(Timestamp::from_micros))
}

/// A count that was written from an unsigned number.
pub(crate) fn unsigned<T: TryFrom<i64>>(
    row: &impl Columns,
    index: usize,
    table: &'static str,
    id: &str,
) -> Result<T> {
    let number: i64 = column(row, index)?;
    T::try_from(number).map_err(|_| corrupt(table, id, format!("{number} is out of range")))
}

/// A number that may be missing.
fn optional<T: TryFrom<i64>>(
    row: &impl Columns,
    index: usize,
    table: &'static str,
    id: &str,
) -> Result<Option<T>> {
    let number: Option<i64> = column(row, index)?;
    match number {
        None => Ok(None),
        Some(_) => unsigned(row, index, table, id).map(Some),
    }
}

/// An id that may be missing.
fn optional_id<T>(
    row: &impl Columns,
    index: usize,
    table: &'static str,
    id: &str,
) -> Result<Option<T>>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    let text: Option<&str> = column(row, index)?;
    text.map(|text| parse(table, id, text)).transpose()
}

/// Reads the columns of `sandbox_columns!`, in their order.
pub(crate) fn sandbox(row: &impl Columns) -> Result<Sandbox> {
    const TABLE: &str = "sandboxes";
    let id: &str = column(row, 0)?;
    let unknown = |what: &str, name: &str| corrupt(TABLE, id, format!("{what} `{name}`"));
    let state: &str = column(row, 6)?;
    let desired: &str = column(row, 7)?;
    let stop_reason: Option<&str> = column(row, 8)?;
    let stop_reason = stop_reason
        .map(|name| reason_from_name(name).ok_or_else(|| unknown("reason", name)))
        .transpose()?;
    let node: Option<&str> = column(row, 10)?;
    let ended_at = optional_time(row, 15)?;
    let keep_memory: i64 = column(row, 20)?;
    let restarting: i64 = column(row, 23)?;
    let kept = match optional_time(row, 22)? {
        None => None,
        Some(at) => Some(Kept {
            generation: Generation::new(unsigned(row, 21, TABLE, id)?),
            at,
        }),
    };
    let snapshot = match column::<Option<&str>>(row, 26)? {
        None => None,
        Some(store) => Some(Snapshot {
            store: parse(TABLE, id, store)?,
            generation: Generation::new(unsigned(row, 27, TABLE, id)?),
            digest: parse(TABLE, id, column(row, 28)?)?,
            bytes: unsigned(row, 29, TABLE, id)?,
        }),
    };
    Ok(Sandbox {
        id: parse(TABLE, id, id)?,
        team: parse(TABLE, id, column(row, 1)?)?,
        config: config_from_json(
            id,
            column(row, 5)?,
            column(row, 2)?,
            column(row, 3)?,
            column(row, 4)?,
        )?,
        state: state_from_name(state).ok_or_else(|| unknown("state", state))?,
        desired: desired_from_name(desired).ok_or_else(|| unknown("desired", desired))?,
        stop_reason,
        generation: Generation::new(unsigned(row, 9, TABLE, id)?),
        node: node.map(|node| parse(TABLE, id, node)).transpose()?,
        created_at: time(row, 11)?,
        started_at: optional_time(row, 12)?,
        timeout: Duration::from_micros(unsigned(row, 19, TABLE, id)?),
        deadline: time(row, 13)?,
        keep_memory: keep_memory != 0,
        kept,
        kept_on: optional_id(row, 25, TABLE, id)?,
        snapshot,
        is_restarting: restarting != 0,
        claimed_by: optional_id(row, 24, TABLE, id)?,
        updated_at: time(row, 14)?,
        ended: ended_at.map(|at| (at, stop_reason.unwrap_or(EndReason::Failed))),
        last_error: column(row, 16)?,
        created_by: optional_id(row, 17, TABLE, id)?,
        revision: unsigned(row, 18, TABLE, id)?,
    })
}

pub(crate) fn key(row: &impl Columns) -> Result<KeyRow> {
    const TABLE: &str = "api_keys";
    let id: &str = column(row, 0)?;
    let read_only: i64 = column(row, 6)?;
    Ok(KeyRow {
        id: parse(TABLE, id, id)?,
        team: parse(TABLE, id, column(row, 1)?)?,
        name: column(row, 2)?,
        hash: column(row, 3)?,
        masked_start: column(row, 4)?,
        masked_end: column(row, 5)?,
        is_read_only: read_only != 0,
        created_at: time(row, 7)?,
        created_by: optional_id(row, 8, TABLE, id)?,
        last_used_at: optional_time(row, 9)?,
    })
}

/// Reads the columns of `team_columns!`, in their order.
pub(crate) fn team(row: &impl Columns) -> Result<TeamRow> {
    const TABLE: &str = "teams";
    let id: &str = column(row, 0)?;
    let disabled: i64 = column(row, 3)?;
    let policy: Option<&str> = column(row, 17)?;
    Ok(TeamRow {
        id: parse(TABLE, id, id)?,
        name: column(row, 1)?,
        is_disabled: disabled != 0,
        created_at: time(row, 2)?,
        overrides: Overrides {
            concurrent_sandboxes: optional(row, 4, TABLE, id)?,
            cpu_millis: optional(row, 5, TABLE, id)?,
            memory_mib: optional(row, 6, TABLE, id)?,
            disk_mib: optional(row, 7, TABLE, id)?,
            creates: rate(row, 8, id)?,
            requests: rate(row, 10, id)?,
        },
        policy: policy.map(|text| policy_from_json(id, text)).transpose()?,
        weight: unsigned(row, 18, TABLE, id)?,
        usage: TeamUsage {
            charged: Usage {
                places: sum(row, 12)?,
                cpu_millis: sum(row, 13)?,
                memory_mib: sum(row, 14)?,
                disk_mib: sum(row, 15)?,
            },
            running: sum(row, 16)?,
        },
    })
}

/// A sum that is moved by differences. Below nothing there is nothing: a team must not become
/// unreadable by it.
fn sum(row: &impl Columns, index: usize) -> Result<u64> {
    let number: i64 = column(row, index)?;
    Ok(u64::try_from(number).unwrap_or(0))
}

/// A rate in two columns; one alone is none.
fn rate(row: &impl Columns, index: usize, id: &str) -> Result<Option<Rate>> {
    const TABLE: &str = "teams";
    let number = |index| -> Result<Option<NonZeroU32>> {
        Ok(optional(row, index, TABLE, id)?.and_then(NonZeroU32::new))
    };
    let both = number(index)?.zip(number(index + 1)?);
    Ok(both.map(|(per_second, burst)| Rate { per_second, burst }))
}

/// Reads the place and the columns of `audit_columns!`, in their order.
pub(crate) fn audit(row: &impl Columns) -> Result<AuditRow> {
    const TABLE: &str = "audit";
    let seq: i64 = column(row, 0)?;
    let id = seq.to_string();
    Ok(AuditRow {
        seq,
        at: time(row, 1)?,
        team: optional_id(row, 2, TABLE, &id)?,
        actor: column(row, 3)?,
        operation: column(row, 4)?,
        object: column(row, 5)?,
        outcome: column(row, 6)?,
        address: column(row, 7)?,
        agent: column(row, 8)?,
        trace: column(row, 9)?,
        left_out: unsigned(row, 10, TABLE, &id)?,
    })
}

/// Reads the columns of the template listing; names come from a query of their own.
pub(crate) fn template(row: &impl Columns) -> Result<TemplateRow> {
    const TABLE: &str = "templates";
    let id: &str = column(row, 0)?;
    let team: Option<&str> = column(row, 1)?;
    let is_public: i64 = column(row, 2)?;
    let status: &str = column(row, 8)?;
    Ok(TemplateRow {
        template: Template {
            id: parse(TABLE, id, id)?,
            build: parse(TABLE, id, column(row, 7)?)?,
            team: team.map(|team| parse(TABLE, id, team)).transpose()?,
            names: Vec::new(),
            is_public: is_public != 0,
            resources: Resources {
                cpu_millis: unsigned(row, 9, TABLE, id)?,
                memory_mib: unsigned(row, 10, TABLE, id)?,
                disk_mib: unsigned(row, 11, TABLE, id)?,
            },
            status: status_from_name(status)
                .ok_or_else(|| corrupt(TABLE, id, format!("status `{status}`")))?,
            envd_version: column(row, 12)?,
            created_at: time(row, 3)?,
            updated_at: time(row, 4)?,
        },
        spawn_count: unsigned(row, 5, TABLE, id)?,
        last_spawned_at: optional_time(row, 6)?,
        build_count: unsigned(row, 13, TABLE, id)?,
    })
}

/// Reads the columns of `event_columns!`, in their order, and the decision behind them.
pub(crate) fn event(row: &impl Columns) -> Result<StoredEvent> {
    const TABLE: &str = "events";
    let seq: i64 = column(row, 0)?;
    let id = seq.to_string();
    let sandbox: Option<&str> = column(row, 1)?;
    let node: Option<&str> = column(row, 2)?;
    let subject = match (sandbox, node) {
        (Some(sandbox), _) => Subject::Sandbox(parse(TABLE, &id, sandbox)?),
        (None, Some(node)) => Subject::Node(parse(TABLE, &id, node)?),
        (None, None) => Subject::Fleet,
    };
    let team: Option<&str> = column(row, 3)?;
    let kind: &str = column(row, 5)?;
    let decision: Option<&str> = column(row, 9)?;
    Ok(StoredEvent {
        cursor: Cursor::new(unsigned(row, 0, TABLE, &id)?),
        event: EventRow {
            subject,
            team: team.map(|team| parse(TABLE, &id, team)).transpose()?,
            at: time(row, 4)?,
            kind: EventKind::from_name(kind)
                .ok_or_else(|| corrupt(TABLE, &id, format!("kind `{kind}`")))?,
            level: column(row, 6)?,
            message: column(row, 7)?,
            fields: fields_from_json(&id, column(row, 8)?)?,
            decision: decision
                .map(|text| decision_from_json(&id, text).map(Box::new))
                .transpose()?,
        },
    })
}
