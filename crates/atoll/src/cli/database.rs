//! The command line of the database.

use std::path::PathBuf;

use atoll_store::postgres::PoolSizes;
use clap::{Args, Subcommand};
use secrecy::SecretString;

use crate::cli::DataDirArgs;

/// Connections that write.
const WRITERS_MAX: i64 = 16;
/// Connections that read: a few servers of these are what PostgreSQL allows unless told otherwise.
const READERS_MAX: i64 = 64;

/// Where the store is: in a file of the data directory, unless a PostgreSQL is named.
#[derive(Debug, Clone, Args)]
pub(crate) struct DatabaseArgs {
    /// The PostgreSQL database that the store is in, `postgres://USER:PASSWORD@HOST/DATABASE`; a
    /// file in the data directory unless given. Not as a flag, which every user of the machine
    /// could read.
    #[arg(long, env = "ATOLL_DATABASE_URL", hide = true, hide_env_values = true)]
    pub(crate) database_url: Option<SecretString>,
    /// File with the URL of the PostgreSQL database that the store is in,
    /// `postgres://USER:PASSWORD@HOST/DATABASE`; a file in the data directory unless given.
    #[arg(long, value_name = "FILE", env = "ATOLL_DATABASE_URL_FILE")]
    pub(crate) database_url_file: Option<PathBuf>,
    /// Connections to PostgreSQL that write.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = PoolSizes::default().writers,
        value_parser = clap::value_parser!(u16).range(1..=WRITERS_MAX),
        env = "ATOLL_DATABASE_WRITERS"
    )]
    pub(crate) database_writers: u16,
    /// Connections to PostgreSQL that read.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = PoolSizes::default().readers,
        value_parser = clap::value_parser!(u16).range(1..=READERS_MAX),
        env = "ATOLL_DATABASE_READERS"
    )]
    pub(crate) database_readers: u16,
}

/// Which database a command is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct LocationArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DatabaseCommand {
    /// Bring the database's schema up to date, as each start of a server does.
    Migrate {
        #[command(flatten)]
        location: LocationArgs,
        /// Change nothing; say what would be, and exit with 1 if there is anything.
        #[arg(long)]
        check: bool,
    },
    /// Write everything that the store keeps into a file, while servers go on. It holds secrets.
    Backup {
        #[command(flatten)]
        location: LocationArgs,
        /// File to make; `-` is standard output.
        file: PathBuf,
    },
    /// Fill an empty database from a backup, of SQLite or of PostgreSQL; all of it or nothing.
    Restore {
        #[command(flatten)]
        location: LocationArgs,
        /// File to read; `-` is standard input.
        file: PathBuf,
    },
}
