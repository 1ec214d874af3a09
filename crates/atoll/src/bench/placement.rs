//! `atoll bench placement`: how good placements are, beside other ways to choose.
//!
//! Every contender gets the same fleets and the same traces: sandboxes of many sizes arrive and end
//! by a seed. The fleet is looked at while it is loaded; refusals are counted throughout, and those
//! that came though some node had room on their own.

mod contender;
mod plot;
mod replicas;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use atoll_core::scheduler::amount::{Amount, Dimension};
use atoll_core::scheduler::fleet::Holding;
use atoll_core::scheduler::request::Request;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use self::contender::{Contender, Placer, look};
use crate::bench::machine;
use crate::bench::workload::{self, Mix};
use crate::cli::bench::BenchPlacementArgs;
use crate::output;

/// A sandbox of the middle size, for what counts as stranded.
const MIDDLE: Amount = Amount::new(2_000, 2_048, 1_024, 10);

/// Arrivals between two looks at the fleet.
const LOOK_EVERY: usize = 200;

/// A load: arrivals, and how long each lives in arrivals, so that the fleet is about so full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Trace {
    /// A third of what the fleet holds: how few nodes will do.
    Low,
    /// Nearly what the fleet holds: who refuses what.
    High,
    /// Memory-heavy sandboxes first, then cpu-heavy ones, at high load: what gets stranded.
    Skewed,
}

impl Trace {
    const fn fill_percent(self) -> u64 {
        match self {
            Self::Low => 33,
            Self::High | Self::Skewed => 97,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::High => "high",
            Self::Skewed => "skewed",
        }
    }
}

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    trace: Trace,
    contender: Contender,
    nodes: usize,
    arrivals: usize,
    /// Of the nodes, on average over the looks.
    nodes_used: f64,
    /// Of all cpu and memory, in percent.
    stranded_percent: f64,
    /// The fullest node's share to the mean.
    balance_max_to_mean: f64,
    refused: usize,
    /// Though a node had room.
    refused_with_room: usize,
    /// Of those placed, in percent.
    template_hits_percent: f64,
    seed: u64,
    commit: &'static str,
    machine: String,
}

/// Measures, prints, and draws if wanted.
///
/// # Errors
/// If the plot cannot be written.
pub(crate) fn run(arguments: &BenchPlacementArgs) -> anyhow::Result<()> {
    if !arguments.replicas.is_empty() {
        return replicas::run(arguments);
    }
    anyhow::ensure!(arguments.nodes > 0, "--nodes must be at least 1");
    let mut lines = Vec::new();
    for trace in [Trace::Low, Trace::High, Trace::Skewed] {
        for contender in Contender::ALL {
            let line = measure(trace, contender, arguments);
            if arguments.json {
                output::json(&line)?;
            }
            lines.push(line);
        }
    }
    if let Some(path) = &arguments.plot {
        std::fs::write(path, plot::draw(&lines))?;
    }
    if arguments.json {
        return Ok(());
    }
    let heading = [
        "TRACE",
        "CONTENDER",
        "NODES USED",
        "STRANDED %",
        "MAX/MEAN",
        "REFUSED",
        "WITH ROOM",
        "TEMPLATE HITS %",
    ];
    let rows: Vec<_> = lines.iter().map(row).collect();
    output::line(&output::table(&heading, &rows))?;
    output::line(&format!(
        "{} nodes, {} arrivals, seed {}; commit {}; {}",
        arguments.nodes,
        arguments.arrivals,
        arguments.seed,
        env!("ATOLL_COMMIT"),
        machine()
    ))
}

fn row(line: &Line) -> Vec<String> {
    vec![
        line.trace.as_str().to_owned(),
        line.contender.as_str().to_owned(),
        format!("{:.1}", line.nodes_used),
        format!("{:.1}", line.stranded_percent),
        format!("{:.2}", line.balance_max_to_mean),
        line.refused.to_string(),
        line.refused_with_room.to_string(),
        format!("{:.1}", line.template_hits_percent),
    ]
}

/// A request of the trace, at this part of it in percent.
fn request(trace: Trace, at: usize, nodes: usize, random: &mut StdRng) -> Request {
    let mut request = workload::request(Mix::Mixed, nodes, random);
    if trace == Trace::Skewed {
        // In turns of a tenth of the trace.
        let is_memory = (at / 10).is_multiple_of(2);
        request.amount = match (is_memory, random.random_range(0..4)) {
            (true, 0) => Amount::new(4_000, 8_192, 1_024, 10),
            (true, _) => Amount::new(1_000, 4_096, 1_024, 10),
            (false, 0) => Amount::new(8_000, 8_192, 1_024, 10),
            (false, _) => Amount::new(8_000, 1_024, 1_024, 10),
        };
    }
    request
}

