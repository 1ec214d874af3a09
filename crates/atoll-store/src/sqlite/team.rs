//! Writing teams and their keys.

use atoll_core::id::{KeyId, TeamId};
use atoll_core::quota::Rate;
use atoll_core::time::Timestamp;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection};

use super::apply::{Reply, count_of, execute, fetch};
use super::decode;
use crate::queries;
use crate::row::{policy_to_json, to_i64};
use crate::store::{Inserted, KeyRow, Result, TeamChange, TeamChanged, TeamRow};

pub(super) async fn ensure(
    tx: &mut SqliteConnection,
    id: &TeamId,
    name: &str,
    at: Timestamp,
) -> Result<Reply> {
    let statement = sqlx::query(queries::TEAM_ENSURE)
        .bind(id.as_str())
        .bind(name)
        .bind(at.as_micros());
    execute(tx, "ensure a team", statement).await?;
    Ok(Reply::Unit)
}

pub(super) async fn get(tx: &mut SqliteConnection, id: &TeamId) -> Result<Option<TeamRow>> {
    let statement = sqlx::query(queries::TEAM_GET).bind(id.as_str());
    let row = fetch(tx, "get a team", statement).await?;
    row.as_ref().map(decode::team).transpose()
}

pub(super) async fn insert(tx: &mut SqliteConnection, team: &TeamRow) -> Result<Reply> {
    if is_name_taken(tx, &team.id, &team.name).await? {
        return Ok(Reply::Inserted(Inserted::AlreadyExists));
    }
    let statement = sqlx::query(queries::TEAM_INSERT)
        .bind(team.id.as_str())
        .bind(&team.name)
        .bind(team.created_at.as_micros());
    let statement = bind_settings(statement, team);
    let inserted = match execute(tx, "insert a team", statement).await? {
        0 => Inserted::AlreadyExists,
        _ => Inserted::Yes,
    };
    Ok(Reply::Inserted(inserted))
}

pub(super) async fn update(
    tx: &mut SqliteConnection,
    id: &TeamId,
    change: &TeamChange,
) -> Result<Reply> {
    let Some(mut team) = get(tx, id).await? else {
        return Ok(Reply::TeamChanged(TeamChanged::Unknown));
    };
    if let Some(name) = &change.name {
        if is_name_taken(tx, id, name).await? {
            return Ok(Reply::TeamChanged(TeamChanged::NameTaken));
        }
        team.name.clone_from(name);
    }
    team.is_disabled = change.is_disabled.unwrap_or(team.is_disabled);
    team.overrides = change.overrides.unwrap_or(team.overrides);
    if let Some(change) = &change.policy {
        team.policy = change.clone().into_policy();
    }
    let statement = sqlx::query(queries::TEAM_UPDATE)
        .bind(id.as_str())
        .bind(&team.name);
    let statement = bind_settings(statement, &team);
    let row = fetch(tx, "change a team", statement).await?;
    let changed = row.as_ref().map(decode::team).transpose()?;
    Ok(Reply::TeamChanged(match changed {
        Some(team) => TeamChanged::Yes(Box::new(team)),
        None => TeamChanged::Unknown,
    }))
}

async fn is_name_taken(tx: &mut SqliteConnection, id: &TeamId, name: &str) -> Result<bool> {
    let statement = sqlx::query(queries::TEAM_NAME_TAKEN)
        .bind(name)
        .bind(id.as_str());
    let row = fetch(tx, "look for a team's name", statement).await?;
    row.as_ref().map_or(Ok(0), count_of).map(|count| count > 0)
}

fn bind_settings<'q>(
    statement: Query<'q, Sqlite, SqliteArguments>,
    team: &TeamRow,
) -> Query<'q, Sqlite, SqliteArguments> {
    let limits = team.overrides;
    let per_second = |rate: Option<Rate>| rate.map(|rate| i64::from(rate.per_second.get()));
    let burst = |rate: Option<Rate>| rate.map(|rate| i64::from(rate.burst.get()));
    statement
        .bind(i64::from(team.is_disabled))
        .bind(limits.concurrent_sandboxes.map(i64::from))
        .bind(limits.cpu_millis.map(to_i64))
        .bind(limits.memory_mib.map(to_i64))
        .bind(limits.disk_mib.map(to_i64))
        .bind(per_second(limits.creates))
        .bind(burst(limits.creates))
        .bind(per_second(limits.requests))
        .bind(burst(limits.requests))
        .bind(team.policy.as_deref().map(policy_to_json))
}

pub(super) async fn key_insert(tx: &mut SqliteConnection, key: &KeyRow) -> Result<Reply> {
    let statement = sqlx::query(queries::KEY_INSERT)
        .bind(key.id.as_str())
        .bind(key.team.as_str())
        .bind(&key.name)
        .bind(&key.hash)
        .bind(&key.masked_start)
        .bind(&key.masked_end)
        .bind(i64::from(key.is_read_only))
        .bind(key.created_at.as_micros())
        .bind(key.created_by.as_ref().map(KeyId::as_str))
        .bind(key.last_used_at.map(Timestamp::as_micros));
    let inserted = match execute(tx, "insert a key", statement).await? {
        0 => Inserted::AlreadyExists,
        _ => Inserted::Yes,
    };
    Ok(Reply::Inserted(inserted))
}

pub(super) async fn key_remove(
    tx: &mut SqliteConnection,
    team: &TeamId,
    key: &KeyId,
) -> Result<Reply> {
    let statement = sqlx::query(queries::KEY_REMOVE)
        .bind(team.as_str())
        .bind(key.as_str());
    let removed = execute(tx, "remove a key", statement).await?;
    Ok(Reply::Count(removed))
}

pub(super) async fn key_touch(
    tx: &mut SqliteConnection,
    used: &[(KeyId, Timestamp)],
) -> Result<Reply> {
    for (key, at) in used {
        let statement = sqlx::query(queries::KEY_TOUCH)
            .bind(key.as_str())
            .bind(at.as_micros());
        execute(tx, "write when a key was used", statement).await?;
    }
    Ok(Reply::Unit)
}
