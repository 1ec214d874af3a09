//! `cargo xtask suites [GROUP…]`: the E2B project's own live tests against a fresh server.
//!
//! They are not ours and not committed: `ATOLL_E2B_SUITES` names a checkout of E2B's SDK
//! repository, whose dependencies are installed there by package name on first use. The tests run
//! unchanged with the server's address in the environment. Some cannot pass that way whatever the
//! server does, or need what this release does not offer; the table below names them, and such a
//! test counts as not applicable only where it fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{Tool, headline};
use crate::conformance;
use crate::provision::{self, Python};
use crate::server::DevServer;
use crate::tally::{self, Outcome, Row};
use crate::workspace;

/// The checkout's place.
const CHECKOUT: &str = "ATOLL_E2B_SUITES";

/// The package manager the checkout is locked with.
const PNPM: &str = "pnpm@10";

/// Tests of one subject, in both languages.
struct Group {
    name: &'static str,
    /// Below `packages/js-sdk`.
    javascript: &'static [&'static str],
    /// Below `packages/python-sdk`.
    python: &'static [&'static str],
}

const GROUPS: [Group; 6] = [
    Group {
        name: "api",
        javascript: &[
            "tests/api/info.test.ts",
            "tests/api/kill.test.ts",
            "tests/api/list.test.ts",
        ],
        python: &[
            "tests/async/api_async/test_sbx_info.py",
            "tests/async/api_async/test_sbx_kill.py",
            "tests/async/api_async/test_sbx_list.py",
            "tests/sync/api_sync/test_sbx_info.py",
            "tests/sync/api_sync/test_sbx_kill.py",
            "tests/sync/api_sync/test_sbx_list.py",
        ],
    },
    Group {
        name: "sandbox",
        javascript: &[
            "tests/sandbox/create.test.ts",
            "tests/sandbox/connect.test.ts",
            "tests/sandbox/timeout.test.ts",
            "tests/sandbox/kill.test.ts",
            "tests/sandbox/secure.test.ts",
        ],
        python: &[
            "tests/async/sandbox_async/test_create.py",
            "tests/async/sandbox_async/test_connect.py",
            "tests/async/sandbox_async/test_timeout.py",
            "tests/async/sandbox_async/test_kill.py",
            "tests/async/sandbox_async/test_secure.py",
            "tests/sync/sandbox_sync/test_create.py",
            "tests/sync/sandbox_sync/test_connect.py",
            "tests/sync/sandbox_sync/test_timeout.py",
            "tests/sync/sandbox_sync/test_kill.py",
            "tests/sync/sandbox_sync/test_secure.py",
        ],
    },
    Group {
        name: "commands",
        javascript: &["tests/sandbox/commands"],
        python: &[
            "tests/async/sandbox_async/commands",
            "tests/sync/sandbox_sync/commands",
        ],
    },
    Group {
        name: "files",
        javascript: &["tests/sandbox/files"],
        python: &[
            "tests/async/sandbox_async/files",
            "tests/sync/sandbox_sync/files",
        ],
    },
    Group {
        name: "pty",
        javascript: &["tests/sandbox/pty"],
        python: &[
            "tests/async/sandbox_async/pty",
            "tests/sync/sandbox_sync/pty",
        ],
    },
    Group {
        name: "git",
        javascript: &["tests/sandbox/git"],
        python: &["tests/shared/git"],
    },
];

const DIRECT_URL: &str = "a signed URL carries no sandbox id when E2B_SANDBOX_URL is set";
const HOST: &str = "a port's host name needs a resolver that knows it";

/// Tests that cannot pass: part of the file's path, part of the test's name, the reason.
const NOT_APPLICABLE: [(&str, &str, &str); 4] = [
    ("files/signing.test.ts", "", DIRECT_URL),
    (
        "sandbox/secure.test.ts",
        "access file with signing",
        DIRECT_URL,
    ),
    ("files/test_secured.py", "", DIRECT_URL),
    ("test_create.py", "auto_resume_wakes", HOST),
];

