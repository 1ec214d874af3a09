//! Errors on their way out of an RPC: code, text, and the details that gRPC libraries know.

use std::time::Duration;

use atoll_control::code::{IDEMPOTENCY_IN_PROGRESS, IDEMPOTENCY_MISMATCH};
use atoll_core::error::ErrorKind;
use atoll_proto::google_rpc::bad_request::FieldViolation;
use atoll_proto::google_rpc::quota_failure::Violation;
use atoll_proto::google_rpc::{BadRequest, ErrorInfo, QuotaFailure, RetryInfo, Status};
use axum::body::Body;
use axum::response::Response;
use buffa::Message;
use buffa_types::google::protobuf::Any;
use connectrpc::{ConnectError, ErrorCode, ErrorDetail, ServiceResult};
use http::HeaderMap;

use crate::error::{ApiError, rpc_code};

/// Who gives the reasons in `ErrorInfo` their meaning.
const DOMAIN: &str = "atoll";

/// What stands before a message's name in an `Any`.
const TYPE_PREFIX: &str = "type.googleapis.com/";

/// What an RPC answers: its message, or the error with everything the client may know, logged with
/// everything it may not.
pub(super) fn answer<T>(result: Result<T, ApiError>) -> ServiceResult<T> {
    match result {
        Ok(message) => connectrpc::Response::ok(message),
        Err(error) => Err(log(&error)),
    }
}

/// The error that ends a stream, logged.
pub(super) fn log(error: &ApiError) -> ConnectError {
    error.log();
    connect_error(error)
}

/// The answer to a request that did not get as far as its service.
pub(super) fn refuse(error: &ApiError, headers: &HeaderMap) -> Response {
    log(error).into_http_response(headers).map(Body::new)
}

/// The error for one of several results.
pub(super) fn status(error: &ApiError) -> Status {
    Status {
        code: i32::try_from(code(error).grpc_code()).unwrap_or_default(),
        message: error.message().to_owned(),
        details: details(error).iter().map(Detail::to_any).collect(),
        ..Status::default()
    }
}

fn connect_error(error: &ApiError) -> ConnectError {
    let start = ConnectError::new(code(error), error.message());
    details(error)
        .into_iter()
        .fold(start, |error, detail| error.with_detail(detail.detail))
}

/// The code: the kind's, except where gRPC tells apart what HTTP does not.
fn code(error: &ApiError) -> ErrorCode {
    match error.code() {
        Some(IDEMPOTENCY_MISMATCH) => ErrorCode::AlreadyExists,
        Some(IDEMPOTENCY_IN_PROGRESS) => ErrorCode::Aborted,
        Some(_) | None => rpc_code(error.kind()),
    }
}

/// A detail, in both forms it is needed in.
struct Detail {
    bytes: Vec<u8>,
    detail: ErrorDetail,
}

impl Detail {
    fn new(name: &'static str, message: &impl Message) -> Self {
        Self {
            bytes: message.encode_to_vec(),
            detail: ErrorDetail::from_message(name, message),
        }
    }

    fn to_any(&self) -> Any {
        Any {
            type_url: format!("{TYPE_PREFIX}{}", self.detail.type_url),
            value: self.bytes.clone().into(),
            ..Any::default()
        }
    }
}

fn details(error: &ApiError) -> Vec<Detail> {
    let mut details = Vec::new();
    if !error.violations().is_empty() {
        let violations = error.violations().iter().map(|violation| FieldViolation {
            field: violation.field.clone(),
            description: violation.problem.clone(),
            ..FieldViolation::default()
        });
        let message = BadRequest {
            field_violations: violations.collect(),
            ..BadRequest::default()
        };
        details.push(Detail::new("google.rpc.BadRequest", &message));
    }
    if let Some(subject) = short_of(error.kind()) {
        let message = QuotaFailure {
            violations: vec![Violation {
                subject: subject.to_owned(),
                description: error.message().to_owned(),
                ..Violation::default()
            }],
            ..QuotaFailure::default()
        };
        details.push(Detail::new("google.rpc.QuotaFailure", &message));
    }
    if let Some(code) = error.code() {
        let message = ErrorInfo {
            reason: code.to_ascii_uppercase(),
            domain: DOMAIN.to_owned(),
            ..ErrorInfo::default()
        };
        details.push(Detail::new("google.rpc.ErrorInfo", &message));
    }
    if let Some(after) = retry_delay(error) {
        let message = RetryInfo {
            retry_delay: buffa_types::google::protobuf::Duration::from(after).into(),
            ..RetryInfo::default()
        };
        details.push(Detail::new("google.rpc.RetryInfo", &message));
    }
    details
}

/// Whose resources were short, where that is the cause.
const fn short_of(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::QuotaExceeded | ErrorKind::RateLimited => Some("team"),
        ErrorKind::NoCapacity => Some("fleet"),
        ErrorKind::InvalidArgument
        | ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::Conflict
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::Unavailable
        | ErrorKind::DeadlineExceeded
        | ErrorKind::Unsupported
        | ErrorKind::Internal => None,
    }
}

/// When to try again. Not where the outcome is unknown: whether a repetition is safe is for the
/// caller to know.
fn retry_delay(error: &ApiError) -> Option<Duration> {
    match error.kind() {
        ErrorKind::DeadlineExceeded => None,
        _ => error.retry_after(),
    }
}
