//! The command line of settings, and those that every role has.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use secrecy::SecretString;

use crate::telemetry;

/// Where settings are read from unless told otherwise, if there is such a file.
pub(crate) const DEFAULT_FILE: &str = "/etc/atoll/atoll.toml";

/// Which file of settings to read.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FileArgs {
    /// File with settings, under what environment and flags say; `/etc/atoll/atoll.toml` unless
    /// given, where there is one.
    #[arg(long, value_name = "FILE", env = "ATOLL_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

/// What the parts of a fleet show each other.
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The join token, the secret that server and nodes share. Not as a flag, which every user of
    /// the machine could read.
    #[arg(long, env = "ATOLL_JOIN_TOKEN", hide = true, hide_env_values = true)]
    pub(crate) join_token: Option<SecretString>,
    /// File with the join token, the secret that server and nodes share; the variable
    /// `ATOLL_JOIN_TOKEN` may hold it instead.
    #[arg(long, value_name = "FILE", env = "ATOLL_JOIN_TOKEN_FILE")]
    pub(crate) join_token_file: Option<PathBuf>,
}

/// The key of the default team.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// The API key to accept, `e2b_` and 40 hex digits; made at the first start otherwise.
    #[arg(long, env = "ATOLL_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<SecretString>,
    /// File with the API key to accept.
    #[arg(long, value_name = "FILE", env = "ATOLL_API_KEY_FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
}

/// What servers and nodes tell of themselves, on standard error.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// How to write logs (standard error).
    #[arg(long, value_enum, default_value = "text", env = "ATOLL_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    /// What to log: levels, also for single parts, as `RUST_LOG` has it elsewhere.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = telemetry::SERVERS,
        value_parser = telemetry::parse_filter,
        env = "ATOLL_LOG"
    )]
    pub(crate) log_filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is started with settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Role {
    /// Everything in one process, `atoll dev`.
    Dev,
    /// The server of a fleet, `atoll server`.
    Server,
    /// A node of a fleet, `atoll node`.
    Node,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Dev, Self::Server, Self::Node];

    /// The name of its command, and of its part of the file.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Server => "server",
            Self::Node => "node",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Look for mistakes in the file; for a role also in what environment and flags say, and in
    /// the secrets it would start with.
    Check {
        #[command(flatten)]
        file: FileArgs,
        /// What would be started; the file alone is looked at unless given.
        #[arg(value_enum)]
        role: Option<Role>,
        /// Flags that it would be started with, after `--`.
        #[arg(last = true, allow_hyphen_values = true, requires = "role")]
        flags: Vec<OsString>,
    },
    /// Show every setting of a role with its value, and where that is from. Secrets stay secret.
    Show {
        #[command(flatten)]
        file: FileArgs,
        /// What would be started.
        #[arg(value_enum)]
        role: Role,
        /// Flags that it would be started with, after `--`.
        #[arg(last = true, allow_hyphen_values = true)]
        flags: Vec<OsString>,
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
}
