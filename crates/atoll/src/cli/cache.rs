//! The command line of what the servers of a fleet share beside their store.

use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;

/// Which Redis server it is, if there is one.
#[derive(Debug, Clone, Args)]
pub(crate) struct CacheArgs {
    /// The Redis or Valkey server by which several servers share rates,
    /// `redis://USER:PASSWORD@HOST:PORT`; each has its own unless given. Not as a flag, which every
    /// user of the machine could read.
    #[arg(long, env = "ATOLL_REDIS_URL", hide = true, hide_env_values = true)]
    pub(crate) redis_url: Option<SecretString>,
    /// File with the URL of the Redis or Valkey server by which several servers share rates,
    /// `redis://USER:PASSWORD@HOST:PORT`; each has its own unless given.
    #[arg(long, value_name = "FILE", env = "ATOLL_REDIS_URL_FILE")]
    pub(crate) redis_url_file: Option<PathBuf>,
}
