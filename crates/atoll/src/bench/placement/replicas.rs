//! Several control planes that decide at once on late views: how often a node refuses.

use std::time::Duration;

use atoll_core::scheduler::policy::{Policy, Strategy};
use atoll_core::scheduler::replicas::{ATTEMPTS_MAX, NODES_ASKED_MAX, Outcome, Setup, rehearse};
use serde::Serialize;

use crate::bench::machine;
use crate::cli::bench::BenchPlacementArgs;
use crate::output;

/// How full the fleet is, in percent.
const FILL_PERCENT: u32 = 90;

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
struct Line<'a> {
    strategy: &'static str,
    replicas: usize,
    stale_ms: u64,
    refusals_tell: bool,
    retries_mean: f64,
    retries_p99: u32,
    retries_max: u32,
    retries_in_attempt_max: u32,
    attempts: u32,
    creates: u32,
    refused: u32,
    refused_with_room: u32,
    over_capacity: u32,
    nodes: usize,
    fill_percent: u32,
    seed: u64,
    commit: &'static str,
    machine: &'a str,
}

/// Measures and prints.
///
/// # Errors
/// If there is nothing to measure, or too much.
pub(super) fn run(arguments: &BenchPlacementArgs) -> anyhow::Result<()> {
    let is_positive = arguments.nodes > 0 && !arguments.replicas.contains(&0);
    anyhow::ensure!(is_positive, "--nodes and --replicas must be at least 1");
    let stale = &arguments.stale_ms;
    anyhow::ensure!(!stale.contains(&0), "--stale-ms must be at least 1");
    let machine = machine();
    let mut rows = Vec::new();
    let strategies = [
        Strategy::BestFit,
        Strategy::LeastAllocated,
        Strategy::BestOf(3),
        Strategy::Random,
    ];
    for strategy in strategies {
        for replicas in &arguments.replicas {
            for stale_ms in stale {
                for refusals_tell in [false, true] {
                    let line = line(strategy, *replicas, *stale_ms, refusals_tell, arguments)?;
                    let line = Line {
                        machine: &machine,
                        ..line
                    };
                    if arguments.json {
                        output::json(&line)?;
                    }
                    rows.push(row(&line));
                }
            }
        }
    }
    if arguments.json {
        return Ok(());
    }
    let heading = [
        "STRATEGY",
        "REPLICAS",
        "STALE MS",
        "TOLD",
        "RETRIES MEAN",
        "P99",
        "MAX",
        "ATTEMPTS",
        "REFUSED",
        "OVER CAPACITY",
    ];
    output::line(&output::table(&heading, &rows))?;
    output::line(&format!(
        "{} nodes, {FILL_PERCENT} % full; {} creates, each with {ATTEMPTS_MAX} attempts of \
         {NODES_ASKED_MAX} nodes at most; seed {}; commit {}; {machine}",
        arguments.nodes,
        arguments.arrivals,
        arguments.seed,
        env!("ATOLL_COMMIT"),
    ))
}

fn line(
    strategy: Strategy,
    replicas: usize,
    stale_ms: u64,
    refusals_tell: bool,
    arguments: &BenchPlacementArgs,
) -> anyhow::Result<Line<'static>> {
    let creates = u32::try_from(arguments.arrivals)?;
    let outcome: Outcome = rehearse(&Setup {
        replicas,
        nodes: arguments.nodes,
        stale: Duration::from_millis(stale_ms),
        policy: Policy::new(strategy),
        fill_percent: FILL_PERCENT,
        creates,
        refusals_tell,
        seed: arguments.seed,
    });
    Ok(Line {
        strategy: strategy.as_str(),
        replicas,
        stale_ms,
        refusals_tell,
        retries_mean: (outcome.retries_mean() * 1_000.0).round() / 1_000.0,
        retries_p99: outcome.retries_at(990),
        retries_max: outcome.retries_at(1_000),
        retries_in_attempt_max: outcome.retries_in_attempt_max,
        attempts: outcome.attempts,
        creates,
        refused: outcome.refused,
        refused_with_room: outcome.refused_with_room,
        over_capacity: outcome.over_capacity,
        nodes: arguments.nodes,
        fill_percent: FILL_PERCENT,
        seed: arguments.seed,
        commit: env!("ATOLL_COMMIT"),
        machine: "",
    })
}

fn row(line: &Line<'_>) -> Vec<String> {
    let told = if line.refusals_tell { "yes" } else { "no" };
    vec![
        line.strategy.to_owned(),
        line.replicas.to_string(),
        line.stale_ms.to_string(),
        told.to_owned(),
        format!("{:.3}", line.retries_mean),
        line.retries_p99.to_string(),
        line.retries_max.to_string(),
        line.attempts.to_string(),
        line.refused.to_string(),
        line.over_capacity.to_string(),
    ]
}
