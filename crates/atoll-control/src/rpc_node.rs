//! A node on a machine of its own: the orders as calls of `NodeService`.
//!
//! What the node decided comes as a message. An error of the transport, or a deadline, says nothing
//! about whether the node acted: it is an unknown outcome, never a refusal.

use std::convert::Infallible;
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::crash;
use atoll_core::id::{BuildId, Generation, NodeId, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{CallOutcome, NodeEvent, NodeInfo, NodeReport, ObservedSandbox};
use atoll_core::sandbox::SandboxSpec;
use atoll_core::snapshot::{Stored, Unneeded};
use atoll_core::template::TemplateSource;
use atoll_proto::join_token::JoinToken;
use atoll_proto::node::{
    self as wire, DropSnapshotsRequest, EnsureRequest, ImportTemplateRequest, ListSnapshotsRequest,
    NodeServiceClient, PauseRequest, RemoveRequest, RemoveTemplateRequest, ReportRequest,
    ResumeRequest, UpdateNetworkRequest, WatchEventsRequest,
};
use atoll_proto::node_domain;
use connectrpc::ConnectError;
use connectrpc::client::{CallOptions, ClientConfig, HttpClient};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::node_client::NodeClient;

/// How long opening a connection may take; the order's own deadline counts on.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a node may take to make a sandbox serve, pause it or let it serve again.
const SANDBOX_TIMEOUT: Duration = Duration::from_secs(60);

/// How long other orders may take.
const ORDER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long what is about its shared storage may take.
const STORAGE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a template may take: pulling and unpacking a large image over a slow line.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// The largest answer: a report of some ten thousand sandboxes.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// A stream of events that shows no sign of life for this long is broken. Three of the node's.
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(15);

/// How long an order is given to leave this process before a test ends it.
const UNDER_WAY: Duration = Duration::from_millis(2);

/// A node's address is none.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no address of a node: write http://HOST:PORT")]
pub struct InvalidAddress(pub String);

/// Names the current span as headers of W3C Trace Context; none if nothing is traced.
pub type Traces = fn() -> Vec<(&'static str, String)>;

/// One node over the network.
pub struct RpcNode {
    id: NodeId,
    authority: String,
    info: NodeInfo,
    client: NodeServiceClient<HttpClient>,
    traces: Option<Traces>,
}

impl std::fmt::Debug for RpcNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RpcNode")
            .field("id", &self.id)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl RpcNode {
    /// The node `id` at `address` (`http://host:port`), to which `token` is shown. Connects at the
    /// first order.
    ///
    /// # Errors
    /// If the address is none.
    pub fn new(
        id: NodeId,
        address: &str,
        token: Option<&JoinToken>,
    ) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(address.chars().take(256).collect());
        let authority = address
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/'))
            .filter(|rest| rest.contains(':') && !rest.contains(['/', '?', '#', '@']));
        let authority = authority.ok_or_else(invalid)?.to_owned();
        let uri = address.parse().map_err(|_| invalid())?;
        let mut config = ClientConfig::new(uri)
            .proto()
            .with_default_max_message_size(MESSAGE_MAX)
            .with_default_timeout(ORDER_TIMEOUT);
        if let Some(token) = token {
            config = config.with_default_header("authorization", token.header());
        }
        let transport = HttpClient::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .plaintext_http2_only();
        Ok(Self {
            id,
            authority,
            info: NodeInfo {
                address: Some(address.to_owned()),
                ..NodeInfo::default()
            },
            client: NodeServiceClient::new(transport, config),
            traces: None,
        })
    }

    /// The same node with what it says of itself; its address stays.
    #[must_use]
    pub fn described(mut self, info: NodeInfo) -> Self {
        let address = self.info.address.take();
        self.info = NodeInfo { address, ..info };
        self
    }

    /// The same node, whose orders carry the trace that they are given in.
    #[must_use]
    pub const fn with_traces(mut self, traces: Option<Traces>) -> Self {
        self.traces = traces;
        self
    }

    /// How an order goes out.
    fn within(&self, limit: Duration) -> CallOptions {
        let options = CallOptions::default().with_timeout(limit);
        let context = self.traces.map_or_else(Vec::new, |current| current());
        context.into_iter().fold(options, |options, (name, value)| {
            options.with_header(name, value)
        })
    }

    /// `host:port` of the node.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Opens the stream of events. When this returns, nothing that happens from now on is missed.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn watch(&self) -> Result<Watch, String> {
        let options = CallOptions::default().with_timeout(Duration::from_secs(24 * 3600));
        let call = self
            .client
            .watch_events_with_options(WatchEventsRequest::default(), options);
        let opened = timeout(ORDER_TIMEOUT, call).await;
        let stream = opened
            .map_err(|_| "it did not answer in time".to_owned())?
            .map_err(|error| error.to_string())?;
        let mut watch = Watch(stream);
        // The first message only says that the stream stands.
        watch.next().await.map(|_| watch)
    }
}

