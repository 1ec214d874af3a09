//! `atoll relay`: the node's port, and the clients' where they have one, in a process that goes on
//! when the node's ends. It ends by itself when there is neither a node nor a sandbox.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use atoll_control::random::{Random, SystemRandom};
use atoll_core::id::{Generation, NodeId, SandboxId};
use atoll_core::route::{Route, RouteUpdate};
use atoll_core::sandbox::AccessToken;
use atoll_edge::dial::{BoxedStream, Dialer};
use atoll_edge::proxy::Edge;
use atoll_edge::table::RouteTable;
use atoll_edge::target::{Hosts, Target};
use atoll_edge::wake::{WakeError, Waker};
use atoll_node::driver::jail::reach::Reach;
use atoll_node::relay::Relay;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::RelayArgs;
use crate::{listening, node, secrets, telemetry};

pub(crate) mod keeper;

/// Held by the relay that takes connections; in the node's folder.
const LOCK_FILE: &str = "relay.lock";
/// What that one says of itself.
const STATE_FILE: &str = "relay.json";
/// Where the agent takes orders.
const ORDERS_SOCKET: &str = "orders.sock";
/// How often the relay looks whether it is needed, and which sandboxes are.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Looks in a row that find neither node nor sandbox before the relay ends: a node that is started
/// again is there by then.
const IDLE_LOOKS: u32 = 3;
/// How long connections may go on after another relay took over: what a person waits for at a
/// terminal. They are cut then, and can be made again at once.
const DRAIN_MAX: Duration = Duration::from_secs(60 * 60);
/// Host names mean nothing here but for the sandbox that they name.
const DOMAIN: &str = "localhost";
const TOKEN_BYTES: usize = 32;

/// What a relay says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    pid: u32,
    settings: String,
    /// The node's port.
    address: SocketAddr,
}

/// Carries traffic until nobody needs it, or another one is to take over.
///
/// # Errors
/// If it cannot listen, or another one does.
pub(crate) async fn run(arguments: RelayArgs) -> anyhow::Result<()> {
    let _telemetry = telemetry::start(arguments.log.log_format, &arguments.log.log_filter);
    let mut terminate = signal(SignalKind::terminate())?;
    let folder = &arguments.folder;
    let Some(lock) = take_lock(folder)? else {
        bail!("another relay serves `{}`", folder.display());
    };
    let listener = inherited().context("take over the listening socket")?;
    let address = listener.local_addr()?;
    let token = secrets::handed_token()?;
    let reach = Reach::open(folder, folder.join(node::NET_FOLDER));
    let reach = Arc::new(reach.context("start the dialer")?);
    let (tasks, accepting) = (TaskTracker::new(), CancellationToken::new());
    let traffic = match arguments.traffic_listen {
        Some(address) => Some(listening::bind(address).await?),
        None => None,
    };
    let relay = Relay {
        reach: Arc::clone(&reach),
        orders: folder.join(ORDERS_SOCKET),
        token,
        tasks: tasks.clone(),
    };
    let cut = CancellationToken::new();
    let serving = relay.serve(listener, accepting.clone(), cut.clone());
    let local = Arc::new(LocalRoutes::new(reach));
    let clients = serve_clients(
        traffic,
        Arc::clone(&local),
        tasks.clone(),
        accepting.clone(),
    );
    let serving = tasks.spawn(async move { tokio::join!(serving, clients) });
    say(folder, &arguments.settings, address)?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("another relay takes over"),
        () = idle(folder, &local) => tracing::info!("neither a node nor a sandbox is left"),
    }
    accepting.cancel();
    serving.await.context("stop to accept")?;
    // The sockets are closed: who waits for the lock may listen.
    drop(lock);
    tasks.close();
    if tokio::time::timeout(DRAIN_MAX, tasks.wait()).await.is_err() {
        cut.cancel();
    }
    Ok(())
}

/// The lock of the relay that takes connections; none if another one has it.
fn take_lock(folder: &Path) -> anyhow::Result<Option<fs::File>> {
    let path = folder.join(LOCK_FILE);
    let mut options = fs::File::options();
    let options = options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(&path);
    let file = file.with_context(|| format!("open `{}`", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).context(format!("lock `{}`", path.display()))
        }
    }
}

