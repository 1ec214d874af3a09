//! Teams and their quotas, for the operator.

use std::num::NonZeroU32;

use atoll_control::request::{PolicyChange, TeamUpdate};
use atoll_control::view::TeamView;
use atoll_core::error::ErrorKind;
use atoll_core::id::TeamId;
use atoll_core::quota::{Overrides, Rate};
use atoll_core::scheduler::overlay::Level;
use axum::extract::State;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::auth::Operator;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::rest::{Answer, Api, Segment, Table, json, made, no_content};
use crate::scheduling::{self, PolicyDto};
use crate::time;

pub(super) fn routes(table: Table) -> Table {
    table
        .add(Method::GET, "/admin/v1/teams", list)
        .add(Method::POST, "/admin/v1/teams", create)
        .add(Method::GET, "/admin/v1/teams/{teamID}", get)
        .add(Method::PATCH, "/admin/v1/teams/{teamID}", update)
        .add(Method::GET, "/admin/v1/teams/{teamID}/policy", policy)
        .add(Method::PUT, "/admin/v1/teams/{teamID}/policy", set_policy)
        .add(
            Method::DELETE,
            "/admin/v1/teams/{teamID}/policy",
            clear_policy,
        )
}

/// A team's own limits; what is none is the installation's default.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct QuotaDto {
    concurrent_sandboxes: Option<u32>,
    cpu_millis: Option<u64>,
    #[serde(rename = "memoryMiB")]
    memory_mib: Option<u64>,
    #[serde(rename = "diskMiB")]
    disk_mib: Option<u64>,
    creates_per_second: Option<NonZeroU32>,
    creates_burst: Option<NonZeroU32>,
    requests_per_second: Option<NonZeroU32>,
    requests_burst: Option<NonZeroU32>,
}

fn rate(
    what: &str,
    per_second: Option<NonZeroU32>,
    burst: Option<NonZeroU32>,
) -> Result<Option<Rate>, ApiError> {
    match (per_second, burst) {
        (None, None) => Ok(None),
        (Some(per_second), Some(burst)) => Ok(Some(Rate { per_second, burst })),
        _ => Err(ApiError::validation(format_args!(
            "`quota.{what}PerSecond` and `quota.{what}Burst` are set together"
        ))),
    }
}

/// The greatest amount the store keeps.
const AMOUNT_MAX: u64 = i64::MAX.unsigned_abs();

fn amount(what: &str, amount: Option<u64>) -> Result<Option<u64>, ApiError> {
    if amount.is_some_and(|amount| amount > AMOUNT_MAX) {
        return Err(ApiError::validation(format_args!(
            "`quota.{what}` is at most {AMOUNT_MAX}"
        )));
    }
    Ok(amount)
}

impl QuotaDto {
    fn into_overrides(self) -> Result<Overrides, ApiError> {
        Ok(Overrides {
            concurrent_sandboxes: self.concurrent_sandboxes,
            cpu_millis: amount("cpuMillis", self.cpu_millis)?,
            memory_mib: amount("memoryMiB", self.memory_mib)?,
            disk_mib: amount("diskMiB", self.disk_mib)?,
            creates: rate("creates", self.creates_per_second, self.creates_burst)?,
            requests: rate("requests", self.requests_per_second, self.requests_burst)?,
        })
    }
}

