//! `cargo xtask conformance`: the published SDKs against a freshly started server.
//!
//! The Python suite starts servers itself, because some of its tests kill them; the JavaScript
//! suite gets one from here. Both run whatever the other does, and the runners' own closing lines
//! stay in the output. With `--write-docs` the outcome becomes `docs/compat.md`; an ordinary run
//! leaves the documents alone.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{Tool, headline};
use crate::provision::{self, Node};
use crate::server::DevServer;
use crate::tally::{self, Row};
use crate::workspace;

/// Where the published table stands.
const TABLE: &str = "docs/compat.md";

/// Names a ready-made server to test instead of the one that cargo builds.
const BINARY: &str = "ATOLL_BIN";

/// One test of the JavaScript suite may take this long.
const NODE_TEST_LIMIT_MS: u32 = 90_000;

/// Builds the server and runs the suites against it.
pub(crate) fn build_and_run(write_docs: bool) -> Result<()> {
    build()?;
    run(write_docs)
}

/// Builds the server, unless `ATOLL_BIN` names a ready-made one.
pub(crate) fn build() -> Result<()> {
    if std::env::var_os(BINARY).is_some() {
        return Ok(());
    }
    Tool::cargo()
        .args(["build", "--locked", "--package", "atoll"])
        .run()
}

/// Runs both suites against the server that is built already.
pub(crate) fn run(write_docs: bool) -> Result<()> {
    let binary = binary();
    let directory = workspace::target().join("conformance");
    std::fs::create_dir_all(&directory).context("make the directory for conformance")?;
    let mut failures = Vec::new();
    let mut tables = String::new();
    for suite in [python, javascript] {
        let report = suite(&binary, &directory)?;
        let groups = tally::count(&report.rows, |row| tally::subject(&row.file));
        let prefix = format!("{} | {} | ", report.sdk, report.version);
        tables.push_str(&tally::table_rows(&prefix, &groups));
        if let Err(error) = report.verdict {
            failures.push(format!("{}: {error:#}", report.sdk));
        }
    }
    if write_docs {
        write_table(&tables)?;
    }
    if !failures.is_empty() {
        bail!("conformance failed\n{}", failures.join("\n"));
    }
    Ok(())
}

/// The server under test.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os(BINARY).map_or_else(
        || workspace::target().join("debug/atoll"),
        |chosen| workspace::root().join(chosen), // An absolute path replaces the root.
    )
}

struct Report {
    sdk: &'static str,
    version: String,
    rows: Vec<Row>,
    verdict: Result<()>,
}

fn python(binary: &Path, directory: &Path) -> Result<Report> {
    let python = provision::python()?;
    let version = python.version_of("e2b")?;
    headline(&format!("conformance: Python SDK e2b {version}"));
    let tally = fresh(&directory.join("python.jsonl"))?;
    let verdict = Tool::new(python.interpreter())
        .args(["-m", "pytest", "tests/conformance/python"])
        .env("ATOLL_BIN", binary)
        .env("ATOLL_TALLY", &tally)
        .run();
    Ok(Report {
        sdk: "Python `e2b`",
        version,
        rows: rows(&tally)?,
        verdict,
    })
}

fn javascript(binary: &Path, directory: &Path) -> Result<Report> {
    let node = provision::node()?;
    let version = node.install_sdk()?;
    headline(&format!("conformance: JavaScript SDK e2b {version}"));
    let tally = fresh(&directory.join("javascript.jsonl"))?;
    let verdict = if provision::is_root() {
        javascript_tests(binary, directory, &node, &tally)
    } else {
        println!("skipped: sandboxes need root");
        Ok(())
    };
    Ok(Report {
        sdk: "JavaScript `e2b`",
        version,
        rows: rows(&tally)?,
        verdict,
    })
}

fn javascript_tests(binary: &Path, directory: &Path, node: &Node, tally: &Path) -> Result<()> {
    let home = directory.join("server");
    if home.exists() {
        std::fs::remove_dir_all(&home).context("remove what an earlier server left")?;
    }
    let server = DevServer::start(binary, &home)?;
    let suite = workspace::root().join("tests/conformance/js");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&suite)
        .context("list the JavaScript suite")?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.to_string_lossy().ends_with(".test.mjs"))
        .collect();
    files.sort();
    let mut tool = Tool::new(node.program())
        .args(["--test", "--test-concurrency=2"])
        .args([format!("--test-timeout={NODE_TEST_LIMIT_MS}")])
        .args(["--test-reporter=spec", "--test-reporter-destination=stdout"])
        .args([format!(
            "--test-reporter={}",
            suite.join("tally.mjs").display()
        )])
        .args([format!("--test-reporter-destination={}", tally.display())])
        .args(files);
    for (name, value) in server.environment() {
        tool = tool.env(name, value);
    }
    let verdict = tool.run();
    // Both verdicts matter; that of the tests explains more.
    let end = server.stop();
    verdict.and(end)
}

/// An empty file for a runner to write to.
fn fresh(path: &Path) -> Result<PathBuf> {
    std::fs::write(path, "").with_context(|| format!("empty {}", path.display()))?;
    Ok(path.to_owned())
}

fn rows(tally: &Path) -> Result<Vec<Row>> {
    let lines = std::fs::read_to_string(tally)
        .with_context(|| format!("read the tally {}", tally.display()))?;
    tally::read(&lines)
}

fn write_table(rows: &str) -> Result<()> {
    let mut page = String::from(
        "# SDK compatibility\n\n\
         What the published E2B SDKs do against `atoll dev`, group by group.\n\
         This page is written by `cargo xtask conformance --write-docs`; \
         the suites are in [tests/conformance](../tests/conformance).\n\n\
         | SDK | version | group | passed | failed | skipped |\n\
         |---|---|---|---|---|---|\n",
    );
    write!(page, "{rows}").context("compose the table")?;
    let path = workspace::root().join(TABLE);
    std::fs::write(&path, page).with_context(|| format!("write {TABLE}"))
}
