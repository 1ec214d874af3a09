//! Errors on their way out: what each kind of failure means for a client and for the operator.
//!
//! The tables below are the only place where a kind gets a status, an RPC code, a
//! retryability or a log level. None has a catch-all arm: a new kind does not compile until each
//! table says what it is.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::error::ErrorKind;
use axum::Json;
use axum::response::{IntoResponse, Response};
use connectrpc::ErrorCode;
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::limit::RETRY_AFTER_DEFAULT;

/// How a refusal begins that is about the form of a request.
const VALIDATION: &str = "validation error: ";

/// The HTTP status of a kind.
#[must_use]
pub const fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::QuotaExceeded | ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::NoCapacity | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The code of a kind in gRPC, gRPC-Web and Connect.
#[must_use]
pub const fn rpc_code(kind: ErrorKind) -> ErrorCode {
    match kind {
        ErrorKind::InvalidArgument => ErrorCode::InvalidArgument,
        ErrorKind::NotFound => ErrorCode::NotFound,
        ErrorKind::AlreadyExists => ErrorCode::AlreadyExists,
        ErrorKind::Conflict => ErrorCode::FailedPrecondition,
        ErrorKind::Unauthenticated => ErrorCode::Unauthenticated,
        ErrorKind::PermissionDenied => ErrorCode::PermissionDenied,
        ErrorKind::QuotaExceeded | ErrorKind::RateLimited | ErrorKind::NoCapacity => {
            ErrorCode::ResourceExhausted
        }
        ErrorKind::Unavailable => ErrorCode::Unavailable,
        ErrorKind::DeadlineExceeded => ErrorCode::DeadlineExceeded,
        ErrorKind::Unsupported => ErrorCode::Unimplemented,
        ErrorKind::Internal => ErrorCode::Internal,
    }
}

/// The word of a kind, in the audit.
#[must_use]
pub(crate) const fn kind_word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidArgument => "invalid_argument",
        ErrorKind::NotFound => "not_found",
        ErrorKind::AlreadyExists => "already_exists",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Unauthenticated => "unauthenticated",
        ErrorKind::PermissionDenied => "permission_denied",
        ErrorKind::QuotaExceeded => "quota_exceeded",
        ErrorKind::RateLimited => "rate_limited",
        ErrorKind::NoCapacity => "no_capacity",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::DeadlineExceeded => "deadline_exceeded",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Internal => "internal",
    }
}

/// Whether the same request can succeed later without anybody changing it.
#[must_use]
pub const fn is_retryable(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::QuotaExceeded
        | ErrorKind::RateLimited
        | ErrorKind::NoCapacity
        | ErrorKind::Unavailable
        | ErrorKind::DeadlineExceeded => true,
        ErrorKind::InvalidArgument
        | ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::Conflict
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::Unsupported
        | ErrorKind::Internal => false,
    }
}

/// How loudly a kind is logged: clients' mistakes are theirs, shortage and silence deserve a look,
/// defects need a person.
#[must_use]
pub const fn log_level(kind: ErrorKind) -> tracing::Level {
    match kind {
        ErrorKind::InvalidArgument
        | ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::Conflict
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::Unsupported => tracing::Level::DEBUG,
        ErrorKind::QuotaExceeded | ErrorKind::RateLimited => tracing::Level::INFO,
        ErrorKind::NoCapacity | ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => {
            tracing::Level::WARN
        }
        ErrorKind::Internal => tracing::Level::ERROR,
    }
}

/// The body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorBody {
    /// Equals the HTTP status: the JavaScript SDK reads it from here.
    code: u16,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
}

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The path of the field, as the `.proto` names it.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) problem: String,
}

/// An error answer in the making.
#[derive(Debug, Clone)]
pub struct ApiError {
    kind: ErrorKind,
    status: StatusCode,
    message: String,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
    /// What is wrong with which field, where that is known.
    violations: Vec<Violation>,
    /// The chain of causes, for the log only.
    cause: Option<String>,
}

