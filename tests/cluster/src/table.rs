//! What clients saw of each fault, in figures.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use tokio::time::Instant;

use crate::client::Attempt;
use crate::faults::Fault;

/// When a fault was done, and when the next one began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) fault: Fault,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) fault: Fault,
    pub(crate) attempts: usize,
    pub(crate) failed: usize,
    pub(crate) gave_up: usize,
    /// From the fault to the end of the last attempt that failed.
    pub(crate) recovered: Option<Duration>,
    pub(crate) slowest: Duration,
}

impl Line {
    pub(crate) fn of(window: Window, attempts: &[Attempt]) -> Self {
        let within: Vec<&Attempt> = attempts
            .iter()
            .filter(|attempt| (window.began..window.ended).contains(&attempt.ended))
            .collect();
        let failed: Vec<_> = within
            .iter()
            .filter(|attempt| attempt.failure.is_some())
            .collect();
        Self {
            fault: window.fault,
            attempts: within.len(),
            failed: failed.len(),
            gave_up: within.iter().filter(|attempt| attempt.gave_up).count(),
            recovered: failed
                .iter()
                .map(|attempt| attempt.ended - window.began)
                .max(),
            slowest: within
                .iter()
                .map(|attempt| attempt.took)
                .max()
                .unwrap_or_default(),
        }
    }
}

/// As a table of Markdown.
pub(crate) fn markdown(lines: &[Line]) -> String {
    let mut text = String::from(
        "| fault | attempts | failed | operations given up | errors seen for | slowest attempt |\n\
         |---|---|---|---|---|---|\n",
    );
    for line in lines {
        let share = 100.0 * ratio(line.failed, line.attempts);
        let recovered = line.recovered.map_or_else(
            || "none seen".to_owned(),
            |took| format!("{:.1} s", took.as_secs_f64()),
        );
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} ({share:.1} %) | {} | {recovered} | {:.1} s |",
            line.fault.text(),
            line.attempts,
            line.failed,
            line.gave_up,
            line.slowest.as_secs_f64()
        );
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run of minutes")]
fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

const BEGIN: &str = "<!-- faults: begin -->";
const END: &str = "<!-- faults: end -->";

/// Puts the table between the marks of a document.
///
/// # Errors
/// If the document cannot be read or written, or has no marks.
pub(crate) fn write(path: &Path, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let (head, rest) = text.split_once(BEGIN).context("the document has no mark")?;
    let (_, tail) = rest
        .split_once(END)
        .context("the document has no second mark")?;
    std::fs::write(path, format!("{head}{BEGIN}\n{table}{END}{tail}"))?;
    Ok(())
}

/// Why attempts failed within a window, what happened most often first.
pub(crate) fn reasons(window: Window, attempts: &[Attempt]) -> Vec<String> {
    const SHOWN: usize = 4;
    const CHARACTERS: usize = 160;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for attempt in attempts {
        if let Some(why) = &attempt.failure
            && (window.began..window.ended).contains(&attempt.ended)
        {
            let why: String = why.chars().take(CHARACTERS).collect();
            *counts
                .entry(format!("{}: {why}", attempt.operation))
                .or_default() += 1;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    let shown = counts.into_iter().take(SHOWN);
    shown
        .map(|(why, count)| format!("{count} × {why}"))
        .collect()
}
