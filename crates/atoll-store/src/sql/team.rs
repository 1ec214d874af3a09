//! Writing teams and their keys.

use atoll_core::id::{KeyId, TeamId};
use atoll_core::quota::Rate;
use atoll_core::time::Timestamp;

use super::apply::{Reply, count_of};
use super::decode;
use super::dialect::{Lock, Tx, fetch};
use super::many::{Many, many};
use super::statement::{Statement, query};
use crate::queries;
use crate::row::{policy_to_json, to_i64};
use crate::store::{Inserted, KeyRow, Result, TeamChange, TeamChanged, TeamRow};

pub(crate) async fn ensure<T: Tx>(
    tx: &mut T,
    id: &TeamId,
    name: &str,
    at: Timestamp,
) -> Result<Reply> {
    let statement = query(queries::TEAM_ENSURE)
        .bind(id.as_str())
        .bind(name)
        .bind(at.as_micros());
    tx.execute("ensure a team", statement).await?;
    Ok(Reply::Unit)
}

/// A team as it is, and stays until the transaction is over.
pub(crate) async fn get<T: Tx>(tx: &mut T, id: &TeamId) -> Result<Option<TeamRow>> {
    let text = if T::LOCKS_ROWS {
        queries::TEAM_HOLD
    } else {
        queries::TEAM_GET
    };
    let row = fetch(tx, "get a team", query(text).bind(id.as_str())).await?;
    row.as_ref().map(decode::team).transpose()
}

pub(crate) async fn insert<T: Tx>(tx: &mut T, team: &TeamRow) -> Result<Reply> {
    tx.lock(Lock::TeamNames).await?;
    if is_name_taken(tx, &team.id, &team.name).await? {
        return Ok(Reply::Inserted(Inserted::AlreadyExists));
    }
    let statement = query(queries::TEAM_INSERT)
        .bind(team.id.as_str())
        .bind(&team.name)
        .bind(team.created_at.as_micros());
    let statement = bind_settings(statement, team);
    let inserted = match tx.execute("insert a team", statement).await? {
        0 => Inserted::AlreadyExists,
        _ => Inserted::Yes,
    };
    Ok(Reply::Inserted(inserted))
}

pub(crate) async fn update<T: Tx>(tx: &mut T, id: &TeamId, change: &TeamChange) -> Result<Reply> {
    tx.lock(Lock::TeamNames).await?;
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
    team.weight = change.weight.unwrap_or(team.weight);
    if let Some(change) = &change.policy {
        team.policy = change.clone().into_policy();
    }
    let statement = query(queries::TEAM_UPDATE)
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

async fn is_name_taken<T: Tx>(tx: &mut T, id: &TeamId, name: &str) -> Result<bool> {
    let statement = query(queries::TEAM_NAME_TAKEN).bind(name).bind(id.as_str());
    let row = fetch(tx, "look for a team's name", statement).await?;
    row.as_ref().map_or(Ok(0), count_of).map(|count| count > 0)
}

fn bind_settings<'q>(statement: Statement<'q>, team: &TeamRow) -> Statement<'q> {
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
        .bind(i64::from(team.weight))
}

pub(crate) async fn key_insert<T: Tx>(tx: &mut T, key: &KeyRow) -> Result<Reply> {
    let statement = query(queries::KEY_INSERT)
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
    let inserted = match tx.execute("insert a key", statement).await? {
        0 => Inserted::AlreadyExists,
        _ => Inserted::Yes,
    };
    Ok(Reply::Inserted(inserted))
}

pub(crate) async fn key_remove<T: Tx>(tx: &mut T, team: &TeamId, key: &KeyId) -> Result<Reply> {
    let statement = query(queries::KEY_REMOVE)
        .bind(team.as_str())
        .bind(key.as_str());
    let removed = tx.execute("remove a key", statement).await?;
    Ok(Reply::Count(removed))
}

static TOUCHES: Many = many!(queries::KEY_TOUCH, "tn");

pub(crate) async fn key_touch<T: Tx>(tx: &mut T, used: &[(KeyId, Timestamp)]) -> Result<Reply> {
    let rows = used.iter().map(|(key, at)| {
        query(queries::KEY_TOUCH)
            .bind(key.as_str())
            .bind(at.as_micros())
    });
    tx.many("write when a key was used", &TOUCHES, rows.collect())
        .await?;
    Ok(Reply::Unit)
}
