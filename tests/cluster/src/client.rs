//! A client as its users write them: it goes to another server when one does not answer, repeats
//! what may be repeated, and gives up in the end. Every attempt is written down.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long one attempt may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(15);
/// How long an operation is repeated before it counts as failed.
const GIVE_UP_AFTER: Duration = Duration::from_secs(40);
/// Pause before the next attempt; a server that names a longer one is obeyed.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// One attempt.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) ended: Instant,
    pub(crate) operation: &'static str,
    pub(crate) took: Duration,
    /// Why it failed.
    pub(crate) failure: Option<String>,
    /// Whether it was the last of an operation that failed.
    pub(crate) gave_up: bool,
}

/// What clients saw, in the order in which it ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<Attempt>>>);

impl Journal {
    fn write(&self, attempt: Attempt) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(attempt);
    }

    /// All of it.
    pub(crate) fn read(&self) -> Vec<Attempt> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// How an answer is to be taken.
enum Verdict<T> {
    Done(T),
    /// To be tried again.
    Again(String, Duration),
    /// The sandbox is not there.
    Gone,
}

/// What an operation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome<T> {
    Done(T),
    Gone,
    Failed(String),
}

/// A sandbox, and what opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) id: String,
    pub(crate) token: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// `http://HOST:PORT` of every server: for what it is asked, and as a door to sandboxes.
    servers: Arc<[String]>,
    key: Arc<str>,
    journal: Journal,
    /// Of this user, so that not all begin with the same server.
    number: usize,
}

impl Client {
    pub(crate) fn new(servers: Vec<String>, key: &str, journal: Journal) -> Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(2))
            .timeout(ATTEMPT_LIMIT)
            .build()?;
        Ok(Self {
            http,
            servers: servers.into(),
            key: key.into(),
            journal,
            number: 0,
        })
    }

    /// The same for another user.
    pub(crate) fn of_user(&self, number: usize) -> Self {
        Self {
            number,
            ..self.clone()
        }
    }

    /// Makes a sandbox under a key of its own, which is its name, too.
    pub(crate) async fn create(&self, name: &str) -> Outcome<Access> {
        let wish = json!({
            "templateID": "base", "timeout": 3_600, "secure": true, "autoPause": true,
            "metadata": { "name": name },
        });
        let prepare = |url: &str| {
            let request = self.ask(Method::POST, &format!("{url}/sandboxes"));
            request.header("idempotency-key", name).json(&wish)
        };
        self.insist("create", prepare, async |answer| {
            let made = document(answer, &[201]).await?;
            Ok(access(&made))
        })
        .await
    }

    pub(crate) async fn delete(&self, id: &str) -> Outcome<()> {
        self.change(
            "delete",
            Method::DELETE,
            &format!("/sandboxes/{id}"),
            &[204],
        )
        .await
    }

    pub(crate) async fn pause(&self, id: &str) -> Outcome<()> {
        // 409: it is paused already, by an attempt whose answer was lost.
        let path = format!("/sandboxes/{id}/pause");
        self.change("pause", Method::POST, &path, &[204, 409]).await
    }

    pub(crate) async fn resume(&self, id: &str) -> Outcome<()> {
        let path = format!("/v2/sandboxes/{id}/connect");
        self.change("resume", Method::POST, &path, &[200, 201])
            .await
    }

    async fn change(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        wanted: &[u16],
    ) -> Outcome<()> {
        let body = json!({ "timeout": 3_600 });
        let prepare = |url: &str| {
            self.ask(method.clone(), &format!("{url}{path}"))
                .json(&body)
        };
        self.insist(operation, prepare, async |answer| {
            document(answer, wanted).await.map(drop)
        })
        .await
    }

    /// Runs a command in a sandbox: what it wrote.
    pub(crate) async fn command(&self, access: &Access, command: &str) -> Outcome<String> {
        let message = json!({ "process": { "cmd": "/bin/bash", "args": ["-c", command] } });
        let message = message.to_string();
        let length = u32::try_from(message.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes();
        let body = [&[0], &length[..], message.as_bytes()].concat();
        let prepare = |url: &str| {
            let request = self.http.post(format!("{url}/process.Process/Start"));
            request
                .body(body.clone())
                .header("e2b-sandbox-id", &access.id)
                .header("e2b-sandbox-port", "49983")
                .header("x-access-token", &access.token)
                .header("content-type", "application/connect+json")
                .header("connect-protocol-version", "1")
        };
        self.insist("command", prepare, async |answer| {
            let status = answer.status();
            let bytes = answer.bytes().await.map_err(|error| again(&error))?;
            match written(&bytes) {
                Some(text) => Ok(text),
                None => Err(Verdict::Again(
                    format!("{status}: {}", String::from_utf8_lossy(&bytes)),
                    RETRY_PAUSE,
                )),
            }
        })
        .await
    }

    /// Every sandbox there is: name, id and state.
    pub(crate) async fn list(&self) -> Result<Vec<(String, String, String)>> {
        let mut found = Vec::new();
        let mut next = String::new();
        loop {
            let path = format!("/v2/sandboxes?limit=100&nextToken={next}");
            let url = &self.servers[self.number % self.servers.len()];
            let answer = self
                .ask(Method::GET, &format!("{url}{path}"))
                .send()
                .await?;
            if !answer.status().is_success() {
                bail!("list: {}", answer.status());
            }
            let token = answer.headers().get("x-next-token").cloned();
            let page: Value = answer.json().await?;
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            for row in page.as_array().context("a list")? {
                let name = text(&row["metadata"]["name"]);
                found.push((name, text(&row["sandboxID"]), text(&row["state"])));
            }
            match token.and_then(|token| token.to_str().ok().map(str::to_owned)) {
                Some(token) if !token.is_empty() => next = token,
                _ => return Ok(found),
            }
        }
    }

    fn ask(&self, method: Method, url: &str) -> RequestBuilder {
        self.http
            .request(method, url)
            .header("x-api-key", &*self.key)
    }

    /// Repeats an operation until it is done, at one server after the other.
    async fn insist<T>(
        &self,
        operation: &'static str,
        prepare: impl Fn(&str) -> RequestBuilder,
        take: impl AsyncFn(reqwest::Response) -> Result<T, Verdict<T>>,
    ) -> Outcome<T> {
        let since = Instant::now();
        for turn in self.number.. {
            let begun = Instant::now();
            let sent = prepare(&self.servers[turn % self.servers.len()])
                .send()
                .await;
            let verdict = match sent {
                Err(error) => again(&error),
                Ok(answer) => take(answer)
                    .await
                    .map_or_else(|verdict| verdict, Verdict::Done),
            };
            let gives_up = since.elapsed() > GIVE_UP_AFTER;
            let mut attempt = Attempt {
                ended: Instant::now(),
                operation,
                took: begun.elapsed(),
                failure: None,
                gave_up: false,
            };
            match verdict {
                Verdict::Done(done) => {
                    self.journal.write(attempt);
                    return Outcome::Done(done);
                }
                Verdict::Gone => {
                    self.journal.write(attempt);
                    return Outcome::Gone;
                }
                Verdict::Again(why, pause) => {
                    attempt.failure = Some(why.clone());
                    attempt.gave_up = gives_up;
                    self.journal.write(attempt);
                    if gives_up {
                        return Outcome::Failed(why);
                    }
                    sleep(pause).await;
                }
            }
        }
        unreachable!("turns have no end")
    }
}

