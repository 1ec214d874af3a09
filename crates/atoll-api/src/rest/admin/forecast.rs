//! Who is expected, and what is held for them, for the operator.

use atoll_control::view::{ForecastView, SeriesView};
use atoll_core::scheduler::amount::{Amount, Dimension};
use atoll_core::scheduler::total::Total;
use axum::extract::State;
use http::{Method, StatusCode};
use serde::Serialize;

use crate::auth::Operator;
use crate::error::ApiError;
use crate::query::Query;
use crate::rest::{Answer, Api, Table, json};

/// Series in an answer unless asked for another number.
const LIMIT: usize = 100;

/// Series in an answer at most: some 300 bytes each.
const LIMIT_MAX: usize = 1_000;

pub(super) fn routes(table: Table) -> Table {
    table.add(Method::GET, "/admin/v1/forecast", show)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AmountsDto {
    cpu_millis: u64,
    #[serde(rename = "memoryMiB")]
    memory_mib: u64,
    #[serde(rename = "diskMiB")]
    disk_mib: u64,
}

impl From<Total> for AmountsDto {
    fn from(total: Total) -> Self {
        Self {
            cpu_millis: total.get(Dimension::Cpu),
            memory_mib: total.get(Dimension::Memory),
            disk_mib: total.get(Dimension::Disk),
        }
    }
}

impl From<Amount> for AmountsDto {
    fn from(amount: Amount) -> Self {
        Total::from(amount).into()
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SeriesDto {
    #[serde(rename = "teamID")]
    team_id: String,
    #[serde(rename = "templateID")]
    template_id: String,
    level_per_minute: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    season_per_minute: Option<f64>,
    shift_per_minute: f64,
    expected: f64,
    low: f64,
    high: f64,
    error: f64,
    size: AmountsDto,
    #[serde(skip_serializing_if = "Option::is_none")]
    lifetime_seconds: Option<f64>,
    running: u32,
    arrivals: u64,
    minutes: u32,
    held: u32,
    pool: u32,
}

impl From<SeriesView> for SeriesDto {
    fn from(view: SeriesView) -> Self {
        let outlook = view.outlook;
        Self {
            team_id: view.team.to_string(),
            template_id: view.template.to_string(),
            level_per_minute: outlook.level,
            season_per_minute: outlook.season,
            shift_per_minute: outlook.shift,
            expected: outlook.expected,
            low: outlook.low,
            high: outlook.high,
            error: outlook.error,
            size: outlook.size.into(),
            lifetime_seconds: outlook.lifetime.map(|lived| lived.as_secs_f64()),
            running: outlook.running,
            arrivals: outlook.arrivals,
            minutes: outlook.minutes,
            held: view.held,
            pool: view.pool,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ForecastDto {
    lead_minutes: usize,
    reserve_percent: u32,
    fleet: AmountsDto,
    held: AmountsDto,
    known: usize,
    series: Vec<SeriesDto>,
}

impl From<ForecastView> for ForecastDto {
    fn from(view: ForecastView) -> Self {
        Self {
            lead_minutes: view.lead_minutes,
            reserve_percent: view.reserve_percent,
            fleet: view.fleet.into(),
            held: view.held.into(),
            known: view.known,
            series: view.series.into_iter().map(SeriesDto::from).collect(),
        }
    }
}

/// An empty object if the forecast is off.
async fn show(State(api): State<Api>, Operator(_): Operator, query: Query) -> Answer {
    let limit: Result<_, ApiError> = query.number("limit", 1, LIMIT_MAX);
    let view = api.control().forecast(limit?.unwrap_or(LIMIT));
    Ok(match view {
        Some(view) => json(StatusCode::OK, ForecastDto::from(view)),
        None => json(StatusCode::OK, serde_json::json!({})),
    })
}
