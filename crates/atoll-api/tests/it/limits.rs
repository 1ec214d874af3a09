//! `docs/limits.md` and the code say the same.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_api::limit as api;
use atoll_control::limit as control;
use atoll_core::quota::Rate;

const DOCUMENT: &str = include_str!("../../../../docs/limits.md");
const SOURCES: [&str; 2] = [
    include_str!("../../src/limit.rs"),
    include_str!("../../../atoll-control/src/limit.rs"),
];

/// How a value stands in the document.
trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown {
    ($($kind:ty),+) => { $(impl Shown for $kind {
        fn shown(&self) -> String { self.to_string() }
    })+ };
}
shown!(usize, u32, u64, i64);

impl Shown for Duration {
    fn shown(&self) -> String {
        self.as_secs().to_string()
    }
}

impl Shown for Rate {
    fn shown(&self) -> String {
        format!("{} a second, {} at once", self.per_second, self.burst)
    }
}

macro_rules! values {
    ($($module:ident: $($name:ident),+;)+) => {
        BTreeMap::from([$($((stringify!($name), $module::$name.shown())),+),+])
    };
}

fn values() -> BTreeMap<&'static str, String> {
    let mut values = values! {
        control: TEAMS_MAX, TEAM_NAME_MAX, KEYS_PER_TEAM_MAX, KEY_NAME_MAX, KNOWN_KEYS_MAX,
            GATES_MAX, CREATES_IN_FLIGHT_MAX, TEAM_CREATES_IN_FLIGHT_MAX, TEAM_REFUSALS, LOOKUPS,
            STRANGER_REFUSALS, AUDIT_LIMIT_MAX, AUDIT_TEXT_MAX, AUDIT_ROWS_MAX, WATCHERS_MAX,
            TEAM_WATCHERS_MAX, WEBHOOKS_PER_TEAM_MAX, WEBHOOK_NAME_MAX, WEBHOOK_URL_MAX,
            WEBHOOK_SECRET_MIN, WEBHOOK_SECRET_MAX, WEBHOOK_SENDS_MAX,
            EXHAUSTED_INTERVAL, EXHAUSTED_TOLD_MAX, BACKLOG_MAX, DISCOVERY_WAITING_MAX,
            DISCOVERY_INTERVAL, DISCOVERY_REPAIRS_TOLD_MAX;
        api: MAX_REQUESTS, MAX_BODY_BYTES, MAX_BODIES_BYTES, BODY_TIMEOUT, REQUEST_TIMEOUT,
            RPC_TIMEOUT_MAX, RPC_STREAM_TIMEOUT_MAX, MAX_RPC_STREAMS, MAX_RPC_MESSAGE_BYTES,
            MAX_BATCH, MAX_BATCH_REQUEST_ID_LEN, MAX_NODE_TEXT_LEN, MAX_NODE_TAGS,
            WATCH_IDLE_INTERVAL,
            NODE_RPC_TIMEOUT_MAX, MAX_NODE_RPCS, MAX_NODE_MESSAGE_BYTES, MAX_WATCH_TYPES,
            HEALTH_WATCH_INTERVAL, RETRY_AFTER_DEFAULT, MAX_CREDENTIAL_LEN, MAX_METADATA_ENTRIES,
            MAX_METADATA_KEY_LEN, MAX_METADATA_BYTES, MAX_ENV_ENTRIES, MAX_ENV_ENTRY_LEN,
            MAX_ENV_BYTES, MAX_NETWORK_ENTRIES, MAX_DOMAIN_LEN, MAX_WIRE_SECONDS,
            MAX_REFRESH_SECONDS, MIN_REFRESH_SECONDS, DEFAULT_TIMEOUT_V1_SECONDS,
            DEFAULT_TIMEOUT_V2_SECONDS, MAX_UNPAGED_PAGES, MAX_METRICS_IDS, MAX_LOG_SEARCH_LEN,
            MAX_IDEMPOTENCY_KEY_LEN, MAX_TEMPLATE_REFERENCE_LEN, MAX_RUNNING_IMPORTS,
            MAX_FINISHED_IMPORTS, EVENT_STREAM_TIMEOUT_MAX, EVENT_KEEP_ALIVE, EVENT_OFFSET_MAX,
            EVENT_RECENT_MAX, WEBHOOK_TIMEOUT, WEBHOOK_CONNECT_TIMEOUT, WEBHOOK_BODY_MAX;
    };
    let team = control::TEAM_LIMITS;
    values.extend([
        ("concurrent_sandboxes", team.concurrent_sandboxes.shown()),
        ("cpu_millis", team.cpu_millis.shown()),
        ("memory_mib", team.memory_mib.shown()),
        ("disk_mib", team.disk_mib.shown()),
        ("creates", team.creates.shown()),
        ("requests", team.requests.shown()),
    ]);
    values
}

#[test]
fn every_limit_is_in_the_document() {
    let written: BTreeMap<&str, &str> = DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, rest)| (name, rest.split(" | ").next().unwrap()))
        .collect();
    let values = values();
    for (name, value) in &values {
        assert_eq!(written.get(name), Some(&value.as_str()), "{name}");
    }
    assert_eq!(
        written.len(),
        values.len(),
        "the document names what is no limit"
    );
    for source in SOURCES {
        let names = source.lines().filter_map(|line| {
            let (name, _) = line.strip_prefix("pub const ")?.split_once(':')?;
            Some(name)
        });
        for name in names.filter(|name| *name != "TEAM_LIMITS") {
            assert!(values.contains_key(name), "{name} is not documented");
        }
    }
}
