//! What the machine has and uses, read from `/proc` and `/sys`.
//!
//! Rates need two looks: a [`Meter`] remembers the last one, and its first sample has no rates.
//! What the machine does not tell is zero; a meter never fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use atoll_core::heartbeat::{Gauge, MachineUsage};
use tokio::time::Instant;

/// Looks nearer to each other than this say nothing about a rate: the kernel counts time in ticks
/// of ten milliseconds.
const MIN_ELAPSED_MS: u128 = 100;

/// Measures one machine.
#[derive(Debug)]
pub(crate) struct Meter {
    /// A directory on the disk that is measured.
    directory: PathBuf,
    last: Mutex<Option<Last>>,
}

/// The counters of a look.
#[derive(Debug, Clone, Copy)]
struct Last {
    at: Instant,
    cpu: CpuTime,
    traffic_bytes: u64,
    /// The rates that were current then.
    cpu_millis: u64,
    network_bps: u64,
}

/// CPU time of all cores since boot, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct CpuTime {
    busy: u64,
    total: u64,
}

impl Meter {
    pub(crate) const fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            last: Mutex::new(None),
        }
    }

    /// What is in use now; rates are averages since the last sample.
    pub(crate) fn sample(&self) -> MachineUsage {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let cpu_total = cores as u64 * 1_000;
        let cpu = cpu_time(&read("/proc/stat"));
        let interfaces = default_interfaces(&read("/proc/net/route"));
        let traffic_bytes = traffic(&read("/proc/net/dev"), &interfaces);
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match *last {
            None => Last {
                at: now,
                cpu,
                traffic_bytes,
                cpu_millis: 0,
                network_bps: 0,
            },
            Some(before) => before.until(now, cpu, traffic_bytes, cpu_total),
        };
        *last = Some(next);
        MachineUsage {
            cpu_millis: Gauge {
                total: cpu_total,
                used: next.cpu_millis,
            },
            memory_bytes: memory(&read("/proc/meminfo")),
            disk_bytes: disk(&self.directory),
            network_bps: Gauge {
                total: interfaces.iter().map(|name| link_bps(name)).sum(),
                used: next.network_bps,
            },
        }
    }
}

impl Last {
    fn until(self, at: Instant, cpu: CpuTime, traffic_bytes: u64, cpu_total: u64) -> Self {
        let elapsed_ms = at.duration_since(self.at).as_millis();
        if elapsed_ms < MIN_ELAPSED_MS {
            return self;
        }
        let ticks = cpu.total.saturating_sub(self.cpu.total).max(1);
        let busy = cpu.busy.saturating_sub(self.cpu.busy).min(ticks);
        let bits = u128::from(traffic_bytes.saturating_sub(self.traffic_bytes)) * 8;
        Self {
            at,
            cpu,
            traffic_bytes,
            cpu_millis: busy.saturating_mul(cpu_total) / ticks,
            network_bps: u64::try_from(bits * 1_000 / elapsed_ms).unwrap_or(u64::MAX),
        }
    }
}

/// What cannot be read says nothing.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// From the first line of `/proc/stat`. Time a virtual machine's host took counts as busy; guests'
/// time is contained in user's.
fn cpu_time(stat: &str) -> CpuTime {
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .unwrap_or_default()
        .split_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    let total: u64 = fields.iter().sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    CpuTime {
        busy: total - idle,
        total,
    }
}

fn memory(meminfo: &str) -> Gauge {
    let amount = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u64>().ok())
            .unwrap_or(0)
            .saturating_mul(1_024)
    };
    let total = amount("MemTotal");
    Gauge {
        total,
        used: total.saturating_sub(amount("MemAvailable")),
    }
}

/// The disk that a directory is on, in bytes. What only root may write counts as used.
#[must_use]
pub fn disk(directory: &Path) -> Gauge {
    let Ok(found) = rustix::fs::statvfs(directory) else {
        return Gauge::default();
    };
    let total = found.f_blocks.saturating_mul(found.f_frsize);
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    Gauge {
        total,
        used: total.saturating_sub(free),
    }
}

/// The interfaces with a default route: what the machine talks to the world through, and none of
/// those that lead into sandboxes.
fn default_interfaces(route: &str) -> Vec<String> {
    let mut names: Vec<String> = route
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let name = fields.next()?;
            (fields.next()? == "00000000").then(|| name.to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Bytes received and sent by these interfaces, from `/proc/net/dev`.
fn traffic(dev: &str, interfaces: &[String]) -> u64 {
    dev.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| interfaces.iter().any(|wanted| wanted == name.trim()))
        .flat_map(|(_, counters)| {
            let fields: Vec<u64> = counters
                .split_whitespace()
                .map_while(|field| field.parse().ok())
                .collect();
            [fields.first().copied(), fields.get(8).copied()]
        })
        .flatten()
        .fold(0, u64::saturating_add)
}

/// Both directions of a link in bits per second; zero if it does not tell, as virtual ones do not.
fn link_bps(interface: &str) -> u64 {
    let speed = read(format!("/sys/class/net/{interface}/speed"));
    let megabits: u64 = speed.trim().parse().unwrap_or(0);
    megabits.saturating_mul(2_000_000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn cpu_time_splits_idle_from_busy() {
        let stat = "cpu  100 5 50 800 40 1 2 3 9 9\ncpu0 1 1 1 1\n";
        let time = cpu_time(stat);
        assert_eq!(
            time,
            CpuTime {
                busy: 161,
                total: 1_001
            }
        );
        for broken in ["", "cpu", "intr 1", "cpu  x"] {
            assert_eq!(cpu_time(broken), CpuTime::default(), "{broken}");
        }
    }

    #[test]
    fn memory_that_can_be_freed_is_not_used() {
        let meminfo = "MemTotal:  1000 kB\nMemFree:  1 kB\nMemAvailable:  400 kB\n";
        let gauge = memory(meminfo);
        assert_eq!((gauge.total, gauge.used), (1_024_000, 614_400));
        assert_eq!(memory("nonsense"), Gauge::default());
    }

    #[test]
    fn traffic_counts_the_ways_out_only() {
        let route = "Iface\tDestination\tGateway\n\
                     eth0\t00000000\t0102030A\nveth1\t0002A8C0\t00000000\neth0\t00000000\t01\n";
        let interfaces = default_interfaces(route);
        assert_eq!(interfaces, ["eth0"]);
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 9 0 0 0 0 0 0 0 9 0\n  \
                   eth0: 100 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(dev, &interfaces), 120);
    }

    #[test]
    fn rates_are_averages_and_need_time() {
        let begun = Last {
            at: Instant::now(),
            cpu: CpuTime::default(),
            traffic_bytes: 0,
            cpu_millis: 7,
            network_bps: 7,
        };
        let cpu = CpuTime {
            busy: 50,
            total: 200,
        };
        let next = begun.until(begun.at + Duration::from_secs(2), cpu, 1_000, 2_000);
        assert_eq!((next.cpu_millis, next.network_bps), (500, 4_000));
        let early = begun.until(begun.at + Duration::from_millis(1), cpu, 1_000, 2_000);
        assert_eq!((early.cpu_millis, early.network_bps), (7, 7));
    }

    #[test]
    fn this_machine_is_measured() {
        let meter = Meter::new("/".into());
        let usage = meter.sample();
        assert!(usage.cpu_millis.total >= 1_000, "{usage:?}");
        assert!(usage.memory_bytes.used > 0, "{usage:?}");
        assert!(usage.disk_bytes.total >= usage.disk_bytes.used, "{usage:?}");
        assert!(usage.memory_bytes.total >= usage.memory_bytes.used);
    }
}
