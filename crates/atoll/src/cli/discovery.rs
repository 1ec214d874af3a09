//! The command line of discovery: where services are registered and found.

use std::path::PathBuf;

use atoll_control::limit::DISCOVERY_INTERVAL;
use clap::Args;
use secrecy::SecretString;

/// Consul, as every role of a fleet uses it.
#[derive(Debug, Default, Args)]
pub(crate) struct ConsulArgs {
    /// URL of this machine's Consul agent, `http://HOST:PORT`; nothing is registered unless given.
    #[arg(long, value_name = "URL", env = "ATOLL_CONSUL_ADDR")]
    pub(crate) consul_addr: Option<String>,
    /// The token that Consul is shown. Not as a flag, which every user of the machine could read.
    #[arg(long, env = "ATOLL_CONSUL_TOKEN", hide = true, hide_env_values = true)]
    pub(crate) consul_token: Option<SecretString>,
    /// File with the token that Consul is shown.
    #[arg(long, value_name = "FILE", env = "ATOLL_CONSUL_TOKEN_FILE")]
    pub(crate) consul_token_file: Option<PathBuf>,
    /// File with the certificates, as PEM, one of which signed Consul's; the system's unless given.
    #[arg(long, value_name = "FILE", env = "ATOLL_CONSUL_CA")]
    pub(crate) consul_ca: Option<PathBuf>,
    /// Consul's datacenter; that of its agent unless given.
    #[arg(long, value_name = "NAME", env = "ATOLL_CONSUL_DATACENTER")]
    pub(crate) consul_datacenter: Option<String>,
    /// What the names of services in Consul begin with.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "atoll",
        env = "ATOLL_CONSUL_PREFIX"
    )]
    pub(crate) consul_prefix: String,
    /// Seconds between two comparisons of the sandboxes in Consul with those that there are.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = DISCOVERY_INTERVAL.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=3_600),
        env = "ATOLL_CONSUL_INTERVAL_S"
    )]
    pub(crate) consul_interval_s: u64,
}
