//! `atoll dev`: everything on this machine in one process, with what a person needs to begin.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::cli::DevArgs;
use crate::connection::Connection;
use crate::output;
use crate::stack::{Options, Stack};
use crate::telemetry;

/// What `dev` logs, unless `ATOLL_LOG` says otherwise.
const LOG_FILTER: &str = "info,sqlx=warn,hyper=warn";

/// Serves until SIGINT or SIGTERM, then ends the sandboxes and stops.
///
/// # Errors
/// What keeps it from starting, in one line that says how to mend it.
pub(crate) async fn run(arguments: DevArgs) -> anyhow::Result<()> {
    telemetry::start(arguments.log_format, LOG_FILTER);
    let begun = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let options = Options {
        listen: arguments.listen,
        data_dir: arguments.data.data_dir,
        api_key: arguments.api_key,
        domain: arguments.domain,
        sources: arguments.sources,
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
        output::line(&welcome(connection, begun.elapsed()))?;
    }
    let reason = tokio::select! {
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => "terminated",
        () = stack.failed() => "a component stopped",
    };
    tracing::info!(reason, "stopping: sandboxes end now");
    tokio::select! {
        result = stack.stop() => result,
        // A second Ctrl-C: the person does not want to wait; the next start cleans up.
        _ = interrupt.recv() => anyhow::bail!("stopped without waiting; the next start cleans up"),
    }
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
