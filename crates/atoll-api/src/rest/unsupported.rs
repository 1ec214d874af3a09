//! Operations of the E2B surface that this version does not have. They are routed, so that a
//! client learns that from a clear error and not from "no such route".

use axum::extract::MatchedPath;
use http::Method;

use super::{Operation, Table};
use crate::auth::Caller;
use crate::error::ApiError;

static OPERATIONS: [Operation; 48] = [
    (Method::POST, "/sandboxes/{sandboxID}/fork"),
    (Method::POST, "/sandboxes/{sandboxID}/snapshots"),
    (Method::GET, "/snapshots"),
    (Method::POST, "/templates"),
    (Method::POST, "/v2/templates"),
    (Method::POST, "/v3/templates"),
    (Method::POST, "/templates/{templateID}"),
    (Method::PATCH, "/templates/{templateID}"),
    (Method::PATCH, "/v2/templates/{templateID}"),
    (Method::GET, "/templates/{templateID}/files/{hash}"),
    (Method::POST, "/templates/{templateID}/builds/{buildID}"),
    (Method::POST, "/v2/templates/{templateID}/builds/{buildID}"),
    (
        Method::GET,
        "/templates/{templateID}/builds/{buildID}/status",
    ),
    (Method::GET, "/templates/{templateID}/builds/{buildID}/logs"),
    (Method::POST, "/templates/tags"),
    (Method::DELETE, "/templates/tags"),
    (Method::GET, "/templates/{templateID}/tags"),
    (Method::GET, "/templates/{templateID}/tags/count"),
    (Method::GET, "/templates/{templateID}/tags/exists"),
    (Method::GET, "/templates/{templateID}/tags/groups"),
    (
        Method::GET,
        "/templates/{templateID}/tags/{tag}/assignments",
    ),
    (Method::GET, "/default-templates"),
    (Method::GET, "/teams/{teamID}/metrics"),
    (Method::GET, "/teams/{teamID}/metrics/max"),
    (Method::PATCH, "/api-keys/{apiKeyID}"),
    (Method::POST, "/access-tokens"),
    (Method::DELETE, "/access-tokens/{accessTokenID}"),
    (Method::GET, "/volumes"),
    (Method::POST, "/volumes"),
    (Method::GET, "/volumes/{volumeID}"),
    (Method::DELETE, "/volumes/{volumeID}"),
    (Method::GET, "/volumecontent/{volumeID}/path"),
    (Method::PATCH, "/volumecontent/{volumeID}/path"),
    (Method::DELETE, "/volumecontent/{volumeID}/path"),
    (Method::GET, "/volumecontent/{volumeID}/dir"),
    (Method::POST, "/volumecontent/{volumeID}/dir"),
    (Method::GET, "/volumecontent/{volumeID}/file"),
    (Method::PUT, "/volumecontent/{volumeID}/file"),
    (Method::GET, "/secrets"),
    (Method::POST, "/secrets"),
    (Method::GET, "/secrets/{secretID}"),
    (Method::POST, "/secrets/{secretID}"),
    (Method::DELETE, "/secrets/{secretID}"),
    (Method::POST, "/admin/teams/{teamID}/sandboxes/kill"),
    (Method::GET, "/admin/sandboxes/running-counts"),
    (Method::POST, "/admin/teams/{teamID}/builds/cancel"),
    (Method::POST, "/admin/teams/{teamID}/api-keys"),
    (Method::DELETE, "/admin/teams/{teamID}/api-keys/{apiKeyID}"),
];

pub(super) fn operations() -> &'static [Operation] {
    &OPERATIONS
}

pub(super) fn routes(table: Table) -> Table {
    operations().iter().fold(table, |table, (method, path)| {
        table.add(method.clone(), path, refuse)
    })
}

/// Refuses; strangers get the same 401 as everywhere.
async fn refuse(_: Caller, method: Method, path: MatchedPath) -> ApiError {
    ApiError::unsupported(&format!("{method} {}", path.as_str()))
}
