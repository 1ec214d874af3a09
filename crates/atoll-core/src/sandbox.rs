//! Sandboxes: what control wants of them, and what a node is told to run.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{BuildId, Generation, KeyId, NodeId, SandboxId, ServerId, TeamId, TemplateId};
use crate::network::NetworkPolicy;
use crate::quota::Charge;
use crate::resources::Resources;
use crate::scheduler::overlay::Overlay;
use crate::snapshot::Snapshot;
use crate::time::Timestamp;

/// Where a sandbox stands. [`crate::sandbox`] only names the states; which may follow which is
/// decided in one place, the lifecycle module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Accepted, not yet placed.
    Pending,
    /// A node was told to run it.
    Creating,
    /// It serves.
    Running,
    /// On its way to `Paused`.
    Pausing,
    /// Kept without using cpu or, where the driver can, memory.
    Paused,
    /// On its way from `Paused` to `Running`.
    Resuming,
    /// On its way to `Stopped`.
    Stopping,
    /// Gone; only its history remains.
    Stopped,
    /// It failed; only deletion is left.
    Error,
}

/// What control wants of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Desired {
    /// It should serve.
    Running,
    /// It should be kept, not serve.
    Paused,
    /// It should be gone.
    Stopped,
}

/// What happens when the deadline passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnTimeout {
    /// Remove it.
    Kill,
    /// Pause it; with memory, or only its file system.
    Pause {
        /// Whether processes survive the pause.
        keep_memory: bool,
    },
}

/// What a client asked for: fixed from create to removal, but for `network`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxConfig {
    /// The template it starts from.
    pub template: TemplateId,
    /// The build of that template, resolved when the sandbox was accepted.
    pub build: BuildId,
    /// The name the client used, without tag; shown as `alias`.
    pub alias: Option<String>,
    /// What it may use.
    pub resources: Resources,
    /// The client's labels.
    pub metadata: BTreeMap<String, String>,
    /// Environment of every process started in it.
    pub env: BTreeMap<String, String>,
    /// Egress and ingress policy.
    pub network: NetworkPolicy,
    /// Whether the guest agent demands the access token.
    pub is_secured: bool,
    /// What happens when the deadline passes.
    pub on_timeout: OnTimeout,
    /// Whether traffic to a paused sandbox resumes it.
    pub auto_resume: bool,
    /// What was asked for about its node.
    pub scheduling: Option<Box<Overlay>>,
}

/// Why a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// A client asked.
    Killed,
    /// Its deadline passed.
    Expired,
    /// Its first process ended, or it could not be started.
    Failed,
    /// Its node is gone.
    NodeLost,
    /// No node had room.
    NoCapacity,
    /// The operator stopped it (`dev` ends its sandboxes on Ctrl-C).
    Shutdown,
    /// The operator drained its node.
    Evicted,
}

/// What its node keeps of a paused sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kept {
    /// The placement under which it was paused. A resume that was refused, or came late, leaves
    /// the node with this one or a newer one, up to the sandbox's own.
    pub generation: Generation,
    /// When it was paused.
    pub at: Timestamp,
}

/// One sandbox as the store keeps it.
///
/// Control alone changes every field; `state` follows what the node reports, through the lifecycle
/// function only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its identity.
    pub id: SandboxId,
    /// Counts the writes of this row: of two copies the one with the higher number is newer.
    pub revision: u64,
    /// Who owns it.
    pub team: TeamId,
    /// The key it was made with; none for those made before that was kept.
    pub created_by: Option<KeyId>,
    /// What was asked for.
    pub config: SandboxConfig,
    /// Where it stands.
    pub state: State,
    /// What is wanted of it.
    pub desired: Desired,
    /// Why it should be gone; set together with [`Desired::Stopped`].
    pub stop_reason: Option<EndReason>,
    /// Which placement this is.
    pub generation: Generation,
    /// The node it is placed on, once decided.
    pub node: Option<NodeId>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it last began to serve.
    pub started_at: Option<Timestamp>,
    /// How long it was asked to serve at its last create or resume; each start sets the deadline
    /// so far ahead.
    pub timeout: Duration,
    /// When `on_timeout` applies. Has no effect while paused.
    pub deadline: Timestamp,
    /// Whether the pause that is wanted or done keeps the memory.
    pub keep_memory: bool,
    /// What is kept of it, from the end of a pause to the end of the resume.
    pub kept: Option<Kept>,
    /// The node that keeps it; none if only shared storage does.
    pub kept_on: Option<NodeId>,
    /// What shared storage has of it, from when that was read back to the end of the resume.
    pub snapshot: Option<Snapshot>,
    /// Whether it should begin anew; set by a restart, until it serves again or fails.
    pub is_restarting: bool,
    /// The server that took the last request of where it should be, and brings it there; none:
    /// there is one server, or nobody said.
    pub claimed_by: Option<ServerId>,
    /// When this row last changed.
    pub updated_at: Timestamp,
    /// When it left the world, with the reason; set together with [`State::Stopped`].
    pub ended: Option<(Timestamp, EndReason)>,
    /// What went wrong last, for people.
    pub last_error: Option<String>,
}

