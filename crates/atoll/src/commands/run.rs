//! `atoll run`: one sandbox, one command, gone.

use std::process::ExitCode;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::events::EventArgs;
use crate::cli::machine::MachineArgs;
use crate::cli::{ProcessArgs, RunArgs};
use crate::client::{Client, Created};
use crate::connection::Connection;
use crate::database::Database;
use crate::process;
use crate::secrets;
use crate::stack::{Nodes, Options, Stack};
use atoll_core::scheduler::overlay::Overlay;

/// Exit code after an interrupt, as shells report it.
const INTERRUPTED: Exit = Exit(130);

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(i32);

impl Exit {
    pub(crate) const SUCCESS: Self = Self(0);
    pub(crate) const FAILURE: Self = Self(1);
    /// What was given is wrong; as clap has it.
    pub(crate) const USAGE: Self = Self(2);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // Exit codes are a byte to the parent; a code out of range must not become success.
        Self::from(
            u8::try_from(exit.0 & 0xff)
                .ok()
                .filter(|_| exit.0 >= 0)
                .unwrap_or(1),
        )
    }
}

/// Runs the command, against a known server or one started for the moment.
///
/// # Errors
/// What keeps the sandbox from being made, or the command from being run.
pub(crate) async fn run(arguments: RunArgs) -> anyhow::Result<Exit> {
    if let Some(connection) = Connection::look(&arguments.server)? {
        return in_sandbox(&Client::new(connection)?, &arguments).await;
    }
    let stack = Stack::start(Options {
        listen: ([127, 0, 0, 1], 0).into(),
        data_dir: arguments.server.data.data_dir.clone(),
        database: Database::File,
        cache: None,
        api_key: secrets::key(arguments.server.api_key.clone().map(Into::into))?,
        advertise: None,
        discovery: None,
        domain: None,
        policy: Overlay::default(),
        forecast: None,
        events: EventArgs::default(),
        nodes: Nodes::Own(Box::<MachineArgs>::default()),
    });
    let stack = stack
        .await
        .context("no server runs here, and none could be started")?;
    let result = match Client::new(stack.connection().clone()) {
        Ok(client) => in_sandbox(&client, &arguments).await,
        Err(error) => Err(error),
    };
    stack.stop().await?;
    result
}

async fn in_sandbox(client: &Client, arguments: &RunArgs) -> anyhow::Result<Exit> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let sandbox = client
        .create(&arguments.template, arguments.timeout_s)
        .await?;
    let result = tokio::select! {
        result = execute(client, &sandbox, &arguments.process, &arguments.command) => result,
        _ = interrupt.recv() => Ok(INTERRUPTED),
    };
    let found = client
        .kill_if_there(&sandbox.id)
        .await
        .context("the sandbox is left over; its timeout removes it")?;
    if !found && result.is_err() {
        bail!(
            "the sandbox reached its end of {} s before the command's; give more with --timeout-s",
            arguments.timeout_s
        );
    }
    result
}

/// Runs one command in a sandbox that serves.
///
/// # Errors
/// If the command cannot be started, or the connection breaks.
pub(crate) async fn execute(
    client: &Client,
    sandbox: &Created,
    arguments: &ProcessArgs,
    command: &[String],
) -> anyhow::Result<Exit> {
    process::run_attached(client.connection(), sandbox, arguments, command)
        .await
        .map(Exit)
}
