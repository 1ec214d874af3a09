//! One control plane with its store, clock, nodes and edge, for one test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_control::clock::SystemClock;
use atoll_control::config::{Config, ServerConfig};
use atoll_control::random::SystemRandom;
use atoll_control::request::{CreateRequest, ImportRequest, ListQuery, LogQuery, Order};
use atoll_control::route_publisher::RoutePublisher;
use atoll_control::view::{SandboxView, Tenant};
use atoll_control::{ControlPlane, Parts};
use atoll_core::event::{Cursor, EventKind, Subject};
use atoll_core::heartbeat::HEARTBEAT_INTERVAL;
use atoll_core::id::SandboxId;
use atoll_core::network::NetworkPolicy;
use atoll_core::resources::Resources;
use atoll_core::route::{Route, RouteUpdate};
use atoll_core::sandbox::OnTimeout;
use atoll_core::template::TemplateSource;
use atoll_core::time::{Clock, Timestamp};
use atoll_store::cache::Cache;
use atoll_store::memory::MemStore;
use atoll_store::sqlite::SqliteStore;
use atoll_store::store::{EventQuery, Store};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use crate::fake_node::FakeNode;

pub(crate) const KEY: &str = "e2b_0123456789abcdef0123456789abcdef01234567";

/// How long a condition may take to come true.
const LIMIT: Duration = Duration::from_secs(15);

/// A route table as an edge has it.
#[derive(Debug, Default)]
pub(crate) struct Edge {
    routes: Mutex<BTreeMap<SandboxId, Route>>,
}

impl Edge {
    pub(crate) fn has(&self, id: &SandboxId) -> bool {
        self.routes.lock().unwrap().contains_key(id)
    }

    pub(crate) fn route(&self, id: &SandboxId) -> Option<Route> {
        self.routes.lock().unwrap().get(id).cloned()
    }
}

impl RoutePublisher for Edge {
    fn publish(&self, update: RouteUpdate) {
        let mut routes = self.routes.lock().unwrap();
        match update {
            RouteUpdate::Publish(route) => {
                routes.insert(route.sandbox.clone(), route);
            }
            RouteUpdate::Withdraw(id, generation) => {
                if routes
                    .get(&id)
                    .is_some_and(|route| route.generation <= generation)
                {
                    routes.remove(&id);
                }
            }
        }
    }
}

/// Wall-clock time that follows the clock of the test.
#[derive(Debug)]
struct TokioClock(tokio::time::Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let begun = Timestamp::from_micros(1_700_000_000_000_000);
        begun.saturating_add(self.0.elapsed())
    }
}

/// What survives a control plane.
pub(crate) struct World {
    directory: tempfile::TempDir,
    /// In the place of a file, where the clock of the test is paused: it runs on while a thread
    /// waits for a disk.
    memory: Option<Arc<MemStore>>,
    begun: tokio::time::Instant,
    pub(crate) config: Config,
    /// What its servers share.
    pub(crate) cache: Option<Arc<dyn Cache>>,
    pub(crate) nodes: Vec<Arc<FakeNode>>,
}

