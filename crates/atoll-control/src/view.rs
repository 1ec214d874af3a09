//! What callers get to see.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_core::event::{Cursor, EventKind, Subject};
use atoll_core::heartbeat::{Heartbeat, MachineUsage};
use atoll_core::id::{
    Generation, KeyId, NodeId, SandboxId, ServerId, TeamId, TemplateId, WebhookId,
};
use atoll_core::node::{DrainMode, NodeInfo, NodeState, ObservedState};
use atoll_core::quota::{Limits, Overrides, Usage};
use atoll_core::reconcile::{Action, NodeHealth, Observed};
use atoll_core::resources::Resources;
use atoll_core::sandbox::{AccessToken, Sandbox, State};
use atoll_core::scheduler::forecast::Outlook;
use atoll_core::scheduler::overlay::Overlay;
use atoll_core::scheduler::record::Record;
use atoll_core::scheduler::total::Total;
use atoll_core::template::Template;
use atoll_core::time::Timestamp;
use atoll_store::store::StoredEvent;
use atoll_store::webhook::WebhookRow;

use crate::audit::{Claim, Receipt};
use crate::request::{ListCursor, LogLevel, VisibleState};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything its team may.
    Full,
    /// Only reading.
    ReadOnly,
}

/// Who is asking: the outcome of authentication, and the argument of every use case.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The team that owns what is made and sees only its own.
    pub team: TeamId,
    /// The key that was shown.
    pub key: KeyId,
    /// What the key may do.
    pub scope: Scope,
    /// The request's right to its row in the audit, if it is one for a single change.
    pub receipt: Option<Receipt>,
}

impl Tenant {
    /// The same, for one of several changes of the same request: the row is left to the door.
    #[must_use]
    pub fn without_receipt(&self) -> Self {
        Self {
            receipt: None,
            ..self.clone()
        }
    }

    /// The right to the request's row, for a transaction that decides it.
    pub(crate) async fn claim(&self) -> Option<Claim> {
        self.receipt.as_ref()?.claim().await
    }
}

/// A sandbox with what its owner needs to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxView {
    /// The row. `started_at` is set for all that clients can see.
    pub sandbox: Sandbox,
    /// What the guest agent demands; none if it is not secured.
    pub envd_access_token: Option<AccessToken>,
    /// What the edge demands on ports; none if they are public.
    pub traffic_token: Option<AccessToken>,
    /// The names of its template; empty once that is removed.
    pub template_names: Vec<String>,
    /// Version of the guest agent in it.
    pub envd_version: String,
}

impl SandboxView {
    /// The state as clients see it.
    #[must_use]
    pub const fn visible_state(&self) -> VisibleState {
        match self.sandbox.state {
            State::Pausing | State::Paused | State::Resuming => VisibleState::Paused,
            State::Pending
            | State::Creating
            | State::Running
            | State::Stopping
            | State::Stopped
            | State::Error => VisibleState::Running,
        }
    }

    /// Cores, rounded up, at least one: the unit clients know.
    #[must_use]
    pub const fn cpu_count(&self) -> u32 {
        let cores = self.sandbox.config.resources.cpu_millis.div_ceil(1_000);
        if cores == 0 { 1 } else { cores }
    }

    /// Memory in MiB.
    #[must_use]
    pub const fn memory_mib(&self) -> u32 {
        self.sandbox.config.resources.memory_mib
    }

    /// Writable disk in MiB.
    #[must_use]
    pub const fn disk_mib(&self) -> u32 {
        self.sandbox.config.resources.disk_mib
    }
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxPage {
    /// The rows, in the order asked for.
    pub items: Vec<SandboxView>,
    /// Where the next page begins; none: this was the last.
    pub next: Option<ListCursor>,
    /// How many sandboxes of the team run now, whatever the filter.
    pub total_running: u64,
}

/// How a connect found the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Connected {
    /// It was running.
    WasRunning,
    /// It was paused and serves again.
    Resumed,
}

