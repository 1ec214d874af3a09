//! What stands around every request: its trace id, its place, its time, its line in the log.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::error::ErrorKind;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::error::ApiError;
use crate::metrics;

/// Names the trace that a client's request is part of.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Names the request in the log of the server. The SDKs log it.
const TRACE_ID: HeaderName = HeaderName::from_static("x-e2b-trace-id");

/// The places for requests, and how long each may be kept.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) timeout: Duration,
}

impl Places {
    pub(crate) fn new(slots: usize, timeout: Duration) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            timeout,
        }
    }
}

/// The route that requests to paths nobody serves are counted under.
const NO_ROUTE: &str = "none";

/// Length of a trace id in hexadecimal digits.
const TRACE_ID_LEN: usize = 32;

/// The trace id of a W3C `traceparent` (`version-traceid-spanid-flags`); an invalid one counts as
/// none, as its specification demands.
fn trace_of(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    let id = value.split('-').nth(1)?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_id = id.len() == TRACE_ID_LEN && id.bytes().all(is_hex);
    let is_zero = id.bytes().all(|byte| byte == b'0');
    (is_id && !is_zero).then(|| id.to_owned())
}

/// A request's trace id, in its extensions.
#[derive(Debug, Clone)]
pub(crate) struct TraceId(pub(crate) String);

/// Gives the request an id and a span, and writes what became of it to the log.
pub(crate) async fn trace(mut request: Request, next: Next) -> Response {
    let trace =
        trace_of(request.headers()).unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    request.extensions_mut().insert(TraceId(trace.clone()));
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let span = tracing::info_span!(
        "request",
        trace,
        method = %request.method(),
        path = request.uri().path(),
    );
    async move {
        let began = Instant::now();
        let mut response = next.run(request).await;
        if let Some(error) = response.extensions_mut().remove::<Arc<ApiError>>() {
            error.log();
            if error.status().is_server_error() {
                let headers = std::mem::take(response.headers_mut());
                response = error.answer(Some(&trace));
                // Keeps what other layers said; the body's own headers are those just made.
                for (name, value) in &headers {
                    if !response.headers().contains_key(name) {
                        response.headers_mut().insert(name.clone(), value.clone());
                    }
                }
            }
        }
        if let Ok(value) = HeaderValue::from_str(&trace) {
            response.headers_mut().insert(TRACE_ID, value);
        }
        let (status, elapsed) = (response.status().as_u16(), began.elapsed());
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(status, elapsed_ms, "answered");
        let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
        metrics::answered(method.as_str(), route, status, elapsed);
        response
    }
    .instrument(span)
    .await
}

/// Bounds how many requests run and how long each may.
pub(crate) async fn bound(State(places): State<Places>, request: Request, next: Next) -> Response {
    let Ok(_place) = places.slots.try_acquire() else {
        let message = "the server has too many requests under way";
        return ApiError::new(ErrorKind::Unavailable, message).into_response();
    };
    match tokio::time::timeout(places.timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let message = format!("no outcome within {} s", places.timeout.as_secs());
            ApiError::new(ErrorKind::DeadlineExceeded, message).into_response()
        }
    }
}

/// Answers for a handler that panicked. The guard logs it as the defect it is.
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    defect(panic).into_response()
}

/// The error for a handler that panicked.
pub(crate) fn defect(panic: Box<dyn Any + Send>) -> ApiError {
    let text = match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => other
            .downcast_ref::<&'static str>()
            .map_or_else(String::new, |text| (*text).to_owned()),
    };
    let error = atoll_control::Error::new(ErrorKind::Internal, "internal error")
        .with_source(format!("handler panicked: {text}"));
    ApiError::from(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_trace_ids_are_taken() {
        let of = |value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            trace_of(&HeaderMap::from_iter([(TRACEPARENT, value)]))
        };
        let id = "0af7651916cd43dd8448eb211c80319c";
        let valid = format!("00-{id}-b7ad6b7169203331-01");
        assert_eq!(of(&valid).as_deref(), Some(id));
        for wrong in [
            "",
            "00",
            "00-xyz-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
