//! Joins the components inside one process, where a fleet has a network between them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use atoll_control::fleet;
use atoll_control::node_client::NodeClient;
use atoll_control::route_publisher::RoutePublisher;
use atoll_control::{ControlPlane, HealthProbe, TrafficAccess, Verdict};
use atoll_core::error::ErrorKind;
use atoll_core::heartbeat::Heartbeat;
use atoll_core::id::{BuildId, Generation, NodeId, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{CallOutcome, NodeInfo, NodeReport, ObservedSandbox};
use atoll_core::route::{Route, RouteUpdate};
use atoll_core::sandbox::SandboxSpec;
use atoll_core::snapshot::{Stored, Unneeded};
use atoll_core::template::TemplateSource;
use atoll_edge::dial::{BoxedStream, Dialer};
use atoll_edge::proxy::GUEST_PORT;
use atoll_edge::remote::AddressBook;
use atoll_edge::table::RouteTable;
use atoll_edge::target::Target;
use atoll_edge::wake::{WakeError, Waker};
use atoll_node::agent::Agent;
use atoll_node::agent::heartbeat::HeartbeatSink;
use atoll_node::machine;
use atoll_store::cache::Cache;

/// The node of this process, as control sees it.
#[derive(Debug)]
pub(crate) struct InProcessNode {
    agent: Agent,
    id: NodeId,
}

impl InProcessNode {
    pub(crate) const fn new(id: NodeId, agent: Agent) -> Self {
        Self { agent, id }
    }
}

#[async_trait]
impl NodeClient for InProcessNode {
    fn node(&self) -> &NodeId {
        &self.id
    }

    fn info(&self) -> NodeInfo {
        self.agent.info()
    }

    async fn ensure(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        self.agent.ensure(spec).await
    }

    async fn remove(&self, id: &SandboxId, generation: Generation) -> CallOutcome<()> {
        self.agent.remove(id, generation).await
    }

    async fn update_network(
        &self,
        id: &SandboxId,
        generation: Generation,
        policy: &NetworkPolicy,
    ) -> CallOutcome<()> {
        self.agent.update_network(id, generation, policy).await
    }

    async fn pause(
        &self,
        id: &SandboxId,
        generation: Generation,
        keep_memory: bool,
    ) -> CallOutcome<ObservedSandbox> {
        self.agent.pause(id, generation, keep_memory).await
    }

    async fn resume(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        self.agent.resume(spec).await
    }

    async fn list_snapshots(
        &self,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> CallOutcome<Vec<Stored>> {
        self.agent.list_snapshots(after, limit).await
    }

    async fn drop_snapshots(&self, unneeded: &Unneeded) -> CallOutcome<()> {
        self.agent.drop_snapshots(unneeded).await
    }

    async fn report(&self) -> CallOutcome<NodeReport> {
        CallOutcome::Done(self.agent.report())
    }

    async fn import_template(
        &self,
        template: &TemplateId,
        build: &BuildId,
        source: &TemplateSource,
    ) -> CallOutcome<()> {
        self.agent.import_template(template, build, source).await
    }

    async fn remove_template(&self, template: &TemplateId, build: &BuildId) -> CallOutcome<()> {
        self.agent.remove_template(template, build).await
    }
}

/// The control plane of this process, as the node's heartbeats reach it.
#[derive(Debug)]
pub(crate) struct HeartbeatsToControl {
    control: ControlPlane,
}

impl HeartbeatsToControl {
    pub(crate) const fn new(control: ControlPlane) -> Self {
        Self { control }
    }
}

#[async_trait]
impl HeartbeatSink for HeartbeatsToControl {
    async fn send(&self, heartbeat: Heartbeat) -> Result<(), String> {
        match self.control.node_heartbeat(heartbeat).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The disk that the server's own state is on, as its health.
#[derive(Debug)]
pub(crate) struct DataDisk {
    directory: PathBuf,
}

impl DataDisk {
    pub(crate) const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }
}

#[async_trait]
impl HealthProbe for DataDisk {
    fn name(&self) -> String {
        "disk of the server".to_owned()
    }

    async fn check(&self) -> Verdict {
        let directory = self.directory.clone();
        // A disk that hangs must not hold up the others.
        let disk = tokio::task::spawn_blocking(move || machine::disk(&directory)).await;
        disk.map_or_else(
            |error| Verdict::unhealthy(error.to_string()),
            Verdict::of_disk,
        )
    }
}

/// What the servers share, as a part of this one's health: without it each goes on by itself.
#[derive(Debug)]
pub(crate) struct SharedCache {
    cache: Arc<dyn Cache>,
}

impl SharedCache {
    pub(crate) const fn new(cache: Arc<dyn Cache>) -> Self {
        Self { cache }
    }
}

#[async_trait]
impl HealthProbe for SharedCache {
    fn name(&self) -> String {
        "redis".to_owned()
    }

    async fn check(&self) -> Verdict {
        match self.cache.check().await {
            Ok(()) => Verdict::healthy(),
            Err(why) => Verdict::degraded(why),
        }
    }
}

/// The edge of this process, as control tells it of routes.
#[derive(Debug)]
pub(crate) struct Routes {
    table: RouteTable,
}

impl Routes {
    pub(crate) const fn new(table: RouteTable) -> Self {
        Self { table }
    }
}

impl RoutePublisher for Routes {
    fn publish(&self, update: RouteUpdate) {
        self.table.apply(update);
    }
}

/// The edge of this process, as the fleet tells it where nodes are.
#[derive(Debug)]
pub(crate) struct Addresses {
    book: AddressBook,
}

impl Addresses {
    pub(crate) const fn new(book: AddressBook) -> Self {
        Self { book }
    }
}

impl fleet::Addresses for Addresses {
    fn note(&self, node: &NodeId, authority: &str) {
        self.book.put(node.clone(), authority);
    }
}

/// The node of this process, as the edge reaches sandboxes through it.
#[derive(Debug)]
pub(crate) struct NodeDialer {
    agent: Agent,
}

impl NodeDialer {
    pub(crate) const fn new(agent: Agent) -> Self {
        Self { agent }
    }
}

#[async_trait]
impl Dialer for NodeDialer {
    async fn dial(&self, route: &Route, port: u16) -> io::Result<BoxedStream> {
        let connection = self.agent.dial(&route.sandbox, route.generation, port);
        Ok(Box::new(connection.await?))
    }
}

/// The control plane of this process, as the edge has paused sandboxes woken by it.
#[derive(Debug)]
pub(crate) struct ControlWaker {
    control: ControlPlane,
}

impl ControlWaker {
    pub(crate) const fn new(control: ControlPlane) -> Self {
        Self { control }
    }
}

#[async_trait]
impl Waker for ControlWaker {
    async fn wake(&self, target: &Target, token: Option<&str>) -> Result<(), WakeError> {
        let access = if target.port == GUEST_PORT {
            TrafficAccess::GuestAgent
        } else {
            TrafficAccess::Port(token.map(str::to_owned))
        };
        let woken = self
            .control
            .sandbox_resume_for_traffic(&target.sandbox, access);
        woken.await.map_err(|error| {
            tracing::debug!(sandbox = %target.sandbox, %error, "traffic did not wake a sandbox");
            match error.kind {
                ErrorKind::NotFound => WakeError::NotFound,
                ErrorKind::PermissionDenied if token.is_none() => WakeError::TokenMissing,
                ErrorKind::PermissionDenied => WakeError::TokenInvalid,
                ErrorKind::Conflict => WakeError::Changing,
                ErrorKind::QuotaExceeded | ErrorKind::RateLimited => WakeError::QuotaExceeded,
                ErrorKind::InvalidArgument
                | ErrorKind::AlreadyExists
                | ErrorKind::Unauthenticated
                | ErrorKind::NoCapacity
                | ErrorKind::Unavailable
                | ErrorKind::DeadlineExceeded
                | ErrorKind::Unsupported
                | ErrorKind::Internal => WakeError::Unavailable,
            }
        })
    }
}

/// Tells the API the client's address, as the edge's listener saw it.
pub(crate) fn name_client<B>(mut request: http::Request<B>) -> http::Request<B> {
    let peer = request.extensions().get::<atoll_edge::server::Peer>();
    if let Some(atoll_edge::server::Peer(address)) = peer.copied() {
        let client = atoll_api::audit::Client(address);
        request.extensions_mut().insert(client);
    }
    request
}