/// The listening socket that the node handed over as standard input.
fn inherited() -> io::Result<TcpListener> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    // Nothing else may keep the port.
    rustix::stdio::dup2_stdin(fs::File::open("/dev/null")?)?;
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Tells nodes of this folder what this relay is.
fn say(folder: &Path, settings: &str, address: SocketAddr) -> anyhow::Result<()> {
    let state = State {
        pid: std::process::id(),
        settings: settings.to_owned(),
        address,
    };
    let path = folder.join(STATE_FILE);
    let new = path.with_extension("new");
    let mut options = fs::File::options();
    let options = options.create(true).truncate(true).write(true).mode(0o600);
    let text = serde_json::to_vec(&state)?;
    let written = options
        .open(&new)
        .and_then(|mut file| file.write_all(&text));
    let replaced = written.and_then(|()| fs::rename(&new, &path));
    replaced.with_context(|| format!("write `{}`", path.display()))
}

/// Ends when nobody needs the relay any more. Looks after the routes meanwhile.
async fn idle(folder: &Path, local: &LocalRoutes) {
    let orders = folder.join(ORDERS_SOCKET);
    let mut looks = 0;
    while looks < IDLE_LOOKS {
        tokio::time::sleep(LOOK_INTERVAL).await;
        local.sweep();
        let has_node = UnixStream::connect(&orders).await.is_ok();
        let is_idle = !has_node && local.reach.is_empty();
        looks = if is_idle { looks + 1 } else { 0 };
    }
}

/// Serves clients that come without the server, where there is a socket for them.
async fn serve_clients(
    listener: Option<TcpListener>,
    local: Arc<LocalRoutes>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let Some(listener) = listener else {
        return;
    };
    let mut config = atoll_edge::proxy::Config::new(Hosts::new(DOMAIN, &[]));
    config.waker = Some(Arc::clone(&local) as _);
    let table = local.table.clone();
    let edge = Edge::new(config, table, local, tasks.clone(), cancel.clone());
    let without_api: Option<axum::Router> = None;
    atoll_edge::server::serve(listener, edge, without_api, tasks, cancel).await;
}

/// The sandboxes of this machine, as an edge of its own knows them: those that the ledger has.
///
/// Only their guest agents are reached so. What clients must show at other ports is known to the
/// server alone.
#[derive(Debug)]
struct LocalRoutes {
    reach: Arc<Reach>,
    table: RouteTable,
    /// Those in the table; swept, so at most as many as the node ran within [`LOOK_INTERVAL`].
    known: Mutex<BTreeSet<SandboxId>>,
    /// What nobody can show.
    closed: AccessToken,
}

impl LocalRoutes {
    fn new(reach: Arc<Reach>) -> Self {
        let mut random = [0; TOKEN_BYTES];
        SystemRandom.fill(&mut random);
        Self {
            reach,
            table: RouteTable::new(),
            known: Mutex::default(),
            closed: AccessToken::new(hex::encode(random)),
        }
    }

    /// Withdraws the routes of what does not serve any more.
    fn sweep(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id| {
            let serves = self.reach.serving(id).is_ok();
            if !serves {
                let withdrawn = RouteUpdate::Withdraw(id.clone(), Generation::FIRST);
                self.table.apply(withdrawn);
                self.reach.forget(id);
            }
            serves
        });
    }
}

#[async_trait]
impl Waker for LocalRoutes {
    /// Publishes what serves. Nothing is woken: that is the server's to decide.
    async fn wake(&self, target: &Target, _token: Option<&str>) -> Result<(), WakeError> {
        match self.reach.serving(&target.sandbox) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(WakeError::NotFound),
            Err(_) => return Err(WakeError::Unavailable),
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(target.sandbox.clone());
        self.table.apply(RouteUpdate::Publish(Route {
            sandbox: target.sandbox.clone(),
            node: this_machine(),
            // The ledger says which is current whenever one is dialled.
            generation: Generation::FIRST,
            traffic_token: Some(self.closed.clone()),
            mask_request_host: None,
        }));
        Ok(())
    }
}

#[async_trait]
impl Dialer for LocalRoutes {
    async fn dial(&self, route: &Route, port: u16) -> io::Result<BoxedStream> {
        let generation = self.reach.serving(&route.sandbox)?;
        let stream = self.reach.dial(&route.sandbox, generation, port).await?;
        Ok(Box::new(stream))
    }
}

fn this_machine() -> NodeId {
    "local".parse().expect("it is a name")
}
