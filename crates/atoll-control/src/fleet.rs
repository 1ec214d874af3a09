//! The nodes that join over the network.
//!
//! A node dials the server to join and to say that it lives; the server dials the node's address
//! for everything else. Each member has one session: it follows what the node tells, and has the
//! control plane look at the node again whenever that was interrupted.
//!
//! Membership is memory. A server that starts knows nobody: the nodes' next sign of life tells them
//! so, and they join again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use atoll_core::error::ErrorKind;
use atoll_core::heartbeat::Heartbeat;
use atoll_core::id::NodeId;
use atoll_core::node::NodeInfo;
use atoll_proto::join_token::JoinToken;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Result;
use crate::lock::lock;
use crate::node_client::NodeClient as _;
use crate::rpc_node::{InvalidAddress, RpcNode, Traces};
use crate::service::ControlPlane;

/// Members at a time.
const MEMBERS_MAX: usize = 10_000;

/// Events of one node that may wait for control.
const EVENTS_MAX: usize = 4_096;

/// Pause before a broken session is taken up again; doubled each time.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Longest pause between attempts.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A member that shows no sign of life for this long has left; it joins again if it comes back.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Who learns where nodes are: the edges.
pub trait Addresses: Send + Sync + std::fmt::Debug {
    /// Notes the `host:port` of a node.
    fn note(&self, node: &NodeId, authority: &str);
}

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Its address is none.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// Another node has the name.
    #[error("a node named {0} lives at {1}; give this one another name")]
    NameTaken(NodeId, String),
    /// There are as many members as there may be.
    #[error("the fleet has {MEMBERS_MAX} nodes, the most one server takes")]
    Full,
    /// The node was not reached at its address, or did not report.
    #[error("node {0} is not reached: {1}")]
    Unreachable(NodeId, String),
}

#[derive(Debug)]
struct Member {
    incarnation: String,
    authority: String,
    last_sign: Instant,
    /// Whether its stream of events stands: another machine cannot take the name then.
    is_followed: bool,
    session: CancellationToken,
}

#[derive(Debug)]
struct Inner {
    control: ControlPlane,
    token: Option<JoinToken>,
    addresses: Arc<dyn Addresses>,
    traces: OnceLock<Traces>,
    members: Mutex<BTreeMap<NodeId, Member>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// The members. Clones are the same fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

impl Fleet {
    /// A fleet without members. `token` is shown to nodes; sessions run on `tasks` until `cancel`.
    #[must_use]
    pub fn new(
        control: ControlPlane,
        token: Option<JoinToken>,
        addresses: Arc<dyn Addresses>,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                control,
                token,
                addresses,
                traces: OnceLock::new(),
                members: Mutex::default(),
                tasks,
                cancel,
            }),
        }
    }

    /// The same fleet, whose orders carry the trace that `traces` names.
    #[must_use]
    pub fn with_traces(self, traces: Traces) -> Self {
        // A second source in one process would be the same.
        let _ = self.inner.traces.set(traces);
        self
    }

    /// Takes a node in, or again: dials it, has it make what every node must have, and compares
    /// what it runs with what is intended. Repeating it is harmless.
    ///
    /// # Errors
    /// See [`JoinError`]; the node is no member then.
    pub async fn join(
        &self,
        id: NodeId,
        info: NodeInfo,
        incarnation: &str,
    ) -> std::result::Result<(), JoinError> {
        let address = info.address.as_deref().unwrap_or_default();
        let node = RpcNode::new(id.clone(), address, self.inner.token.as_ref())?;
        let node = node.described(info);
        let node = Arc::new(node.with_traces(self.inner.traces.get().copied()));
        let session = self.admit(&id, node.authority(), incarnation)?;
        self.inner.addresses.note(&id, node.authority());
        let (reply, answer) = oneshot::channel();
        let work = Session {
            fleet: Arc::clone(&self.inner),
            node,
            incarnation: incarnation.to_owned(),
            reply: Some(reply),
        };
        // The session goes on if whoever asked goes away.
        let run = session.run_until_cancelled_owned(work.run());
        self.inner.tasks.spawn(run);
        let ended = || Err("it joined again meanwhile".to_owned());
        answer
            .await
            .unwrap_or_else(|_| ended())
            .map_err(|why| JoinError::Unreachable(id, why))
    }

    /// Takes a heartbeat. Answers whether that incarnation of the node is a member; one that is
    /// none has to join again.
    ///
    /// # Errors
    /// As [`ControlPlane::node_heartbeat`], but for a node that it does not know.
    pub async fn beat(&self, heartbeat: Heartbeat, incarnation: &str) -> Result<bool> {
        {
            let mut members = lock(&self.inner.members);
            match members.get_mut(&heartbeat.node) {
                Some(member) if member.incarnation == incarnation => {
                    member.last_sign = Instant::now();
                }
                _ => return Ok(false),
            }
        }
        match self.inner.control.node_heartbeat(heartbeat).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes room for a session and ends the one before it.
    fn admit(
        &self,
        id: &NodeId,
        authority: &str,
        incarnation: &str,
    ) -> std::result::Result<CancellationToken, JoinError> {
        let mut members = lock(&self.inner.members);
        match members.get(id) {
            Some(before) if before.is_followed && before.authority != authority => {
                let taken = JoinError::NameTaken(id.clone(), before.authority.clone());
                return Err(taken);
            }
            Some(before) => before.session.cancel(),
            None if members.len() >= MEMBERS_MAX => return Err(JoinError::Full),
            None => {}
        }
        let session = self.inner.cancel.child_token();
        let member = Member {
            incarnation: incarnation.to_owned(),
            authority: authority.to_owned(),
            last_sign: Instant::now(),
            is_followed: false,
            session: session.clone(),
        };
        members.insert(id.clone(), member);
        Ok(session)
    }
}

