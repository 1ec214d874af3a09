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

/// How long snapshots took to be stored and read back.
const STORE_SECONDS: &str = "atoll_node_snapshot_store_seconds";
/// How long the files of a snapshot took to come back.
const FETCH_SECONDS: &str = "atoll_node_snapshot_fetch_seconds";
/// Bytes of the snapshots that were stored.
const STORED_BYTES: &str = "atoll_node_snapshot_stored_bytes_total";
/// Attempts to store a snapshot that failed.
const STORE_FAILURES: &str = "atoll_node_snapshot_store_failures_total";

/// Every name, with what it says.
pub const ALL: [(&str, &str); 8] = [
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
    (
        STORE_SECONDS,
        "Seconds until a snapshot was stored and read back",
    ),
    (
        FETCH_SECONDS,
        "Seconds until a sandbox's files were there from shared storage",
    ),
    (STORED_BYTES, "Bytes of the snapshots that were stored"),
    (
        STORE_FAILURES,
        "Attempts to store a snapshot that failed and are repeated",
    ),
];

/// Tells the recorder what the names mean.
pub fn describe() {
    let [
        (_, start),
        (_, step),
        (_, failures),
        (_, releases),
        (_, store),
        (_, fetch),
        (_, stored),
        (_, unstored),
    ] = ALL;
    describe_histogram!(START_SECONDS, Unit::Seconds, start);
    describe_histogram!(STEP_SECONDS, Unit::Seconds, step);
    describe_counter!(FAILURES, failures);
    describe_counter!(RELEASE_FAILURES, releases);
    describe_histogram!(STORE_SECONDS, Unit::Seconds, store);
    describe_histogram!(FETCH_SECONDS, Unit::Seconds, fetch);
    describe_counter!(STORED_BYTES, Unit::Bytes, stored);
    describe_counter!(STORE_FAILURES, unstored);
}

pub(crate) fn started(took: Duration, steps: &[(String, Duration)]) {
    histogram!(START_SECONDS).record(took);
    for (step, took) in steps {
        histogram!(STEP_SECONDS, "step" => step.clone()).record(*took);
    }
}

/// An attempt to store a snapshot of so many bytes, or of which nothing came.
pub(crate) fn stored(bytes: Option<u64>, took: Duration) {
    match bytes {
        Some(bytes) => {
            histogram!(STORE_SECONDS).record(took);
            counter!(STORED_BYTES).increment(bytes);
        }
        None => counter!(STORE_FAILURES).increment(1),
    }
}

pub(crate) fn fetched(took: Duration) {
    histogram!(FETCH_SECONDS).record(took);
}

pub(crate) fn not_made() {
    counter!(FAILURES).increment(1);
}

pub(crate) fn release_failed() {
    counter!(RELEASE_FAILURES).increment(1);
}
