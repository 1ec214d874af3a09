//! The command line of events, webhooks and history.

use clap::{Args, ValueEnum};

/// What a server keeps of what happened, and whom it tells. What is not given is as
/// `docs/events.md` says.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EventArgs {
    /// Where webhooks may point: the public internet only, which is a server's default, or any
    /// address that this machine reaches, private networks and itself included, which is `dev`'s.
    #[arg(long, value_enum, env = "ATOLL_WEBHOOK_TARGETS")]
    pub(crate) webhook_targets: Option<WebhookTargets>,
    /// Webhooks of one team at most.
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(0..=1_000),
        env = "ATOLL_WEBHOOKS_PER_TEAM"
    )]
    pub(crate) webhooks_per_team: Option<u32>,
    /// Hours after which a webhook is disabled to which every delivery failed.
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1..=720),
        env = "ATOLL_WEBHOOK_GIVE_UP_HOURS"
    )]
    pub(crate) webhook_give_up_hours: Option<u32>,
    /// Days for which ended sandboxes and events are kept.
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1..=3_650),
        env = "ATOLL_HISTORY_DAYS"
    )]
    pub(crate) history_days: Option<u32>,
    /// Events that are kept at most, the newest.
    #[arg(
        long,
        value_parser = clap::value_parser!(u64).range(1_000..),
        env = "ATOLL_HISTORY_EVENTS"
    )]
    pub(crate) history_events: Option<u64>,
    /// Ended sandboxes that are kept at most, those that ended last.
    #[arg(long, env = "ATOLL_HISTORY_SANDBOXES")]
    pub(crate) history_sandboxes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WebhookTargets {
    /// Addresses of the public internet.
    Public,
    /// Every address.
    Any,
}