impl Sandbox {
    /// What it counts against its team's quota in this state.
    ///
    /// One that restarts keeps its place on the way, so that nobody takes it meanwhile.
    #[must_use]
    pub const fn charge_in(&self, state: State) -> Charge {
        let state = match state {
            State::Stopping if self.is_restarting => State::Pending,
            other => other,
        };
        Charge::of(state, self.config.resources, self.keep_memory)
    }

    /// What it takes of its node: all of it, unless it is kept paused.
    #[must_use]
    pub const fn held(&self) -> Resources {
        match (self.state, self.kept) {
            (State::Resuming, _) | (_, None) => self.config.resources,
            (_, Some(_)) => self.config.resources.held_when_paused(self.keep_memory),
        }
    }

    /// Whether a node that reports this generation reports the sandbox as it is intended.
    #[must_use]
    pub fn is_own_generation(&self, generation: Generation) -> bool {
        (self.oldest()..=self.generation).contains(&generation)
    }

    /// The oldest placement under which its node may have it: the one it is kept under, if that
    /// node keeps it.
    #[must_use]
    pub fn oldest(&self) -> Generation {
        let kept = self.kept.filter(|_| !self.is_elsewhere());
        kept.map_or(self.generation, |kept| kept.generation)
    }

    /// Whether it goes on on another node than the one that keeps it, if one does.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.kept.is_some() && self.node != self.kept_on
    }

    /// Whether this node keeps it under this placement, while it may go on elsewhere: as long as it
    /// does not serve there, the copy is not given up.
    #[must_use]
    pub fn is_kept_on(&self, node: &NodeId, generation: Generation) -> bool {
        self.kept_on.as_ref() == Some(node)
            && self
                .kept
                .is_some_and(|kept| (kept.generation..=self.generation).contains(&generation))
    }
}

/// Everything a node needs to run one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// Its identity.
    pub id: SandboxId,
    /// The placement this order belongs to.
    pub generation: Generation,
    /// Who owns it.
    pub team: TeamId,
    /// The template it starts from.
    pub template: TemplateId,
    /// The build of that template.
    pub build: BuildId,
    /// Limits to enforce.
    pub resources: Resources,
    /// Environment of every process started in it.
    pub env: BTreeMap<String, String>,
    /// Egress policy to enforce.
    pub network: NetworkPolicy,
    /// What the guest agent demands of its clients; none leaves it open.
    pub access_token: Option<AccessToken>,
    /// The files it starts with, of an earlier placement; none: the template's.
    pub snapshot: Option<Snapshot>,
}

/// A bearer token. Its `Debug` shows nothing, so that it cannot reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(String);

impl AccessToken {
    /// Wraps a token.
    #[must_use]
    pub const fn new(token: String) -> Self {
        Self(token)
    }

    /// The token itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessToken(…)")
    }
}

/// One sample of what a sandbox uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UsageSample {
    /// When it was taken.
    pub at: Timestamp,
    /// CPU used since the last sample, in percent of one core (200 = two full cores).
    pub cpu_used_pct: f32,
    /// Cores it may use.
    pub cpu_count: u32,
    /// Memory in use, without cache that can be dropped, in bytes.
    pub memory_used_bytes: u64,
    /// Memory limit in bytes.
    pub memory_total_bytes: u64,
    /// Page cache, in bytes.
    pub memory_cache_bytes: u64,
    /// Writable disk in use, in bytes.
    pub disk_used_bytes: u64,
    /// Writable disk limit, in bytes.
    pub disk_total_bytes: u64,
}

/// How long a sandbox may live from its last start or resume, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifetimeLimit(pub Duration);
