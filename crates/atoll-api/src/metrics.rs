//! What the API counts. The names are an interface; docs/metrics.md lists them.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

/// Requests that were answered.
const REQUESTS: &str = "atoll_http_requests_total";
/// How long their answers took.
const SECONDS: &str = "atoll_http_request_seconds";

/// Every name, with what it says.
pub const ALL: [(&str, &str); 2] = [
    (
        REQUESTS,
        "Answered requests, by method, route and HTTP status",
    ),
    (SECONDS, "Seconds until the answer, by method and route"),
];

/// Tells the recorder what the names mean.
pub fn describe() {
    let [(_, requests), (_, seconds)] = ALL;
    describe_counter!(REQUESTS, requests);
    describe_histogram!(SECONDS, Unit::Seconds, seconds);
}

/// Counts one answer. `route` is the path as the specification writes it, never a client's text.
pub(crate) fn answered(method: &str, route: &str, status: u16, took: Duration) {
    let (method, route) = (method.to_owned(), route.to_owned());
    let status = status.to_string();
    counter!(REQUESTS, "method" => method.clone(), "route" => route.clone(), "status" => status)
        .increment(1);
    histogram!(SECONDS, "method" => method, "route" => route).record(took);
}
