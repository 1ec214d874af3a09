//! What is asked over plain HTTP: file contents, the agent's set-up and its measurements.

pub(crate) mod compose;
pub(crate) mod cors;
pub(crate) mod download;
pub(crate) mod encoding;
pub(crate) mod init;
pub(crate) mod mark;
pub(crate) mod metadata;
pub(crate) mod metrics;
pub(crate) mod multipart;
pub(crate) mod query;
pub(crate) mod source;
pub(crate) mod upload;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde::Serialize;

use crate::inbound::Inbound;
use crate::path::Error as PathError;
use crate::server::{self, Agent, Body};
use crate::user::User;

/// Bytes of a request's JSON.
const JSON_MAX: usize = 1024 * 1024;

/// How long a client may take to send that. Whoever stops half-way must not hold the connection.
const JSON_TIME: Duration = Duration::from_secs(10);

/// An answer that is not what was asked for: a status and a text for the client.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    message: String,
}

#[derive(Serialize)]
struct RefusalBody<'a> {
    code: u16,
    message: &'a str,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(crate) fn no_space(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, message)
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let body = RefusalBody {
            code: self.status.as_u16(),
            message: &self.message,
        };
        let mut answer = json(&body);
        *answer.status_mut() = self.status;
        answer
            .headers_mut()
            .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }
}

/// Answers a request that is for none of the services.
pub(crate) async fn route(agent: &Arc<Agent>, request: Request<Inbound>) -> Response<Body> {
    let route = (request.method().as_str(), request.uri().path());
    let answer = match route {
        ("GET", "/health") => Ok(uncached(no_content())),
        ("POST", "/init") => return init::answer(agent, request).await,
        ("GET", "/envs") => Ok(uncached(json(&agent.settings.lock().variables))),
        ("GET", "/metrics") => metrics::answer(agent).await.map(uncached),
        ("GET", "/files") => download::answer(agent, request).await,
        ("POST", "/files") => upload::answer(agent, request).await,
        ("POST", "/files/compose") => compose::answer(agent, request).await,
        (
            "POST",
            path @ ("/freeze" | "/unfreeze" | "/collapse" | "/fsfreeze" | "/fsthaw" | "/upgrade"),
        ) => Err(Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("{path} is not supported by this agent"),
        )),
        (_, "/health" | "/init" | "/envs" | "/metrics" | "/files" | "/files/compose") => Err(
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
        ),
        _ => Err(Refusal::new(StatusCode::NOT_FOUND, "404 page not found")),
    };
    answer.unwrap_or_else(Refusal::into_response)
}

/// A 204.
pub(crate) fn no_content() -> Response<Body> {
    let mut answer = Response::new(server::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// A 200 with JSON.
pub(crate) fn json(value: &impl Serialize) -> Response<Body> {
    // Only plain texts and numbers are ever answered, and those always serialise.
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut answer = Response::new(full(text));
    answer.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    answer
}

/// A body that is all there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn uncached(mut answer: Response<Body>) -> Response<Body> {
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Reads a whole small body.
async fn read_all(body: Inbound) -> Result<Bytes, Refusal> {
    let late = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "request body not sent in time");
    tokio::time::timeout(JSON_TIME, read_to_end(body))
        .await
        .unwrap_or_else(|_| Err(late()))
}

async fn read_to_end(mut body: Inbound) -> Result<Bytes, Refusal> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Refusal::bad_request(format!("invalid request body: {error}")))?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > JSON_MAX {
                return Err(Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "request body too large",
                ));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

/// The user that a file request names, else the default one.
fn find_user(agent: &Agent, named: Option<&str>) -> Result<User, Refusal> {
    let (name, found) = match named {
        Some(name) => (name.to_owned(), User::by_name(name)),
        None => {
            let name = agent.settings.lock().user.clone();
            let found = User::by_default_name(&name);
            (name, found)
        }
    };
    found.map_err(|error| {
        Refusal::new(
            StatusCode::UNAUTHORIZED,
            format!("error looking up user '{name}': {error}"),
        )
    })
}

fn resolve(agent: &Agent, path: &str, user: &User) -> Result<String, PathError> {
    let workdir = agent.settings.lock().workdir.clone();
    crate::path::resolve(path, user, workdir.as_deref())
}
