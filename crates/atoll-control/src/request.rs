//! What callers ask of the control plane. Built by the API from validated wire input; what needs
//! knowledge of the store or the team is checked here.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_core::event::{Cursor, EventKind};
use atoll_core::id::{NodeId, SandboxId, TeamId};
use atoll_core::network::NetworkPolicy;
use atoll_core::quota::Overrides;
use atoll_core::resources::Resources;
use atoll_core::sandbox::OnTimeout;
use atoll_core::scheduler::overlay::Overlay;
use atoll_core::template::TemplateSource;
use atoll_core::time::Timestamp;
pub use atoll_store::store::PolicyChange;
use secrecy::SecretString;

/// A request for a new sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRequest {
    /// `[namespace/]alias[:tag]` or a template id, in any letter case.
    pub template: String,
    /// Time until `on_timeout` applies; more than zero, at most the lifetime limit.
    pub timeout: Duration,
    /// The client's labels.
    pub metadata: BTreeMap<String, String>,
    /// Environment of every process started in it.
    pub env: BTreeMap<String, String>,
    /// Egress and ingress policy, already validated by the API.
    pub network: NetworkPolicy,
    /// Whether the guest agent demands the access token.
    pub is_secured: bool,
    /// What happens when the deadline passes. Pausing is refused as `Unsupported` where the
    /// driver cannot pause.
    pub on_timeout: OnTimeout,
    /// Whether traffic to a paused sandbox resumes it.
    pub auto_resume: bool,
    /// What is asked for about its node, within its limits.
    pub scheduling: Option<Box<Overlay>>,
    /// Retrying with the same key and the same fingerprint answers with the same sandbox.
    pub idempotency_key: Option<String>,
    /// A digest of the request's content; only compared, and only with `idempotency_key`.
    pub fingerprint: String,
}

/// The states clients can tell apart and filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VisibleState {
    /// It serves.
    Running,
    /// It is kept, not serving, or on its way there and back.
    Paused,
}

/// In which direction a listing or a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// Where a page of a listing begins: after this row. The API turns it into opaque text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListCursor {
    /// When the last row of the page before was made.
    pub created_at: Timestamp,
    /// Id of that row, which breaks ties.
    pub id: atoll_core::id::SandboxId,
}

/// Which sandboxes to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Only these states; empty means all that clients can see.
    pub states: Vec<VisibleState>,
    /// Only those that carry all of these labels.
    pub metadata: BTreeMap<String, String>,
    /// Only those of this template: id or alias without tag. One that does not exist gives an
    /// empty page.
    pub template: Option<String>,
    /// By when they were made, with the id as tie-break.
    pub order: Order,
    /// Only those started at this instant or later.
    pub started_after: Option<Timestamp>,
    /// Where to go on; none: from the beginning.
    pub cursor: Option<ListCursor>,
    /// How many rows at most: 1 to [`LIST_LIMIT_MAX`].
    pub limit: u32,
}

/// The longest page of a listing (E2B wire protocol).
pub const LIST_LIMIT_MAX: u32 = 100;

/// The longest page of a log (E2B wire protocol).
pub const LOG_LIMIT_MAX: u32 = 1_000;

/// How grave a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Detail.
    Debug,
    /// What happened.
    Info,
    /// Something unexpected; work went on.
    Warn,
    /// Something failed.
    Error,
}

impl LogLevel {
    /// The level's wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    /// The level of a wire name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "debug" => Some(Self::Debug),
            "info" => Some(Self::Info),
            "warn" => Some(Self::Warn),
            "error" => Some(Self::Error),
            _ => None,
        }
    }
}

/// Which lines of a sandbox's log to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Where to begin, inclusive; none: at the end the order begins with.
    pub start: Option<Timestamp>,
    /// How many lines at most: 1 to [`LOG_LIMIT_MAX`].
    pub limit: u32,
    /// Oldest or newest first.
    pub order: Order,
    /// Only this level and graver.
    pub level: Option<LogLevel>,
    /// Only lines whose message contains this text.
    pub search: Option<String>,
}

/// Which of a team's events to leaf through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentEvents {
    /// Of this sandbox only.
    pub sandbox: Option<SandboxId>,
    /// Of these kinds.
    pub kinds: Vec<EventKind>,
    /// Oldest first, or newest first.
    pub is_ascending: bool,
    /// After leaving out so many.
    pub offset: u32,
    /// At most so many: 1 to [`EVENT_LIMIT_MAX`].
    pub limit: u32,
}

/// A new webhook.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Its name, for people.
    pub name: String,
    /// Where deliveries go.
    pub url: String,
    /// What it wants.
    pub kinds: Vec<EventKind>,
    /// What deliveries are signed with.
    pub secret: SecretString,
    /// Whether it begins at once.
    pub is_enabled: bool,
}

/// A change of a webhook; what is none stays.
#[derive(Debug, Clone, Default)]
pub struct WebhookChange {
    /// Its name, for people.
    pub name: Option<String>,
    /// Where deliveries go.
    pub url: Option<String>,
    /// What it wants.
    pub kinds: Option<Vec<EventKind>>,
    /// What deliveries are signed with.
    pub secret: Option<SecretString>,
    /// Whether anything is delivered.
    pub is_enabled: Option<bool>,
}

/// Most events of one page.
pub const EVENT_LIMIT_MAX: u32 = 1_000;

/// Which events somebody wants. The empty one is: all that they may see, but lines of logs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventSelection {
    /// Of these kinds only; empty means every kind but [`EventKind::Log`].
    pub kinds: Vec<EventKind>,
    /// Of this sandbox only.
    pub sandbox: Option<SandboxId>,
    /// Of this node only: for operators.
    pub node: Option<NodeId>,
    /// Of this team only: for operators; a tenant's is always its own.
    pub team: Option<TeamId>,
}

/// Where reading events begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// With the oldest that is kept.
    Beginning,
    /// After this one.
    After(Cursor),
    /// With those that come from now on.
    Now,
}

/// A request to make a template from a source on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportRequest {
    /// Its name: `alias` without namespace and tag, `[a-z0-9_-]+`.
    pub name: String,
    /// What the root file system is made from.
    pub source: TemplateSource,
    /// What each sandbox made from it takes.
    pub resources: Resources,
    /// Whether other teams may start it.
    pub is_public: bool,
}

/// What changes of a team; what is none stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TeamUpdate {
    /// Its name.
    pub name: Option<String>,
    /// Whether its keys are refused.
    pub is_disabled: Option<bool>,
    /// All of its own limits.
    pub overrides: Option<Overrides>,
    /// Its policy, within its limits.
    pub policy: Option<PolicyChange>,
    /// How much of a fleet that is too small for all it gets beside others: 1 to
    /// [`WEIGHT_MAX`](atoll_core::scheduler::shares::WEIGHT_MAX).
    pub weight: Option<u32>,
}
