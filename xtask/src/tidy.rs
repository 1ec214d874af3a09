//! `cargo xtask tidy`: the house rules that a machine can check.
//!
//! Every check is a pure function from what it judges (a file, the package graph, the list of
//! files) to findings, with tests that show it fail on bad input. All findings of all checks are
//! printed, not the first. The checks that cost nothing come first; the format and the lints, which
//! are cargo's, last.
//!
//! What it does not do: it changes no file, and reads no Rust beyond single lines; rules that need
//! syntax are clippy's.

mod dependencies;
mod layout;
mod links;
mod source;

use anyhow::{Context, Result, bail};

use crate::command::{Tool, headline};
use crate::workspace;

/// One violation of one rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// The rule's short name.
    rule: &'static str,
    /// File and line, or crate.
    place: String,
    /// What is wrong and what to do instead.
    message: String,
}

impl Finding {
    fn new(rule: &'static str, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            rule,
            place: place.into(),
            message: message.into(),
        }
    }
}

/// A text file of the checkout.
#[derive(Debug)]
struct SourceFile {
    /// Relative to the root.
    path: String,
    text: String,
}

/// Runs every check.
pub(crate) fn run() -> Result<()> {
    headline("tidy: house rules");
    let findings = house_rules()?;
    for finding in &findings {
        println!("{}: {} [{}]", finding.place, finding.message, finding.rule);
    }
    if !findings.is_empty() {
        bail!("{} house rules broken", findings.len());
    }
    for component in ["fmt", "clippy"] {
        if !Tool::cargo().args([component, "--version"]).succeeds() {
            bail!("`cargo {component}` is missing: run `rustup component add rustfmt clippy`");
        }
    }
    headline("tidy: format");
    Tool::cargo()
        .args(["fmt", "--all", "--check"])
        .run()
        .context("run `cargo fmt --all`")?;
    headline("tidy: lints");
    Tool::cargo()
        .args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
        ])
        .args(["--", "-D", "warnings"])
        .run()?;
    println!("tidy: nothing to mend");
    Ok(())
}

fn house_rules() -> Result<Vec<Finding>> {
    let files = workspace::files()?;
    let mut findings = layout::names(&files);
    for path in &files {
        let bytes = std::fs::read(workspace::root().join(path))
            .with_context(|| format!("read `{path}`"))?;
        findings.extend(layout::size(path, bytes.len()));
        // What is not text has no lines to judge.
        if let Ok(text) = String::from_utf8(bytes) {
            let file = SourceFile {
                path: path.clone(),
                text,
            };
            findings.extend(source::check(&file));
            findings.extend(links::check(&file, &files));
        }
    }
    let metadata = Tool::cargo()
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()?;
    findings.extend(dependencies::check(&metadata)?);
    Ok(findings)
}
