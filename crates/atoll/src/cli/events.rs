//! The command line of events, webhooks and history.

use std::path::PathBuf;

use atoll_control::config::{HISTORY_EVENTS_MAX, HISTORY_SANDBOXES_MAX};
use atoll_control::limit::WEBHOOKS_PER_TEAM_MAX;
use clap::{Args, Subcommand, ValueEnum};

use crate::cli::ServerArgs;

/// Days for which history is kept.
const HISTORY_DAYS: u32 = 7;
/// Hours after which a webhook is given up.
const GIVE_UP_HOURS: u32 = 72;

/// What a server keeps of what happened, and whom it tells.
#[derive(Debug, Clone, Args)]
pub(crate) struct EventArgs {
    /// Where webhooks may point: the public internet only, which is a server's default, or any
    /// address that this machine reaches, private networks and itself included, which is `dev`'s.
    #[arg(long, value_enum, env = "ATOLL_WEBHOOK_TARGETS")]
    pub(crate) webhook_targets: Option<WebhookTargets>,
    /// Webhooks of one team at most.
    #[arg(
        long,
        default_value_t = WEBHOOKS_PER_TEAM_MAX,
        value_parser = clap::value_parser!(u32).range(0..=1_000),
        env = "ATOLL_WEBHOOKS_PER_TEAM"
    )]
    pub(crate) webhooks_per_team: u32,
    /// Hours after which a webhook is disabled to which every delivery failed.
    #[arg(
        long,
        default_value_t = GIVE_UP_HOURS,
        value_parser = clap::value_parser!(u32).range(1..=720),
        env = "ATOLL_WEBHOOK_GIVE_UP_HOURS"
    )]
    pub(crate) webhook_give_up_hours: u32,
    /// Days for which ended sandboxes and events are kept.
    #[arg(
        long,
        default_value_t = HISTORY_DAYS,
        value_parser = clap::value_parser!(u32).range(1..=3_650),
        env = "ATOLL_HISTORY_DAYS"
    )]
    pub(crate) history_days: u32,
    /// Events that are kept at most, the newest.
    #[arg(
        long,
        default_value_t = HISTORY_EVENTS_MAX,
        value_parser = clap::value_parser!(u64).range(1_000..),
        env = "ATOLL_HISTORY_EVENTS"
    )]
    pub(crate) history_events: u64,
    /// Ended sandboxes that are kept at most, those that ended last.
    #[arg(long, default_value_t = HISTORY_SANDBOXES_MAX, env = "ATOLL_HISTORY_SANDBOXES")]
    pub(crate) history_sandboxes: u64,
}

impl Default for EventArgs {
    fn default() -> Self {
        Self {
            webhook_targets: None,
            webhooks_per_team: WEBHOOKS_PER_TEAM_MAX,
            webhook_give_up_hours: GIVE_UP_HOURS,
            history_days: HISTORY_DAYS,
            history_events: HISTORY_EVENTS_MAX,
            history_sandboxes: HISTORY_SANDBOXES_MAX,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WebhookTargets {
    /// Addresses of the public internet.
    Public,
    /// Every address.
    Any,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Go on with what happens from now on, until interrupted; over restarts of the server too.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Begin after this cursor, or with `beginning` or `now`; the beginning unless given, and now
    /// with `--follow`.
    #[arg(long, value_name = "CURSOR")]
    pub(crate) from: Option<String>,
    /// Only events of this sandbox.
    #[arg(long)]
    pub(crate) sandbox: Option<String>,
    /// Only events of these kinds, separated by commas.
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Events of all teams and of nodes. Needs the operator's token.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// Have events sent to a URL from now on.
    Create {
        #[command(flatten)]
        server: ServerArgs,
        /// What it is for.
        name: String,
        /// Where events are sent, `http://…` or `https://…`.
        url: String,
        /// Which kinds, separated by commas: `sandbox.running`, or E2B's
        /// `sandbox.lifecycle.created`.
        #[arg(long, value_delimiter = ',', required = true)]
        event: Vec<String>,
        /// File with the secret that deliveries are signed with; one is made and printed unless
        /// given here or in `ATOLL_WEBHOOK_SECRET`.
        #[arg(long)]
        secret_file: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List webhooks, with what is wrong with them.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        server: ServerArgs,
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Have events sent again to one that was given up; it goes on where it stopped.
    Enable {
        #[command(flatten)]
        server: ServerArgs,
        /// Its id.
        id: String,
    },
    /// Remove one.
    #[command(visible_alias = "remove")]
    Rm {
        #[command(flatten)]
        server: ServerArgs,
        /// Its id.
        id: String,
    },
}