/// Follows one node.
struct Session {
    fleet: Arc<Inner>,
    node: Arc<RpcNode>,
    incarnation: String,
    /// Waits for the first outcome.
    reply: Option<oneshot::Sender<std::result::Result<(), String>>>,
}

impl Session {
    async fn run(mut self) {
        let id = self.node.node().clone();
        let mut pause = RETRY_PAUSE;
        loop {
            let why = match self.follow().await {
                // It stood: what comes next is a new interruption.
                Ok(why) => {
                    pause = RETRY_PAUSE;
                    why
                }
                Err(why) => why,
            };
            if let Some(reply) = self.reply.take() {
                self.leave(&id);
                // Nobody may wait any more.
                let _ = reply.send(Err(why));
                return;
            }
            if !self.is_alive(&id) {
                tracing::warn!(node = %id, why, "node left without a word");
                self.leave(&id);
                return;
            }
            tracing::info!(node = %id, why, "session with a node is taken up again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Joins the node to the control plane and passes on what it tells, until that is interrupted.
    ///
    /// # Errors
    /// If it did not come to that.
    async fn follow(&mut self) -> std::result::Result<String, String> {
        // Before the report is asked for, so that nothing falls between the two.
        let watch = self.node.watch().await?;
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let client = Arc::clone(&self.node);
        let joined = self.fleet.control.node_join(client, inbox).await;
        joined.map_err(|error| error.to_string())?;
        if let Some(reply) = self.reply.take() {
            tracing::info!(node = ?self.node, "node joined");
            // Nobody may wait any more.
            let _ = reply.send(Ok(()));
        }
        self.note_followed(true);
        let why = watch.forward(&events).await;
        self.note_followed(false);
        Ok(why)
    }

    fn note_followed(&self, is_followed: bool) {
        let mut members = lock(&self.fleet.members);
        if let Some(member) = members.get_mut(self.node.node())
            && member.incarnation == self.incarnation
        {
            member.is_followed = is_followed;
        }
    }

    fn is_alive(&self, id: &NodeId) -> bool {
        let members = lock(&self.fleet.members);
        members
            .get(id)
            .is_some_and(|member| member.last_sign.elapsed() < SILENCE_MAX)
    }

    /// Ends the membership, unless it belongs to a later session.
    fn leave(&self, id: &NodeId) {
        let mut members = lock(&self.fleet.members);
        if members
            .get(id)
            .is_some_and(|member| member.incarnation == self.incarnation)
        {
            members.remove(id);
        }
    }
}
