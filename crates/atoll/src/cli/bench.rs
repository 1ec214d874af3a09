//! The command line of measurements.

use std::path::PathBuf;

use clap::Args;

use crate::bench::workload::Mix;
use crate::cli::DataDirArgs;
use crate::cli::database::DatabaseArgs;

#[derive(Debug, Args)]
pub(crate) struct BenchSchedulerArgs {
    /// How many nodes the fleet has; several, separated by commas, are measured in turn.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "300,1000,5000,10000,50000"
    )]
    pub(crate) nodes: Vec<usize>,
    /// What is asked for; several, separated by commas, are measured in turn.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "small,mixed,constrained"
    )]
    pub(crate) mix: Vec<Mix>,
    /// How many decisions are timed for each.
    #[arg(long, default_value_t = 200_000)]
    pub(crate) decisions: u32,
    /// What fleet and requests are drawn by.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchPlacementArgs {
    /// How many nodes the fleet has.
    #[arg(long, default_value_t = 60)]
    pub(crate) nodes: usize,
    /// How many sandboxes arrive in each trace.
    #[arg(long, default_value_t = 60_000)]
    pub(crate) arrivals: usize,
    /// What fleet and traces are drawn by.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Measure so many control planes that decide at once on late views instead; several, separated
    /// by commas, are measured in turn.
    #[arg(long, value_delimiter = ',')]
    pub(crate) replicas: Vec<usize>,
    /// The time between two heartbeats of a node there, in milliseconds; several in turn.
    #[arg(long, value_delimiter = ',', default_value = "200,1000,5000")]
    pub(crate) stale_ms: Vec<u64>,
    /// Draw the result into this file, as SVG.
    #[arg(long, value_name = "FILE", conflicts_with = "replicas")]
    pub(crate) plot: Option<PathBuf>,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchCreateArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    /// Driver to measure.
    #[arg(long, default_value = "jail")]
    pub(crate) driver: String,
    /// How many sandboxes are made at a time; several, separated by commas, are measured in turn.
    #[arg(long, value_delimiter = ',', default_value = "1,10,20")]
    pub(crate) concurrency: Vec<usize>,
    /// How many sandboxes are made for each concurrency.
    #[arg(long, default_value_t = 100)]
    pub(crate) count: usize,
    /// Template to start from.
    #[arg(long, default_value = "base")]
    pub(crate) template: String,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchControlArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    /// Driver of the node: one that does at once what it is told.
    #[arg(long, default_value = "simulated")]
    pub(crate) driver: String,
    /// How many creates are under way at a time; several are measured in turn.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    pub(crate) concurrency: Vec<usize>,
    /// How many sandboxes are made for each concurrency.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) count: usize,
    /// Then make so many and time the pages of their listing.
    #[arg(long, default_value_t = 0)]
    pub(crate) live: usize,
    /// Then make and end so many, and watch memory.
    #[arg(long, default_value_t = 0)]
    pub(crate) churn: usize,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}
