//! The server that is measured: the parts of `atoll dev`, with a simulated node.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atoll_api::rest::Api;
use atoll_control::clock::SystemClock;
use atoll_control::config::Config;
use atoll_control::random::SystemRandom;
use atoll_control::request::ImportRequest;
use atoll_control::{ControlPlane, Parts};
use atoll_core::heartbeat::HEARTBEAT_INTERVAL;
use atoll_core::quota::{Limits, Rate};
use atoll_core::resources::Resources;
use atoll_core::route::Route;
use atoll_core::template::TemplateSource;
use atoll_edge::dial::{BoxedStream, Dialer};
use atoll_edge::proxy::Edge;
use atoll_edge::table::RouteTable;
use atoll_edge::target::Hosts;
use atoll_store::sqlite::SqliteStore;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::node::SimulatedNode;
use crate::adapters::Routes;

/// The key of the team that asks.
pub(super) const KEY: &str = "e2b_0123456789abcdef0123456789abcdef01234567";

/// The template that is started.
pub(super) const TEMPLATE: &str = "base";

/// What one sandbox takes: the least a template may, so that very many fit.
const SIZE: Resources = Resources {
    cpu_millis: 1,
    memory_mib: 64,
    disk_mib: 1,
};

/// Never reached: what is measured is how fast the server is, not what a team may.
const RATE: Rate = Rate {
    per_second: std::num::NonZeroU32::MAX,
    burst: std::num::NonZeroU32::MAX,
};

/// Node events that may wait; there are none.
const EVENTS_QUEUE: usize = 1;

/// How long the components may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// Nobody dials: only the API is asked.
#[derive(Debug)]
struct NoDialer;

#[async_trait]
impl Dialer for NoDialer {
    async fn dial(&self, _: &Route, _: u16) -> io::Result<BoxedStream> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

impl Server {
    /// Starts a server on this database, fresh or not.
    pub(super) async fn start(database: &Path, node_delay: Duration) -> anyhow::Result<Self> {
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let table = RouteTable::default();
        let parts = Parts {
            store: Arc::new(SqliteStore::open(database).await?),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            routes: Arc::new(Routes::new(table.clone())),
        };
        let mut config = Config::development(atoll_proto::ENVD_VERSION);
        config.team_limits = Limits {
            concurrent_sandboxes: u32::MAX,
            cpu_millis: u64::MAX,
            memory_mib: u64::MAX,
            disk_mib: u64::MAX,
            creates: RATE,
            requests: RATE,
        };
        let control = ControlPlane::open(config, parts).await?;
        let team = control.bootstrap(Some(SecretString::from(KEY))).await?.team;
        join(&control, node_delay, &tasks, &cancel).await?;
        let (running, stop) = (control.clone(), cancel.clone());
        tasks.spawn(async move { running.run(stop).await });

        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let api_config = atoll_api::rest::Config {
            admin_token: None,
            default_team: team,
            sandbox_domain: None,
        };
        let api = Api::new(api_config, control, tasks.clone()).router();
        let hosts = Hosts::new("localhost", &["127.0.0.1"]);
        let edge = Edge::new(
            atoll_edge::proxy::Config::new(hosts),
            table,
            Arc::new(NoDialer),
            tasks.clone(),
            cancel.clone(),
        );
        let (on, stop) = (tasks.clone(), cancel.clone());
        tasks.spawn(atoll_edge::server::serve(
            listener,
            edge,
            Some(api),
            on,
            stop,
        ));
        tasks.close();
        Ok(Self {
            address,
            cancel,
            tasks,
        })
    }

    /// Stops it; what was answered is in the database.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.cancel.cancel();
        tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await?;
        Ok(())
    }
}

/// Lets a node join that beats, and makes the template.
async fn join(
    control: &ControlPlane,
    node_delay: Duration,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let node = Arc::new(SimulatedNode::new("simulated".parse()?, node_delay));
    let (sender, events) = mpsc::channel(EVENTS_QUEUE);
    control.node_join(Arc::clone(&node) as _, events).await?;
    let base = ImportRequest {
        name: TEMPLATE.to_owned(),
        source: TemplateSource::Host,
        resources: SIZE,
        is_public: true,
    };
    control.template_ensure_global(base).await?;
    let (control, cancel) = (control.clone(), cancel.clone());
    tasks.spawn(async move {
        // The node has nothing to tell, but is there to tell it.
        let _sender = sender;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(HEARTBEAT_INTERVAL) => {}
            }
            if let Err(error) = control.node_heartbeat(node.heartbeat()).await {
                tracing::warn!(%error, "a heartbeat is not taken");
            }
        }
    });
    Ok(())
}
