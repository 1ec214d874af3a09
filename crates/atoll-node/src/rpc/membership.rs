//! A node's membership: it joins a server, says that it lives, and joins again whenever the server
//! does not know it. Its sandboxes go on whatever becomes of the server. With several servers it
//! has as many memberships, and none waits for another.

use std::time::Duration;

use async_trait::async_trait;
use atoll_core::heartbeat::Heartbeat;
use atoll_core::id::NodeId;
use atoll_core::node::NodeInfo;
use atoll_proto::join_token::JoinToken;
use atoll_proto::orchestrator::{HeartbeatRequest, OrchestratorServiceClient, RegisterNodeRequest};
use connectrpc::client::{CallOptions, ClientConfig, HttpClient};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::agent::heartbeat::HeartbeatSink;

/// How long the server may take to answer a heartbeat.
const BEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long joining may take: the server asks for a report, and has `base` made, before it answers.
const JOIN_TIMEOUT: Duration = Duration::from_secs(120);

/// Pause before the server is tried again; doubled each time.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Longest pause between attempts.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How a node makes itself known.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who it is.
    pub node: NodeId,
    /// The server's URL, `http://host:port`.
    pub server: http::Uri,
    /// Where the server and the edges reach this node, `http://host:port`.
    pub address: http::Uri,
    /// What it says of itself; its address is the one above.
    pub info: NodeInfo,
    /// Differs at every start of this process.
    pub incarnation: String,
    /// What is shown to the server.
    pub token: Option<JoinToken>,
}

/// Keeps the node a member until `cancel`. `joined` is called after every join.
pub async fn run(
    config: Config,
    agent: Agent,
    cancel: CancellationToken,
    joined: impl Fn() + Send + Sync,
) {
    let mut client_config = ClientConfig::new(config.server.clone()).proto();
    if let Some(token) = &config.token {
        client_config = client_config.with_default_header("authorization", token.header());
    }
    let client = OrchestratorServiceClient::new(HttpClient::plaintext_http2_only(), client_config);
    let member = Member { config, client };
    while cancel.run_until_cancelled(member.join()).await.is_some() {
        joined();
        let membership = Membership {
            member: &member,
            ended: cancel.child_token(),
        };
        agent.beat(&membership, membership.ended.clone()).await;
    }
}

struct Member {
    config: Config,
    client: OrchestratorServiceClient<HttpClient>,
}

impl Member {
    /// Joins, however often that must be tried.
    async fn join(&self) {
        let mut pause = RETRY_PAUSE;
        let mut is_reported = false;
        loop {
            let request = RegisterNodeRequest {
                node_id: self.config.node.to_string(),
                address: self.config.address.to_string(),
                incarnation: self.config.incarnation.clone(),
                ..RegisterNodeRequest::from(&self.config.info)
            };
            let options = CallOptions::default().with_timeout(JOIN_TIMEOUT);
            let call = self.client.register_node_with_options(request, options);
            match call.await {
                Ok(_) => {
                    tracing::info!(server = %self.config.server, "joined the server");
                    return;
                }
                // Once at full voice: while the server is away there is nothing new to say.
                Err(error) if is_reported => tracing::debug!(%error, "not joined yet"),
                Err(error) => {
                    is_reported = true;
                    tracing::warn!(server = %self.config.server, %error, "not joined, trying on");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }
}

/// From one join to the moment the server does not know the node any more.
struct Membership<'a> {
    member: &'a Member,
    ended: CancellationToken,
}

#[async_trait]
impl HeartbeatSink for Membership<'_> {
    async fn send(&self, heartbeat: Heartbeat) -> Result<(), String> {
        let request = HeartbeatRequest {
            incarnation: self.member.config.incarnation.clone(),
            ..HeartbeatRequest::from(&heartbeat)
        };
        let options = CallOptions::default().with_timeout(BEAT_TIMEOUT);
        let call = self.member.client.heartbeat_with_options(request, options);
        let answer = call.await.map_err(|error| error.to_string())?;
        if !answer.into_owned().is_member {
            tracing::info!("the server does not know this node; joining again");
            self.ended.cancel();
        }
        Ok(())
    }
}