/// Runs the named groups, or all.
pub(crate) fn run(names: &[&str]) -> Result<()> {
    let Some(checkout) = std::env::var_os(CHECKOUT).map(PathBuf::from) else {
        bail!("{CHECKOUT} must name a checkout of E2B's SDK repository");
    };
    let chosen: Vec<&Group> = GROUPS
        .iter()
        .filter(|group| names.is_empty() || names.contains(&group.name))
        .collect();
    if chosen.is_empty() {
        let known: Vec<_> = GROUPS.iter().map(|group| group.name).collect();
        bail!("no such group; there are {}", known.join(", "));
    }
    let suites = Suites::prepare(&checkout)?;
    conformance::build()?;
    let server = DevServer::start(&conformance::binary(), &suites.directory.join("server"))?;
    let mut report = String::from("| group | language | passed | failed | not applicable |\n");
    for group in chosen {
        for (language, rows) in [
            ("JavaScript", suites.javascript(group, &server)?),
            ("Python", suites.python(group, &server)?),
        ] {
            report.push_str(&summary(group.name, language, &rows));
        }
    }
    headline("suites");
    print!("{report}");
    server.stop()
}

/// The checkout with everything it needs.
struct Suites {
    checkout: PathBuf,
    directory: PathBuf,
    python: Python,
}

impl Suites {
    fn prepare(checkout: &Path) -> Result<Self> {
        let directory = workspace::target().join("suites");
        let server = directory.join("server");
        if server.exists() {
            std::fs::remove_dir_all(&server).context("remove what an earlier server left")?;
        }
        std::fs::create_dir_all(&directory).context("make the directory for the suites")?;
        let package = checkout.join("packages/js-sdk");
        if !package.join("node_modules/vitest").exists() {
            provision::node()?.npm(&directory, &["install", "--no-save", PNPM])?;
            Tool::new(directory.join("node_modules/.bin/pnpm"))
                .args(["--dir"])
                .args([checkout])
                .args([
                    "install",
                    "--frozen-lockfile",
                    "--ignore-scripts",
                    "--filter",
                    "e2b",
                ])
                .args(["--config.engine-strict=false"])
                // The checkout asks for a version of its own, fetched by a pnpm in the path.
                .args(["--config.manage-package-manager-versions=false"])
                .run()?;
        }
        let python = Python::at("suites")?;
        if !python.has("xdist") {
            let sdk = checkout.join("packages/python-sdk");
            let sdk = sdk.to_str().context("the checkout's path is text")?;
            python.install(&["--editable", sdk, "pytest", "pytest-xdist", "pytest-dotenv"])?;
            python.install(&["pytest-asyncio", "pytest-timeout", "python-dotenv"])?;
        }
        Ok(Self {
            checkout: checkout.to_owned(),
            directory,
            python,
        })
    }

    fn javascript(&self, group: &Group, server: &DevServer) -> Result<Vec<Row>> {
        headline(&format!("suites: {} in JavaScript", group.name));
        let package = self.checkout.join("packages/js-sdk");
        let output = self
            .directory
            .join(format!("{}-javascript.json", group.name));
        std::fs::remove_file(&output).ok();
        let tool = Tool::new(package.join("node_modules/.bin/vitest"))
            .directory(&package)
            .args([
                "run",
                "--project",
                "unit",
                "--reporter=dot",
                "--reporter=json",
            ])
            .args([format!("--outputFile.json={}", output.display())])
            .args(group.javascript);
        // Failures are what the table is for.
        with_server(tool, server).run().ok();
        let text = std::fs::read_to_string(&output).context("read what vitest reported")?;
        vitest(&text, &package)
    }

    fn python(&self, group: &Group, server: &DevServer) -> Result<Vec<Row>> {
        headline(&format!("suites: {} in Python", group.name));
        let package = self.checkout.join("packages/python-sdk");
        let output = self.directory.join(format!("{}-python.jsonl", group.name));
        std::fs::remove_file(&output).ok();
        let plugins = workspace::root().join("tests/conformance/python");
        let tool = Tool::new(self.python.interpreter())
            .directory(&package)
            .args(["-m", "pytest", "-q", "-n", "4", "-p", "tally", "--tb=short"])
            .args(group.python)
            .env("PYTHONPATH", plugins)
            .env("ATOLL_TALLY", &output);
        with_server(tool, server).run().ok();
        let text = std::fs::read_to_string(&output).context("read what pytest reported")?;
        Ok(tally::read(&text)?.into_iter().map(judge).collect())
    }
}

fn with_server(tool: Tool, server: &DevServer) -> Tool {
    server
        .environment()
        .into_iter()
        .fold(tool, |tool, (name, value)| tool.env(name, value))
}