/// One line of a sandbox's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When.
    pub at: Timestamp,
    /// How grave.
    pub level: LogLevel,
    /// What happened.
    pub message: String,
    /// More, by name: `event`, `node`, `reason`, …
    pub fields: BTreeMap<String, String>,
}

/// A template with what listings show about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateView {
    /// The template with its newest build.
    pub template: Template,
    /// How many sandboxes were started from it.
    pub spawn_count: u64,
    /// When the last one was.
    pub last_spawned_at: Option<Timestamp>,
    /// How many builds it has had.
    pub build_count: u32,
}

/// A team as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamView {
    /// Its id.
    pub id: TeamId,
    /// Its name, for people.
    pub name: String,
    /// Whether its keys are refused.
    pub is_disabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its own limits.
    pub overrides: Overrides,
    /// What its sandboxes must and should have of their nodes.
    pub policy: Option<Box<Overlay>>,
    /// How much of a fleet that is too small for all it gets beside others.
    pub weight: u32,
    /// The limits that hold for it.
    pub limits: Limits,
    /// What it has that counts against them.
    pub usage: Usage,
    /// How many of its sandboxes run.
    pub running: u64,
}

/// A row of the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditView {
    /// When it was answered.
    pub at: Timestamp,
    /// For which team; none: it is not known.
    pub team: Option<TeamId>,
    /// Who: `key:<id>`, `operator`, `anonymous`.
    pub actor: String,
    /// What was asked for.
    pub operation: String,
    /// Of what.
    pub object: Option<String>,
    /// `ok`, or a word for the refusal.
    pub outcome: String,
    /// From which address.
    pub address: Option<String>,
    /// With which program, by its own account.
    pub agent: Option<String>,
    /// The request's trace id.
    pub trace: Option<String>,
    /// How many refusals before this one were left out.
    pub left_out: u64,
}

/// A key as its team sees it. The key itself is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    /// Its public id.
    pub id: KeyId,
    /// Its name, for people.
    pub name: String,
    /// Prefix of the key's text: `e2b_`.
    pub prefix: String,
    /// How many characters follow the prefix.
    pub body_len: u32,
    /// The first characters after the prefix.
    pub masked_start: String,
    /// The last characters.
    pub masked_end: String,
    /// What it may do.
    pub scope: Scope,
    /// When it was made.
    pub created_at: Timestamp,
    /// The key it was made with, if one was.
    pub created_by: Option<KeyId>,
    /// When it was last presented, about.
    pub last_used_at: Option<Timestamp>,
}

/// A key just made: the only time its text is seen.
#[derive(Debug, Clone)]
pub struct CreatedKey {
    /// What will be listed.
    pub view: KeyView,
    /// The text clients present.
    pub text: secrecy::SecretString,
}

/// What [`crate::ControlPlane::bootstrap`] made or found.
#[derive(Debug, Clone)]
pub struct Bootstrapped {
    /// The default team.
    pub team: TeamId,
    /// The default key, if it was given or made now; a key made at an earlier start cannot be
    /// shown again.
    pub key: Option<secrecy::SecretString>,
}

/// How well a component does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HealthStatus {
    /// It works.
    Healthy,
    /// It works in part.
    Degraded,
    /// It does not.
    Unhealthy,
}

/// One component's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentHealth {
    /// `store`, `node <id>`.
    pub name: String,
    /// How well it does.
    pub status: HealthStatus,
    /// Why, for people; empty when healthy.
    pub detail: String,
    /// How long the check took, where there was something to ask.
    pub latency: Option<Duration>,
    /// When it was last seen healthy; none: not since the control plane started.
    pub last_success: Option<Timestamp>,
}

/// The health of the control plane and what it depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The worst that matters: a lost node among several only degrades.
    pub status: HealthStatus,
    /// Each component.
    pub components: Vec<ComponentHealth>,
}