fn again<T>(error: &reqwest::Error) -> Verdict<T> {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Verdict::Again(text, RETRY_PAUSE)
}

/// The document of an answer with one of these statuses.
async fn document<T>(answer: reqwest::Response, wanted: &[u16]) -> Result<Value, Verdict<T>> {
    let status = answer.status().as_u16();
    let pause = answer.headers().get("retry-after").and_then(|value| {
        let seconds: u64 = value.to_str().ok()?.parse().ok()?;
        Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
    });
    let text = answer.text().await.map_err(|error| again(&error))?;
    if wanted.contains(&status) {
        return Ok(serde_json::from_str(&text).unwrap_or(Value::Null));
    }
    if status == 404 {
        return Err(Verdict::Gone);
    }
    Err(Verdict::Again(
        format!("{status}: {text}"),
        pause.unwrap_or(RETRY_PAUSE).max(RETRY_PAUSE),
    ))
}

fn access(made: &Value) -> Access {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Access {
        id: text(&made["sandboxID"]),
        token: text(&made["envdAccessToken"]),
    }
}

/// What a process wrote by its stream of events; none if the stream did not come to its end.
fn written(mut stream: &[u8]) -> Option<String> {
    let mut bytes = Vec::new();
    let mut has_ended = false;
    while let Some((head, rest)) = stream.split_first_chunk::<5>() {
        let [_, length @ ..] = *head;
        let (message, rest) = rest.split_at_checked(u32::from_be_bytes(length) as usize)?;
        stream = rest;
        let event = serde_json::from_slice::<Value>(message).ok()?;
        let event = &event["event"];
        if let Some(text) = event["data"]["stdout"].as_str() {
            bytes.extend(BASE64_STANDARD.decode(text).ok()?);
        }
        has_ended |= event["end"].is_object();
    }
    has_ended.then(|| String::from_utf8_lossy(&bytes).trim().to_owned())
}
