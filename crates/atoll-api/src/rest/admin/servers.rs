//! The servers on one store, for the operator.

use atoll_control::view::ServerView;
use axum::extract::State;
use http::{Method, StatusCode};
use serde::Serialize;

use crate::auth::Operator;
use crate::rest::{Answer, Api, Table, json};

pub(super) fn routes(table: Table) -> Table {
    table.add(Method::GET, "/admin/v1/servers", list)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerDto {
    #[serde(rename = "serverID")]
    server_id: String,
    address: String,
    version: String,
    on_duty: bool,
}

impl From<ServerView> for ServerDto {
    fn from(view: ServerView) -> Self {
        Self {
            server_id: view.id.to_string(),
            address: view.address,
            version: view.version,
            on_duty: view.is_on_duty,
        }
    }
}

async fn list(State(api): State<Api>, Operator(_): Operator) -> Answer {
    let servers = api.control().server_list();
    let servers: Vec<ServerDto> = servers.into_iter().map(ServerDto::from).collect();
    Ok(json(StatusCode::OK, servers))
}
