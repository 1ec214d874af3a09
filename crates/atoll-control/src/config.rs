//! What an operator may set about the control plane.

use std::time::Duration;

use atoll_core::quota::Limits;
use atoll_core::resources::Resources;
use atoll_core::scheduler::forecast;
use atoll_core::scheduler::overlay::Overlay;

use crate::limit::{
    CREATES_IN_FLIGHT_MAX, TEAM_CREATES_IN_FLIGHT_MAX, TEAM_LIMITS, WEBHOOKS_PER_TEAM_MAX,
};

use crate::webhooks::{WEBHOOK_POLICY, WebhookPolicy};

/// How much more than it has may be allocated on a node, in percent of what it reports: 100 is
/// exactly what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overcommit {
    /// CPU: waiting for it is the worst that happens.
    pub cpu_pct: u32,
    /// Memory: idle sandboxes use a small part of their limit.
    pub memory_pct: u32,
    /// Disk: written blocks count, not the limit.
    pub disk_pct: u32,
}

impl Overcommit {
    /// What may be allocated on a node with these resources.
    #[must_use]
    pub fn apply(self, total: Resources) -> Resources {
        let scale = |amount: u32, percent: u32| {
            u32::try_from(u64::from(amount) * u64::from(percent) / 100).unwrap_or(u32::MAX)
        };
        Resources {
            cpu_millis: scale(total.cpu_millis, self.cpu_pct),
            memory_mib: scale(total.memory_mib, self.memory_pct),
            disk_mib: scale(total.disk_mib, self.disk_pct),
        }
    }
}

impl From<Overcommit> for atoll_core::scheduler::node::Overcommit {
    fn from(percent: Overcommit) -> Self {
        // Bandwidth is never promised twice.
        Self::new(percent.cpu_pct, percent.memory_pct, percent.disk_pct, 100)
    }
}

/// Ended sandboxes that are kept: at about a kilobyte each a quarter of a gigabyte, and a week of
/// 1,500 an hour.
pub const HISTORY_SANDBOXES_MAX: u64 = 250_000;

/// Events that are kept: at some 300 bytes each well under a gigabyte, and more than the sandboxes
/// that are kept have left.
pub const HISTORY_EVENTS_MAX: u64 = 2_500_000;

/// What a server is to the others on the same store, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where it listens.
    pub address: String,
    /// Its program's version.
    pub version: String,
}

/// Settings of the control plane. There is no `Default`: [`Config::development`] says what it is
/// for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What one team may have and ask for where it has no limits of its own.
    pub team_limits: Limits,
    /// Creates under way at once: [`CREATES_IN_FLIGHT_MAX`].
    pub creates_in_flight_max: usize,
    /// Creates of one team under way at once: [`TEAM_CREATES_IN_FLIGHT_MAX`].
    pub team_creates_in_flight_max: usize,
    /// How long a sandbox may live from its last start.
    pub lifetime_max: Duration,
    /// How long a create waits for its sandbox before it gives it up.
    pub create_timeout: Duration,
    /// How long a delete waits for the node's confirmation before it answers; the removal itself
    /// goes on after that.
    pub delete_timeout: Duration,
    /// How long a pause, a resume or a restart is waited for before its caller is told that it is
    /// still under way; it goes on.
    pub transition_timeout: Duration,
    /// How often every node's whole report is compared with the intent.
    pub full_sync_interval: Duration,
    /// How often shared storage is searched for what nobody needs any more.
    pub snapshot_sweep_interval: Duration,
    /// How long ended sandboxes and their history are kept.
    pub history_retention: Duration,
    /// How many ended sandboxes are kept at most, those that ended last.
    pub history_sandboxes_max: u64,
    /// How many events are kept at most, the newest.
    pub history_events_max: u64,
    /// How webhooks are tried again and given up.
    pub webhooks: WebhookPolicy,
    /// Webhooks of one team: [`WEBHOOKS_PER_TEAM_MAX`].
    pub webhooks_per_team_max: u32,
    /// How long rows of the audit are kept.
    pub audit_retention: Duration,
    /// The guest agent's version, for templates that do not say.
    pub envd_version: String,
    /// How much more than they have is allocated on nodes.
    pub overcommit: Overcommit,
    /// What all sandboxes must and should have of their nodes, beside what each team's and each
    /// request's policy says.
    pub policy: Overlay,
    /// How arrivals are forecast, and how much may be held for them; none: not at all.
    pub forecast: Option<forecast::Config>,
    /// What this server is to others on its store; none: it is alone there.
    pub server: Option<ServerConfig>,
}

impl Config {
    /// Settings for `dev`: one machine, one team.
    #[must_use]
    pub fn development(envd_version: impl Into<String>) -> Self {
        Self {
            team_limits: TEAM_LIMITS,
            creates_in_flight_max: CREATES_IN_FLIGHT_MAX,
            team_creates_in_flight_max: TEAM_CREATES_IN_FLIGHT_MAX,
            lifetime_max: Duration::from_secs(24 * 3600),
            create_timeout: Duration::from_secs(60),
            delete_timeout: Duration::from_secs(10),
            // Less than the 60 s after which the SDKs give up.
            transition_timeout: Duration::from_secs(50),
            full_sync_interval: Duration::from_secs(30),
            // What is not needed only costs room, and most of it is removed at once.
            snapshot_sweep_interval: Duration::from_secs(3600),
            history_retention: Duration::from_secs(7 * 24 * 3600),
            history_sandboxes_max: HISTORY_SANDBOXES_MAX,
            history_events_max: HISTORY_EVENTS_MAX,
            webhooks: WEBHOOK_POLICY,
            webhooks_per_team_max: WEBHOOKS_PER_TEAM_MAX,
            audit_retention: Duration::from_secs(90 * 24 * 3600),
            envd_version: envd_version.into(),
            // A node reports what it has to give, its own overcommitment included.
            overcommit: Overcommit {
                cpu_pct: 100,
                memory_pct: 100,
                disk_pct: 100,
            },
            policy: Overlay::default(),
            forecast: Some(forecast::Config::default()),
            server: None,
        }
    }
}
