//! What the edge counts. The names are an interface; docs/metrics.md lists them.

use metrics::{counter, describe_counter};

/// Requests to sandboxes.
const REQUESTS: &str = "atoll_edge_requests_total";

/// Every name, with what it says.
pub const ALL: [(&str, &str); 1] = [(
    REQUESTS,
    "Requests to ports of sandboxes, by the HTTP status of the answer",
)];

/// Tells the recorder what the names mean.
pub fn describe() {
    let [(_, requests)] = ALL;
    describe_counter!(REQUESTS, requests);
}

/// Counts one answer.
pub(crate) fn answered(status: u16) {
    counter!(REQUESTS, "status" => status.to_string()).increment(1);
}
