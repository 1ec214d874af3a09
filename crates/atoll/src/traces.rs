//! W3C trace context at the borders of this process (W3C Recommendation "Trace Context").
//!
//! A request's `traceparent` becomes the parent of what is done for it; what goes on to a node or
//! to a guest agent carries the span that sent it. Without a collector nothing is exported, and
//! the request's own trace id still names it in the logs.

use std::collections::HashMap;

use atoll_node::traceparent::Bridge;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The headers that carry a span from process to process, and what vendors add to it.
const CONTEXT: [&str; 2] = ["traceparent", "tracestate"];

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (key.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            self.0.insert(name, value);
        }
    }
}

/// Does a request within a span whose parent is the client's, and lets it go on with that span's
/// own context.
pub(crate) async fn adopt(mut request: Request, next: Next) -> Response {
    let propagator = TraceContextPropagator::new();
    let parent = propagator.extract(&Headers(request.headers()));
    let span = tracing::info_span!(
        "http",
        otel.kind = "server",
        otel.name = format!("{} {}", request.method(), request.uri().path()),
    );
    // Fails where nothing is exported: then there is nothing to belong to.
    if span.set_parent(parent).is_ok() {
        propagator.inject_context(&span.context(), &mut HeadersMut(request.headers_mut()));
    }
    next.run(request).instrument(span).await
}

/// Lets a node of this process continue the traces of its orders, and hand them to guest agents.
pub(crate) fn join() {
    atoll_node::traceparent::set(Bridge {
        current,
        adopt: belong,
    });
}

/// Makes what the headers name the parent of a span.
fn belong(span: &tracing::Span, headers: &HeaderMap) {
    let parent = TraceContextPropagator::new().extract(&Headers(headers));
    // Fails where nothing is exported: then there is nothing to belong to.
    let _ = span.set_parent(parent);
}

/// The current span, for whoever is asked next to continue it.
pub(crate) fn current() -> Vec<(&'static str, String)> {
    let mut carrier: HashMap<String, String> = HashMap::new();
    TraceContextPropagator::new().inject_context(&tracing::Span::current().context(), &mut carrier);
    let named = CONTEXT
        .into_iter()
        .filter_map(|name| carrier.remove(name).map(|value| (name, value)));
    // An empty state says nothing.
    named.filter(|(_, value)| !value.is_empty()).collect()
}
