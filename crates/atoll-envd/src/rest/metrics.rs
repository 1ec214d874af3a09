//! `GET /metrics`: what the sandbox uses, as seen from inside.
//!
//! Where the sandbox sees its own control group, memory is that of the group; else that of the
//! machine.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;

use http::Response;
use serde::Serialize;

use super::{Refusal, json};
use crate::clock;
use crate::helper;
use crate::server::{Agent, Body};

const MIB: u64 = 1024 * 1024;

/// Usage and limit of the own control group, version 2 and 1.
const GROUP_MEMORY: [(&str, &str); 2] = [
    ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.max"),
    (
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ),
];

/// Processor time at the last request, in ticks: the share is over the time since.
#[derive(Debug, Default)]
pub(crate) struct Usage(Mutex<Ticks>);

#[derive(Debug, Default, Clone, Copy)]
struct Ticks {
    busy: u64,
    total: u64,
}

#[derive(Debug, Serialize)]
struct Metrics {
    ts: i64,
    cpu_count: usize,
    cpu_used_pct: f64,
    mem_total_mib: u64,
    mem_used_mib: u64,
    mem_total: u64,
    mem_used: u64,
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

/// Answers the request.
pub(crate) async fn answer(agent: &Arc<Agent>) -> Result<Response<Body>, Refusal> {
    let agent = Arc::clone(agent);
    Ok(json(&helper::run(move || measure(&agent.usage)).await?))
}

fn measure(usage: &Usage) -> Metrics {
    let memory = Memory::read();
    let (disk_used, disk_total) = disk();
    Metrics {
        ts: clock::unix_seconds(),
        cpu_count: available_parallelism().map_or(1, usize::from),
        cpu_used_pct: usage.percent(),
        mem_total_mib: memory.total / MIB,
        mem_used_mib: memory.used / MIB,
        mem_total: memory.total,
        mem_used: memory.used,
        mem_cache: memory.cache,
        disk_used,
        disk_total,
    }
}

impl Usage {
    fn percent(&self) -> f64 {
        let now = Ticks::read();
        let before = std::mem::replace(
            &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner),
            now,
        );
        let total = now.total.saturating_sub(before.total);
        let busy = now.busy.saturating_sub(before.busy).min(total);
        if total == 0 {
            return 0.0;
        }
        // Hundredths of a percent, so that the number has two places.
        let hundredths =
            u32::try_from(u128::from(busy) * 10_000 / u128::from(total)).unwrap_or(10_000);
        f64::from(hundredths) / 100.0
    }
}

impl Ticks {
    fn read() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        // user nice system idle iowait irq softirq steal
        let fields: Vec<u64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_ascii_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|field| field.parse().ok())
            .collect();
        let total = fields.iter().sum();
        let idle: u64 = fields.iter().skip(3).take(2).sum();
        Self {
            busy: total - idle,
            total,
        }
    }
}

#[derive(Debug, Default)]
struct Memory {
    total: u64,
    used: u64,
    cache: u64,
}

impl Memory {
    fn read() -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let field = |name: &str| -> u64 {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or_default()
                * 1024
        };
        let total = field("MemTotal");
        let cache = field("Cached");
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let group = GROUP_MEMORY
            .iter()
            .find_map(|(used, limit)| Some((number(used)?, number(limit)?)));
        match group {
            Some((used, limit)) if limit < total => Self {
                total: limit,
                used,
                cache: cache.min(limit),
            },
            _ => Self {
                total,
                used: total.saturating_sub(field("MemAvailable")),
                cache,
            },
        }
    }
}

/// Used and total bytes of the root file system.
fn disk() -> (u64, u64) {
    let Ok(found) = rustix::fs::statvfs("/") else {
        return (0, 0);
    };
    let total = found.f_blocks.saturating_mul(found.f_frsize);
    let available = found.f_bavail.saturating_mul(found.f_frsize);
    (total.saturating_sub(available), total)
}
