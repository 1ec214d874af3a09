//! `atoll bench scheduler`: what a decision costs, and how that grows with the fleet.
//!
//! A fleet is filled to a good two thirds and kept there: every measured decision reserves and
//! commits its place, then one sandbox somewhere ends; every tenth is followed by a heartbeat that
//! changes a node's measured use. One thread does it all. The rate counts everything in that loop;
//! the times are those of the decision with its reservation.

use std::time::Duration;

use anyhow::Context as _;
use atoll_core::id::NodeId;
use atoll_core::scheduler::amount::Amount;
use atoll_core::scheduler::amount::Dimension::{Cpu, Memory};
use atoll_core::scheduler::fleet::{Fleet, Holding};
use atoll_core::scheduler::policy::Policy;
use atoll_core::scheduler::request::Request;
use atoll_core::time::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;
use tokio::time::Instant;

use crate::bench::machine;
use crate::bench::workload::{self, Mix};
use crate::cli::bench::BenchSchedulerArgs;
use crate::output;

/// Requests that are prepared, and asked in turn: more than there are kinds of them.
const REQUESTS: usize = 4_096;

/// Updates whose cost is measured.
const UPDATES: u32 = 2_000;

/// How full the fleet is kept, of cpu or memory, in percent.
const FULL_PERCENT: u64 = 70;

/// Decisions to a heartbeat. 10,000 nodes that beat every 5 s at 20,000 decisions/s are as many.
const DECISIONS_PER_BEAT: u32 = 10;

/// One line of the result.
#[derive(Debug, Serialize)]
struct Line<'a> {
    nodes: usize,
    mix: Mix,
    decisions_per_s: u64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    /// A heartbeat that changes a node, with every class brought up to date at once.
    update_us: f64,
    bytes_per_node: usize,
    decisions: u32,
    refused: u32,
    /// Sandboxes in the fleet meanwhile.
    sandboxes: usize,
    classes: usize,
    classes_made: u64,
    seed: u64,
    conditions: &'a str,
    commit: &'static str,
    machine: &'a str,
}

/// Measures and prints.
///
/// # Errors
/// If a fleet cannot be filled.
pub(crate) fn run(arguments: &BenchSchedulerArgs) -> anyhow::Result<()> {
    anyhow::ensure!(!arguments.nodes.contains(&0), "--nodes must be at least 1");
    let machine = machine();
    let conditions = format!(
        "one thread; fleet {FULL_PERCENT}% full; each decision reserved and committed, then one \
         sandbox ends; a heartbeat every {DECISIONS_PER_BEAT} decisions; rate of the whole loop"
    );
    let mut rows = Vec::new();
    for mix in &arguments.mix {
        for nodes in &arguments.nodes {
            let mut line = measure(*nodes, *mix, arguments)?;
            (line.conditions, line.machine) = (&conditions, &machine);
            if arguments.json {
                output::json(&line)?;
            }
            rows.push(row(&line));
        }
    }
    if arguments.json {
        return Ok(());
    }
    let heading = [
        "NODES",
        "MIX",
        "DECISIONS/S",
        "P50 US",
        "P99 US",
        "P99.9 US",
        "CHANGE US",
        "B/NODE",
    ];
    output::line(&output::table(&heading, &rows))?;
    let commit = env!("ATOLL_COMMIT");
    output::line(&format!("{conditions}; commit {commit}; {machine}"))
}

fn row(line: &Line<'_>) -> Vec<String> {
    vec![
        line.nodes.to_string(),
        format!("{:?}", line.mix).to_lowercase(),
        line.decisions_per_s.to_string(),
        line.p50_us.to_string(),
        line.p99_us.to_string(),
        line.p999_us.to_string(),
        line.update_us.to_string(),
        line.bytes_per_node.to_string(),
    ]
}

/// A fleet under load.
struct World {
    fleet: Fleet,
    nodes: usize,
    policy: Policy,
    requests: Vec<Request>,
    running: Vec<(NodeId, Holding)>,
    random: StdRng,
    now: Timestamp,
    turn: u32,
    refused: u32,
}

