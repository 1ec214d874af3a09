//! What the edge itself answers when no sandbox does.
//!
//! The JSON bodies are part of the E2B protocol: the SDKs look for `was not found` and `port is not
//! open` in them. A person who navigates to a dead port with a browser gets a page instead.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, RETRY_AFTER, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::body::{self, EdgeBody};
use crate::target::{Target, TargetError};

/// Tells the newer SDKs whether trying again can help.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");
/// Seconds after which a client over the limit may try again.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");
/// Seconds after which a paused sandbox may find room again.
const RESUME_RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("5");

/// What the edge says instead of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The request names no port of a sandbox.
    BadTarget(TargetError),
    /// The method makes no sense through a reverse proxy.
    MethodNotAllowed,
    /// A route of the guest agent that only the node may call.
    InternalRoute {
        /// The path, as the client wrote it.
        path: String,
    },
    /// No such sandbox is running.
    NotFound(Target),
    /// The sandbox demands the traffic token, and none came.
    TokenMissing(Target),
    /// The sandbox demands the traffic token, and another came.
    TokenInvalid(Target),
    /// The sandbox has too many requests under way.
    TooMany(Target, usize),
    /// The sandbox is paused, and others keep changing its state.
    Changing(Target),
    /// The sandbox is paused, and its team has as many sandboxes as it may.
    QuotaExceeded(Target),
    /// The sandbox is paused and cannot be resumed now.
    NotResumed(Target),
    /// Nobody listens on the port.
    PortClosed(Target),
    /// The sandbox ended the exchange before it answered.
    Broken(Target),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_limit: Option<usize>,
}

impl Answer {
    /// The status of the answer.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::BadTarget(_) => StatusCode::BAD_REQUEST,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::InternalRoute { .. } => StatusCode::NOT_FOUND,
            Self::TokenMissing(_) | Self::TokenInvalid(_) => StatusCode::FORBIDDEN,
            Self::Changing(_) => StatusCode::CONFLICT,
            Self::TooMany(..) | Self::QuotaExceeded(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NotResumed(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound(_) | Self::PortClosed(_) | Self::Broken(_) => StatusCode::BAD_GATEWAY,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::BadTarget(TargetError::Host) => "Invalid host".to_owned(),
            Self::BadTarget(TargetError::SandboxId) => "Invalid sandbox ID".to_owned(),
            Self::BadTarget(TargetError::Port) => "Invalid sandbox port".to_owned(),
            Self::BadTarget(TargetError::MissingHeader) => "missing header".to_owned(),
            Self::MethodNotAllowed => "Method not allowed".to_owned(),
            Self::InternalRoute { .. } => {
                "This path is reserved for the control plane and cannot be reached from outside"
                    .to_owned()
            }
            Self::NotFound(_) => "The sandbox was not found".to_owned(),
            Self::TokenMissing(_) => format!(
                "This sandbox demands the header '{}', which is missing",
                crate::proxy::TRAFFIC_TOKEN_HEADER
            ),
            Self::TokenInvalid(_) => format!(
                "This sandbox demands the header '{}', and the given value is invalid",
                crate::proxy::TRAFFIC_TOKEN_HEADER
            ),
            Self::TooMany(_, limit) => {
                format!("The sandbox has too many requests under way (limit: {limit})")
            }
            Self::Changing(_) => "The sandbox is changing its state".to_owned(),
            Self::QuotaExceeded(_) => {
                "The sandbox is paused, and the team has as many sandboxes as it may".to_owned()
            }
            Self::NotResumed(_) => "The sandbox is paused and cannot be resumed now".to_owned(),
            Self::PortClosed(_) => "The sandbox is running but port is not open".to_owned(),
            Self::Broken(_) => "The sandbox closed the connection before it answered".to_owned(),
        }
    }

