//! What `atoll bench forecast` takes.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct BenchForecastArgs {
    /// How many nodes the fleet has.
    #[arg(long, default_value_t = 16)]
    pub(crate) nodes: usize,
    /// How many minutes ahead room is held.
    #[arg(long, default_value_t = 5)]
    pub(crate) lead_minutes: usize,
    /// How much of the fleet is held at most, in percent.
    #[arg(long, default_value_t = 10)]
    pub(crate) reserve_percent: u32,
    /// Replay this trace instead of the recorded one.
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    pub(crate) trace: Option<PathBuf>,
    /// Make up days and write them into this file; nothing is replayed.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// How many days are made up.
    #[arg(long, default_value_t = 5, requires = "record")]
    pub(crate) days: usize,
    /// What they are drawn by.
    #[arg(long, default_value_t = 1, requires = "record")]
    pub(crate) seed: u64,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}
