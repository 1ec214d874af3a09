//! Recorded days.

use anyhow::Context as _;

use super::source::{DAY, SOURCES};

/// Days that a trace may have: what fits into memory many times over.
const DAYS_MAX: usize = 366;

/// The arrivals of each of [`SOURCES`] by minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trace {
    minutes: Vec<[u8; SOURCES.len()]>,
}

impl Trace {
    /// Reads what `record` wrote.
    ///
    /// # Errors
    /// If it is not that; says which line.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut minutes = Vec::new();
        let lines = text.lines().enumerate();
        for (number, line) in lines.filter(|(_, line)| !line.starts_with('#')) {
            place(line, &mut minutes).with_context(|| format!("line {}", number + 1))?;
        }
        anyhow::ensure!(!minutes.is_empty(), "there is no day in it");
        Ok(Self { minutes })
    }

    /// The arrivals of each source, minute for minute.
    pub(super) fn minutes(&self) -> &[[u8; SOURCES.len()]] {
        &self.minutes
    }
}

fn place(line: &str, minutes: &mut Vec<[u8; SOURCES.len()]>) -> anyhow::Result<()> {
    let mut fields = line.split(' ');
    let mut field = || fields.next().context("it ends early");
    let day: usize = field()?.parse()?;
    let name = field()?;
    let hour: usize = field()?.parse()?;
    let source = SOURCES.iter().position(|source| source.name == name);
    let source = source.with_context(|| format!("no such team: {name}"))?;
    anyhow::ensure!(day < DAYS_MAX && hour < 24, "no such time");
    if minutes.len() < (day + 1) * DAY {
        minutes.resize((day + 1) * DAY, [0; SOURCES.len()]);
    }
    let first = day * DAY + hour * 60;
    for minute in &mut minutes[first..first + 60] {
        minute[source] = field()?.parse()?;
    }
    anyhow::ensure!(fields.next().is_none(), "it has more than an hour");
    Ok(())
}