    const fn target(&self) -> Option<&Target> {
        match self {
            Self::NotFound(target)
            | Self::TokenMissing(target)
            | Self::TokenInvalid(target)
            | Self::TooMany(target, _)
            | Self::Changing(target)
            | Self::QuotaExceeded(target)
            | Self::NotResumed(target)
            | Self::PortClosed(target)
            | Self::Broken(target) => Some(target),
            Self::BadTarget(_) | Self::MethodNotAllowed | Self::InternalRoute { .. } => None,
        }
    }

    /// The answer in the form `request` asks for: plain text for malformed targets, a page for a
    /// browser that navigates, JSON otherwise.
    #[must_use]
    pub fn into_response(self, request: &Parts) -> Response<EdgeBody> {
        let message = self.message();
        let (content_type, content) = match self {
            Self::BadTarget(_) | Self::MethodNotAllowed => (
                "text/plain; charset=utf-8",
                Bytes::from(format!("{message}\n")),
            ),
            _ if wants_page(&request.headers) => {
                ("text/html; charset=utf-8", Bytes::from(self.page(&message)))
            }
            _ => ("application/json; charset=utf-8", self.json(&message)),
        };
        let mut response = Response::new(body::full(content));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        // Without it, a script in a page learns only that "the network failed".
        headers.insert(
            http::header::ACCESS_CONTROL_ALLOW_ORIGIN,
            HeaderValue::from_static("*"),
        );
        match self {
            Self::TooMany(..) | Self::Changing(_) => {
                headers.insert(RETRY_AFTER, RETRY_AFTER_S);
            }
            Self::QuotaExceeded(_) | Self::NotResumed(_) => {
                headers.insert(RETRY_AFTER, RESUME_RETRY_AFTER_S);
            }
            // A killed sandbox does not come back: retries would only delay the news.
            Self::NotFound(_) => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            _ => {}
        }
        response
    }

    fn json(&self, message: &str) -> Bytes {
        let target = self.target();
        let body = Body {
            sandbox_id: target.map(|target| target.sandbox.as_str()),
            message,
            path: match self {
                Self::InternalRoute { path } => Some(path),
                _ => None,
            },
            port: match self {
                Self::PortClosed(target) | Self::Broken(target) => Some(target.port),
                _ => None,
            },
            code: self.status().as_u16(),
            connection_limit: match self {
                Self::TooMany(_, limit) => Some(*limit),
                _ => None,
            },
        };
        serde_json::to_vec(&body).map_or_else(|_| Bytes::from_static(b"{}"), Bytes::from)
    }

    fn page(&self, message: &str) -> String {
        let status = self.status();
        let detail = match self.target() {
            Some(target) => format!("sandbox {}, port {}", target.sandbox, target.port),
            None => String::new(),
        };
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{status}</title>\
             <style>body{{font:1rem/1.5 system-ui;margin:20vh auto;max-width:34rem;\
             padding:0 1rem;color-scheme:light dark}}small{{opacity:.6}}</style></head>\
             <body><h1>{status}</h1><p>{message}.</p><p><small>{detail}</small></p></body></html>"
        )
    }
}

/// Whether the client is a browser that navigates. A script in a page sends the browser's
/// User-Agent too, so what it says about itself comes first.
fn wants_page(headers: &HeaderMap) -> bool {
    const BROWSERS: [&str; 7] = [
        "mozilla", "chrome", "safari", "firefox", "edge", "opera", "msie",
    ];
    let get = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_ascii_lowercase)
            .unwrap_or_default()
    };
    let accept = get(ACCEPT.as_str());
    if accept.contains("application/json") && !accept.contains("text/html") {
        return false;
    }
    match get("sec-fetch-mode").as_str() {
        "cors" | "no-cors" | "same-origin" | "websocket" => return false,
        "navigate" => {}
        _ if headers.contains_key("x-requested-with") => return false,
        _ => {}
    }
    let agent = get(USER_AGENT.as_str());
    BROWSERS.iter().any(|browser| agent.contains(browser))
}
