//! What the store counts. The names are an interface; docs/metrics.md lists them.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

/// How long commits took.
const COMMIT_SECONDS: &str = "atoll_store_commit_seconds";
/// How many writes shared each.
const COMMIT_WRITES: &str = "atoll_store_commit_writes";
/// Commits that failed.
const COMMIT_FAILURES: &str = "atoll_store_commit_failures_total";
/// How long reads took, by what they read.
const READ_SECONDS: &str = "atoll_store_read_seconds";
/// Reads that failed, by what they read.
const READ_FAILURES: &str = "atoll_store_read_failures_total";

/// How long questions to the cache took, by operation and outcome.
const CACHE_SECONDS: &str = "atoll_store_cache_seconds";

/// Every name, with what it says.
pub const ALL: [(&str, &str); 6] = [
    (COMMIT_SECONDS, "Seconds of a commit, its sync included"),
    (COMMIT_WRITES, "Writes that shared a commit"),
    (COMMIT_FAILURES, "Commits that failed"),
    (READ_SECONDS, "Seconds of a read, by operation"),
    (READ_FAILURES, "Reads that failed, by operation"),
    (
        CACHE_SECONDS,
        "Seconds of a question to the shared cache, by operation and outcome (`ok`, `error`, \
         `timeout`, `skipped`)",
    ),
];

/// Tells the recorder what the names mean.
pub fn describe() {
    let [
        (_, seconds),
        (_, writes),
        (_, failures),
        (_, read),
        (_, unread),
        (_, cache),
    ] = ALL;
    describe_histogram!(COMMIT_SECONDS, Unit::Seconds, seconds);
    describe_histogram!(COMMIT_WRITES, Unit::Count, writes);
    describe_counter!(COMMIT_FAILURES, failures);
    describe_histogram!(READ_SECONDS, Unit::Seconds, read);
    describe_counter!(READ_FAILURES, unread);
    describe_histogram!(CACHE_SECONDS, Unit::Seconds, cache);
}

pub(crate) fn committed(writes: usize, took: Duration, is_ok: bool) {
    if is_ok {
        histogram!(COMMIT_SECONDS).record(took);
        histogram!(COMMIT_WRITES).record(u32::try_from(writes).unwrap_or(u32::MAX));
    } else {
        counter!(COMMIT_FAILURES).increment(1);
    }
}

pub(crate) fn read(operation: &'static str, took: Duration, is_ok: bool) {
    if is_ok {
        histogram!(READ_SECONDS, "operation" => operation).record(took);
    } else {
        counter!(READ_FAILURES, "operation" => operation).increment(1);
    }
}

pub(crate) fn cache_asked(operation: &'static str, outcome: &'static str, took: Duration) {
    histogram!(CACHE_SECONDS, "operation" => operation, "outcome" => outcome).record(took);
}
