//! What sandboxes use and what they did: metrics and logs.

use atoll_control::request::{LOG_LIMIT_MAX, LogLevel, LogQuery, Order};
use atoll_core::id::SandboxId;
use axum::extract::State;
use http::{Method, StatusCode};

use super::{Answer, Api, SandboxPath, Table, json};
use crate::auth::Caller;
use crate::dto::{LogEntryDto, LogsV1Dto, LogsV2Dto, MetricDto, MetricsOfManyDto};
use crate::error::ApiError;
use crate::limit::{MAX_LOG_SEARCH_LEN, MAX_METRICS_IDS};
use crate::query::Query;
use crate::time;

pub(super) fn routes(table: Table) -> Table {
    table
        .add(Method::GET, "/sandboxes/metrics", metrics_of_many)
        .add(Method::GET, "/sandboxes/{sandboxID}/metrics", metrics)
        .add(Method::GET, "/sandboxes/{sandboxID}/logs", logs_v1)
        .add(Method::GET, "/v2/sandboxes/{sandboxID}/logs", logs_v2)
}

async fn metrics_of_many(State(api): State<Api>, Caller(tenant): Caller, query: Query) -> Answer {
    let mut ids = Vec::new();
    for text in query.list("sandbox_ids") {
        let id = SandboxId::parse_client_form(text)
            .map_err(|error| ApiError::validation(format_args!("`sandbox_ids`: {error}")))?;
        ids.push(id);
    }
    if ids.is_empty() {
        return Err(ApiError::validation("parameter `sandbox_ids` is missing"));
    }
    if ids.len() > MAX_METRICS_IDS {
        return Err(ApiError::validation(format_args!(
            "Too many sandboxes requested, maximum is {MAX_METRICS_IDS}"
        )));
    }
    let samples = api.control().sandbox_metrics_latest(&tenant, &ids).await?;
    let sandboxes = samples
        .into_iter()
        .map(|(id, sample)| (id.to_string(), MetricDto::from(sample)))
        .collect();
    Ok(json(StatusCode::OK, MetricsOfManyDto { sandboxes }))
}

async fn metrics(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
    query: Query,
) -> Answer {
    let start = query
        .number("start", 0, i64::MAX)?
        .map(time::from_unix_seconds);
    let end = query
        .number("end", 0, i64::MAX)?
        .map(time::from_unix_seconds);
    let samples = api
        .control()
        .sandbox_metrics(&tenant, &id, start, end)
        .await?;
    let samples: Vec<MetricDto> = samples.into_iter().map(MetricDto::from).collect();
    Ok(json(StatusCode::OK, samples))
}

async fn logs_v1(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
    query: Query,
) -> Answer {
    let wanted = LogQuery {
        start: query
            .number("start", 0, i64::MAX)?
            .map(time::from_unix_millis),
        limit: limit(&query)?,
        order: Order::Ascending,
        level: None,
        search: None,
    };
    let lines = api.control().sandbox_logs(&tenant, &id, &wanted).await?;
    Ok(json(StatusCode::OK, LogsV1Dto::from(lines)))
}

async fn logs_v2(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
    query: Query,
) -> Answer {
    let directions = [
        ("forward", Order::Ascending),
        ("backward", Order::Descending),
    ];
    let levels = [
        LogLevel::Debug,
        LogLevel::Info,
        LogLevel::Warn,
        LogLevel::Error,
    ]
    .map(|level| (level.as_str(), level));
    let search = query.get("search").map(str::to_owned);
    if search
        .as_ref()
        .is_some_and(|text| text.chars().count() > MAX_LOG_SEARCH_LEN)
    {
        return Err(ApiError::validation(format_args!(
            "parameter `search` has more than {MAX_LOG_SEARCH_LEN} characters"
        )));
    }
    let wanted = LogQuery {
        start: query
            .number("cursor", 0, i64::MAX)?
            .map(time::from_unix_millis),
        limit: limit(&query)?,
        order: query
            .word("direction", &directions)?
            .unwrap_or(Order::Descending),
        level: query.word("level", &levels)?,
        search,
    };
    let lines = api.control().sandbox_logs(&tenant, &id, &wanted).await?;
    let logs = lines.into_iter().map(LogEntryDto::from).collect();
    Ok(json(StatusCode::OK, LogsV2Dto { logs }))
}

/// How many lines; zero asks for nothing and is taken for the default, as in E2B.
fn limit(query: &Query) -> Result<u32, ApiError> {
    let limit = query.number("limit", 0, LOG_LIMIT_MAX)?;
    Ok(limit.filter(|limit| *limit > 0).unwrap_or(LOG_LIMIT_MAX))
}
