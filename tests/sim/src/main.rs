//! `atoll-sim`: many seeds, or one of them with its trace. Usually called as `cargo xtask sim`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use atoll_sim::options::{Options, Sabotage};
use atoll_sim::run::{Report, run};
use clap::Parser;

#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the whole trace of every run.
    #[arg(long)]
    trace: bool,
    /// Steps before the faults stop.
    #[arg(long, default_value_t = Options::STEPS)]
    steps: u32,
    /// Servers on the one store.
    #[arg(long, default_value_t = 1)]
    servers: usize,
    /// Break this on purpose.
    #[arg(long)]
    sabotage: Option<Sabotage>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (first, count) = match arguments.seed {
        Some(seed) => (seed, 1),
        None => (arguments.from, arguments.seeds),
    };
    let next = AtomicU64::new(first);
    let reports = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let report = run(Options {
                        seed,
                        steps: arguments.steps,
                        servers: arguments.servers.max(1),
                        sabotage: arguments.sabotage,
                        keeps_trace: arguments.trace,
                    });
                    let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
                    reports.push(report);
                }
            });
        }
    });
    let mut reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    reports.sort_by_key(|report| report.seed);
    conclude(&arguments, &reports)
}

fn conclude(arguments: &Arguments, reports: &[Report]) -> ExitCode {
    for report in reports {
        let is_failed = !report.violations.is_empty();
        if arguments.trace || is_failed {
            for line in &report.trace {
                println!("{line}");
            }
        }
        if is_failed {
            println!("seed {} breaks:", report.seed);
            for violation in &report.violations {
                println!("  {violation}");
            }
            println!("reproduce: {}", report.command(arguments.steps));
        }
        if reports.len() == 1 {
            println!("seed {}: trace {:016x}", report.seed, report.hash);
        }
    }
    let failed = reports.iter().filter(|one| !one.violations.is_empty());
    let failed = failed.count();
    let creates: u64 = reports.iter().map(|report| report.creates).sum();
    let lines: u64 = reports.iter().map(|report| report.lines).sum();
    let time: u64 = reports.iter().map(|one| one.virtual_time.as_secs()).sum();
    println!(
        "{} seeds, {creates} creates, {lines} lines, {time} virtual seconds: {failed} failed",
        reports.len()
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
