//! `atoll nodes …`.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cli::NodesCommand;
use crate::client::{Client, segment};
use crate::commands::sandbox::client;
use crate::output;

/// The columns of `nodes list`.
const HEADINGS: [&str; 9] = [
    "ID",
    "STATE",
    "SANDBOXES",
    "CPU",
    "MEMORY",
    "DISK",
    "HEARTBEAT",
    "ZONE",
    "LABELS",
];

/// How often a draining node is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    id: String,
    state: String,
    sandboxes: u64,
    allocatable: Amounts,
    allocated: Amounts,
    last_heartbeat: Option<Heartbeat>,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Amounts {
    cpu_millis: u64,
    #[serde(rename = "memoryMiB")]
    memory_mib: u64,
    #[serde(rename = "diskMiB")]
    disk_mib: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Heartbeat {
    age_seconds: f64,
}

/// Does what the subcommand says.
///
/// # Errors
/// If no server is known, or what the server says.
pub(crate) async fn run(command: NodesCommand) -> anyhow::Result<()> {
    match command {
        NodesCommand::List { server, json } => list(&client(&server)?, json).await,
        NodesCommand::Show { server, id } => output::json(&show(&client(&server)?, &id).await?),
        NodesCommand::Drain {
            server,
            id,
            evict,
            wait_s,
        } => {
            let client = client(&server)?;
            let body = json!({ "mode": if evict { "evict" } else { "wait" } });
            let path = format!("/admin/v1/nodes/{}/drain", segment(&id));
            client.send(Method::POST, &path, Some(body)).await?;
            empty(&client, &id, Duration::from_secs(wait_s)).await
        }
        NodesCommand::Undrain { server, id } => {
            let path = format!("/admin/v1/nodes/{}/undrain", segment(&id));
            client(&server)?.send(Method::POST, &path, None).await?;
            output::line(&format!("{id} gets new sandboxes again"))
        }
        NodesCommand::Remove { server, id, force } => {
            let path = format!("/admin/v1/nodes/{}?force={force}", segment(&id));
            client(&server)?
                .send(Method::DELETE, &path, None)
                .await
                .map(drop)
        }
    }
}

async fn show(client: &Client, id: &str) -> anyhow::Result<Value> {
    let path = format!("/admin/v1/nodes/{}", segment(id));
    client.call(Method::GET, &path, None).await
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let nodes: Vec<Value> = client.call(Method::GET, "/admin/v1/nodes", None).await?;
    if json {
        return nodes.iter().try_for_each(output::json);
    }
    let rows = nodes.into_iter().map(|node| {
        let node: Node = serde_json::from_value(node)?;
        let (given, all) = (node.allocated, node.allocatable);
        Ok(vec![
            node.id,
            node.state,
            node.sandboxes.to_string(),
            share(given.cpu_millis, all.cpu_millis),
            share(given.memory_mib, all.memory_mib),
            share(given.disk_mib, all.disk_mib),
            node.last_heartbeat.map_or_else(
                || "-".to_owned(),
                |beat| format!("{:.0} s ago", beat.age_seconds),
            ),
            node.zone,
            pairs(&node.labels),
        ])
    });
    let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
    output::line(&output::table(&HEADINGS, &rows))
}

fn pairs(labels: &BTreeMap<String, String>) -> String {
    let pairs = labels.iter().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

/// How much of what may be given away is.
fn share(given: u64, all: u64) -> String {
    match (given * 100).checked_div(all) {
        Some(percent) => format!("{percent} %"),
        None => "-".to_owned(),
    }
}

/// Waits until a node is empty, at most so long.
async fn empty(client: &Client, id: &str, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let node: Node = serde_json::from_value(show(client, id).await?)?;
        if node.sandboxes == 0 {
            return output::line(&format!("{id} is empty"));
        }
        if limit.is_zero() {
            return output::line(&format!("{id} is draining: {} left", node.sandboxes));
        }
        if Instant::now() >= deadline {
            anyhow::bail!("{id} still has {} sandbox(es)", node.sandboxes);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
