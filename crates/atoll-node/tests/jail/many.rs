//! Many sandboxes: how long creates take, and that nothing is left, however they end.
//!
//! `ATOLL_TEST_CREATES` sets how many are made; the figures are printed.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use crate::guest::run;
use crate::rig::{World, output, spec};

fn creates(default: usize) -> usize {
    let set = std::env::var("ATOLL_TEST_CREATES");
    set.map_or(default, |number| number.parse().unwrap())
}

pub(crate) fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what}: {} times, p50 {:.1?}, p95 {:.1?}, p99 {:.1?}, max {:.1?}",
        times.len(),
        at(50),
        at(95),
        at(99),
        at(100)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_after_the_other() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let (mut creates_took, mut commands_took, mut removals_took) = (vec![], vec![], vec![]);
    for _ in 0..creates(30) {
        let start = Instant::now();
        let id = node.create().await;
        creates_took.push(start.elapsed());
        let start = Instant::now();
        assert_eq!(run(&node.agent, &id, "true").await.code, 0);
        commands_took.push(start.elapsed());
        let start = Instant::now();
        node.remove(&id).await;
        removals_took.push(start.elapsed());
    }
    show("create", creates_took);
    show("first command", commands_took);
    show("remove", removals_took);
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_at_a_time_some_killed_half_way() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let start = Instant::now();
    let lives = futures::stream::iter(0..creates(60)).map(|number| {
        let node = &node;
        async move {
            let spec = spec();
            let start = Instant::now();
            match number % 6 {
                // Removed while it is being made.
                4 => {
                    let (_, ()) = tokio::join!(node.agent.ensure(&spec), node.remove(&spec.id));
                }
                // Its supervisor is killed.
                5 => {
                    node.ensure(&spec).await;
                    let (_, supervisor) = node.processes_of(&spec.id);
                    output("kill", &["-9", &supervisor.to_string()]);
                }
                _ => {
                    node.ensure(&spec).await;
                }
            }
            let took = start.elapsed();
            node.remove(&spec.id).await;
            took
        }
    });
    let times: Vec<_> = lives.buffer_unordered(20).collect().await;
    println!("{} lives in {:.1?}", times.len(), start.elapsed());
    show("create at 20 at a time", times);
    assert!(node.agent.report().sandboxes.is_empty());
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_ones_are_small() {
    /// What one may take, with its supervisor and what the kernel holds for it.
    const LIMIT_KIB: u64 = 8 * 1024;
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    // What the first one brings in (page cache) is shared by all.
    let first = node.create().await;
    run(&node.agent, &first, "true").await;
    let count = creates(30) as u64;
    let before = (charged_kib(&world), meminfo_kib(), slab_kib());
    for _ in 0..count {
        node.create().await;
    }
    let after = (charged_kib(&world), meminfo_kib(), slab_kib());
    let each = after.0.saturating_sub(before.0) / count;
    println!(
        "each of {count} idle sandboxes: {each} KiB charged to its cgroups, {} KiB less memory \
         available, {} KiB more slab",
        before.1.saturating_sub(after.1) / count,
        after.2.saturating_sub(before.2) / count,
    );
    print_parts(&world);
    assert!(each <= LIMIT_KIB, "{each} KiB");
    node.agent.shutdown_sandboxes().await;
    node.stop().await;
    world.assert_clean().await;
}

/// Memory charged to the node's sandboxes and their supervisors.
fn charged_kib(world: &World) -> u64 {
    let name = format!("atoll-{}", world.instance);
    let file = |path: String| std::fs::read_to_string(path).ok();
    let one = file(format!(
        "/sys/fs/cgroup/memory/{name}/memory.usage_in_bytes"
    ));
    let two = || file(format!("/sys/fs/cgroup/{name}/memory.current"));
    one.or_else(two).unwrap().trim().parse::<u64>().unwrap() / 1024
}

fn meminfo_kib() -> u64 {
    field_kib("/proc/meminfo", "MemAvailable:")
}

fn slab_kib() -> u64 {
    field_kib("/proc/meminfo", "SUnreclaim:")
}

fn field_kib(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.map_or(0, |number| number.parse().unwrap())
}

/// Mean proportional and resident size of supervisors and guest agents.
fn print_parts(world: &World) {
    for (what, group) in [("supervisor", "supervisors"), ("guest", "cell-")] {
        let (mut pss, mut rss, mut count) = (0, 0, 0);
        let parent = format!("/sys/fs/cgroup/pids/atoll-{}", world.instance);
        for cell in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            if !cell.file_name().to_string_lossy().starts_with(group) {
                continue;
            }
            let procs = std::fs::read_to_string(cell.path().join("cgroup.procs"));
            for pid in procs.unwrap_or_default().lines() {
                pss += field_kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:");
                rss += field_kib(&format!("/proc/{pid}/status"), "VmRSS:");
                count += 1;
            }
        }
        let count = u64::max(count, 1);
        println!(
            "{what}: {} KiB resident, {} KiB its share",
            rss / count,
            pss / count
        );
    }
}
