//! Which trace an order belongs to, on its way in and on its way on to a guest agent.
//!
//! How spans are kept is the composition's business; it gives the functions that name the current
//! one and that give one its parent.

use std::sync::OnceLock;

use http::HeaderMap;
use tracing::Span;

/// The header that carries a span from process to process (W3C Trace Context).
pub(crate) const HEADER: &str = "traceparent";

/// What knows how spans are kept.
#[derive(Debug, Clone, Copy)]
pub struct Bridge {
    /// Names the current span as a W3C `traceparent`; none if nothing is traced.
    pub current: fn() -> Option<String>,
    /// Makes what a `traceparent` names the parent of a span.
    pub adopt: fn(&Span, &str),
}

static BRIDGE: OnceLock<Bridge> = OnceLock::new();

/// Sets who knows. Only the first call counts.
pub fn set(bridge: Bridge) {
    // A second composition in one process has the same bridge.
    let _ = BRIDGE.set(bridge);
}

/// The current span's.
pub(crate) fn current() -> Option<String> {
    BRIDGE.get().and_then(|bridge| (bridge.current)())
}

/// The span of an order that came with these headers; none for one that belongs to no trace.
pub(crate) fn of_order(headers: &HeaderMap, path: &str) -> Span {
    let parent = headers.get(HEADER).and_then(|value| value.to_str().ok());
    let Some((parent, trace)) = parent.and_then(|text| Some((text, text.split('-').nth(1)?)))
    else {
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
        (bridge.adopt)(&span, parent);
    }
    span
}
