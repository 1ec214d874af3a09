//! Rows into domain values.

use atoll_core::id::Generation;
use atoll_core::lifecycle::state_from_name;
use atoll_core::resources::Resources;
use atoll_core::sandbox::{EndReason, Sandbox};
use atoll_core::template::Template;
use atoll_core::time::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::row::{
    config_from_json, corrupt, desired_from_name, fields_from_json, parse, reason_from_name,
    status_from_name,
};
use crate::store::{Error, EventRow, KeyRow, Result, TemplateRow};

fn column<'r, T>(row: &'r SqliteRow, index: usize) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(index).map_err(|source| Error::Database {
        operation: "read a column",
        source,
    })
}

fn time(row: &SqliteRow, index: usize) -> Result<Timestamp> {
    column(row, index).map(Timestamp::from_micros)
}

fn optional_time(row: &SqliteRow, index: usize) -> Result<Option<Timestamp>> {
    let micros: Option<i64> = column(row, index)?;
    Ok(micros.map(Timestamp::from_micros))
}

/// A count that was written from an unsigned number.
fn unsigned<T: TryFrom<i64>>(
    row: &SqliteRow,
    index: usize,
    table: &'static str,
    id: &str,
) -> Result<T> {
    let number: i64 = column(row, index)?;
    T::try_from(number).map_err(|_| corrupt(table, id, format!("{number} is out of range")))
}

/// Reads the columns of `sandbox_columns!`, in their order.
pub(super) fn sandbox(row: &SqliteRow) -> Result<Sandbox> {
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
        deadline: time(row, 13)?,
        updated_at: time(row, 14)?,
        ended: ended_at.map(|at| (at, stop_reason.unwrap_or(EndReason::Failed))),
        last_error: column(row, 16)?,
    })
}

pub(super) fn key(row: &SqliteRow) -> Result<KeyRow> {
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
    })
}

/// Reads the columns of the template listing; names come from a query of their own.
pub(super) fn template(row: &SqliteRow) -> Result<TemplateRow> {
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

pub(super) fn event(row: &SqliteRow) -> Result<EventRow> {
    const TABLE: &str = "sandbox_events";
    let sandbox: &str = column(row, 0)?;
    Ok(EventRow {
        sandbox: parse(TABLE, sandbox, sandbox)?,
        team: parse(TABLE, sandbox, column(row, 1)?)?,
        at: time(row, 2)?,
        kind: column(row, 3)?,
        level: column(row, 4)?,
        message: column(row, 5)?,
        fields: fields_from_json(sandbox, column(row, 6)?)?,
    })
}
