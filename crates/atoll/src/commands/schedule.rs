//! `atoll schedule` and `atoll team policy …`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use http::Method;
use serde_json::Value;

use crate::cli::schedule::{PolicyCommand, ScheduleArgs};
use crate::client::segment;
use crate::commands::sandbox::client;
use crate::commands::team;
use crate::output;

/// Says where a sandbox would go.
///
/// # Errors
/// If no server is known, or what the server says.
pub(crate) async fn run(arguments: ScheduleArgs) -> anyhow::Result<()> {
    let client = client(&arguments.server)?;
    let mut path = format!(
        "/admin/v1/schedule?template={}",
        segment(&arguments.template)
    );
    let mut ask = |name: &str, value: &str| {
        let _ = write!(path, "&{name}={}", segment(value));
    };
    if let Some(wanted) = &arguments.team {
        ask("teamID", &team::find(&client, wanted).await?.id);
    }
    for (name, amount) in [
        ("cpuMillis", arguments.cpu_millis),
        ("memoryMiB", arguments.memory_mib),
        ("diskMiB", arguments.disk_mib),
    ] {
        if let Some(amount) = amount {
            ask(name, &amount.to_string());
        }
    }
    if !arguments.metadata.is_empty() {
        let metadata: BTreeMap<_, _> = arguments.metadata.into_iter().collect();
        ask("metadata", &serde_json::to_string(&metadata)?);
    }
    if let Some(file) = &arguments.policy {
        ask("policy", &read(file)?.to_string());
    }
    let told: Value = client.call(Method::GET, &path, None).await?;
    if arguments.json {
        return output::json(&told);
    }
    output::line(&shown(&told))
}

/// Does what the subcommand says.
///
/// # Errors
/// If no server is known, or what the server says.
pub(crate) async fn policy(command: PolicyCommand) -> anyhow::Result<()> {
    let (PolicyCommand::Set { server, team, .. }
    | PolicyCommand::Show { server, team }
    | PolicyCommand::Clear { server, team }) = &command;
    let client = client(server)?;
    let team = team::find(&client, team).await?;
    let path = format!("/admin/v1/teams/{}/policy", segment(&team.id));
    match command {
        PolicyCommand::Set { file, .. } => client
            .send(Method::PUT, &path, Some(read(&file)?))
            .await
            .map(drop),
        PolicyCommand::Show { .. } => {
            let policy: Value = client.call(Method::GET, &path, None).await?;
            output::json(&policy)
        }
        PolicyCommand::Clear { .. } => client.send(Method::DELETE, &path, None).await.map(drop),
    }
}

fn read(file: &Path) -> anyhow::Result<Value> {
    let shown = file.display();
    let text = fs::read_to_string(file).with_context(|| format!("read `{shown}`"))?;
    serde_json::from_str(&text).with_context(|| format!("`{shown}` is no JSON"))
}

/// An answer for people.
fn shown(told: &Value) -> String {
    let mut text = match told["nodeID"].as_str() {
        Some(node) => format!("{node}\n  {}\n", word(&told["reason"])),
        None => format!("nowhere\n  {}\n", word(&told["reason"])),
    };
    let list = |name: &str| told[name].as_array().cloned().unwrap_or_default();
    let parts: Vec<_> = list("parts")
        .iter()
        .map(|part| {
            vec![
                word(&part["term"]),
                number(&part["value"]),
                number(&part["weight"]),
            ]
        })
        .collect();
    if !parts.is_empty() {
        let _ = writeln!(
            text,
            "{}",
            output::table(&["PART", "VALUE", "WEIGHT"], &parts)
        );
    }
    let own = told["nodeID"]
        .as_str()
        .map(|node| vec![node.to_owned(), number(&told["score"])]);
    let others = list("alternatives");
    let others = others
        .iter()
        .map(|other| vec![word(&other["nodeID"]), number(&other["score"])]);
    let nodes: Vec<_> = own.into_iter().chain(others).collect();
    if !nodes.is_empty() {
        let _ = writeln!(text, "{}", output::table(&["NODE", "SCORE"], &nodes));
    }
    let fallen = list("fallen");
    let fallen = fallen
        .iter()
        .map(|row| vec![word(&row["nodes"]), word(&row["constraint"])]);
    let fallen: Vec<_> = fallen.collect();
    if !fallen.is_empty() {
        let _ = writeln!(text, "{}", output::table(&["NODES", "RULED OUT"], &fallen));
    }
    if let Some(change) = told["smallestChange"].as_str() {
        let _ = writeln!(text, "to fit: {change}");
    }
    text.trim_end().to_owned()
}

fn number(value: &Value) -> String {
    value
        .as_f64()
        .map_or_else(String::new, |number| format!("{number:.3}"))
}

fn word(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
