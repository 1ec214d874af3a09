//! Limits on teams and on what they ask for, with their reasons. `docs/limits.md` lists them.

use std::num::NonZeroU32;
use std::time::Duration;

use atoll_core::quota::{Limits, Rate};

/// Repairs and events of nodes that may wait for a store that takes nothing: a bad hour of a large
/// fleet.
pub const BACKLOG_MAX: usize = 10_000;

/// Teams of one installation: operators' listings carry all of them.
pub const TEAMS_MAX: usize = 10_000;

/// Characters of a team's name.
pub const TEAM_NAME_MAX: usize = 64;

/// Sandboxes whose registration in the directory may wait. Those that find no place are found by
/// the next pass over everything.
pub const DISCOVERY_WAITING_MAX: usize = 10_000;

/// How often the whole directory is compared with what is intended.
pub const DISCOVERY_INTERVAL: Duration = Duration::from_secs(30);

/// Repairs of the directory that are recorded of one pass: a directory that lost everything is one
/// event, and not as many as there are sandboxes. All of them are counted.
pub const DISCOVERY_REPAIRS_TOLD_MAX: usize = 100;

/// Keys of one team.
pub const KEYS_PER_TEAM_MAX: usize = 100;

/// Characters of a key's name.
pub const KEY_NAME_MAX: usize = 128;

/// Keys whose owner is kept in memory. When there are more, all are looked up again.
pub const KNOWN_KEYS_MAX: usize = 10_000;

/// Teams whose rates are kept in memory. When more ask, each is made anew, with its burst.
pub const GATES_MAX: usize = 10_000;

/// Creates under way at once: each holds a task, a row and a place on a node. More than this wait
/// for nodes and not for us, and would only be given up later.
pub const CREATES_IN_FLIGHT_MAX: usize = 1_024;

/// Creates of one team under way at once: half of all, so that no team alone shuts the others out.
pub const TEAM_CREATES_IN_FLIGHT_MAX: usize = 512;

const fn rate(per_second: u32, burst: u32) -> Rate {
    Rate {
        per_second: NonZeroU32::new(per_second).expect("a rate gives something back"),
        burst: NonZeroU32::new(burst).expect("a rate lets something through"),
    }
}

/// What a team may have and ask for unless somebody said otherwise: enough for one machine's worth
/// of work, little enough that a loop gone wild in one team leaves the others alive.
pub const TEAM_LIMITS: Limits = Limits {
    concurrent_sandboxes: 1_000,
    // What so many sandboxes of 8 cores, 8 GiB and 20 GiB take.
    cpu_millis: 8_000_000,
    memory_mib: 8_192_000,
    disk_mib: 20_480_000,
    creates: rate(5_000, 10_000),
    requests: rate(20_000, 40_000),
};

/// Looks in the store, at each server, for what another server may have made a moment ago: what
/// strangers who guess ids can cost.
pub const LOOKUPS: Rate = rate(200, 1_000);

/// How many refused requests of one team are recorded.
pub const TEAM_REFUSALS: Rate = rate(5, 100);

/// How many refused requests of callers without a team are recorded, of all together.
pub const STRANGER_REFUSALS: Rate = rate(10, 200);

/// Rows on a page of the audit.
pub const AUDIT_LIMIT_MAX: u32 = 1_000;

/// Characters of a client's text in a row of the audit.
pub const AUDIT_TEXT_MAX: usize = 128;

/// Rows of the audit: some hundred MiB. The oldest go first.
pub const AUDIT_ROWS_MAX: u64 = 2_000_000;

/// Watchers of events of one team at once: what a dashboard, some workers and a few people need.
pub const TEAM_WATCHERS_MAX: u32 = 100;

/// Watchers of events at once: each costs a page at most, and a look at the tail for each commit.
pub const WATCHERS_MAX: u32 = 1_000;

/// Webhooks of one team: each is a task, and a connection for every event.
pub const WEBHOOKS_PER_TEAM_MAX: u32 = 20;

/// Characters of a webhook's name.
pub const WEBHOOK_NAME_MAX: usize = 128;

/// Bytes of a webhook's URL: what every server accepts.
pub const WEBHOOK_URL_MAX: usize = 2_048;

/// The shortest secret of a webhook, in bytes: less can be guessed from one delivery.
pub const WEBHOOK_SECRET_MIN: usize = 8;

/// The longest secret of a webhook, in bytes.
pub const WEBHOOK_SECRET_MAX: usize = 256;

/// Deliveries under way at once. An attempt to a dead receiver keeps its place for the length of
/// the sender's timeout only, and then waits for minutes without one: so many serve thousands of
/// dead receivers and delay none of the living.
pub const WEBHOOK_SENDS_MAX: usize = 256;

/// A team's refusals for want of the same thing are told of in one event of so long.
pub const EXHAUSTED_INTERVAL: Duration = Duration::from_secs(10);

/// Teams and shortages that are told of in one interval: what a storm over all teams can write.
pub const EXHAUSTED_TOLD_MAX: usize = 1_000;
