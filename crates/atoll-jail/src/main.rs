//! `atoll-jail supervise`: one sandbox's supervisor. Started by a node, with a socket as standard
//! input; see the library for the conversation and [`supervisor`] for the process.
#![deny(unsafe_code)]

use std::process::ExitCode;

use rustix::fs::{Mode, OFlags, open};

use crate::error::{Context, Result, failure};

mod cell;
mod clock;
mod control;
mod error;
mod guest;
mod mounts;
mod privileges;
mod seccomp;
mod supervisor;
mod sys;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is wherever the node sent it; there is no other place left.
            let _ = rustix::io::write(rustix::stdio::stderr(), format!("{error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments != ["supervise"] {
        return Err(failure(
            "usage",
            "atoll-jail supervise, started by a node with a socket as standard input",
        ));
    }
    sys::close_inherited().context("close descriptors")?;
    // Its own session: signals of the node's terminal are not for it.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/").context("leave the directory")?;
    rustix::process::umask(Mode::empty());
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context("open /dev/null")?;
    let node = sys::take_stdin(&null).context("take the socket")?;
    supervisor::supervise(node)
}