/// A running control plane.
pub(crate) struct Running {
    pub(crate) control: ControlPlane,
    pub(crate) edge: Arc<Edge>,
    pub(crate) tenant: Tenant,
    cancel: CancellationToken,
    background: tokio::task::JoinHandle<()>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_nodes(&["node-1"])
    }

    pub(crate) fn with_nodes(nodes: &[&str]) -> Self {
        let mut config = Config::development("0.6.13");
        config.create_timeout = Duration::from_secs(5);
        config.delete_timeout = Duration::from_secs(2);
        Self {
            directory: tempfile::tempdir().unwrap(),
            memory: None,
            begun: tokio::time::Instant::now(),
            config,
            cache: None,
            nodes: nodes.iter().map(|id| Arc::new(FakeNode::new(id))).collect(),
        }
    }

    /// A world for a paused clock.
    pub(crate) fn in_memory(nodes: &[&str]) -> Self {
        Self {
            memory: Some(Arc::default()),
            ..Self::with_nodes(nodes)
        }
    }

    /// The same store for a server that reaches no node.
    pub(crate) fn without_nodes(&self) -> Self {
        Self {
            memory: self.memory.clone(),
            begun: self.begun,
            config: self.config.clone(),
            ..Self::with_nodes(&[])
        }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        match self.memory {
            Some(_) => Arc::new(TokioClock(self.begun)),
            None => Arc::new(SystemClock),
        }
    }

    pub(crate) async fn store(&self) -> Arc<dyn Store> {
        match &self.memory {
            Some(memory) => Arc::clone(memory) as Arc<dyn Store>,
            None => Arc::new(SqliteStore::open(&self.store_path()).await.unwrap()),
        }
    }

    /// What was told of a subject, in order.
    pub(crate) async fn events_of(&self, subject: &Subject) -> Vec<EventKind> {
        let query = EventQuery {
            subject: Some(subject.clone()),
            ..EventQuery::default()
        };
        let store = self.store().await;
        let page = store.event_list_after(Cursor::START, &query, 1_000).await;
        let events = page.unwrap().events;
        events.into_iter().map(|stored| stored.event.kind).collect()
    }

    pub(crate) fn node(&self) -> &Arc<FakeNode> {
        &self.nodes[0]
    }

    pub(crate) fn store_path(&self) -> PathBuf {
        self.directory.path().join("atoll.db")
    }

    /// Opens the control plane without any node.
    pub(crate) async fn open(&self) -> (ControlPlane, Arc<Edge>) {
        self.open_with(self.config.clone()).await
    }

    async fn open_with(&self, config: Config) -> (ControlPlane, Arc<Edge>) {
        let edge = Arc::new(Edge::default());
        let parts = Parts {
            store: self.store().await,
            clock: self.clock(),
            random: Arc::new(SystemRandom),
            routes: Arc::clone(&edge) as Arc<dyn RoutePublisher>,
            cache: self.cache.clone(),
        };
        let control = ControlPlane::open(config, parts).await.unwrap();
        (control, edge)
    }

    /// Starts a control plane on the world's store, with its nodes and the template `base`.
    pub(crate) async fn start(&self) -> Running {
        self.start_with(self.config.clone()).await
    }

    /// Starts one of several servers on the world's store.
    pub(crate) async fn start_server(&self, address: &str) -> Running {
        let server = ServerConfig {
            address: address.to_owned(),
            version: "test".to_owned(),
        };
        let config = Config {
            server: Some(server),
            ..self.config.clone()
        };
        self.start_with(config).await
    }

    async fn start_with(&self, config: Config) -> Running {
        let (control, edge) = self.open_with(config).await;
        let key = SecretString::from(KEY);
        let made = control.bootstrap(Some(key)).await.unwrap();
        assert_eq!(made.key.unwrap().expose_secret(), KEY);
        for node in &self.nodes {
            let events = node.connect();
            control
                .node_join(Arc::clone(node) as _, events)
                .await
                .unwrap();
        }
        control.template_ensure_global(base()).await.unwrap();
        let tenant = control.authenticate(KEY).await.unwrap();
        let cancel = CancellationToken::new();
        let background = {
            let control = control.clone();
            let cancel = cancel.clone();
            #[expect(clippy::disallowed_methods, reason = "the test waits for it in `stop`")]
            tokio::spawn(async move { control.run(cancel).await })
        };
        Running {
            control,
            edge,
            tenant,
            cancel,
            background,
        }
    }
}

impl Running {
    /// Sends the heartbeats of every node that is not silent, every two seconds for so long.
    pub(crate) async fn beat(&self, world: &World, period: Duration) {
        let end = tokio::time::Instant::now() + period;
        while tokio::time::Instant::now() < end {
            for node in world.nodes.iter().filter(|node| !node.is_silent()) {
                self.control.node_heartbeat(node.heartbeat()).await.unwrap();
            }
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        }
    }

    /// Ends everything that the control plane does, without a word to anybody.
    pub(crate) fn kill(&self) {
        self.background.abort();
    }

    /// Stops the control plane; sandboxes go on.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.background.await.unwrap();
    }

    pub(crate) async fn create(&self) -> SandboxView {
        self.control
            .sandbox_create(&self.tenant, request())
            .await
            .unwrap()
    }

    pub(crate) async fn is_visible(&self, id: &SandboxId) -> bool {
        self.control.sandbox_get(&self.tenant, id).await.is_ok()
    }

    pub(crate) async fn listed(&self) -> Vec<SandboxId> {
        let page = self.control.sandbox_list(&self.tenant, &all()).await;
        page.unwrap()
            .items
            .into_iter()
            .map(|view| view.sandbox.id)
            .collect()
    }
}

pub(crate) fn base() -> ImportRequest {
    ImportRequest {
        name: "base".to_owned(),
        source: TemplateSource::Host,
        resources: Resources {
            cpu_millis: 2_000,
            memory_mib: 512,
            disk_mib: 1_024,
        },
        is_public: true,
    }
}

pub(crate) fn request() -> CreateRequest {
    CreateRequest {
        template: "base".to_owned(),
        timeout: Duration::from_secs(60),
        metadata: BTreeMap::new(),
        env: BTreeMap::new(),
        network: NetworkPolicy::default(),
        is_secured: true,
        on_timeout: OnTimeout::Kill,
        auto_resume: false,
        scheduling: None,
        idempotency_key: None,
        fingerprint: String::new(),
    }
}

pub(crate) fn log_query() -> LogQuery {
    LogQuery {
        start: None,
        limit: 1_000,
        order: Order::Ascending,
        level: None,
        search: None,
    }
}

pub(crate) fn all() -> ListQuery {
    ListQuery {
        states: Vec::new(),
        metadata: BTreeMap::new(),
        template: None,
        order: Order::Descending,
        started_after: None,
        cursor: None,
        limit: 100,
    }
}

/// Waits until the condition holds; fails with `what` if it does not in time.
pub(crate) async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !condition().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
