//! `cargo xtask test`: everything that decides whether a change is good, in one command.
//!
//! It brings what it needs, checks the house, runs every Rust test, then the conformance suites.
//! It stops at the first part that fails, and leaves the runners' own closing lines in the output.

use anyhow::Result;

use crate::command::{Tool, headline};
use crate::{conformance, provision, tidy};

/// Runs all of it.
pub(crate) fn run() -> Result<()> {
    provision::system()?;
    tidy::run()?;
    rust()?;
    conformance::run(false)
}

fn rust() -> Result<()> {
    headline("test: build");
    // Programs and tests in one build: the conformance suites use the same server, and cargo
    // would build its dependencies anew for a selection of packages with other features.
    Tool::cargo()
        .args(["build", "--workspace", "--bins", "--tests", "--locked"])
        .run()?;
    let has_nextest = Tool::cargo().args(["nextest", "--version"]).succeeds();
    let arguments: &[&str] = if has_nextest {
        &["nextest", "run", "--workspace", "--locked"]
    } else {
        &["test", "--workspace", "--locked", "--no-fail-fast"]
    };
    headline(&format!("test: cargo {}", arguments.join(" ")));
    Tool::cargo().args(arguments).run()
}