/// A node as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its identity.
    pub id: NodeId,
    /// What it is called and where it is.
    pub info: NodeInfo,
    /// How it stands.
    pub state: NodeState,
    /// How it is being emptied; also while it is suspect or lost.
    pub drain: Option<DrainMode>,
    /// How its circuit breaker for starts stands, and what failed if it is not closed.
    pub breaker: (atoll_core::breaker::State, Option<String>),
    /// What it has in total to give to sandboxes.
    pub total: Resources,
    /// What may be allocated on it, control's overcommitment included.
    pub allocatable: Resources,
    /// What is allocated, by the control plane's intent.
    pub allocated: Resources,
    /// How many sandboxes it runs.
    pub sandboxes: u32,
    /// Whether it answers.
    pub is_reachable: bool,
    /// Whether it joined since this control plane started: one that did can be given orders.
    pub has_joined: bool,
    /// How long its last report took; none: it has not reported.
    pub latency: Option<Duration>,
    /// When it joined first; none: that is not recorded.
    pub joined_at: Option<Timestamp>,
    /// The last heartbeat, and what it says the machine uses.
    pub last_heartbeat: Option<HeartbeatView>,
}

/// A heartbeat with its age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatView {
    /// What the node said.
    pub heartbeat: Heartbeat,
    /// When it arrived.
    pub received_at: Timestamp,
    /// How long ago that is.
    pub age: Duration,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventView {
    /// Its place in the sequence; reading on begins after it.
    pub cursor: Cursor,
    /// To what it happened.
    pub subject: Subject,
    /// Whose that is; none: the operators'.
    pub team: Option<TeamId>,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// How grave it is.
    pub level: LogLevel,
    /// What happened, for people.
    pub message: String,
    /// More, by name.
    pub fields: BTreeMap<String, String>,
    /// The scheduler's decision that it tells of: in the history of a sandbox only.
    pub decision: Option<Box<Record>>,
}

impl From<&StoredEvent> for EventView {
    fn from(stored: &StoredEvent) -> Self {
        let event = &stored.event;
        Self {
            cursor: stored.cursor,
            subject: event.subject.clone(),
            team: event.team.clone(),
            at: event.at,
            kind: event.kind,
            level: LogLevel::parse(&event.level).unwrap_or(LogLevel::Info),
            message: event.message.clone(),
            fields: event.fields.clone(),
            decision: event.decision.clone(),
        }
    }
}

/// What a watcher gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// The next event.
    Event(EventView),
    /// Events that were wanted may be missing here: they were pruned before the watcher came to
    /// them. What is left of them follows.
    Lagged {
        /// After this cursor.
        from: Cursor,
        /// Up to this one.
        to: Cursor,
        /// How many were pruned there, of all kinds and teams: the most that can be missing.
        missed: u64,
    },
}

/// A page of events, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<EventView>,
    /// The next page begins after this.
    pub next: Cursor,
    /// Whether there are no more yet.
    pub is_last: bool,
    /// How many events after the cursor that was asked for are pruned, of all kinds and teams: the
    /// most that can be missing.
    pub missed: u64,
}

/// A webhook, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookView {
    /// Its id.
    pub id: WebhookId,
    /// Whose it is.
    pub team: TeamId,
    /// Its name, for people.
    pub name: String,
    /// Where deliveries go.
    pub url: String,
    /// What it wants.
    pub kinds: Vec<EventKind>,
    /// Whether anything is delivered.
    pub is_enabled: bool,
    /// Why it was given up, if it was.
    pub disabled_reason: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
    /// Since when every attempt has failed.
    pub failing_since: Option<Timestamp>,
    /// How the last attempt failed.
    pub last_error: Option<String>,
}

impl From<&WebhookRow> for WebhookView {
    fn from(row: &WebhookRow) -> Self {
        Self {
            id: row.id.clone(),
            team: row.team.clone(),
            name: row.name.clone(),
            url: row.url.clone(),
            kinds: row.kinds.clone(),
            is_enabled: row.is_enabled,
            disabled_reason: row.disabled_reason.clone(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            failing_since: row.failing_since,
            last_error: row.last_error.clone(),
        }
    }
}

/// Amounts of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// CPU, in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Disk in bytes.
    pub disk_bytes: u64,
    /// Network in bits per second, both directions together.
    pub network_bps: u64,
}

