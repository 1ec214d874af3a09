//! What stands around every request: its trace id, its place, its time, its line in the log.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::error::ErrorKind;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::error::ApiError;

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

/// Gives the request an id and a span, and writes what became of it to the log.
pub(crate) async fn trace(request: Request, next: Next) -> Response {
    let trace = uuid::Uuid::new_v4().simple().to_string();
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
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(status = response.status().as_u16(), elapsed_ms, "answered");
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
