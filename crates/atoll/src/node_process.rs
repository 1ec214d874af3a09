//! `atoll node`: the sandboxes of this machine, on the orders of a server elsewhere.

use anyhow::Context;
use atoll_control::random::{Random, SystemRandom};
use atoll_core::id::NodeId;
use atoll_node::rpc;
use atoll_node::rpc::membership;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::NodeArgs;
use crate::components::Components;
use crate::discovery::Discovery;
use crate::relay::keeper::{self, Keeper};
use crate::stack::demand_driver;
use crate::{crash, listening, node, output, secrets, telemetry, traces};

/// Events that may wait to be told.
const EVENTS_MAX: usize = 4096;
/// Random bytes that tell this start of the node from others.
const INCARNATION_BYTES: usize = 16;

/// What `--json` prints whenever the node joined.
#[derive(Debug, Clone, Serialize)]
struct Joined {
    node: String,
    address: String,
    pid: u32,
}

/// Runs the node until SIGINT or SIGTERM. Its sandboxes live on; the next start adopts them.
///
/// # Errors
/// What keeps it from starting, in one line that says how to mend it.
pub(crate) async fn run(arguments: NodeArgs) -> anyhow::Result<()> {
    let _telemetry = telemetry::start(arguments.log.log_format, &arguments.log.log_filter);
    crash::arm()?;
    traces::join();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = secrets::join_token(&arguments.join)?;
    listening::demand_token(arguments.listen, token.as_ref())?;
    let discovery = Discovery::open(&arguments.consul)?;
    let id = arguments.name.clone().map_or_else(machine_name, Ok)?;
    demand_driver(&arguments.data.data_dir)?;

    let components = Components::default();
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    std::fs::create_dir_all(&arguments.data.data_dir)?;
    let data_dir = arguments.data.data_dir.canonicalize()?;
    let agent = node::start(id.clone(), &data_dir, &arguments.machine, events)
        .await
        .context("start the node")?;
    // The folder is this process's from here on.
    let folder = data_dir.join(node::FOLDER);
    let orders = keeper::listen_for_orders(&folder)?;
    let mut keeper = Keeper::new(&arguments, folder, token.clone())?;
    let address = advertised(&arguments, keeper.ensure().await?)?;
    let (running, stop) = (agent.clone(), components.cancel());
    components.start("node", async move { running.run(stop).await });
    let (tasks, stop) = (components.tasks(), components.cancel());
    let serve = rpc::serve(orders, agent.clone(), inbox, token.clone(), tasks, stop);
    components.start("orders", serve);

    components.start("relay", keeper.keep(components.cancel()));
    if let (Some(discovery), Some(authority)) = (&discovery, address.authority()) {
        discovery.announce_node(&id, authority.as_str(), &components)?;
    }

    let joined = Joined {
        node: id.to_string(),
        address: address.to_string(),
        pid: std::process::id(),
    };
    let is_told = arguments.json;
    let told = move || {
        if is_told && let Err(error) = output::json(&joined) {
            tracing::debug!(%error, "nobody reads the output");
        }
    };
    let incarnation = incarnation();
    for server in arguments.server {
        let membership = membership::Config {
            node: id.clone(),
            server,
            address: address.clone(),
            info: agent.info(),
            incarnation: incarnation.clone(),
            token: token.clone(),
        };
        let kept = membership::run(membership, agent.clone(), components.cancel(), told.clone());
        components.start("membership", kept);
    }
    let reason = tokio::select! {
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => "terminated",
        () = components.failed() => "a component stopped",
    };
    tracing::info!(
        reason,
        "stopping: sandboxes live on, the next start adopts them"
    );
    components.stop().await;
    Ok(())
}

/// Where the server reaches this node.
fn advertised(arguments: &NodeArgs, local: std::net::SocketAddr) -> anyhow::Result<http::Uri> {
    if let Some(address) = &arguments.advertise {
        return Ok(address.clone());
    }
    anyhow::ensure!(
        !local.ip().is_unspecified(),
        "{local} is no destination: give the address the server reaches with --advertise"
    );
    Ok(format!("http://{local}").parse()?)
}

/// The machine's name as the name of a node.
fn machine_name() -> anyhow::Result<NodeId> {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy().to_lowercase();
    name.parse()
        .context("the machine's name is none for a node: give one with --name")
}

fn incarnation() -> String {
    let mut random = [0; INCARNATION_BYTES];
    SystemRandom.fill(&mut random);
    hex::encode(random)
}