impl ApiError {
    /// An error of a kind, with a text for the client.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: status(kind),
            message: message.into(),
            code: None,
            retry_after: None,
            violations: Vec::new(),
            cause: None,
        }
    }

    /// A request that does not fit its schema.
    #[must_use]
    pub fn validation(problem: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::InvalidArgument, format!("{VALIDATION}{problem}"))
    }

    /// Says which field the error is about, in the `.proto`'s words.
    #[must_use]
    pub(crate) fn at(mut self, field: impl Into<String>) -> Self {
        let problem = self.message.strip_prefix(VALIDATION);
        self.violations.push(Violation {
            field: field.into(),
            problem: problem.unwrap_or(&self.message).to_owned(),
        });
        self
    }

    /// Says in which part of the request the fields are.
    #[must_use]
    pub(crate) fn within(mut self, part: &str) -> Self {
        for violation in &mut self.violations {
            violation.field = format!("{part}.{}", violation.field);
        }
        self
    }

    /// Takes over what is wrong with other fields.
    #[must_use]
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.violations.extend(other.violations);
        self
    }

    pub(crate) const fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) const fn code(&self) -> Option<&'static str> {
        self.code
    }

    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// When to try again, if that makes sense at all.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        is_retryable(self.kind).then(|| self.retry_after.unwrap_or(RETRY_AFTER_DEFAULT))
    }

    /// A part of the E2B surface that this version does not serve.
    #[must_use]
    pub fn unsupported(what: &str) -> Self {
        Self::new(
            ErrorKind::Unsupported,
            format!("{what} is not supported by this version of Atoll"),
        )
    }

    /// Replaces the status: for refusals of HTTP itself, which have no kind of their own.
    #[must_use]
    pub(crate) const fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The HTTP status of the answer.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Writes the error to the log, once, with everything the client does not get.
    pub(crate) fn log(&self) {
        let (message, cause) = (self.message.as_str(), self.cause.as_deref());
        let status = self.status.as_u16();
        match log_level(self.kind) {
            tracing::Level::ERROR => tracing::error!(status, message, cause, "request failed"),
            tracing::Level::WARN => tracing::warn!(status, message, cause, "request failed"),
            tracing::Level::INFO => tracing::info!(status, message, cause, "request refused"),
            _ => tracing::debug!(status, message, cause, "request refused"),
        }
    }

    /// The answer; a defect of ours names the trace, so that it can be found in the log.
    pub(crate) fn answer(&self, trace: Option<&str>) -> Response {
        let message = match (self.kind, trace) {
            (ErrorKind::Internal, Some(trace)) => format!("{} (trace {trace})", self.message),
            _ => self.message.clone(),
        };
        let body = ErrorBody {
            code: self.status.as_u16(),
            message,
            error_code: self.code,
        };
        let mut response = (self.status, Json(body)).into_response();
        if matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            let after = self.retry_after.unwrap_or(RETRY_AFTER_DEFAULT);
            // Whole seconds, rounded up: the SDKs read an integer, and 0 would mean "at once".
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

impl From<atoll_control::Error> for ApiError {
    fn from(error: atoll_control::Error) -> Self {
        let cause = error.source().map(chain);
        let field = error.field;
        let error = Self {
            kind: error.kind,
            status: status(error.kind),
            message: error.message,
            code: error.code,
            retry_after: error.retry_after,
            violations: Vec::new(),
            cause,
        };
        match field {
            Some(field) => error.at(field),
            None => error,
        }
    }
}

impl IntoResponse for ApiError {
    /// Answers, and leaves itself for the guard, which logs it and adds the trace.
    fn into_response(self) -> Response {
        let mut response = self.answer(None);
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// An error with all its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ErrorKind; 13] = [
        ErrorKind::InvalidArgument,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::Conflict,
        ErrorKind::Unauthenticated,
        ErrorKind::PermissionDenied,
        ErrorKind::QuotaExceeded,
        ErrorKind::RateLimited,
        ErrorKind::NoCapacity,
        ErrorKind::Unavailable,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Unsupported,
        ErrorKind::Internal,
    ];

    #[test]
    fn tables_agree_with_each_other() {
        for kind in ALL {
            let status = status(kind);
            assert!(
                status.is_client_error() || status.is_server_error(),
                "{kind:?}"
            );
            // What is retryable has a status that the SDKs retry.
            let retried = matches!(status.as_u16(), 429 | 502 | 503 | 504);
            assert_eq!(is_retryable(kind), retried, "{kind:?}");
            // Only defects need a person.
            let is_error = log_level(kind) == tracing::Level::ERROR;
            assert_eq!(is_error, kind == ErrorKind::Internal, "{kind:?}");
        }
    }

    #[test]
    fn retry_after_is_a_whole_number_of_seconds() {
        let error = atoll_control::Error::new(ErrorKind::NoCapacity, "full")
            .with_retry_after(Duration::from_millis(1200));
        let response = ApiError::from(error).into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        let response = ApiError::new(ErrorKind::RateLimited, "slow down").into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        let response = ApiError::new(ErrorKind::NotFound, "gone").into_response();
        assert!(!response.headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn causes_stay_in_the_log() {
        let error = atoll_control::Error::new(ErrorKind::Internal, "internal error")
            .with_source("open `/var/lib/secret`");
        let error = ApiError::from(error);
        assert_eq!(error.cause.as_deref(), Some("open `/var/lib/secret`"));
        assert_eq!(error.message, "internal error");
    }
}
