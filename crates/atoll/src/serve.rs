//! `atoll dev` and `atoll server`: a server with a node of its own and what a person needs to
//! begin, or one that nodes join.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::cli::{DevArgs, FrontArgs, ServerProcessArgs};
use crate::connection::Connection;
use crate::crash;
use crate::database::Database;
use crate::discovery::Discovery;
use crate::output;
use crate::secrets;
use crate::settings;
use crate::stack::{Nodes, Options, Stack};
use crate::telemetry;

/// Serves with a node in this process until SIGINT or SIGTERM, then ends the sandboxes and stops.
///
/// # Errors
/// What keeps it from starting, in one line that says how to mend it.
pub(crate) async fn dev(arguments: DevArgs) -> anyhow::Result<()> {
    serve(
        arguments.front,
        Nodes::Own(Box::new(arguments.machine)),
        welcome,
    )
    .await
}

/// Serves the nodes that join until SIGINT or SIGTERM, then stops; sandboxes go on.
///
/// # Errors
/// What keeps it from starting, in one line that says how to mend it.
pub(crate) async fn server(arguments: ServerProcessArgs) -> anyhow::Result<()> {
    let token = secrets::join_token(&arguments.join)?;
    serve(arguments.front, Nodes::Joining(token), invitation).await
}

async fn serve(
    arguments: FrontArgs,
    nodes: Nodes,
    greeting: fn(&Connection, Duration) -> String,
) -> anyhow::Result<()> {
    let _telemetry = telemetry::start(arguments.log.log_format, &arguments.log.log_filter);
    crash::arm()?;
    let begun = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let options = Options {
        listen: arguments.listen,
        data_dir: arguments.data.data_dir,
        database: Database::of(&arguments.database)?,
        cache: secrets::cache(&arguments.cache)?,
        api_key: secrets::api_key(&arguments.key)?,
        domain: arguments.domain,
        advertise: arguments.advertise,
        discovery: Discovery::open(&arguments.consul)?,
        policy: settings::policy(arguments.scheduler_policy.as_deref())?,
        forecast: settings::forecast(arguments.forecast_reserve),
        events: arguments.events,
        nodes,
    };
    let stack = tokio::select! {
        stack = Stack::start(options) => stack?,
        _ = interrupt.recv() => anyhow::bail!("interrupted while starting"),
        _ = terminate.recv() => anyhow::bail!("terminated while starting"),
    };
    let connection = stack.connection();
    if arguments.json {
        let public = Connection {
            admin_token: None,
            ..connection.clone()
        };
        output::json(&public)?;
    } else {
        output::line(&greeting(connection, begun.elapsed()))?;
    }
    let reason = tokio::select! {
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => "terminated",
        () = stack.failed() => "a component stopped",
    };
    tracing::info!(reason, "stopping");
    tokio::select! {
        result = stack.stop() => result,
        // A second Ctrl-C: the person does not want to wait; the next start cleans up.
        _ = interrupt.recv() => anyhow::bail!("stopped without waiting; the next start cleans up"),
    }
}

fn invitation(connection: &Connection, took: Duration) -> String {
    let Connection {
        api_url, api_key, ..
    } = connection;
    format!(
        "Atoll's server is ready after {:.1} s. Sandboxes need a node; on each machine for them:

  atoll node --server {api_url} --join-token-file FILE

The key of the default team:

  export E2B_API_KEY={api_key}
",
        took.as_secs_f32()
    )
}

fn welcome(connection: &Connection, took: Duration) -> String {
    let Connection {
        api_url,
        sandbox_url,
        api_key,
        domain,
        ..
    } = connection;
    format!(
        "Atoll is ready after {:.1} s. Ctrl-C ends it and its sandboxes.

  export E2B_API_KEY={api_key}
  export E2B_API_URL={api_url}
  export E2B_SANDBOX_URL={sandbox_url}
  export E2B_DOMAIN={domain}

Python (pip install e2b):

  from e2b import Sandbox
  with Sandbox.create() as sandbox:
      print(sandbox.commands.run('echo hello from $(hostname)').stdout)

JavaScript (npm install e2b):

  import {{ Sandbox }} from 'e2b'
  const sandbox = await Sandbox.create()
  console.log((await sandbox.commands.run('uname -a')).stdout)
  await sandbox.kill()
",
        took.as_secs_f32()
    )
}
