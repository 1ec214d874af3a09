//! The caller's team, in the shape E2B's command line reads.

use axum::extract::State;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Serialize;

use super::{Answer, Api, Table, json};
use crate::auth::{self, Caller};

pub(super) fn routes(table: Table) -> Table {
    table.add(Method::GET, "/teams", list)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TeamDto {
    #[serde(rename = "teamID")]
    team_id: String,
    name: String,
    /// The key the caller has shown: its hash is all that is kept, so no other can be told.
    api_key: String,
    is_default: bool,
}

async fn list(State(api): State<Api>, Caller(tenant): Caller, headers: HeaderMap) -> Answer {
    let team = api.control().team_get(&tenant.team).await?;
    let document = [TeamDto {
        team_id: team.id.to_string(),
        name: team.name,
        api_key: auth::presented_key(&headers)?
            .unwrap_or_default()
            .to_owned(),
        is_default: true,
    }];
    let mut response = json(StatusCode::OK, document);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
