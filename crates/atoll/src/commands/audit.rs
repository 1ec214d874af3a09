//! `atoll audit`.

use http::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::AuditArgs;
use crate::client::{Client, segment};
use crate::commands::sandbox::client;
use crate::commands::team;
use crate::output;

/// Rows a page asks for: the most the API gives.
const PAGE_ROWS: usize = 1_000;

/// The fields of a row that a person is shown.
#[derive(Debug, Deserialize)]
struct Row {
    at: String,
    actor: String,
    operation: String,
    object: Option<String>,
    outcome: String,
    address: Option<String>,
}

/// Prints the rows.
///
/// # Errors
/// If no server is known, or what the server says.
pub(crate) async fn run(arguments: AuditArgs) -> anyhow::Result<()> {
    let client = client(&arguments.server)?;
    let rows = read(&client, &arguments).await?;
    if arguments.json {
        return rows.iter().try_for_each(output::json);
    }
    let dash = || "-".to_owned();
    let rows = rows.into_iter().map(|row| {
        let row: Row = serde_json::from_value(row)?;
        Ok(vec![
            row.at,
            row.actor,
            row.operation,
            row.object.unwrap_or_else(dash),
            row.outcome,
            row.address.unwrap_or_else(dash),
        ])
    });
    let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
    let heading = ["AT", "WHO", "OPERATION", "OBJECT", "OUTCOME", "FROM"];
    output::line(&output::table(&heading, &rows))
}

/// As many rows as are wanted, page by page.
async fn read(client: &Client, arguments: &AuditArgs) -> anyhow::Result<Vec<Value>> {
    let team = match &arguments.team {
        None => None,
        Some(team) => Some(team::find(client, team).await?.id),
    };
    let filter = [
        ("team", &team),
        ("actor", &arguments.actor),
        ("operation", &arguments.operation),
        ("object", &arguments.object),
        ("outcome", &arguments.outcome),
        ("start", &arguments.start),
        ("end", &arguments.end),
    ];
    let filter: String = filter
        .into_iter()
        .filter_map(|(name, value)| Some(format!("&{name}={}", segment(value.as_ref()?))))
        .collect();
    let mut rows: Vec<Value> = Vec::new();
    let mut after = String::new();
    while rows.len() < arguments.limit {
        let limit = (arguments.limit - rows.len()).min(PAGE_ROWS);
        let path = format!("/admin/v1/audit?limit={limit}{filter}{after}");
        let response = client.send(Method::GET, &path, None).await?;
        let next = response.headers().get("x-next-token").cloned();
        rows.extend(response.json::<Vec<Value>>().await?);
        match next.as_ref().and_then(|token| token.to_str().ok()) {
            Some(token) => after = format!("&nextToken={token}"),
            None => break,
        }
    }
    Ok(rows)
}
