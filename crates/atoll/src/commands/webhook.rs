//! `atoll webhook …`.

use std::path::Path;

use anyhow::Context;
use atoll_control::random::{Random as _, SystemRandom};
use http::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::events::WebhookCommand;
use crate::client::segment;
use crate::commands::sandbox::client;
use crate::output;

/// The columns of `webhook list`.
const HEADINGS: [&str; 6] = ["ID", "NAME", "URL", "STATE", "EVENTS", "LAST ERROR"];

/// Holds the secret, where no file does.
const SECRET_VARIABLE: &str = "ATOLL_WEBHOOK_SECRET";

/// Bytes of a secret that is made here.
const SECRET_LEN: usize = 32;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Webhook {
    id: String,
    name: String,
    url: String,
    enabled: bool,
    events: Vec<String>,
    disabled_reason: Option<String>,
    failing_since: Option<String>,
    last_error: Option<String>,
}

/// Does what the subcommand says.
///
/// # Errors
/// If no server is known, or what the server says.
pub(crate) async fn run(command: WebhookCommand) -> anyhow::Result<()> {
    match command {
        WebhookCommand::Create {
            server,
            name,
            url,
            event,
            secret_file,
            json,
        } => {
            let given = given_secret(secret_file.as_deref())?;
            let secret = given.clone().unwrap_or_else(new_secret);
            let body = json!({
                "name": name,
                "url": url,
                "events": event,
                "signatureSecret": secret.expose_secret(),
            });
            let client = client(&server)?;
            let mut made: Value = client
                .call(Method::POST, "/events/webhooks", Some(body))
                .await?;
            if given.is_none() {
                // It is shown this once.
                made["signatureSecret"] = secret.expose_secret().into();
            }
            if json {
                return output::json(&made);
            }
            let id = made["id"].as_str().context("the answer holds no id")?;
            output::line(id)?;
            match given {
                Some(_) => Ok(()),
                None => output::line(&format!("secret: {}", secret.expose_secret())),
            }
        }
        WebhookCommand::List { server, json } => {
            let client = client(&server)?;
            let hooks = client.call(Method::GET, "/events/webhooks", None).await?;
            list(hooks, json)
        }
        WebhookCommand::Enable { server, id } => {
            let body = json!({ "enabled": true });
            let path = format!("/events/webhooks/{}", segment(&id));
            let client = client(&server)?;
            client
                .send(Method::PATCH, &path, Some(body))
                .await
                .map(drop)
        }
        WebhookCommand::Rm { server, id } => {
            let path = format!("/events/webhooks/{}", segment(&id));
            let client = client(&server)?;
            client.send(Method::DELETE, &path, None).await.map(drop)
        }
    }
}

fn list(hooks: Vec<Value>, is_json: bool) -> anyhow::Result<()> {
    if is_json {
        return hooks.iter().try_for_each(output::json);
    }
    let rows = hooks.into_iter().map(|hook| {
        let hook: Webhook = serde_json::from_value(hook)?;
        let state = match (hook.enabled, &hook.failing_since) {
            (false, _) => "disabled",
            (true, Some(_)) => "failing",
            (true, None) => "ok",
        };
        let error = hook.disabled_reason.or(hook.last_error);
        Ok(vec![
            hook.id,
            hook.name,
            hook.url,
            state.to_owned(),
            hook.events.join(","),
            error.unwrap_or_else(|| "-".to_owned()),
        ])
    });
    let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
    output::line(&output::table(&HEADINGS, &rows))
}

fn given_secret(file: Option<&Path>) -> anyhow::Result<Option<SecretString>> {
    let Some(path) = file else {
        return Ok(std::env::var(SECRET_VARIABLE).ok().map(SecretString::from));
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read the secret `{}`", path.display()))?;
    Ok(Some(SecretString::from(text.trim_end())))
}

fn new_secret() -> SecretString {
    let mut bytes = [0; SECRET_LEN];
    SystemRandom.fill(&mut bytes);
    SecretString::from(hex::encode(bytes))
}