/// How many sandboxes of the trace fill the fleet as the trace wants.
fn lifetime(trace: Trace, nodes: usize, random: &mut StdRng) -> u64 {
    let samples = 2_000;
    let mut mean = [0_u64; 2];
    for at in 0..samples {
        let amount = request(trace, at * 100 / samples, nodes, random).amount;
        mean[0] += u64::from(amount.get(Dimension::Cpu));
        mean[1] += u64::from(amount.get(Dimension::Memory));
    }
    let mut room = [0_u64; 2];
    for number in 0..nodes {
        let machine = workload::machine(number);
        room[0] += 4 * u64::from(machine.get(Dimension::Cpu));
        room[1] += u64::from(machine.get(Dimension::Memory));
    }
    let samples = u64::try_from(samples).unwrap_or(1);
    let fits = (room[0] * samples / mean[0].max(1)).min(room[1] * samples / mean[1].max(1));
    fits * trace.fill_percent() / 100
}

fn measure(trace: Trace, contender: Contender, arguments: &BenchPlacementArgs) -> Line {
    let nodes = arguments.nodes;
    let mut random = StdRng::seed_from_u64(arguments.seed);
    let (fleet, templates) = workload::plain_fleet(nodes, &mut random);
    let lifetime = lifetime(trace, nodes, &mut random);
    // Its own, so that the trace is the same for all.
    let chance = StdRng::seed_from_u64(arguments.seed + 1);
    let mut placer = Placer::new(contender, fleet, nodes, chance);
    let mut ends = BinaryHeap::new();
    let mut now = workload::begun();
    let (mut refused, mut with_room, mut placed, mut hits, mut looks) = (0, 0, 0_u32, 0_u32, 0_u32);
    let (mut used, mut stranded, mut imbalance) = (0.0, 0.0, 0.0);
    for turn in 0..arguments.arrivals {
        now = now.saturating_add(Duration::from_millis(100));
        let request = request(trace, turn * 100 / arguments.arrivals, nodes, &mut random);
        // From half to one and a half of the mean.
        let lives = random.random_range(lifetime / 2..=lifetime * 3 / 2);
        let end = u64::try_from(turn).unwrap_or(u64::MAX) + lives;
        while let Some(Reverse((at, _, _))) = ends.peek()
            && *at <= u64::try_from(turn).unwrap_or(u64::MAX)
        {
            let Some(Reverse((_, node, amount))) = ends.pop() else {
                break;
            };
            end_one(&mut placer, node, amount);
        }
        if let Some(node) = placer.place(&request, now) {
            placed += 1;
            hits += u32::from(templates.has(node, &request));
            ends.push(Reverse((end, node, parts(request.amount))));
        } else {
            refused += 1;
            with_room += usize::from(placer.has_any_room(&request));
        }
        if turn % LOOK_EVERY == 0 && turn >= arguments.arrivals / 2 {
            let seen = look(&placer.fleet, nodes, MIDDLE);
            used += f64::from(seen.used_nodes);
            stranded += seen.stranded;
            imbalance += seen.imbalance;
            looks += 1;
        }
    }
    let mean = |sum: f64| round(sum / f64::from(looks.max(1)));
    Line {
        trace,
        contender,
        nodes,
        arrivals: arguments.arrivals,
        nodes_used: mean(used),
        stranded_percent: mean(stranded * 100.0),
        balance_max_to_mean: mean(imbalance),
        refused,
        refused_with_room: with_room,
        template_hits_percent: round(f64::from(hits) * 100.0 / f64::from(placed.max(1))),
        seed: arguments.seed,
        commit: env!("ATOLL_COMMIT"),
        machine: machine(),
    }
}

/// An amount that a heap can order.
fn parts(amount: Amount) -> [u32; 4] {
    Dimension::ALL.map(|dimension| amount.get(dimension))
}

fn end_one(placer: &mut Placer, node: usize, amount: [u32; 4]) {
    let [cpu, memory, disk, network] = amount;
    let holding = Holding {
        amount: Amount::new(cpu, memory, disk, network),
        groups: Vec::new(),
    };
    placer.fleet.release(&workload::id(node), &holding);
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
