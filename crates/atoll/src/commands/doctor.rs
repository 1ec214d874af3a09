//! `atoll doctor`: what this machine offers each driver.

use std::fmt::Write as _;

use atoll_node::doctor::{self, Check, DriverReport, Verdict};
use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::output;

#[derive(Serialize)]
struct DriverLine<'a> {
    driver: &'a str,
    is_built: bool,
    is_usable: bool,
    checks: Vec<CheckLine<'a>>,
}

#[derive(Serialize)]
struct CheckLine<'a> {
    subject: &'a str,
    verdict: &'static str,
    found: &'a str,
    fix: Option<&'a str>,
}

/// Prints the findings.
///
/// # Errors
/// If standard output cannot be written.
pub(crate) fn run(arguments: &DoctorArgs) -> anyhow::Result<()> {
    let reports = doctor::examine(&arguments.data.data_dir);
    if arguments.json {
        let lines: Vec<DriverLine<'_>> = reports.iter().map(driver_line).collect();
        return output::json(&lines);
    }
    output::line(render(&reports).trim_end())
}

/// The lines a person needs when the node cannot start: what is missing, and the fix.
pub(crate) fn complaints(checks: &[Check]) -> Vec<String> {
    checks
        .iter()
        .filter(|check| check.verdict == Verdict::Missing)
        .map(|check| {
            let fix = check.fix.as_deref().unwrap_or("see `atoll doctor`");
            format!("{}: {}. To mend it: {fix}", check.subject, check.found)
        })
        .collect()
}

fn render(reports: &[DriverReport]) -> String {
    let mut text = String::new();
    for report in reports {
        let summary = match (report.is_built, report.is_usable()) {
            (false, _) => "not part of this version of Atoll",
            (true, true) => "ready",
            (true, false) => "cannot run here",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}: {summary}", report.driver);
        for check in &report.checks {
            let mark = word(check.verdict);
            let _ = writeln!(text, "  {mark:<8} {:<16} {}", check.subject, check.found);
            if let Some(fix) = &check.fix {
                let _ = writeln!(text, "  {:<8} {:<16} -> {fix}", "", "");
            }
        }
        text.push('\n');
    }
    text
}

fn driver_line(report: &DriverReport) -> DriverLine<'_> {
    let checks = report.checks.iter().map(|check| CheckLine {
        subject: check.subject,
        verdict: word(check.verdict),
        found: &check.found,
        fix: check.fix.as_deref(),
    });
    DriverLine {
        driver: report.driver,
        is_built: report.is_built,
        is_usable: report.is_usable(),
        checks: checks.collect(),
    }
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Degraded => "degraded",
        Verdict::Missing => "missing",
    }
}
