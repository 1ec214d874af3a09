//! The composition of a server: store, control, API and edge in one process, on one port, with the
//! nodes that it orders: those that join over the network, or (`dev`) one of its own.
//!
//! A node of its own is the one that also runs alone; the adapters of [`crate::adapters`] join it
//! instead of a network.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use atoll_api::rest::Api;
use atoll_api::webhook::{HttpSender, Targets};
use atoll_control::clock::SystemClock;
use atoll_control::config::{Config, ServerConfig};
use atoll_control::fleet::Fleet;
use atoll_control::random::SystemRandom;
use atoll_control::request::ImportRequest;
use atoll_control::{ControlPlane, Parts};
use atoll_core::id::NodeId;
use atoll_core::scheduler::forecast;
use atoll_core::scheduler::overlay::Overlay;
use atoll_core::template::TemplateSource;
use atoll_edge::dial::Dialer;
use atoll_edge::proxy::Edge;
use atoll_edge::remote::{AddressBook, RemoteDialer};
use atoll_edge::table::RouteTable;
use atoll_edge::target::Hosts;
use atoll_proto::join_token::JoinToken;
use atoll_store::cache::Cache;
use atoll_store::store::Store;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tower::util::MapRequestLayer;

use crate::adapters::{
    Addresses, ControlWaker, DataDisk, HeartbeatsToControl, InProcessNode, NodeDialer, Routes,
    SharedCache, name_client,
};
use crate::bench::instant;
use crate::cli::events::EventArgs;
use crate::cli::machine::MachineArgs;
use crate::commands::doctor;
use crate::components::Components;
use crate::connection::Connection;
use crate::database::Database;
use crate::discovery::Discovery;
use crate::node::{self, BASE_RESOURCES};
use crate::{VERSION, listening, secrets, settings, telemetry, traces};

/// The name of a node that is alone.
const NODE_NAME: &str = "local";
/// Name of the template that exists from the first start.
const BASE_TEMPLATE: &str = "base";
/// Events of the node that may wait for control.
const NODE_EVENTS_MAX: usize = 4096;
/// How long ending every sandbox may take at the stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
const ADMIN_TOKEN_FILE: &str = "admin-token";

/// The nodes a server orders.
#[derive(Debug)]
pub(crate) enum Nodes {
    /// One in this process; its sandboxes end with it.
    Own(Box<MachineArgs>),
    /// Those that join with this token; without one, whoever reaches the port.
    Joining(Option<JoinToken>),
    /// One in this process that takes no time and runs nothing, for measurements.
    Instant,
}

/// What a person may set.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) database: Database,
    /// What it shares with the other servers on its database.
    pub(crate) cache: Option<Arc<dyn Cache>>,
    pub(crate) api_key: Option<SecretString>,
    pub(crate) domain: Option<String>,
    /// `host:port` for those that look for the server in `discovery`.
    pub(crate) advertise: Option<String>,
    pub(crate) discovery: Option<Discovery>,
    pub(crate) policy: Overlay,
    /// None: nobody looks ahead.
    pub(crate) forecast: Option<forecast::Config>,
    pub(crate) events: EventArgs,
    pub(crate) nodes: Nodes,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Stack {
    connection: Connection,
    control: ControlPlane,
    data_dir: PathBuf,
    components: Components,
    /// Whether the sandboxes end with this process.
    has_own_node: bool,
    _lock: fs::File,
}

impl Stack {
    /// Starts everything, and answers once requests can come; with a node of its own, once
    /// sandboxes can be made.
    ///
    /// # Errors
    /// What keeps it from starting, with the way to mend it.
    pub(crate) async fn start(options: Options) -> anyhow::Result<Self> {
        match &options.nodes {
            Nodes::Own(_) => demand_driver(&options.data_dir)?,
            Nodes::Joining(token) => listening::demand_token(options.listen, token.as_ref())?,
            Nodes::Instant => {}
        }
        // Before the data directory is made: a port in use should leave nothing behind.
        let listener = listening::bind(options.listen).await?;
        let lock = prepare(&options.data_dir)?;
        let components = Components::default();
        let started = Self::assemble(options, listener, lock, components.clone()).await;
        if started.is_err() {
            // What runs already gives back what it prepared.
            components.stop().await;
        }
        started
    }

