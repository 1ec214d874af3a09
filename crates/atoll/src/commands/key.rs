//! `atoll key …`.

use anyhow::Context;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::{KeyCommand, OfTeamArgs, ServerArgs};
use crate::client::{Client, segment};
use crate::commands::sandbox::client;
use crate::commands::team;
use crate::output;

/// The columns of `key list`.
const HEADINGS: [&str; 6] = ["ID", "NAME", "KEY", "SCOPE", "CREATED", "LAST USED"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    id: String,
    name: String,
    mask: Mask,
    created_at: String,
    last_used: Option<String>,
    #[serde(default)]
    read_only: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mask {
    prefix: String,
    masked_value_prefix: String,
    masked_value_suffix: String,
}

/// Where the keys of the wanted team are: its own part of the API, or the operators'.
async fn keys(server: &ServerArgs, team: OfTeamArgs) -> anyhow::Result<(Client, &'static str)> {
    let client = client(server)?;
    match team.team {
        None => Ok((client, "/api-keys")),
        Some(team) => {
            let id = team::find(&client, &team).await?.id;
            Ok((client.for_team(id), "/admin/v1/keys"))
        }
    }
}

/// Does what the subcommand says.
///
/// # Errors
/// If no server is known, or what the server says.
pub(crate) async fn run(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create {
            server,
            team,
            name,
            read_only,
            json,
        } => {
            let body = json!({ "name": name, "readOnly": read_only });
            let (client, keys) = keys(&server, team).await?;
            let key: Value = client.call(Method::POST, keys, Some(body)).await?;
            if json {
                return output::json(&key);
            }
            output::line(key["key"].as_str().context("the answer holds no key")?)
        }
        KeyCommand::List { server, team, json } => {
            let (client, keys) = keys(&server, team).await?;
            let keys: Vec<Value> = client.call(Method::GET, keys, None).await?;
            if json {
                return keys.iter().try_for_each(output::json);
            }
            let rows = keys.into_iter().map(|key| {
                let Key {
                    id,
                    name,
                    mask,
                    created_at,
                    last_used,
                    read_only,
                } = serde_json::from_value(key)?;
                let Mask {
                    prefix,
                    masked_value_prefix: start,
                    masked_value_suffix: end,
                } = mask;
                let scope = if read_only { "read-only" } else { "full" };
                Ok(vec![
                    id,
                    name,
                    format!("{prefix}{start}…{end}"),
                    scope.to_owned(),
                    created_at,
                    last_used.unwrap_or_else(|| "-".to_owned()),
                ])
            });
            let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
            output::line(&output::table(&HEADINGS, &rows))
        }
        KeyCommand::Revoke { server, team, id } => {
            let (client, keys) = keys(&server, team).await?;
            let path = format!("{keys}/{}", segment(&id));
            client.send(Method::DELETE, &path, None).await.map(drop)
        }
    }
}
