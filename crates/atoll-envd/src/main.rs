//! The guest agent's program: what to be (agent, or `sudo`), the command line, and the exit status.
#![deny(unsafe_code)]

use std::env;
use std::process::ExitCode;

use atoll_envd::{Options, sudo};

fn main() -> ExitCode {
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_default();
    if sudo::is_sudo(&name) {
        return sudo::run(arguments);
    }
    let texts: Vec<String> = arguments
        .map(|text| text.to_string_lossy().into_owned())
        .collect();
    match Options::parse(&texts) {
        Ok(Options::Version) => atoll_envd::say(atoll_envd::VERSION),
        Ok(Options::Serve(serve)) => match atoll_envd::run(serve) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => atoll_envd::complain(&error),
        },
        Err(problem) => atoll_envd::complain(&problem),
    }
}
