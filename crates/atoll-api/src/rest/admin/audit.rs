//! The audit, for the operator.

use atoll_control::audit::AuditQuery;
use atoll_control::limit::AUDIT_LIMIT_MAX;
use atoll_control::view::AuditView;
use axum::extract::State;
use http::{HeaderValue, Method, StatusCode};
use serde::Serialize;

use crate::auth::Operator;
use crate::error::ApiError;
use crate::query::Query;
use crate::rest::{Answer, Api, NEXT_TOKEN, Table, json};
use crate::time;

/// Rows of a page unless the request says otherwise.
const DEFAULT_LIMIT: u32 = 100;

pub(super) fn routes(table: Table) -> Table {
    table.add(Method::GET, "/admin/v1/audit", list)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RowDto {
    at: String,
    #[serde(rename = "teamID")]
    team_id: Option<String>,
    actor: String,
    operation: String,
    object: Option<String>,
    outcome: String,
    address: Option<String>,
    agent: Option<String>,
    #[serde(rename = "traceID")]
    trace_id: Option<String>,
    left_out: u64,
}

impl From<AuditView> for RowDto {
    fn from(row: AuditView) -> Self {
        Self {
            at: time::to_rfc3339(row.at),
            team_id: row.team.map(|team| team.to_string()),
            actor: row.actor,
            operation: row.operation,
            object: row.object,
            outcome: row.outcome,
            address: row.address,
            agent: row.agent,
            trace_id: row.trace,
            left_out: row.left_out,
        }
    }
}

async fn list(State(api): State<Api>, _: Operator, query: Query) -> Answer {
    let team = query.get("team").map(str::parse).transpose();
    let text = |name| query.get(name).map(str::to_owned);
    let wanted = AuditQuery {
        team: team.map_err(|error| ApiError::validation(format_args!("`team`: {error}")))?,
        actor: text("actor"),
        operation: text("operation"),
        object: text("object"),
        outcome: text("outcome"),
        start: query.time("start")?,
        end: query.time("end")?,
        before: query.number("nextToken", 1, i64::MAX)?,
        limit: query
            .number("limit", 1, AUDIT_LIMIT_MAX)?
            .unwrap_or(DEFAULT_LIMIT),
    };
    let (rows, next) = api.control().audit_list(wanted).await?;
    let rows: Vec<RowDto> = rows.into_iter().map(RowDto::from).collect();
    let mut response = json(StatusCode::OK, rows);
    if let Some(next) = next {
        response
            .headers_mut()
            .insert(NEXT_TOKEN, HeaderValue::from(next));
    }
    Ok(response)
}