impl From<Overrides> for QuotaDto {
    fn from(own: Overrides) -> Self {
        Self {
            concurrent_sandboxes: own.concurrent_sandboxes,
            cpu_millis: own.cpu_millis,
            memory_mib: own.memory_mib,
            disk_mib: own.disk_mib,
            creates_per_second: own.creates.map(|rate| rate.per_second),
            creates_burst: own.creates.map(|rate| rate.burst),
            requests_per_second: own.requests.map(|rate| rate.per_second),
            requests_burst: own.requests.map(|rate| rate.burst),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct UsageDto {
    concurrent_sandboxes: u64,
    running: u64,
    cpu_millis: u64,
    #[serde(rename = "memoryMiB")]
    memory_mib: u64,
    #[serde(rename = "diskMiB")]
    disk_mib: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TeamDto {
    id: String,
    name: String,
    disabled: bool,
    created_at: String,
    weight: u32,
    quota: QuotaDto,
    limits: QuotaDto,
    usage: UsageDto,
}

impl From<TeamView> for TeamDto {
    fn from(team: TeamView) -> Self {
        let limits = team.limits;
        let limits = Overrides {
            concurrent_sandboxes: Some(limits.concurrent_sandboxes),
            cpu_millis: Some(limits.cpu_millis),
            memory_mib: Some(limits.memory_mib),
            disk_mib: Some(limits.disk_mib),
            creates: Some(limits.creates),
            requests: Some(limits.requests),
        };
        Self {
            id: team.id.to_string(),
            name: team.name,
            disabled: team.is_disabled,
            created_at: time::to_rfc3339(team.created_at),
            weight: team.weight,
            quota: team.overrides.into(),
            limits: limits.into(),
            usage: UsageDto {
                concurrent_sandboxes: team.usage.places,
                running: team.running,
                cpu_millis: team.usage.cpu_millis,
                memory_mib: team.usage.memory_mib,
                disk_mib: team.usage.disk_mib,
            },
        }
    }
}

/// `POST /admin/v1/teams`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTeam {
    name: String,
    #[serde(default)]
    quota: QuotaDto,
}

/// `PATCH /admin/v1/teams/{teamID}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TeamUpdateDto {
    name: Option<String>,
    disabled: Option<bool>,
    weight: Option<u32>,
    quota: Option<QuotaDto>,
}

/// What is no id cannot be the id of a team.
fn team_id(text: &str) -> Result<TeamId, ApiError> {
    text.parse()
        .map_err(|_| ApiError::new(ErrorKind::NotFound, "no such team"))
}

async fn list(State(api): State<Api>, _: Operator) -> Answer {
    let teams = api.control().team_list().await?;
    let teams: Vec<TeamDto> = teams.into_iter().map(TeamDto::from).collect();
    Ok(json(StatusCode::OK, teams))
}

async fn create(State(api): State<Api>, _: Operator, body: JsonBody<NewTeam>) -> Answer {
    let NewTeam { name, quota } = body.value;
    let overrides = quota.into_overrides()?;
    let team = api.control().team_create(&name, overrides).await?;
    let id = team.id.clone();
    Ok(made(StatusCode::CREATED, id.as_str(), TeamDto::from(team)))
}

async fn get(State(api): State<Api>, _: Operator, Segment(id): Segment) -> Answer {
    let team = api.control().team_get(&team_id(&id)?).await?;
    Ok(json(StatusCode::OK, TeamDto::from(team)))
}

async fn update(
    State(api): State<Api>,
    _: Operator,
    Segment(id): Segment,
    body: JsonBody<TeamUpdateDto>,
) -> Answer {
    let TeamUpdateDto {
        name,
        disabled,
        weight,
        quota,
    } = body.value;
    let update = TeamUpdate {
        name,
        is_disabled: disabled,
        overrides: quota.map(QuotaDto::into_overrides).transpose()?,
        weight,
        policy: None,
    };
    let team = api.control().team_update(&team_id(&id)?, update).await?;
    Ok(json(StatusCode::OK, TeamDto::from(team)))
}

async fn policy(State(api): State<Api>, _: Operator, Segment(id): Segment) -> Answer {
    let team = api.control().team_get(&team_id(&id)?).await?;
    let policy = team
        .policy
        .ok_or_else(|| ApiError::new(ErrorKind::NotFound, "the team has no policy of its own"))?;
    Ok(json(StatusCode::OK, PolicyDto::from(*policy)))
}

async fn set_policy(
    State(api): State<Api>,
    _: Operator,
    Segment(id): Segment,
    body: JsonBody<Value>,
) -> Answer {
    let policy = scheduling::of_level(body.value, Level::Team)?;
    let change = PolicyChange::Set(policy.clone());
    change_policy(&api, &id, change).await?;
    Ok(json(StatusCode::OK, PolicyDto::from(*policy)))
}

async fn clear_policy(State(api): State<Api>, _: Operator, Segment(id): Segment) -> Answer {
    change_policy(&api, &id, PolicyChange::Clear).await?;
    Ok(no_content())
}

async fn change_policy(api: &Api, id: &str, change: PolicyChange) -> Result<(), ApiError> {
    let update = TeamUpdate {
        policy: Some(change),
        ..TeamUpdate::default()
    };
    api.control().team_update(&team_id(id)?, update).await?;
    Ok(())
}
