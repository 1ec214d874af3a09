//! `atoll node`: the sandboxes of this machine, on the orders of a server elsewhere.

use anyhow::Context;
use atoll_control::random::{Random, SystemRandom};
use atoll_core::id::NodeId;
use atoll_node::agent::Agent;
use atoll_node::rpc;
use atoll_node::rpc::membership;
use atoll_proto::join_token::JoinToken;
use atoll_proto::orchestrator::RegisterNodeRequest;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

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
    demand_servers(&arguments)?;
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

    let joined = Joined {
        node: id.to_string(),
        address: address.to_string(),
        pid: std::process::id(),
    };
    let memberships = Memberships {
        node: id,
        address,
        incarnation: incarnation(),
        token,
        agent,
        joined,
        is_told: arguments.json,
        servers: arguments.server,
    };
    memberships.begin(discovery.as_ref(), &components)?;
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

/// What each of a node's memberships is made from.
#[derive(Clone)]
struct Memberships {
    node: NodeId,
    address: http::Uri,
    incarnation: String,
    token: Option<JoinToken>,
    agent: Agent,
    joined: Joined,
    is_told: bool,
    /// Those that the command line names.
    servers: Vec<http::Uri>,
}

impl Memberships {
    /// Joins the servers that are named, and those that are found.
    ///
    /// # Errors
    /// If what the node says of itself cannot be registered.
    fn begin(self, discovery: Option<&Discovery>, components: &Components) -> anyhow::Result<()> {
        for server in self.servers.clone() {
            let kept = self.keep(server, components.cancel());
            components.start("membership", kept);
        }
        let Some(discovery) = discovery else {
            return Ok(());
        };
        if let Some(authority) = self.address.authority() {
            discovery.announce_node(&self.request(), authority.as_str(), components)?;
        }
        let (tasks, cancel) = (components.tasks(), components.cancel());
        let join = move |server: http::Uri| {
            let ended = cancel.child_token();
            if !self.servers.contains(&server) {
                tasks.spawn(self.keep(server, ended.clone()));
            }
            ended
        };
        discovery.follow_servers(join, components);
        Ok(())
    }

    /// What a server is asked for a membership with.
    fn request(&self) -> RegisterNodeRequest {
        RegisterNodeRequest {
            node_id: self.node.to_string(),
            address: self.address.to_string(),
            incarnation: self.incarnation.clone(),
            ..RegisterNodeRequest::from(&self.agent.info())
        }
    }

    fn keep(
        &self,
        server: http::Uri,
        cancel: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let config = membership::Config {
            node: self.node.clone(),
            server,
            address: self.address.clone(),
            info: self.agent.info(),
            incarnation: self.incarnation.clone(),
            token: self.token.clone(),
        };
        let (joined, is_told) = (self.joined.clone(), self.is_told);
        let told = move || {
            if is_told && let Err(error) = output::json(&joined) {
                tracing::debug!(%error, "nobody reads the output");
            }
        };
        membership::run(config, self.agent.clone(), cancel, told)
    }
}

/// # Errors
/// If nothing says where servers are.
pub(crate) fn demand_servers(arguments: &NodeArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        arguments.consul.consul_addr.is_some() || !arguments.server.is_empty(),
        "no server: name one with --server, or with --consul-addr where they are registered"
    );
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
