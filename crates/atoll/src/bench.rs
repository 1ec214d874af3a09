//! Measurements a user can repeat. They print the machine and the commit with every figure.

mod churn;
mod compare;
pub(crate) mod conditions;
pub(crate) mod control;
pub(crate) mod create;
pub(crate) mod forecast;
pub(crate) mod instant;
mod load;
mod pages;
pub(crate) mod placement;
pub(crate) mod scheduler;
pub(crate) mod workload;

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use crate::cli::DataDirArgs;
use crate::cli::events::EventArgs;
use crate::database::Database;
use crate::stack::{Nodes, Options, Stack};
use atoll_core::scheduler::overlay::Overlay;

/// Checks how often something is measured, and how many at a time.
fn repeated(count: usize, concurrency: &[usize]) -> anyhow::Result<()> {
    anyhow::ensure!(count > 0, "--count must be at least 1");
    let is_positive = !concurrency.contains(&0);
    anyhow::ensure!(is_positive, "--concurrency must be at least 1");
    Ok(())
}

/// Starts a server for one measurement, whose state is in a folder of its own that goes with it.
async fn serve(
    data: &DataDirArgs,
    database: Database,
    nodes: Nodes,
) -> anyhow::Result<(Stack, TempDir)> {
    fs::create_dir_all(&data.data_dir)?;
    let folder = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(&data.data_dir)?;
    let stack = Stack::start(Options {
        listen: ([127, 0, 0, 1], 0).into(),
        data_dir: folder.path().join("data"),
        database,
        cache: None,
        api_key: None,
        advertise: None,
        discovery: None,
        domain: None,
        policy: Overlay::default(),
        forecast: None,
        events: EventArgs::default(),
        nodes,
    });
    Ok((stack.await?, folder))
}

/// The machine a figure was measured on: processor, cores, memory, kernel.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.split_once(':')
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let processor = field(&read("/proc/cpuinfo"), "model name");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{processor}, {cores} cores, {} GiB, Linux {}",
        memory_kib.div_ceil(1024 * 1024),
        kernel.trim()
    )
}

/// The nearest-rank percentile of sorted values, to hundredths; zero of nothing.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .map_or(0.0, |value| (value * 100.0).round() / 100.0)
}

/// So many in this time, by the second, to tenths.
fn rate(count: usize, took: Duration) -> f64 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    (f64::from(count) / took.as_secs_f64() * 10.0).round() / 10.0
}