type EventStream = connectrpc::client::ServerStream<
    <HttpClient as connectrpc::client::ClientTransport>::ResponseBody,
    wire::NodeEventView<'static>,
>;

/// What a node tells of its own accord.
pub(crate) struct Watch(EventStream);

impl Watch {
    /// Passes events on until the stream ends, and says why it did.
    pub(crate) async fn forward(mut self, events: &mpsc::Sender<NodeEvent>) -> String {
        loop {
            let event = match self.next().await {
                Ok(Some(event)) => event,
                Ok(None) => continue,
                Err(why) => return why,
            };
            if events.send(event).await.is_err() {
                return "nobody listens".to_owned();
            }
        }
    }

    /// The next event; none if the node only says that it lives.
    async fn next(&mut self) -> Result<Option<NodeEvent>, String> {
        let message = timeout(STREAM_SILENCE_MAX, self.0.message::<wire::NodeEvent>()).await;
        match message {
            Err(_) => Err("the stream is silent".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(None)) => Err("the node ended the stream".to_owned()),
            Ok(Ok(Some(message))) => node_domain::event(message.to_owned_message())
                .map_err(|error| format!("malformed event: {error}")),
        }
    }
}

/// Makes a call, and says when it is under way and when it was answered.
async fn pass<T>(call: impl Future<Output = T>, sent: &'static str, answered: &'static str) -> T {
    let under_way = async {
        if crash::is_armed(sent) {
            tokio::time::sleep(UNDER_WAY).await;
            crash::reached(sent);
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        answer = call => {
            crash::reached(answered);
            answer
        }
        never = under_way => match never {},
    }
}

fn unknown<T>(error: &ConnectError) -> CallOutcome<T> {
    CallOutcome::Unknown(error.to_string())
}

#[async_trait]
impl NodeClient for RpcNode {
    fn node(&self) -> &NodeId {
        &self.id
    }

    fn info(&self) -> NodeInfo {
        self.info.clone()
    }

    async fn ensure(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        let request = EnsureRequest {
            spec: wire::SandboxSpec::from(spec).into(),
            ..EnsureRequest::default()
        };
        let call = self
            .client
            .ensure_with_options(request, self.within(SANDBOX_TIMEOUT));
        match pass(call, "control.ensure.sent", "control.ensure.answered").await {
            Ok(answer) => answer.into_owned().into(),
            Err(error) => unknown(&error),
        }
    }

    async fn remove(&self, id: &SandboxId, generation: Generation) -> CallOutcome<()> {
        let request = RemoveRequest {
            id: id.to_string(),
            generation: generation.get(),
            ..RemoveRequest::default()
        };
        let call = self
            .client
            .remove_with_options(request, self.within(ORDER_TIMEOUT));
        match pass(call, "control.remove.sent", "control.remove.answered").await {
            Ok(answer) => answer.into_owned().into(),
            Err(error) => unknown(&error),
        }
    }

    async fn update_network(
        &self,
        id: &SandboxId,
        generation: Generation,
        policy: &NetworkPolicy,
    ) -> CallOutcome<()> {
        let request = UpdateNetworkRequest {
            id: id.to_string(),
            generation: generation.get(),
            policy: wire::NetworkPolicy::from(policy).into(),
            ..UpdateNetworkRequest::default()
        };
        let call = self
            .client
            .update_network_with_options(request, self.within(ORDER_TIMEOUT));
        match call.await {
            Ok(answer) => answer.into_owned().into(),
            Err(error) => unknown(&error),
        }
    }

    async fn pause(
        &self,
        id: &SandboxId,
        generation: Generation,
        keep_memory: bool,
    ) -> CallOutcome<ObservedSandbox> {
        let request = PauseRequest {
            id: id.to_string(),
            generation: generation.get(),
            keep_memory,
            ..PauseRequest::default()
        };
        let call = self
            .client
            .pause_with_options(request, self.within(SANDBOX_TIMEOUT));
        match pass(call, "control.pause.sent", "control.pause.answered").await {
            Ok(answer) => answer.into_owned().into(),
            Err(error) => unknown(&error),
        }
    }

    async fn resume(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        let request = ResumeRequest {
            spec: wire::SandboxSpec::from(spec).into(),
            ..ResumeRequest::default()
        };
        let call = self
            .client
            .resume_with_options(request, self.within(SANDBOX_TIMEOUT));
        match pass(call, "control.resume.sent", "control.resume.answered").await {
            Ok(answer) => answer.into_owned().into(),
            Err(error) => unknown(&error),
        }
    }

    async fn list_snapshots(
        &self,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> CallOutcome<Vec<Stored>> {
        let request = ListSnapshotsRequest {
            after: after.map_or_else(String::new, ToString::to_string),
            limit,
            ..ListSnapshotsRequest::default()
        };
        let call = self
            .client
            .list_snapshots_with_options(request, self.within(STORAGE_TIMEOUT));
        match call.await {
            Ok(answer) => answer.into_owned().into(),
            Err(error) => unknown(&error),
        }
    }

    async fn drop_snapshots(&self, unneeded: &Unneeded) -> CallOutcome<()> {
        let request = DropSnapshotsRequest::from(unneeded);
        let call = self
            .client
            .drop_snapshots_with_options(request, self.within(STORAGE_TIMEOUT));
        match call.await {
            Ok(answer) => answer.into_owned().into(),
            Err(error) => unknown(&error),
        }
    }

    async fn report(&self) -> CallOutcome<NodeReport> {
        let answer = match self.client.report(ReportRequest::default()).await {
            Ok(answer) => answer.into_owned(),
            Err(error) => return unknown(&error),
        };
        match NodeReport::try_from(answer) {
            // Another node under this address must not speak for this one.
            Ok(report) if report.node != self.id => CallOutcome::Unknown(format!(
                "node {} answers at {}",
                report.node, self.authority
            )),
            Ok(report) => CallOutcome::Done(report),
            Err(error) => CallOutcome::Unknown(format!("malformed report: {error}")),
        }
    }

    async fn import_template(
        &self,
        template: &TemplateId,
        build: &BuildId,
        source: &TemplateSource,
    ) -> CallOutcome<()> {
        let request = ImportTemplateRequest {
            template: template.to_string(),
            build: build.to_string(),
            source: wire::TemplateSource::from(source).into(),
            ..ImportTemplateRequest::default()
        };
        let call = self
            .client
            .import_template_with_options(request, self.within(IMPORT_TIMEOUT));
        match call.await {
            Ok(answer) => answer.into_owned().into(),
            Err(error) => unknown(&error),
        }
    }

    async fn remove_template(&self, template: &TemplateId, build: &BuildId) -> CallOutcome<()> {
        let request = RemoveTemplateRequest {
            template: template.to_string(),
            build: build.to_string(),
            ..RemoveTemplateRequest::default()
        };
        match self.client.remove_template(request).await {
            Ok(answer) => answer.into_owned().into(),
            Err(error) => unknown(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_a_url_of_host_and_port() {
        let node = |address| RpcNode::new("n1".parse().unwrap(), address, None);
        assert_eq!(
            node("http://10.0.0.7:3001").unwrap().authority(),
            "10.0.0.7:3001"
        );
        assert_eq!(
            node("http://[::1]:3001/").unwrap().authority(),
            "[::1]:3001"
        );
        for wrong in [
            "",
            "10.0.0.7:3001",
            "https://h:1",
            "http://h",
            "http://u@h:1",
            "http://h:1/p",
        ] {
            assert!(node(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_leaves_the_outcome_unknown() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let node = RpcNode::new("n1".parse().unwrap(), &address, None).unwrap();
        let id: SandboxId = "iabc".parse().unwrap();
        let outcome = node.remove(&id, Generation::FIRST).await;
        assert!(matches!(outcome, CallOutcome::Unknown(_)), "{outcome:?}");
    }
}
