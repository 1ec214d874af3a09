//! The project's task runner: `cargo xtask COMMAND`.
//!
//! One entry for everything that is done to the project rather than by it: checking its house
//! rules, running its tests, running the E2B SDKs against it. Each command is a module with one
//! `run` function. Nothing here ships, and nothing here is needed to build or run Atoll.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks to its user"
)]

mod cluster;
mod command;
mod conformance;
mod provision;
mod server;
mod simulation;
mod suites;
mod tally;
mod testing;
mod tidy;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

Commands:
  tidy          check the house rules: format, lints, dependencies, lengths, links
  provision     install what the tests need
  test          install what the tests need, then tidy and every test
  conformance   the published SDKs against a fresh server (--write-docs: docs/compat.md)
  sim           the control plane in a simulated world: --seeds N [--from S], or --seed S [--trace]
  cluster       a whole fleet with real PostgreSQL, Redis and Consul while its parts break
  suites [GROUP] E2B's own live suites, from the checkout that ATOLL_E2B_SUITES names
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["tidy"] => tidy::run(),
        ["provision"] => provision::system(),
        ["test"] => testing::run(),
        ["conformance"] => conformance::build_and_run(false),
        ["conformance", "--write-docs"] => conformance::build_and_run(true),
        ["sim", arguments @ ..] => simulation::run(arguments),
        ["cluster", arguments @ ..] => cluster::run(arguments),
        ["suites", groups @ ..] => suites::run(groups),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
