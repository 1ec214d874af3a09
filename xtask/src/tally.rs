//! Outcomes of tests that other runners ran, counted by group.
//!
//! Each runner leaves one JSON object a line (file, test, outcome, why); this module reads, groups
//! and prints them. It knows nothing of the runners.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

/// What became of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Passed,
    Failed,
    Skipped,
    /// It cannot pass here, whatever the server does; the reason stands beside it.
    NotApplicable,
}

/// One test.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Row {
    pub(crate) file: String,
    pub(crate) test: String,
    pub(crate) outcome: Outcome,
    pub(crate) why: String,
}

/// How many tests of a group had which outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    pub(crate) not_applicable: usize,
}

impl Counts {
    const fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Skipped => self.skipped += 1,
            Outcome::NotApplicable => self.not_applicable += 1,
        }
    }
}

/// Reads what a runner left.
pub(crate) fn read(lines: &str) -> Result<Vec<Row>> {
    lines
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).with_context(|| format!("read the tally `{line}`")))
        .collect()
}

/// Counts by the group that `group_of` names.
pub(crate) fn count(rows: &[Row], group_of: impl Fn(&Row) -> String) -> BTreeMap<String, Counts> {
    let mut groups: BTreeMap<String, Counts> = BTreeMap::new();
    for row in rows {
        groups.entry(group_of(row)).or_default().add(row.outcome);
    }
    groups
}

/// The subject of a test file: `test_files.py` and `files.test.mjs` are both `files`.
pub(crate) fn subject(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    let name = name.split('.').next().unwrap_or(name);
    name.strip_prefix("test_").unwrap_or(name).replace('_', " ")
}

/// Rows of a Markdown table: one a group, each beginning with `prefix` cells.
pub(crate) fn table_rows(prefix: &str, groups: &BTreeMap<String, Counts>) -> String {
    groups
        .iter()
        .map(|(group, counts)| {
            let Counts {
                passed,
                failed,
                skipped,
                not_applicable,
            } = counts;
            let skipped = skipped + not_applicable;
            format!("| {prefix}{group} | {passed} | {failed} | {skipped} |\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"file": "test_bad.py", "test": "x", "outcome": "passed", "why": ""}
{"file": "test_bad.py", "test": "y", "outcome": "failed", "why": "no"}

{"file": "pty.test.mjs", "test": "z", "outcome": "skipped", "why": ""}
"#;

    #[test]
    fn outcomes_are_counted_by_subject() {
        let rows = read(LINES).unwrap();
        assert_eq!(rows[1].why, "no");
        let groups = count(&rows, |row| subject(&row.file));
        let both = Counts {
            passed: 1,
            failed: 1,
            ..Counts::default()
        };
        let one = Counts {
            skipped: 1,
            ..Counts::default()
        };
        let expected = [("bad".to_owned(), both), ("pty".to_owned(), one)];
        assert_eq!(groups, BTreeMap::from(expected));
        assert_eq!(
            table_rows("SDK | ", &groups),
            "| SDK | bad | 1 | 1 | 0 |\n| SDK | pty | 0 | 0 | 1 |\n"
        );
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(read("nonsense").is_err());
        assert!(read(r#"{"file": "a", "test": "b", "outcome": "maybe", "why": ""}"#).is_err());
    }
}