/// Reads vitest's JSON report.
fn vitest(text: &str, package: &Path) -> Result<Vec<Row>> {
    let report: serde_json::Value = serde_json::from_str(text).context("read vitest's report")?;
    let files = report["testResults"]
        .as_array()
        .context("vitest's report lists files")?;
    let mut rows = Vec::new();
    for file in files {
        let name = file["name"].as_str().unwrap_or_default();
        let name = Path::new(name)
            .strip_prefix(package)
            .map_or(name, |path| path.to_str().unwrap_or_default());
        for test in file["assertionResults"].as_array().into_iter().flatten() {
            let outcome = match test["status"].as_str() {
                Some("passed") => Outcome::Passed,
                Some("failed") => Outcome::Failed,
                _ => Outcome::Skipped,
            };
            rows.push(judge(Row {
                file: name.to_owned(),
                test: test["fullName"].as_str().unwrap_or_default().to_owned(),
                outcome,
                why: test["failureMessages"][0]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            }));
        }
    }
    Ok(rows)
}

/// Turns a failure that could not be otherwise into not applicable, with the reason.
fn judge(row: Row) -> Row {
    let known = NOT_APPLICABLE.iter().find(|(file, test, _)| {
        row.outcome == Outcome::Failed && row.file.contains(file) && row.test.contains(test)
    });
    match known {
        Some((_, _, reason)) => Row {
            outcome: Outcome::NotApplicable,
            why: (*reason).to_owned(),
            ..row
        },
        None => row,
    }
}

/// A row of the table, then every failure and the reasons for what is not applicable.
fn summary(group: &str, language: &str, rows: &[Row]) -> String {
    let counts = tally::count(rows, |_| String::new())
        .remove("")
        .unwrap_or_default();
    let (passed, failed) = (counts.passed, counts.failed);
    let left_out = counts.not_applicable + counts.skipped;
    let mut text = format!("| {group} | {language} | {passed} | {failed} | {left_out} |\n");
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        match row.outcome {
            Outcome::Failed => {
                let why = row.why.lines().next().unwrap_or_default();
                text.push_str(&format!("    failed: {} {}: {why}\n", row.file, row.test));
            }
            Outcome::NotApplicable => *reasons.entry(&row.why).or_default() += 1,
            Outcome::Skipped => *reasons.entry("skipped by itself").or_default() += 1,
            Outcome::Passed => {}
        }
    }
    for (reason, count) in reasons {
        text.push_str(&format!("    not applicable: {count}: {reason}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(file: &str, test: &str, outcome: Outcome) -> Row {
        Row {
            file: file.to_owned(),
            test: test.to_owned(),
            outcome,
            why: "boom\nat".to_owned(),
        }
    }

    #[test]
    fn only_failures_become_not_applicable() {
        let file = "tests/sync/sandbox_sync/files/test_secured.py";
        assert_eq!(
            judge(row(file, "x", Outcome::Passed)).outcome,
            Outcome::Passed
        );
        let judged = judge(row(file, "x", Outcome::Failed));
        assert_eq!(
            (judged.outcome, judged.why.as_str()),
            (Outcome::NotApplicable, DIRECT_URL)
        );
        let other = judge(row(
            "tests/sync/sandbox_sync/files/test_read.py",
            "x",
            Outcome::Failed,
        ));
        assert_eq!(other.outcome, Outcome::Failed);
    }

    #[test]
    fn a_report_of_vitest_is_read() {
        let text = r#"{"testResults": [{"name": "/p/tests/a.test.ts", "assertionResults": [
            {"fullName": "one", "status": "passed", "failureMessages": []},
            {"fullName": "two", "status": "failed", "failureMessages": ["boom"]},
            {"fullName": "three", "status": "pending"}]}]}"#;
        let rows = vitest(text, Path::new("/p")).unwrap();
        let outcomes: Vec<_> = rows.iter().map(|row| row.outcome).collect();
        assert_eq!(
            outcomes,
            [Outcome::Passed, Outcome::Failed, Outcome::Skipped]
        );
        assert_eq!(rows[1].file, "tests/a.test.ts");
        assert_eq!(rows[1].why, "boom");
        assert!(vitest("{}", Path::new("/p")).is_err());
    }

    #[test]
    fn the_summary_names_failures_and_reasons() {
        let mut rows = vec![
            row("a", "one", Outcome::Passed),
            row("a", "two", Outcome::Failed),
        ];
        rows.push(Row {
            why: HOST.to_owned(),
            ..row("a", "three", Outcome::NotApplicable)
        });
        assert_eq!(
            summary("api", "Python", &rows),
            format!(
                "| api | Python | 1 | 1 | 1 |\n    failed: a two: boom\n    \
                 not applicable: 1: {HOST}\n"
            )
        );
    }
}