    async fn assemble(
        options: Options,
        listener: TcpListener,
        lock: fs::File,
        components: Components,
    ) -> anyhow::Result<Self> {
        let address = listener.local_addr()?;
        let data_dir = options.data_dir.canonicalize()?;
        let domain = options
            .domain
            .clone()
            .unwrap_or_else(|| format!("localhost:{}", address.port()));

        let table = RouteTable::default();
        let has_own_node = matches!(options.nodes, Nodes::Own(_));
        let config = control_config(&options, address);
        let store = options.database.open(&data_dir).await?;
        let cache = options.cache;
        let control = open_control(store, cache.clone(), table.clone(), config).await?;
        // Before anything can happen that they should hear of.
        let targets = settings::targets(&options.events, has_own_node);
        deliver_webhooks(&control, targets).await?;
        control.health_watch(Arc::new(DataDisk::new(data_dir.clone())));
        if let Some(cache) = cache {
            control.health_watch(Arc::new(SharedCache::new(cache)));
        }
        let key = secrets::team_key(&control, &data_dir, options.api_key).await?;
        let reach = match options.nodes {
            Nodes::Own(machine) => own_node(&data_dir, &machine, &control, &components).await?,
            Nodes::Joining(token) => joining_nodes(token, &control, &components),
            Nodes::Instant => instant_node(&control, &components).await?,
        };
        let (running, stop) = (control.clone(), components.cancel());
        components.start("control", async move { running.run(stop).await });
        ensure_base(&control).await?;

        let admin_token = secrets::secret_file(&data_dir.join(ADMIN_TOKEN_FILE))?;
        let hosts = Hosts::new(&domain, &[&address.ip().to_string()]);
        let mut edge_config = atoll_edge::proxy::Config::new(hosts);
        edge_config.waker = Some(Arc::new(ControlWaker::new(control.clone())));
        let (tasks, cancel) = (components.tasks(), components.cancel());
        let edge = Edge::new(
            edge_config,
            table,
            reach.dialer,
            tasks.clone(),
            cancel.clone(),
        );
        let api_config = atoll_api::rest::Config {
            admin_token: Some(admin_token.clone()),
            default_team: key.team,
            sandbox_domain: Some(domain.clone()),
        };
        let mut api = Api::new(api_config, control.clone(), tasks.clone());
        if let Some((fleet, token)) = reach.fleet {
            api = api.with_fleet(fleet, token);
        }
        if let Some(discovery) = &options.discovery {
            let authority = listening::advertised(address, options.advertise)?;
            let admission = (!has_own_node).then_some(&api);
            let announced = discovery.serve(&control, admission, &authority, &components);
            announced.await?;
        }
        let api = observed(api)?;
        let api = api.layer(MapRequestLayer::new(name_client));
        let serve = atoll_edge::server::serve(listener, edge, Some(api), tasks, cancel);
        components.start("listener", serve);

        let connection = connection(address, &key.text, domain, &admin_token);
        connection.publish(&data_dir)?;
        Ok(Self {
            connection,
            control,
            data_dir,
            components,
            has_own_node,
            _lock: lock,
        })
    }

    pub(crate) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits for a component to stop by itself, which none should.
    pub(crate) async fn failed(&self) {
        self.components.failed().await;
    }

    /// Stops every component; the sandboxes of a node of its own end before.
    ///
    /// # Errors
    /// If sandboxes are left; the next start removes them.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        Connection::withdraw(&self.data_dir);
        let ended = if self.has_own_node {
            self.control.sandboxes_end_all(SHUTDOWN_TIMEOUT).await
        } else {
            Ok(0)
        };
        self.components.stop().await;
        match ended {
            Ok(0) => Ok(()),
            Ok(left) => bail!("{left} sandboxes are left over; the next start removes them"),
            Err(error) => {
                Err(error).context("sandboxes may be left over; the next start removes them")
            }
        }
    }
}

/// What those who may use the server are told of it.
fn connection(
    address: SocketAddr,
    api_key: &SecretString,
    domain: String,
    admin_token: &SecretString,
) -> Connection {
    let url = format!("http://{}", listening::reachable(address));
    Connection {
        api_url: url.clone(),
        sandbox_url: url,
        api_key: api_key.expose_secret().to_owned(),
        domain,
        pid: std::process::id(),
        admin_token: Some(admin_token.expose_secret().to_owned()),
    }
}

/// How the nodes are reached, and how they reach the server.
struct Reach {
    dialer: Arc<dyn Dialer>,
    fleet: Option<(Fleet, Option<JoinToken>)>,
}

/// The API's service with its metrics and traces.
fn observed(api: Api) -> anyhow::Result<axum::Router> {
    telemetry::metrics().context("count what happens")?;
    traces::join();
    let router = api.with_metrics(telemetry::render_metrics).router();
    Ok(router.layer(axum::middleware::from_fn(traces::adopt)))
}

