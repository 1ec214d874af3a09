//! Which trace an order belongs to, on its way in and on its way on to a guest agent.
//!
//! How spans are kept is the composition's business; it gives the functions that name the current
//! one and that give one its parent.

use std::sync::OnceLock;

use http::HeaderMap;
use tracing::Span;

/// The header that names a span (W3C Trace Context).
const HEADER: &str = "traceparent";

/// What knows how spans are kept.
#[derive(Debug, Clone, Copy)]
pub struct Bridge {
    /// Names the current span as headers of W3C Trace Context; none if nothing is traced.
    pub current: fn() -> Vec<(&'static str, String)>,
    /// Makes what such headers name the parent of a span.
    pub adopt: fn(&Span, &HeaderMap),
}

static BRIDGE: OnceLock<Bridge> = OnceLock::new();

/// Sets who knows. Only the first call counts.
pub fn set(bridge: Bridge) {
    // A second composition in one process has the same bridge.
    let _ = BRIDGE.set(bridge);
}

/// The current span's.
pub(crate) fn current() -> Vec<(&'static str, String)> {
    BRIDGE
        .get()
        .map_or_else(Vec::new, |bridge| (bridge.current)())
}

/// The span of an order that came with these headers; none for one that belongs to no trace.
pub(crate) fn of_order(headers: &HeaderMap, path: &str) -> Span {
    let parent = headers.get(HEADER).and_then(|value| value.to_str().ok());
    let Some(trace) = parent.and_then(|text| text.split('-').nth(1)) else {
        return Span::none();
    };
    let order = path.rsplit('/').next().unwrap_or(path);
    let span = tracing::info_span!(
        "order",
        otel.kind = "server",
        otel.name = format!("order {order}"),
        trace,
    );
    if let Some(bridge) = BRIDGE.get() {
        (bridge.adopt)(&span, headers);
    }
    span
}
