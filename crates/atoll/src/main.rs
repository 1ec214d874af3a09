//! The `atoll` binary: command line, configuration, telemetry and composition; nothing else.
#![forbid(unsafe_code)]

mod adapters;
mod bench;
mod cli;
mod client;
mod commands;
mod components;
mod config;
mod connection;
mod crash;
mod database;
mod discovery;
mod guest;
mod listening;
mod node;
mod node_process;
mod output;
mod process;
mod relay;
mod secrets;
mod serve;
mod settings;
mod shared_storage;
mod sse;
mod stack;
mod telemetry;
mod traces;

use std::process::ExitCode;

use clap::CommandFactory;

use crate::cli::{BenchCommand, Cli, Command};
use crate::commands::run::Exit;

/// A request is some hundred small allocations, most of them freed by another thread than made
/// them: with the C library's allocator they are a fifth of a create's processor time. Without huge
/// pages, which would add some 15 MiB to an idle process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Version and commit, as `--version` shows them.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("ATOLL_COMMIT"), ")");

fn main() -> ExitCode {
    let line: Vec<_> = std::env::args_os().collect();
    let cli = match config::parse(&line) {
        Ok(cli) => cli,
        Err(failure) => return commands::config::told(failure).into(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(&format!("no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dispatch(cli.command)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(command: Command) -> anyhow::Result<Exit> {
    // Servers and nodes configure their own logging.
    let is_server = matches!(
        command,
        Command::Dev(_) | Command::Server(_) | Command::Node(_) | Command::Relay(_)
    );
    let _telemetry = (!is_server).then(telemetry::start_command);
    match command {
        Command::Dev(arguments) => serve::dev(arguments).await?,
        Command::Server(arguments) => serve::server(arguments).await?,
        Command::Node(arguments) => node_process::run(arguments).await?,
        Command::Relay(arguments) => relay::run(arguments).await?,
        Command::Run(arguments) => return commands::run::run(arguments).await,
        Command::Sandbox(command) => return commands::sandbox::run(command).await,
        Command::Template(command) => commands::template::run(command).await?,
        Command::Key(command) => commands::key::run(command).await?,
        Command::Audit(arguments) => commands::audit::run(arguments).await?,
        Command::Team(command) => commands::team::run(command).await?,
        Command::Nodes(command) => commands::nodes::run(command).await?,
        Command::Explain(command) => commands::explain::run(command).await?,
        Command::Schedule(arguments) => commands::schedule::run(arguments).await?,
        Command::Events(arguments) => commands::events::run(arguments).await?,
        Command::Webhook(command) => commands::webhook::run(command).await?,
        Command::Config(command) => return commands::config::run(command),
        Command::Database(command) => return commands::database::run(command).await,
        Command::Doctor(arguments) => commands::doctor::run(&arguments)?,
        Command::Bench(BenchCommand::Create(arguments)) => bench::create::run(&arguments).await?,
        Command::Bench(BenchCommand::Control(arguments)) => bench::control::run(&arguments).await?,
        Command::Bench(BenchCommand::Scheduler(arguments)) => bench::scheduler::run(&arguments)?,
        Command::Bench(BenchCommand::Placement(arguments)) => bench::placement::run(&arguments)?,
        Command::Bench(BenchCommand::Forecast(arguments)) => bench::forecast::run(&arguments)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "atoll", &mut script);
            output::bytes(&script, &mut std::io::stdout().lock())?;
        }
    }
    Ok(Exit::SUCCESS)
}
