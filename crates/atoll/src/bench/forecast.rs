//! `atoll bench forecast`: whether a forecast lowers refusals, and what is held for it.
//!
//! Recorded days are replayed on a fleet that is too small for them at times: without anything
//! held, with what the forecast holds, and with a constant reserve as large as the forecast's on
//! average and at most. The first two days are for learning and are not counted. Nobody asks again
//! after a refusal.

mod replay;
mod source;
mod trace;

use atoll_core::scheduler::forecast;
use serde::Serialize;

use self::replay::{Outcome, Way, replay};
use self::source::{DAY, SOURCES};
use self::trace::Trace;
use crate::bench::machine;
use crate::cli::forecast::BenchForecastArgs;
use crate::output;

/// Five days that were recorded once.
const RECORDED: &str = include_str!("forecast/days.txt");

/// Days for learning.
const LEARNT: usize = 2;

/// Refusals of one team.
#[derive(Debug, Clone, Serialize)]
struct Refusals {
    team: &'static str,
    arrived: u32,
    refused: u32,
}

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
struct Line<'a> {
    held: &'static str,
    /// Of those for which somebody waits.
    awaited: u32,
    awaited_refused: u32,
    awaited_refused_percent: f64,
    refused: u32,
    teams: Vec<Refusals>,
    /// Of the fleet, in its scarcest dimension, in percent.
    held_mean_percent: f64,
    held_max_percent: f64,
    used_mean_percent: f64,
    nodes: usize,
    days: usize,
    lead_minutes: usize,
    limit_percent: u32,
    conditions: &'static str,
    commit: &'static str,
    machine: &'a str,
}

const CONDITIONS: &str = "made-up days (five sources, by minute); nodes of 16 cores at 4:1 and 64 \
    GiB; best fit; the first two days are not counted; no second attempts";

/// Measures and prints, or records.
///
/// # Errors
/// If a trace cannot be read or written, or is none.
pub(crate) fn run(arguments: &BenchForecastArgs) -> anyhow::Result<()> {
    if let Some(path) = &arguments.record {
        std::fs::write(path, source::record(arguments.days, arguments.seed))?;
        return Ok(());
    }
    anyhow::ensure!(arguments.nodes > 0, "--nodes must be at least 1");
    let trace = match &arguments.trace {
        Some(path) => Trace::parse(&std::fs::read_to_string(path)?)?,
        None => Trace::parse(RECORDED)?,
    };
    let config = forecast::Config {
        lead_minutes: arguments.lead_minutes,
        reserve_percent: arguments.reserve_percent,
        ..forecast::Config::default()
    };
    let machine = machine();
    let mut rows = Vec::new();
    for (held, outcome) in compare(&trace, arguments.nodes, config) {
        let line = line(held, outcome, &trace, arguments, &machine);
        if arguments.json {
            output::json(&line)?;
        }
        rows.push(row(&line));
    }
    if arguments.json {
        return Ok(());
    }
    let mut heading = vec!["HELD", "AWAITED REFUSED", "%"];
    heading.extend(SOURCES.map(|source| source.name));
    heading.extend(["HELD MEAN %", "HELD MAX %", "USED %"]);
    output::line(&output::table(&heading, &rows))?;
    output::line(&format!(
        "{} nodes; lead {} min; limit {} %; {CONDITIONS}; commit {}; {machine}",
        arguments.nodes,
        arguments.lead_minutes,
        arguments.reserve_percent,
        env!("ATOLL_COMMIT"),
    ))
}

