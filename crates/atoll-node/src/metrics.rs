//! What a node counts. The names are an interface; docs/metrics.md lists them.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

/// How long sandboxes took to serve.
const START_SECONDS: &str = "atoll_node_start_seconds";
/// How long each step of that took.
const STEP_SECONDS: &str = "atoll_node_start_step_seconds";
/// Sandboxes that could not be made.
const FAILURES: &str = "atoll_node_start_failures_total";
/// Attempts to free what a sandbox held that did not succeed.
const RELEASE_FAILURES: &str = "atoll_node_release_failures_total";

/// Every name, with what it says.
pub const ALL: [(&str, &str); 4] = [
    (
        START_SECONDS,
        "Seconds from a node's order to a guest agent that answers",
    ),
    (STEP_SECONDS, "Seconds of each step of a start, by step"),
    (FAILURES, "Sandboxes that a node could not make"),
    (
        RELEASE_FAILURES,
        "Attempts to free what a sandbox held that failed and are repeated",
    ),
];

/// Tells the recorder what the names mean.
pub fn describe() {
    let [(_, start), (_, step), (_, failures), (_, releases)] = ALL;
    describe_histogram!(START_SECONDS, Unit::Seconds, start);
    describe_histogram!(STEP_SECONDS, Unit::Seconds, step);
    describe_counter!(FAILURES, failures);
    describe_counter!(RELEASE_FAILURES, releases);
}

pub(crate) fn started(took: Duration, steps: &[(String, Duration)]) {
    histogram!(START_SECONDS).record(took);
    for (step, took) in steps {
        histogram!(STEP_SECONDS, "step" => step.clone()).record(*took);
    }
}

pub(crate) fn not_made() {
    counter!(FAILURES).increment(1);
}

pub(crate) fn release_failed() {
    counter!(RELEASE_FAILURES).increment(1);
}
