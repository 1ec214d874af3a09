//! Tells a fresh guest agent what it is: `POST /init` of the envd protocol (the protocol notes,
//! section "REST on envd").
//!
//! The agent's listening socket exists before the agent does, so a connection succeeds at once and
//! simply waits to be accepted: there is nothing to poll. A sandbox is ready when this is answered.
//!
//! The answer comes from the guest, so only its status is looked at, within a time limit.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use atoll_core::sandbox::SandboxSpec;
use atoll_core::time::Timestamp;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::driver::ImageDefaults;
use crate::traceparent;

/// Port of the guest agent in every sandbox.
pub const GUEST_AGENT_PORT: u16 = 49_983;

/// The user that commands run as when the client names none.
const DEFAULT_USER: &str = "user";

/// Attempts. More than one only helps against an agent that fails in the middle of its start.
const ATTEMPTS: u32 = 3;

/// Pause between attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How long one attempt may take: a machine that starts many at once is slow, not broken.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// Why a guest agent was not initialised.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("connect to the guest agent")]
    Connect(#[source] io::Error),
    /// The exchange broke off.
    #[error("talk to the guest agent")]
    Http(#[source] hyper::Error),
    /// It answered something else than 204.
    #[error("the guest agent answered {0} to its initialisation")]
    Status(StatusCode),
    /// No answer in time.
    #[error("the guest agent did not answer in time")]
    Timeout,
    /// The request could not be built.
    #[error("make the initialisation request")]
    Request(#[source] io::Error),
}

/// The request's body; the names are the protocol's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Init<'a> {
    env_vars: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<&'a str>,
    timestamp: String,
    default_user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_workdir: Option<&'a Path>,
}

/// Initialises the guest agent, over connections that `dial` makes.
///
/// # Errors
/// The last attempt's.
pub async fn initialise<D, F>(
    spec: &SandboxSpec,
    defaults: &ImageDefaults,
    now: Timestamp,
    dial: D,
) -> Result<(), Error>
where
    D: Fn() -> F,
    F: Future<Output = io::Result<TcpStream>>,
{
    let body = encode(spec, defaults, now)?;
    let mut attempt = 1;
    loop {
        let Ok(outcome) = timeout(ATTEMPT_LIMIT, post(&dial, body.clone())).await else {
            return Err(Error::Timeout);
        };
        match outcome {
            // An answer is an answer: asking again would not change it.
            Ok(()) | Err(Error::Status(_)) => return outcome,
            Err(_) if attempt == ATTEMPTS => return outcome,
            Err(_) => {}
        }
        attempt += 1;
        sleep(RETRY_PAUSE).await;
    }
}

fn encode(spec: &SandboxSpec, defaults: &ImageDefaults, now: Timestamp) -> Result<Bytes, Error> {
    let own = [
        ("E2B_SANDBOX", "true"),
        ("E2B_SANDBOX_ID", spec.id.as_str()),
        ("E2B_TEMPLATE_ID", spec.template.as_str()),
    ];
    let given = defaults.environment.iter().chain(&spec.env);
    let given = given.map(|(name, value)| (&**name, &**value));
    let timestamp = jiff::Timestamp::from_microsecond(now.as_micros())
        .map_err(|error| Error::Request(io::Error::other(error)))?;
    let init = Init {
        // What the sandbox is cannot be redefined by its creator.
        env_vars: given.chain(own).collect(),
        access_token: spec.access_token.as_ref().map(|token| token.expose()),
        timestamp: timestamp.to_string(),
        default_user: defaults.user.as_deref().unwrap_or(DEFAULT_USER),
        default_workdir: defaults.working_dir.as_deref(),
    };
    let bytes = serde_json::to_vec(&init).map_err(|error| Error::Request(error.into()))?;
    Ok(bytes.into())
}

async fn post<D, F>(dial: &D, body: Bytes) -> Result<(), Error>
where
    D: Fn() -> F,
    F: Future<Output = io::Result<TcpStream>>,
{
    let stream = dial().await.map_err(Error::Connect)?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(Error::Http)?;
    let mut request = Request::post("/init")
        .header(http::header::HOST, "localhost")
        .header(http::header::CONTENT_TYPE, "application/json");
    for (name, value) in traceparent::current() {
        request = request.header(name, value);
    }
    let request = request
        .body(Full::new(body))
        .map_err(|error| Error::Request(io::Error::other(error)))?;
    let answer = sender.send_request(request);
    tokio::pin!(connection);
    tokio::pin!(answer);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection may end with the answer in hand.
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    match answer.map_err(Error::Http)?.status() {
        StatusCode::NO_CONTENT => Ok(()),
        status => Err(Error::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_what_the_protocol_says() {
        let spec = SandboxSpec {
            id: "i1".parse().unwrap(),
            generation: atoll_core::id::Generation::FIRST,
            team: "t".parse().unwrap(),
            template: "base".parse().unwrap(),
            build: "b".parse().unwrap(),
            resources: atoll_core::resources::Resources::default(),
            env: BTreeMap::from([
                ("A".to_owned(), "1".to_owned()),
                ("E2B_SANDBOX_ID".to_owned(), "forged".to_owned()),
            ]),
            network: atoll_core::network::NetworkPolicy::default(),
            access_token: None,
            snapshot: None,
        };
        let defaults = ImageDefaults {
            environment: BTreeMap::from([
                ("A".to_owned(), "0".to_owned()),
                ("LANG".to_owned(), "C".to_owned()),
            ]),
            ..ImageDefaults::default()
        };
        let body = encode(&spec, &defaults, Timestamp::from_micros(1_500_000)).unwrap();
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            "{\"envVars\":{\"A\":\"1\",\"E2B_SANDBOX\":\"true\",\"E2B_SANDBOX_ID\":\"i1\",\
             \"E2B_TEMPLATE_ID\":\"base\",\"LANG\":\"C\"},\"timestamp\":\"1970-01-01T00:00:01.5Z\",\
             \"defaultUser\":\"user\"}"
        );
    }
}
