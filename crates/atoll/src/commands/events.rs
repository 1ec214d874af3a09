//! `atoll events`.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::TryStreamExt as _;
use http::Method;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::cli::events::EventsArgs;
use crate::client::{Client, accept, segment};
use crate::commands::sandbox::client;
use crate::output;
use crate::sse::{Message, Reader};

/// Events a page asks for: the most the API gives.
const PAGE: u32 = 1_000;

/// How long a stream may be silent: the server says more often that it is there.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long to wait before a stream that broke off is asked for again.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);

/// How often in a row that may fail: longer than a server takes to be restarted.
const RECONNECTS_MAX: u32 = 120;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    events: Vec<Value>,
    cursor: u64,
    is_last: bool,
    missed: u64,
}

/// The fields of an event that a person is shown.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    cursor: u64,
    kind: String,
    timestamp: String,
    #[serde(rename = "sandboxID")]
    sandbox: Option<String>,
    #[serde(rename = "nodeID")]
    node: Option<String>,
    message: String,
}

#[derive(Debug, Deserialize)]
struct Lagged {
    missed: u64,
}

/// What is read, and how it is shown.
#[derive(Debug)]
struct Reading {
    client: Client,
    /// `/events` or the operators'.
    path: &'static str,
    /// The selection, as the end of a query.
    selection: String,
    is_json: bool,
}

/// Prints the events.
///
/// # Errors
/// If no server is known, or what the server says; when following also if it stays away.
pub(crate) async fn run(arguments: EventsArgs) -> anyhow::Result<()> {
    let filter = [("sandbox", &arguments.sandbox), ("kind", &arguments.kind)];
    let selection = filter
        .into_iter()
        .filter_map(|(name, value)| Some(format!("&{name}={}", segment(value.as_ref()?))))
        .collect();
    let client = client(&arguments.server)?;
    ensure!(
        !arguments.all || client.connection().admin_token.is_some(),
        "events of all teams need the operator's token: --admin-token or ATOLL_ADMIN_TOKEN"
    );
    let reading = Reading {
        client,
        path: if arguments.all {
            "/admin/v1/events"
        } else {
            "/events"
        },
        selection,
        is_json: arguments.json,
    };
    let default = if arguments.follow { "now" } else { "beginning" };
    let cursor = reading
        .list(arguments.from.as_deref().unwrap_or(default))
        .await?;
    if arguments.follow {
        reading.follow(cursor).await?;
    }
    Ok(())
}

impl Reading {
    /// Prints what there is after a start; answers where it goes on.
    async fn list(&self, from: &str) -> anyhow::Result<u64> {
        let mut start = match from.parse::<u64>() {
            Ok(cursor) => format!("cursor={cursor}"),
            Err(_) => format!("from={}", segment(from)),
        };
        loop {
            let path = format!("{}?{start}&limit={PAGE}{}", self.path, self.selection);
            let page: Page = self.client.call(Method::GET, &path, None).await?;
            self.tell_missed(page.missed);
            for event in page.events {
                self.print(event)?;
            }
            if page.is_last {
                return Ok(page.cursor);
            }
            start = format!("cursor={}", page.cursor);
        }
    }

    /// Prints what comes after a cursor, for ever.
    async fn follow(&self, mut cursor: u64) -> anyhow::Result<()> {
        let mut failures = 0;
        loop {
            let before = cursor;
            let path = format!("{}/stream?cursor={cursor}{}", self.path, self.selection);
            let answer = self.client.stream(&path).await;
            let is_refusal = matches!(&answer, Ok(answer) if answer.status().is_client_error());
            let opened = match answer {
                Ok(answer) => accept(answer).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(response) => {
                    failures = 0;
                    self.take(response, &mut cursor).await?;
                }
                Err(error) if is_refusal || failures >= RECONNECTS_MAX => {
                    return Err(error.context("events can no longer be followed"));
                }
                Err(_) => failures += 1,
            }
            if before == cursor {
                tokio::time::sleep(RECONNECT_INTERVAL).await;
            }
        }
    }

    /// Prints one stream up to its end, however that comes about.
    async fn take(&self, response: reqwest::Response, cursor: &mut u64) -> anyhow::Result<()> {
        let mut reader = Reader::default();
        let mut pieces = response.bytes_stream();
        // What breaks off, or is silent where it should say that it is there, is asked for again.
        while let Ok(Ok(Some(piece))) = timeout(SILENCE_MAX, pieces.try_next()).await {
            for message in reader.push(&piece)? {
                self.show(&message)?;
                if let Some(id) = message.id {
                    *cursor = id.parse().context("the server's cursor is none")?;
                }
            }
        }
        Ok(())
    }

    fn show(&self, message: &Message) -> anyhow::Result<()> {
        if message.event == "lagged" {
            let lagged: Lagged = serde_json::from_str(&message.data)?;
            self.tell_missed(lagged.missed);
            return Ok(());
        }
        self.print(serde_json::from_str(&message.data)?)
    }

    /// On standard error, so that what reads the events is not disturbed.
    fn tell_missed(&self, missed: u64) {
        if missed > 0 {
            output::complain(&format!(
                "up to {missed} events before this were removed from the history"
            ));
        }
    }

    fn print(&self, event: Value) -> anyhow::Result<()> {
        if self.is_json {
            return output::line_piece(&serde_json::to_string(&event)?);
        }
        let event: Event = serde_json::from_value(event)?;
        let subject = event.sandbox.or(event.node);
        output::line_piece(&format!(
            "{:<8} {:<27} {:<19} {:<22} {}",
            event.cursor,
            event.timestamp,
            event.kind,
            subject.as_deref().unwrap_or("-"),
            event.message
        ))
    }
}
