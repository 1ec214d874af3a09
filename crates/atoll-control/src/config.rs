//! What an operator may set about the control plane.

use std::time::Duration;

/// Settings of the control plane. There is no `Default`: [`Config::development`] says what it is
/// for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How many sandboxes one team may have at once (paused ones do not count).
    pub concurrent_sandboxes_max: u32,
    /// How long a sandbox may live from its last start.
    pub lifetime_max: Duration,
    /// How long a create waits for its sandbox before it gives it up.
    pub create_timeout: Duration,
    /// How long a delete waits for the node's confirmation before it answers; the removal itself
    /// goes on after that.
    pub delete_timeout: Duration,
    /// How often every node's whole report is compared with the intent.
    pub full_sync_interval: Duration,
    /// How long ended sandboxes and their history are kept.
    pub history_retention: Duration,
    /// The guest agent's version, for templates that do not say.
    pub envd_version: String,
}

impl Config {
    /// Settings for `dev`: one machine, one team.
    #[must_use]
    pub fn development(envd_version: impl Into<String>) -> Self {
        Self {
            concurrent_sandboxes_max: 1_000,
            lifetime_max: Duration::from_secs(24 * 3600),
            create_timeout: Duration::from_secs(60),
            delete_timeout: Duration::from_secs(10),
            full_sync_interval: Duration::from_secs(30),
            history_retention: Duration::from_secs(7 * 24 * 3600),
            envd_version: envd_version.into(),
        }
    }
}