impl Amounts {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
            network_bps: self.network_bps.saturating_add(other.network_bps),
        }
    }

    /// What is left of these; nothing where the other is more.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(other.disk_bytes),
            network_bps: self.network_bps.saturating_sub(other.network_bps),
        }
    }
}

/// What a node, a team or the fleet has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceUsage {
    /// What may be allocated: by nodes that answer, overcommitment included; by a team, its limits.
    /// Of the network: what the links can carry.
    pub total: Amounts,
    /// What is allocated. Of the network: what is in use.
    pub used: Amounts,
    /// What may still be allocated.
    pub available: Amounts,
    /// What machines (of a team: its sandboxes) really have and use; none: never heard.
    pub measured: Option<MachineUsage>,
    /// How old the oldest of the measurements in it is.
    pub age: Option<Duration>,
    /// How many nodes were counted.
    pub nodes: u32,
    /// How many sandboxes it has.
    pub sandboxes: u32,
}

/// What one sandbox holds of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocationView {
    /// Which sandbox.
    pub sandbox: SandboxId,
    /// Whose.
    pub team: TeamId,
    /// Under which placement.
    pub generation: Generation,
    /// What it holds.
    pub resources: Resources,
    /// What the node said last of it; none: an order is under way, or it is not there.
    pub seen: Option<ObservedState>,
}

/// Everything that is known of a sandbox: the answer to "what happened, and what happens now".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxExplanation {
    /// The intent, and the state that was reached.
    pub sandbox: Sandbox,
    /// What its node last said of it.
    pub observed: Observed,
    /// How its node does; none if it is on none, or on one that is not known.
    pub node_health: Option<NodeHealth>,
    /// What would be done now, in order; empty if it is where it should be.
    pub plan: Vec<Action>,
    /// Whether somebody is at work on it.
    pub is_driven: bool,
    /// Where it was placed, or refused, and why, oldest first.
    pub decisions: Vec<EventView>,
    /// What was repaired, oldest first.
    pub corrections: Vec<EventView>,
    /// What went wrong, oldest first.
    pub errors: Vec<EventView>,
    /// The newest part of its history, oldest first.
    pub history: Vec<EventView>,
    /// When this was true.
    pub at: Timestamp,
}

/// A sandbox that is placed on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxOnNode {
    /// Which.
    pub id: SandboxId,
    /// What the node last said of it.
    pub observed: Observed,
}

/// Everything that is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeExplanation {
    /// The node.
    pub node: NodeView,
    /// What is placed on it, by id; at most a thousand.
    pub sandboxes: Vec<SandboxOnNode>,
    /// How many more are.
    pub sandboxes_left_out: usize,
    /// What went wrong, oldest first.
    pub errors: Vec<EventView>,
    /// The newest part of its history, oldest first.
    pub history: Vec<EventView>,
    /// When this was true.
    pub at: Timestamp,
}

/// One process of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerView {
    /// Which: another one at each start.
    pub id: ServerId,
    /// Where it listens.
    pub address: String,
    /// Its program's version.
    pub version: String,
    /// Whether it does what only one may do.
    pub is_on_duty: bool,
}

/// Who is expected, and what is held for them.
#[derive(Debug, Clone, PartialEq)]
pub struct ForecastView {
    /// How far ahead room is held, in minutes.
    pub lead_minutes: usize,
    /// The largest part of the fleet that may be held, in percent.
    pub reserve_percent: u32,
    /// What all nodes together may give away.
    pub fleet: Total,
    /// What is held of it.
    pub held: Total,
    /// How many series are known.
    pub known: usize,
    /// Those with most arrivals expected, most first.
    pub series: Vec<SeriesView>,
}

/// What one team asks for of one template.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesView {
    /// Whose.
    pub team: TeamId,
    /// From what.
    pub template: TemplateId,
    /// What is known of it, and what follows.
    pub outlook: Outlook,
    /// Sandboxes of its size that room is held for.
    pub held: u32,
    /// Warm instances of the template that would serve what all teams ask for in the lead.
    pub pool: u32,
}