/// All ways of holding room, with their outcomes.
fn compare(trace: &Trace, nodes: usize, config: forecast::Config) -> [(&'static str, Outcome); 4] {
    let counted_from = LEARNT * DAY;
    let run = |way| replay(trace, nodes, way, counted_from);
    let with = run(Way::Forecast(config));
    let most = {
        let ratio = with.held_max / with.held_mean.max(f64::EPSILON);
        // Of the same make-up as what was held on average.
        let percent = format!("{:.0}", ratio * 100.0).parse().unwrap_or(100);
        with.held.percent(percent)
    };
    [
        ("nothing", run(Way::None)),
        ("forecast", with),
        ("constant, forecast's mean", run(Way::Constant(with.held))),
        ("constant, forecast's most", run(Way::Constant(most))),
    ]
}

fn line<'a>(
    held: &'static str,
    outcome: Outcome,
    trace: &Trace,
    arguments: &BenchForecastArgs,
    machine: &'a str,
) -> Line<'a> {
    let (awaited, awaited_refused) = awaited(&outcome);
    let teams = SOURCES.iter().zip(outcome.arrived).zip(outcome.refused);
    let teams = teams.map(|((source, arrived), refused)| Refusals {
        team: source.name,
        arrived,
        refused,
    });
    let percent = |part: f64| (part * 10_000.0).round() / 100.0;
    Line {
        held,
        awaited,
        awaited_refused,
        awaited_refused_percent: percent(f64::from(awaited_refused) / f64::from(awaited.max(1))),
        refused: outcome.refused.iter().sum(),
        teams: teams.collect(),
        held_mean_percent: percent(outcome.held_mean),
        held_max_percent: percent(outcome.held_max),
        used_mean_percent: percent(outcome.used_mean),
        nodes: arguments.nodes,
        days: trace.minutes().len() / DAY,
        lead_minutes: arguments.lead_minutes,
        limit_percent: arguments.reserve_percent,
        conditions: CONDITIONS,
        commit: env!("ATOLL_COMMIT"),
        machine,
    }
}

/// How many for whom somebody waits came, and how many of them were refused.
fn awaited(outcome: &Outcome) -> (u32, u32) {
    let each = SOURCES.iter().zip(outcome.arrived).zip(outcome.refused);
    let awaited = each.filter(|((source, _), _)| source.is_awaited);
    awaited.fold((0, 0), |sum, ((_, arrived), refused)| {
        (sum.0 + arrived, sum.1 + refused)
    })
}

fn row(line: &Line<'_>) -> Vec<String> {
    let mut row = vec![
        line.held.to_owned(),
        format!("{} of {}", line.awaited_refused, line.awaited),
        line.awaited_refused_percent.to_string(),
    ];
    row.extend(line.teams.iter().map(|team| team.refused.to_string()));
    row.extend([
        line.held_mean_percent.to_string(),
        line.held_max_percent.to_string(),
        line.used_mean_percent.to_string(),
    ]);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nodes of the table in the documents.
    const NODES: usize = 16;

    #[test]
    fn the_recorded_days_are_what_their_generator_makes() {
        assert!(source::record(5, 1) == RECORDED, "record it anew");
        assert_eq!(Trace::parse(RECORDED).unwrap().minutes().len(), 5 * DAY);
        assert!(Trace::parse("0 nobody 0 1").is_err());
        assert!(Trace::parse("0 hum 24 1").is_err());
    }

    /// Of the recorded days one to learn, and half of one that counts.
    #[test]
    fn a_forecast_lowers_refusals_and_holds_no_more_than_stated() {
        let is_short = |line: &&str| {
            let mut fields = line.split(' ');
            let day = fields.next();
            let hour = fields.nth(1).and_then(|hour| hour.parse::<u32>().ok());
            day == Some("0") || day == Some("1") && hour.is_some_and(|hour| hour < 12)
        };
        let short: Vec<_> = RECORDED.lines().filter(is_short).collect();
        let trace = Trace::parse(&short.join("\n")).unwrap();
        let config = forecast::Config::default();
        let limit = f64::from(config.reserve_percent) / 100.0;
        let without = replay(&trace, NODES, Way::None, DAY);
        let with = replay(&trace, NODES, Way::Forecast(config), DAY);
        assert!(with.held_max <= limit + 1e-9, "{with:?}");
        let refused = [awaited(&with).1, awaited(&without).1];
        assert!(refused[0] * 4 < refused[1], "{with:?} {without:?}");
    }
}
