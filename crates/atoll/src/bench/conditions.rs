//! Under which conditions a figure was measured: the machine, its disk, and what else it did.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::bench::{machine, percentile};

/// Synced writes that are timed: enough for a 99th percentile.
const SYNCS: usize = 400;
/// Bytes of one of them: about what one small commit adds to the store's log.
const SYNC_BYTES: usize = 16 * 1_024;
/// Ticks of `/proc/stat` in a second: the kernel's `USER_HZ`, the same on every architecture that
/// we run on.
const TICKS_PER_S: f64 = 100.0;

/// What holds for a whole run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Conditions {
    commit: &'static str,
    machine: String,
    filesystem: String,
}

impl Conditions {
    /// Of this machine, with its state in `folder`.
    pub(crate) fn of(folder: &Path) -> Self {
        Self {
            commit: env!("ATOLL_COMMIT"),
            machine: machine(),
            filesystem: filesystem(folder),
        }
    }

    /// For people, in one line.
    pub(crate) fn text(&self) -> String {
        format!(
            "commit {}; {}; {}",
            self.commit, self.machine, self.filesystem
        )
    }
}

/// The type of the file system that holds `folder`.
fn filesystem(folder: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let folder = folder
        .canonicalize()
        .unwrap_or_else(|_| folder.to_path_buf());
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(target, _)| folder.starts_with(target))
        .max_by_key(|(target, _)| target.len())
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

/// What one synced append to a file costs here: no durable answer can be faster.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct SyncCost {
    fdatasync_p50_ms: f64,
    fdatasync_p99_ms: f64,
}

impl SyncCost {
    /// Measures it in `folder`.
    ///
    /// # Errors
    /// As the writes do.
    pub(crate) fn measure(folder: &Path) -> std::io::Result<Self> {
        let mut file = tempfile::tempfile_in(folder)?;
        let mut took = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            let began = Instant::now();
            file.write_all(&[7; SYNC_BYTES])?;
            file.sync_data()?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        took.sort_by(f64::total_cmp);
        Ok(Self {
            fdatasync_p50_ms: percentile(&took, 50),
            fdatasync_p99_ms: percentile(&took, 99),
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        format!("{:.2}/{:.2}", self.fdatasync_p50_ms, self.fdatasync_p99_ms)
    }
}

/// What the processors did over a span of time.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Processors {
    /// The time of this process, client and server together, for each thing measured.
    pub(crate) cpu_us_each: f64,
    /// The part of all processors that others used, in percent.
    pub(crate) others_cpu_pct: f64,
}

/// Watches the processors from when it is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    began: Instant,
    own: f64,
    busy: f64,
}

impl Watch {
    pub(crate) fn begin() -> Self {
        Self {
            began: Instant::now(),
            own: own_seconds(),
            busy: busy_seconds(),
        }
    }

    /// How long it has run.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// What was used since, for `count` things.
    pub(crate) fn end(&self, count: usize) -> Processors {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let all = self.began.elapsed().as_secs_f64() * float(cores);
        let own = own_seconds() - self.own;
        let others = (busy_seconds() - self.busy - own).max(0.0);
        Processors {
            cpu_us_each: (own * 1e6 / float(count.max(1))).round(),
            others_cpu_pct: (others / all * 100.0).round(),
        }
    }
}

/// Counts here are far below where this loses anything.
fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Seconds that this process ran.
fn own_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in brackets may hold anything; user and system time are the 12th and 13th after it.
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    ticks(after.split_whitespace().skip(11).take(2))
}

/// Seconds that all processors together were not idle.
fn busy_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<&str> = line.split_whitespace().skip(1).take(8).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let busy = fields.iter().enumerate();
    ticks(busy.filter_map(|(index, field)| (index != 3 && index != 4).then_some(*field)))
}

fn ticks<'t>(fields: impl Iterator<Item = &'t str>) -> f64 {
    let ticks: f64 = fields.filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_S
}

/// Resident memory of this process, in MiB.
pub(crate) fn resident_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib: Option<u64> = line
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|number| number.parse().ok());
    kib.unwrap_or(0) / 1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_synced_write_takes_time_and_the_file_system_has_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let cost = SyncCost::measure(folder.path()).unwrap();
        assert!(cost.fdatasync_p99_ms >= cost.fdatasync_p50_ms);
        assert_ne!(filesystem(folder.path()), "unknown");
        assert!(resident_mib() > 0);
    }
}
