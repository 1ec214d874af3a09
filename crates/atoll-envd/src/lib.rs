//! The guest agent: runs inside each sandbox and does there what the SDK asks for.
//!
//! It serves the envd protocol on one TCP port: `process.Process` and `filesystem.Filesystem` over
//! Connect (JSON and binary), and plain HTTP for file contents and for its own set-up (`/init`). It
//! speaks HTTP/1.1 only: what talks to it is the edge.
//!
//! Invariants:
//! - One thread runs all tasks, and only that thread starts and reaps processes; file work is done
//!   on a few short-lived helper threads. Every sandbox has one agent, so its idle memory is a
//!   promise (6 MiB) and nothing is kept that can be made again.
//! - It needs nothing from the root file system: static, reads `/etc/passwd` itself, runs programs
//!   without a shell.
//! - Whoever runs inside the sandbox can reach the port, so every queue, table, body and wait has a
//!   limit with a name, and when an access token is set nothing but `/health`, signed files and
//!   `/init` answers without it.
//!
//! It does not confine anything: what isolates the sandbox is outside of it. It does not set the
//! clock, mount volumes or install certificates, and answers requests for that with a clear
//! refusal.

#![deny(unsafe_code)]

mod clock;
mod connections;
mod filesystem;
mod helper;
mod inbound;
mod options;
mod path;
mod process;
mod rest;
mod server;
mod settings;
pub mod sudo;
mod sys;
mod user;

pub use options::{Options, Serve};
pub use server::{Error, run};

/// The version of the envd protocol whose features this agent has.
pub const VERSION: &str = atoll_proto::ENVD_VERSION;

/// The port on which SDKs expect the agent.
pub const PORT: u16 = 49983;

/// Prints one line for a person.
#[expect(clippy::print_stdout, reason = "the program's answer to --version")]
#[must_use]
pub fn say(line: &str) -> std::process::ExitCode {
    println!("{line}");
    std::process::ExitCode::SUCCESS
}

/// Prints why the program ends, with causes.
#[expect(
    clippy::print_stderr,
    reason = "pid 1 of a sandbox has no other place to complain"
)]
#[must_use]
pub fn complain(error: &dyn std::error::Error) -> std::process::ExitCode {
    eprint!("atoll-envd: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprint!(": {cause}");
        source = cause.source();
    }
    eprintln!();
    std::process::ExitCode::FAILURE
}
