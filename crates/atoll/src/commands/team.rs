//! `atoll team …`.

use anyhow::bail;
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cli::{QuotaArgs, TeamCommand};
use crate::client::{Client, segment};
use crate::commands::sandbox::client;
use crate::commands::schedule;
use crate::output;

const TEAMS: &str = "/admin/v1/teams";

/// What a person is shown of a team's amounts: its name in the API, and what it counts.
const AMOUNTS: [(&str, &str); 4] = [
    ("concurrentSandboxes", "sandboxes"),
    ("cpuMillis", "cpu (millicores)"),
    ("memoryMiB", "memory (MiB)"),
    ("diskMiB", "disk (MiB)"),
];

/// What a person is shown of a team's rates.
const RATES: [(&str, &str, &str); 2] = [
    ("createsPerSecond", "createsBurst", "creates a second"),
    ("requestsPerSecond", "requestsBurst", "requests a second"),
];

/// The fields of a team that the commands use.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Team {
    pub(crate) id: String,
    name: String,
    disabled: bool,
    created_at: String,
    weight: u32,
    quota: Map<String, Value>,
    limits: Map<String, Value>,
    usage: Map<String, Value>,
}

/// The team of this name or id.
///
/// # Errors
/// If there is none, or what the server says.
pub(crate) async fn find(client: &Client, wanted: &str) -> anyhow::Result<Team> {
    let teams: Vec<Team> = client.call(Method::GET, TEAMS, None).await?;
    let is_wanted = |team: &&Team| team.name == wanted || team.id == wanted;
    let Some(id) = teams.iter().find(is_wanted).map(|team| team.id.clone()) else {
        bail!("there is no team `{wanted}`");
    };
    let path = format!("{TEAMS}/{}", segment(&id));
    client.call(Method::GET, &path, None).await
}

/// Does what the subcommand says.
///
/// # Errors
/// If no server is known, or what the server says.
pub(crate) async fn run(command: TeamCommand) -> anyhow::Result<()> {
    match command {
        TeamCommand::Create {
            server,
            name,
            quota,
            json,
        } => {
            let body = json!({ "name": name, "quota": with(Map::new(), &quota) });
            let client = client(&server)?;
            let team: Value = client.call(Method::POST, TEAMS, Some(body)).await?;
            if json {
                return output::json(&team);
            }
            output::line(team["id"].as_str().unwrap_or_default())
        }
        TeamCommand::List { server, json } => list(&client(&server)?, json).await,
        TeamCommand::Show { server, team, json } => {
            let client = client(&server)?;
            let team = find(&client, &team).await?;
            if json {
                let path = format!("{TEAMS}/{}", segment(&team.id));
                let team: Value = client.call(Method::GET, &path, None).await?;
                return output::json(&team);
            }
            output::line(&shown(&team))
        }
        TeamCommand::SetQuota {
            server,
            team,
            quota,
            reset,
        } => {
            let client = client(&server)?;
            let team = find(&client, &team).await?;
            let kept = if reset { Map::new() } else { team.quota };
            let body = json!({ "quota": with(kept, &quota) });
            let team: Team = update(&client, &team.id, body).await?;
            output::line(&shown(&team))
        }
        TeamCommand::SetWeight {
            server,
            team,
            weight,
        } => {
            let client = client(&server)?;
            let team = find(&client, &team).await?;
            let team: Team = update(&client, &team.id, json!({ "weight": weight })).await?;
            output::line(&shown(&team))
        }
        TeamCommand::Policy(command) => schedule::policy(command).await,
        TeamCommand::Disable { server, team } => switch(&client(&server)?, &team, true).await,
        TeamCommand::Enable { server, team } => switch(&client(&server)?, &team, false).await,
    }
}

async fn switch(client: &Client, team: &str, is_disabled: bool) -> anyhow::Result<()> {
    let team = find(client, team).await?;
    update(client, &team.id, json!({ "disabled": is_disabled }))
        .await
        .map(drop)
}

async fn update(client: &Client, id: &str, body: Value) -> anyhow::Result<Team> {
    let path = format!("{TEAMS}/{}", segment(id));
    client.call(Method::PATCH, &path, Some(body)).await
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    if json {
        let teams: Vec<Value> = client.call(Method::GET, TEAMS, None).await?;
        return teams.iter().try_for_each(output::json);
    }
    let teams: Vec<Team> = client.call(Method::GET, TEAMS, None).await?;
    let rows: Vec<_> = teams
        .into_iter()
        .map(|team| {
            let [(places, _), ..] = AMOUNTS;
            let sandboxes = share(&team, places);
            let state = if team.disabled { "disabled" } else { "active" };
            let state = state.to_owned();
            vec![team.id, team.name, sandboxes, state, team.created_at]
        })
        .collect();
    let heading = ["ID", "NAME", "SANDBOXES", "STATE", "CREATED"];
    output::line(&output::table(&heading, &rows))
}

/// How much is used, of how much.
fn share(team: &Team, amount: &str) -> String {
    let number = |from: &Map<String, Value>| from.get(amount).map(Value::to_string);
    let used = number(&team.usage).unwrap_or_default();
    let limit = number(&team.limits).unwrap_or_default();
    format!("{used} of {limit}")
}

/// A team for people.
fn shown(team: &Team) -> String {
    let mut rows = vec![
        vec!["id".to_owned(), team.id.clone(), String::new()],
        vec!["created".to_owned(), team.created_at.clone(), String::new()],
        vec![
            "disabled".to_owned(),
            team.disabled.to_string(),
            String::new(),
        ],
        vec!["weight".to_owned(), team.weight.to_string(), String::new()],
    ];
    let origin = |name: &str| {
        let is_own = team.quota.get(name).is_some_and(|value| !value.is_null());
        if is_own { "own" } else { "default" }.to_owned()
    };
    for (name, label) in AMOUNTS {
        rows.push(vec![label.to_owned(), share(team, name), origin(name)]);
    }
    for (name, burst, label) in RATES {
        let number = |name: &str| team.limits.get(name).map(Value::to_string);
        let text = format!(
            "{}, {} at once",
            number(name).unwrap_or_default(),
            number(burst).unwrap_or_default()
        );
        rows.push(vec![label.to_owned(), text, origin(name)]);
    }
    output::table(&["TEAM", &team.name, "LIMIT"], &rows)
}

/// The quota with what was given in the place of what it says.
fn with(mut quota: Map<String, Value>, given: &QuotaArgs) -> Value {
    let [(places, _), (cpu, _), (memory, _), (disk, _)] = AMOUNTS;
    let amounts = [
        (places, given.concurrent_sandboxes.map(u64::from)),
        (cpu, given.cpu_millis),
        (memory, given.memory_mib),
        (disk, given.disk_mib),
    ];
    for (name, amount) in amounts {
        if let Some(amount) = amount {
            quota.insert(name.to_owned(), amount.into());
        }
    }
    for ((per_second, burst, _), rate) in RATES.into_iter().zip([given.creates, given.requests]) {
        if let Some((average, at_once)) = rate {
            quota.insert(per_second.to_owned(), average.into());
            quota.insert(burst.to_owned(), at_once.into());
        }
    }
    Value::Object(quota)
}
