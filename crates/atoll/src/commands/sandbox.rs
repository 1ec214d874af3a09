//! `atoll sandbox …`.

use anyhow::Context;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::{SandboxCommand, ServerArgs};
use crate::client::{Client, Listed, segment};
use crate::commands::run::{self, Exit};
use crate::connection::Connection;
use crate::output;

/// How long `exec` keeps a sandbox alive at least, in seconds.
const EXEC_TIMEOUT_S: u32 = 300;

#[derive(Debug, Deserialize)]
struct Logs {
    #[serde(rename = "logs")]
    lines: Vec<LogLine>,
}

#[derive(Debug, Deserialize)]
struct LogLine {
    timestamp: String,
    level: String,
    message: String,
}

/// Does what the subcommand says.
///
/// # Errors
/// If no server is known, or what the server says.
pub(crate) async fn run(command: SandboxCommand) -> anyhow::Result<Exit> {
    match command {
        SandboxCommand::List { server, json } => list(&client(&server)?, json).await?,
        SandboxCommand::Info { server, id, json } => info(&client(&server)?, &id, json).await?,
        SandboxCommand::Kill { server, ids, all } => kill(&client(&server)?, ids, all).await?,
        SandboxCommand::Pause {
            server,
            ids,
            files_only,
        } => {
            let body = json!({ "memory": !files_only });
            turn(&client(&server)?, &ids, "pause", &body).await?;
        }
        SandboxCommand::Resume {
            server,
            ids,
            timeout,
        } => {
            let body = json!({ "timeout": timeout });
            turn(&client(&server)?, &ids, "resume", &body).await?;
        }
        SandboxCommand::Restart { server, ids } => {
            turn(&client(&server)?, &ids, "restart", &json!({})).await?;
        }
        SandboxCommand::Exec {
            server,
            process,
            id,
            command,
        } => {
            let client = client(&server)?;
            let sandbox = client.connect(&id, EXEC_TIMEOUT_S).await?;
            return run::execute(&client, &sandbox, &process, &command).await;
        }
        SandboxCommand::Logs { server, id, json } => logs(&client(&server)?, &id, json).await?,
    }
    Ok(Exit::SUCCESS)
}

/// The client for the server that the arguments lead to.
pub(crate) fn client(server: &ServerArgs) -> anyhow::Result<Client> {
    Client::new(Connection::find(server)?)
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let rows = client.list().await?;
    if json {
        return rows.iter().try_for_each(output::json);
    }
    let rows = rows.into_iter().map(|row| {
        let row: Listed = serde_json::from_value(row).context("a row is not what was expected")?;
        Ok(vec![
            row.id,
            row.alias.unwrap_or(row.template_id),
            row.state,
            row.cpu_count.to_string(),
            row.memory_mib.to_string(),
            row.started_at,
            row.end_at,
        ])
    });
    let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
    output::line(&output::table(
        &[
            "ID",
            "TEMPLATE",
            "STATE",
            "CPU",
            "MEMORY MIB",
            "STARTED",
            "ENDS",
        ],
        &rows,
    ))
}

async fn info(client: &Client, id: &str, json: bool) -> anyhow::Result<()> {
    let value = client.info(id).await?;
    if json {
        return output::json(&value);
    }
    let Value::Object(fields) = value else {
        return output::json(&value);
    };
    let rows: Vec<Vec<String>> = fields
        .into_iter()
        .map(|(name, value)| match value {
            Value::String(text) => vec![name, text],
            other => vec![name, other.to_string()],
        })
        .collect();
    output::line(&output::table(&["FIELD", "VALUE"], &rows))
}

async fn kill(client: &Client, ids: Vec<String>, all: bool) -> anyhow::Result<()> {
    let ids = if all {
        let rows = client.list().await?;
        let id_of = |row: &Value| row["sandboxID"].as_str().map(str::to_owned);
        rows.iter().filter_map(id_of).collect()
    } else {
        ids
    };
    let mut failed = 0_usize;
    for id in ids {
        match client.kill(&id).await {
            Ok(()) => output::line(&id)?,
            Err(error) => {
                failed += 1;
                output::complain(&format!("{id}: {error:#}"));
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} not removed");
    Ok(())
}

/// Pauses, resumes or restarts sandboxes, and prints the ids of those that were.
async fn turn(client: &Client, ids: &[String], verb: &str, body: &Value) -> anyhow::Result<()> {
    let mut failed = 0_usize;
    for id in ids {
        let path = format!("/sandboxes/{}/{verb}", segment(id));
        match client.send(Method::POST, &path, Some(body.clone())).await {
            Ok(_) => output::line(id)?,
            Err(error) => {
                failed += 1;
                output::complain(&format!("{id}: {error:#}"));
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} could not {verb}");
    Ok(())
}

async fn logs(client: &Client, id: &str, json: bool) -> anyhow::Result<()> {
    let path = format!("/v2/sandboxes/{}/logs", segment(id));
    let value: Value = client.call(Method::GET, &path, None).await?;
    if json {
        let lines = value["logs"].as_array().map_or(&[][..], Vec::as_slice);
        return lines.iter().try_for_each(output::json);
    }
    let logs: Logs = serde_json::from_value(value).context("the log is not what was expected")?;
    // The API gives the newest first; people read a story from its beginning.
    logs.lines.iter().rev().try_for_each(|line| {
        output::line(&format!(
            "{} {:<5} {}",
            line.timestamp, line.level, line.message
        ))
    })
}
