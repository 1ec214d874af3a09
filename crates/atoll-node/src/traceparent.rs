//! Which trace an order to a guest agent belongs to.
//!
//! How spans are kept is the composition's business; it gives a function that names the current
//! one.

use std::sync::OnceLock;

/// Names the current span as a W3C `traceparent`; none if nothing is traced.
pub type Source = fn() -> Option<String>;

static SOURCE: OnceLock<Source> = OnceLock::new();

/// Sets where it comes from. Only the first call counts.
pub fn set_source(source: Source) {
    // A second composition in one process has the same source.
    let _ = SOURCE.set(source);
}

/// The current span's.
pub(crate) fn current() -> Option<String> {
    SOURCE.get().and_then(|source| source())
}