/// Starts a node in this process and makes it known to the control plane.
async fn own_node(
    data_dir: &Path,
    machine: &MachineArgs,
    control: &ControlPlane,
    components: &Components,
) -> anyhow::Result<Reach> {
    let (events, node_events) = mpsc::channel(NODE_EVENTS_MAX);
    let id: NodeId = NODE_NAME.parse()?;
    let agent = node::start(id.clone(), data_dir, machine, events)
        .await
        .context("start the node")?;
    let (running, stop) = (agent.clone(), components.cancel());
    components.start("node", async move { running.run(stop).await });
    let client = Arc::new(InProcessNode::new(id, agent.clone()));
    control
        .node_join(client, node_events)
        .await
        .context("join the node")?;
    let (beating, stop) = (agent.clone(), components.cancel());
    let sink = HeartbeatsToControl::new(control.clone());
    components.start("heartbeats", async move { beating.beat(&sink, stop).await });
    Ok(Reach {
        dialer: Arc::new(NodeDialer::new(agent)),
        fleet: None,
    })
}

/// A node without sandboxes: nothing in it can be reached.
async fn instant_node(control: &ControlPlane, components: &Components) -> anyhow::Result<Reach> {
    instant::join(control, components).await?;
    let book = AddressBook::default();
    let dialer = RemoteDialer::new(book, None, components.tasks(), components.cancel());
    Ok(Reach {
        dialer: Arc::new(dialer),
        fleet: None,
    })
}

/// Takes in the nodes that come.
fn joining_nodes(
    token: Option<JoinToken>,
    control: &ControlPlane,
    components: &Components,
) -> Reach {
    let book = AddressBook::default();
    let (tasks, cancel) = (components.tasks(), components.cancel());
    let addresses = Arc::new(Addresses::new(book.clone()));
    let fleet = Fleet::new(
        control.clone(),
        token.clone(),
        addresses,
        tasks.clone(),
        cancel.clone(),
    )
    .with_traces(traces::current);
    Reach {
        dialer: Arc::new(RemoteDialer::new(book, token.clone(), tasks, cancel)),
        fleet: Some((fleet, token)),
    }
}

/// # Errors
/// What the machine lacks for the driver of a node.
pub(crate) fn demand_driver(data_dir: &Path) -> anyhow::Result<()> {
    let complaints = doctor::complaints(&atoll_node::doctor::jail_checks(data_dir));
    anyhow::ensure!(
        complaints.is_empty(),
        "this machine cannot run sandboxes yet:\n  {}",
        complaints.join("\n  ")
    );
    Ok(())
}

/// Makes the data directory and takes it for this process.
pub(crate) fn prepare(data_dir: &Path) -> anyhow::Result<fs::File> {
    let shown = data_dir.display();
    let mut builder = fs::DirBuilder::new();
    // Sandboxes' own ids must pass through on their way to their files.
    builder
        .recursive(true)
        .mode(0o711)
        .create(data_dir)
        .with_context(|| {
            format!("the data directory `{shown}` cannot be made; choose another with --data-dir")
        })?;
    let path = data_dir.join("lock");
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let lock = lock.with_context(|| {
        format!("the data directory `{shown}` cannot be written; choose another with --data-dir")
    })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another atoll uses the data directory `{shown}`; stop it, or choose another \
             with --data-dir"
        ),
        Err(fs::TryLockError::Error(error)) => Err(error).context(format!("lock `{shown}`")),
    }
}

fn control_config(options: &Options, address: SocketAddr) -> Config {
    let mut config = Config::development(atoll_proto::ENVD_VERSION);
    settings::apply(&options.events, &mut config);
    config.policy = options.policy.clone();
    config.forecast = options.forecast;
    config.server = options.database.is_shared().then(|| ServerConfig {
        address: options
            .advertise
            .clone()
            .unwrap_or_else(|| address.to_string()),
        version: VERSION.to_owned(),
    });
    config
}

async fn open_control(
    store: Arc<dyn Store>,
    cache: Option<Arc<dyn Cache>>,
    table: RouteTable,
    config: Config,
) -> anyhow::Result<ControlPlane> {
    let parts = Parts {
        store,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        routes: Arc::new(Routes::new(table)),
        cache,
    };
    ControlPlane::open(config, parts)
        .await
        .context("open the control plane")
}

async fn deliver_webhooks(control: &ControlPlane, targets: Targets) -> anyhow::Result<()> {
    let sender = HttpSender::new(targets).context("prepare to deliver webhooks")?;
    control
        .webhooks_deliver(Arc::new(sender))
        .await
        .context("begin to deliver webhooks")
}

async fn ensure_base(control: &ControlPlane) -> anyhow::Result<()> {
    let request = ImportRequest {
        name: BASE_TEMPLATE.to_owned(),
        source: TemplateSource::Host,
        resources: BASE_RESOURCES,
        is_public: true,
    };
    control
        .template_ensure_global(request)
        .await
        .context("make the template `base`")?;
    Ok(())
}
