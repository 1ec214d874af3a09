//! Measurements a user can repeat. They print the machine and the commit with every figure.

mod compare;
pub(crate) mod control;
pub(crate) mod create;

use std::fs;
use std::time::Duration;

use serde::Serialize;

/// Of a set of times, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Percentiles {
    p50: f64,
    p95: f64,
    p99: f64,
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

/// Nearest-rank percentiles; zeros of nothing.
fn percentiles(values: impl Iterator<Item = f64>) -> Percentiles {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100);
        values
            .get(rank.saturating_sub(1))
            .map_or(0.0, |value| (value * 100.0).round() / 100.0)
    };
    Percentiles {
        p50: at(50),
        p95: at(95),
        p99: at(99),
    }
}

/// So many a second, to one decimal.
fn rate(count: usize, took: Duration) -> f64 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    (f64::from(count) / took.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::percentiles;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let p = percentiles((1..=100).map(f64::from));
        assert_eq!((p.p50, p.p95, p.p99), (50.0, 95.0, 99.0));
        let one = percentiles([7.0].into_iter());
        assert_eq!((one.p50, one.p99), (7.0, 7.0));
    }
}