impl World {
    /// Decides on the next request and commits; answers how long the decision took.
    fn decide(&mut self) -> Duration {
        let request = &self.requests[self.turn as usize % REQUESTS];
        self.turn += 1;
        self.now = self.now.saturating_add(Duration::from_micros(5));
        let began = Instant::now();
        let answer = self
            .fleet
            .decide(request, &self.policy, self.turn.into(), self.now);
        let took = began.elapsed();
        let Ok(decision) = answer else {
            self.refused += 1;
            return took;
        };
        if let Some(reservation) = decision.reservation {
            self.fleet.commit(reservation, self.now);
        }
        let holding = Holding {
            amount: request.amount,
            groups: request.groups.clone(),
        };
        self.running.push((decision.node, holding));
        took
    }

    fn end_one(&mut self) {
        if !self.running.is_empty() {
            let at = self.random.random_range(0..self.running.len());
            let (node, holding) = self.running.swap_remove(at);
            self.fleet.release(&node, &holding);
        }
    }

    fn beat(&mut self) {
        let number = self.random.random_range(0..self.nodes);
        let total = workload::machine(number);
        let percent = self.random.random_range(10..90);
        let used = total.zip(Amount::ZERO, |of, _| of / 100 * percent);
        self.fleet.heartbeat(&workload::id(number), used);
    }

    /// Whether cpu or memory of the whole fleet is used as much as wanted.
    fn is_full(&self) -> bool {
        let mut sums = [0_u64; 4];
        // The same machines come again and again: a few stand for all.
        let step = (self.nodes / 97).max(1);
        for number in (0..self.nodes).step_by(step) {
            let account = self.fleet.account(&workload::id(number));
            let (total, used) = account.unwrap_or_default();
            let values = [
                used.get(Cpu),
                total.get(Cpu),
                used.get(Memory),
                total.get(Memory),
            ];
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += u64::from(value);
            }
        }
        sums[0] * 100 >= sums[1] * FULL_PERCENT || sums[2] * 100 >= sums[3] * FULL_PERCENT
    }
}

fn measure(
    nodes: usize,
    mix: Mix,
    arguments: &BenchSchedulerArgs,
) -> anyhow::Result<Line<'static>> {
    let mut random = StdRng::seed_from_u64(arguments.seed);
    let fleet = workload::fleet(nodes, &mut random);
    let requests = (0..REQUESTS).map(|_| workload::request(mix, nodes, &mut random));
    let requests = requests.collect();
    let mut world = World {
        fleet,
        nodes,
        policy: workload::policy(mix),
        requests,
        running: Vec::new(),
        random,
        now: workload::begun(),
        turn: 0,
        refused: 0,
    };
    while !world.is_full() {
        for _ in 0..nodes.max(100) {
            world.decide();
        }
        anyhow::ensure!(world.refused < 1_000_000, "the fleet does not fill up");
    }
    world.refused = 0;
    let mut times = Vec::with_capacity(arguments.decisions as usize);
    let began = Instant::now();
    for turn in 0..arguments.decisions {
        times.push(world.decide());
        world.end_one();
        if turn % DECISIONS_PER_BEAT == 0 {
            world.beat();
        }
    }
    let took = began.elapsed();
    world.fleet.settle();
    let began = Instant::now();
    for _ in 0..UPDATES {
        world.beat();
        world.fleet.settle();
    }
    let updates = began.elapsed();
    times.sort_unstable();
    let at = |permille: usize| {
        let rank = (times.len() * permille).div_ceil(1_000);
        times
            .get(rank.saturating_sub(1))
            .map_or(0.0, |time| micros(*time))
    };
    let size = world.fleet.size();
    let rate = f64::from(arguments.decisions) / took.as_secs_f64();
    Ok(Line {
        nodes,
        mix,
        decisions_per_s: format!("{rate:.0}").parse().context("a rate is a number")?,
        p50_us: at(500),
        p99_us: at(990),
        p999_us: at(999),
        update_us: micros(updates / UPDATES),
        bytes_per_node: size.bytes / nodes,
        decisions: arguments.decisions,
        refused: world.refused,
        sandboxes: world.running.len(),
        classes: size.classes,
        classes_made: size.classes_made,
        seed: arguments.seed,
        conditions: "",
        commit: env!("ATOLL_COMMIT"),
        machine: "",
    })
}

fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e8).round() / 100.0
}
