//! The store's interface.
//!
//! # What do we store, and why
//!
//! - **Teams and keys**: who may ask, how much each team may have, and the sums of what it has. Of
//!   a key only a hash, and a mask for people.
//! - **Templates, their builds and names**: what can be started.
//! - **Sandboxes**: the intent (what is wanted, where, under which generation, until when) and the
//!   state the lifecycle has reached. Written before anything acts on it, so that whoever comes
//!   after a crash carries on.
//! - **Events**: what happened to sandboxes, nodes and the fleet, in one order. Written in the
//!   transaction of the change it tells of, so it is outbox, history and log in one.
//! - **Event cursors**: how far each durable subscriber has come.
//! - **Webhooks**: who is told of events over the network, with the secret that signing needs.
//! - **Nodes**: those that joined, and whether they are being emptied.
//! - **Corrections**: the newest repairs, with their reasons.
//! - **Servers and leases**: which processes of the control plane live, and which of them does what
//!   only one may do.
//! - **Idempotency keys**: which sandbox a repeated request already made.
//! - **Audit**: who asked for which change, from where, and what became of it; refused ones too.
//!   Where one transaction decides a request, its row is part of it.
//! - **Meta**: a few values made once per installation, such as the seed of access tokens.
//!
//! What we do not store: what actually runs (nodes hold that truth), routes, usage samples, and
//! anything that can be computed from the above.
//!
//! # Rules
//!
//! - A write is durable when its method returns.
//! - The intent fields of a sandbox (`desired`, `stop_reason`, `deadline`, network policy, …)
//!   change through methods of their own at any time; `state`, `node` and `generation` change only
//!   through [`Store::sandbox_transition`], which refuses if the row is not where its caller
//!   believes it to be. So the two sides never overwrite each other.
//! - A team's sums move in the transaction of the change that moves them, and what raises them is
//!   admitted there, by `atoll_core::quota`: a quota is exact whatever comes at the same time.
//! - Every write of a sandbox's row raises its `revision`.
//! - Events have rising cursors in the order of their commits, without a gap; an event can be read
//!   before any with a higher cursor can. Only pruning takes any away, and
//!   [`Store::event_gap`] tells.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::event::{Cursor, EventKind, Subject};
use atoll_core::id::{Generation, KeyId, NodeId, SandboxId, ServerId, TeamId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::quota::{Exceeded, Limits, Overrides, Usage};
use atoll_core::sandbox::{Desired, EndReason, OnTimeout, Sandbox, State};
use atoll_core::scheduler::overlay::Overlay;
use atoll_core::scheduler::record::Record;
use atoll_core::snapshot::Snapshot;
use atoll_core::template::Template;
use atoll_core::time::Timestamp;
use tokio::sync::watch;

use crate::webhook::WebhookStore;

pub mod forecast;
pub mod lease;
pub mod node;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer or refuses.
    #[error("{operation}: the database failed")]
    Database {
        /// What was being done.
        operation: &'static str,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// The database takes no writes now; none was begun.
    #[error("the database takes no writes: {detail}")]
    Locked {
        /// What it said.
        detail: String,
    },
    /// A write was done or was not: the database went away while it was committed, and did not come
    /// back in time to tell. Whoever asked must look, or ask again in a way that can be repeated.
    #[error("whether it was written is not known: {detail}")]
    Unknown {
        /// What happened.
        detail: String,
    },
    /// The database was made by a newer version.
    #[error("the database has schema {found}, this program knows up to {known}")]
    SchemaTooNew {
        /// The version in the database.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// A row cannot be what we wrote.
    #[error("{table} row `{id}` cannot be read: {detail}")]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// Which row.
        id: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// The result of a store method.
pub type Result<T> = std::result::Result<T, Error>;

/// A key, without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its public id.
    pub id: KeyId,
    /// Whose it is.
    pub team: TeamId,
    /// Its name, for people.
    pub name: String,
    /// SHA-256 of the key's body, in hex.
    pub hash: String,
    /// The first characters of its body.
    pub masked_start: String,
    /// The last characters of its body.
    pub masked_end: String,
    /// Whether it may only read.
    pub is_read_only: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// The key it was made with, if one was.
    pub created_by: Option<KeyId>,
    /// When it was last presented, about.
    pub last_used_at: Option<Timestamp>,
}

/// A team with what it may have and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamRow {
    /// Its id.
    pub id: TeamId,
    /// Its name, for people; no two teams have the same.
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
    /// What it has.
    pub usage: TeamUsage,
}

/// What changes of a team; what is none stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TeamChange {
    /// Its name.
    pub name: Option<String>,
    /// Whether its keys are refused.
    pub is_disabled: Option<bool>,
    /// All of its own limits.
    pub overrides: Option<Overrides>,
    /// Its policy.
    pub policy: Option<PolicyChange>,
    /// Its weight among the teams.
    pub weight: Option<u32>,
}

/// What becomes of a team's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyChange {
    /// This one takes the place of what there was.
    Set(Box<Overlay>),
    /// There is none any more.
    Clear,
}

impl PolicyChange {
    /// The policy afterwards.
    #[must_use]
    pub fn into_policy(self) -> Option<Box<Overlay>> {
        match self {
            Self::Set(policy) => Some(policy),
            Self::Clear => None,
        }
    }
}

/// What became of a team's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TeamChanged {
    /// This is how it is now.
    Yes(Box<TeamRow>),
    /// Another team has the name; nothing changed.
    NameTaken,
    /// There is no such team.
    Unknown,
}

/// Who asked for a change, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its place among all rows, rising; the store gives it.
    pub seq: i64,
    /// When it was answered.
    pub at: Timestamp,
    /// For which team; none: for none, or it is not known.
    pub team: Option<TeamId>,
    /// Who: `key:<id>`, `operator`, or `anonymous`.
    pub actor: String,
    /// What was asked for.
    pub operation: String,
    /// Of what: an id, a name.
    pub object: Option<String>,
    /// `ok`, or a word for the refusal.
    pub outcome: String,
    /// From which address.
    pub address: Option<String>,
    /// With which program, by its own account.
    pub agent: Option<String>,
    /// The request's trace id.
    pub trace: Option<String>,
    /// How many refusals before this one were left out, because there were too many.
    pub left_out: u64,
}

/// Which audit rows to list, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    /// For this team.
    pub team: Option<TeamId>,
    /// By this actor.
    pub actor: Option<String>,
    /// Of this operation.
    pub operation: Option<String>,
    /// Of this object.
    pub object: Option<String>,
    /// With this outcome.
    pub outcome: Option<String>,
    /// From this instant on.
    pub start: Option<Timestamp>,
    /// Before this instant.
    pub end: Option<Timestamp>,
    /// Before this row.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: u32,
}

/// A template with its counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRow {
    /// The template with its newest build.
    pub template: Template,
    /// How many sandboxes were started from it.
    pub spawn_count: u64,
    /// When the last one was.
    pub last_spawned_at: Option<Timestamp>,
    /// How many builds it has had.
    pub build_count: u32,
}

/// Whether a row was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It was.
    Yes,
    /// One with that key existed; nothing changed.
    AlreadyExists,
}

/// What became of a template's removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Yes,
    /// There was none.
    Unknown,
    /// So many sandboxes still use it; nothing changed.
    InUse(u64),
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// To what.
    pub subject: Subject,
    /// Whose it is. Events of nobody are for operators only.
    pub team: Option<TeamId>,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// What happened, for people.
    pub message: String,
    /// More, by name.
    pub fields: BTreeMap<String, String>,
    /// The scheduler's decision that it tells of, if it does. Read with a subject's history only,
    /// not by those who walk along the sequence.
    pub decision: Option<Box<Record>>,
}

/// An event with its place in the sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place.
    pub cursor: Cursor,
    /// The event.
    pub event: EventRow,
}

/// Makes a repeated request find what the first one made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// What the client sent.
    pub key: String,
    /// Digest of the request it belongs to.
    pub fingerprint: String,
}

/// A new sandbox with all that is written in its transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSandbox {
    /// The row.
    pub sandbox: Sandbox,
    /// What its team may have where it has no limits of its own.
    pub limits: Limits,
    /// The client's idempotency key.
    pub idempotency: Option<IdempotencyKey>,
    /// What is told of it.
    pub events: Vec<EventRow>,
}

/// What became of a new sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is in the store.
    Accepted,
    /// The team has as much as it may; nothing changed.
    QuotaExceeded(Exceeded),
    /// There is no such team, or it is disabled; nothing changed.
    NoTeam,
    /// The idempotency key was used before; nothing changed.
    Replayed {
        /// What the first request made.
        sandbox: SandboxId,
        /// The first request's digest.
        fingerprint: String,
    },
}

/// A change of a sandbox's state, with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Which sandbox.
    pub id: SandboxId,
    /// Whose it is.
    pub team: TeamId,
    /// Where its caller believes it to be; otherwise nothing changes.
    pub expected: (State, Generation),
    /// The state that follows.
    pub next: State,
    /// Where it is placed now, if it is placed by this change.
    pub placement: Option<(NodeId, Generation)>,
    /// Whether no node keeps it from this change on: it has none, until it is placed again.
    pub is_detached: bool,
    /// Set if it begins to serve with this change. The deadline becomes this time and the row's
    /// timeout: what a client asked for is time of service. Nothing is kept of it any more, and a
    /// restart is done.
    pub started_at: Option<Timestamp>,
    /// Set if it was paused with this change, under the expected generation.
    pub paused_at: Option<Timestamp>,
    /// Set if it ends with this change.
    pub ended_at: Option<Timestamp>,
    /// What is wanted of it from this change on, unless it is unwanted.
    pub desired: Option<Desired>,
    /// The deadline from this change on.
    pub deadline: Option<Timestamp>,
    /// Set if this change makes it unwanted. A reason that is already there stays.
    pub stop_reason: Option<EndReason>,
    /// Set if something went wrong.
    pub last_error: Option<String>,
    /// When the change is made.
    pub at: Timestamp,
    /// What is told of it.
    pub events: Vec<EventRow>,
    /// The row of the request that asked for it, if the change decides that one.
    pub audit: Option<Box<AuditRow>>,
}

/// A change of what is wanted of a sandbox. It has no effect on one that is unwanted already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntentChange {
    /// It should be gone.
    Stop(EndReason),
    /// Its deadline passed: it should be gone, or be paused. Has no effect unless it is wanted
    /// running and the deadline is still the one that was seen to pass.
    Expire {
        /// The deadline that passed.
        seen: Timestamp,
        /// What its configuration says of that.
        how: OnTimeout,
    },
    /// It should be kept without serving. Has no effect unless it runs and nothing else is wanted.
    Pause {
        /// Whether its processes survive.
        keep_memory: bool,
    },
    /// It should serve again. Has no effect unless it is paused and wanted so.
    Resume {
        /// How long, from when it serves.
        timeout: Duration,
    },
    /// It should stay paused after all. Has no effect unless it is paused.
    StayPaused,
    /// Shared storage has what is kept of it. Has no effect unless it is paused, was paused under a
    /// placement like that, and nothing newer is there.
    NoteSnapshot(Snapshot),
    /// It should begin anew. Has no effect unless it runs and nothing else is wanted.
    Restart,
    /// The deadline becomes this.
    SetDeadline(Timestamp),
    /// The deadline becomes this if that is later.
    ExtendDeadline(Timestamp),
    /// The network policy becomes this.
    SetNetwork(NetworkPolicy),
}

impl IntentChange {
    /// Whether it leads to another state, so that somebody has to bring the sandbox there.
    #[must_use]
    pub const fn turns(&self) -> bool {
        match self {
            Self::Stop(_)
            | Self::Expire { .. }
            | Self::Pause { .. }
            | Self::Resume { .. }
            | Self::Restart => true,
            Self::StayPaused
            | Self::NoteSnapshot(_)
            | Self::SetDeadline(_)
            | Self::ExtendDeadline(_)
            | Self::SetNetwork(_) => false,
        }
    }
}

/// An [`IntentChange`] with what is written in its transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Which sandbox.
    pub id: SandboxId,
    /// What changes.
    pub change: IntentChange,
    /// The server that brings it there from now on; none: as before. Counts only where the change
    /// leads to another state.
    pub claimed_by: Option<ServerId>,
    /// When.
    pub at: Timestamp,
    /// What is told of it.
    pub events: Vec<EventRow>,
    /// The row of the request that asked for it, if the change decides that one.
    pub audit: Option<Box<AuditRow>>,
}

/// What became of a resume's transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readmission {
    /// The new row.
    Accepted(Box<Sandbox>),
    /// The row was not as expected, or should not serve any more; nothing changed.
    Stale,
    /// The team's quota leaves no room; nothing changed.
    QuotaExceeded(Exceeded),
}

/// Which sandboxes of a team to list: those in one of `states`, by when they were made, which
/// nothing changes: whoever walks along pages meets each one once, also one that is resumed
/// meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFilter {
    /// Whose.
    pub team: TeamId,
    /// Of the states that clients can see (running, pausing, paused, resuming), which.
    pub states: Vec<State>,
    /// All of these labels.
    pub labels: BTreeMap<String, String>,
    /// Of this template.
    pub template: Option<TemplateId>,
    /// Started at this instant or later.
    pub started_after: Option<Timestamp>,
    /// Oldest first, or newest first.
    pub is_ascending: bool,
    /// After this row in that order.
    pub after: Option<(Timestamp, SandboxId)>,
    /// At most so many.
    pub limit: u32,
}

/// Which events of a subject to list, by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFilter {
    /// Of what.
    pub subject: Subject,
    /// From this instant on in the order read, inclusive.
    pub start: Option<Timestamp>,
    /// Oldest first, or newest first.
    pub is_ascending: bool,
    /// Only these levels; empty means all.
    pub levels: Vec<&'static str>,
    /// Only those whose message contains this text.
    pub search: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// Which events to read in the order of their cursors. The empty one is: all but lines of logs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventQuery {
    /// Of this team only; events of nobody are then left out.
    pub team: Option<TeamId>,
    /// Of this subject only.
    pub subject: Option<Subject>,
    /// Of these kinds only; empty means every kind but [`EventKind::Log`].
    pub kinds: Vec<EventKind>,
}

impl EventQuery {
    /// Whether the event is among those that are wanted.
    #[must_use]
    pub fn matches(&self, event: &EventRow) -> bool {
        let is_kind = if self.kinds.is_empty() {
            event.kind != EventKind::Log
        } else {
            self.kinds.contains(&event.kind)
        };
        is_kind
            && (self.team.is_none() || self.team == event.team)
            && self
                .subject
                .as_ref()
                .is_none_or(|subject| *subject == event.subject)
    }
}

/// Events in the order of their cursors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// Those that were wanted.
    pub events: Vec<StoredEvent>,
    /// How far was read: nothing that is wanted lies between the last event and this. If it is not
    /// beyond where reading began, there is nothing more yet.
    pub next: Cursor,
}

/// What of the past is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Nothing that ended, or happened to no sandbox, before this.
    pub before: Timestamp,
    /// At most so many ended sandboxes: those that ended last.
    pub sandboxes_max: u64,
    /// At most so many events: the newest. Each keeps its place, so this many cursors.
    pub events_max: u64,
    /// At most so many sandboxes are forgotten at a time, and [`EVENTS_PER_SANDBOX`] times as many
    /// events.
    pub limit: u32,
}

/// Sandboxes that are asked for by their ids at a time: a page of events.
pub const IDS_MAX: usize = 256;

/// Events that are pruned for each sandbox that may be: about what a sandbox leaves in its life.
pub const EVENTS_PER_SANDBOX: u32 = 8;

/// What was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// So many sandboxes.
    pub sandboxes: u64,
    /// Whether there is more to forget at once.
    pub is_more: bool,
}

/// Events that a reader can no longer have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventGap {
    /// Beyond this cursor none is missing.
    pub through: Cursor,
    /// How many are missing up to there, of all kinds and teams.
    pub missed: u64,
}

/// What a team has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TeamUsage {
    /// What counts against its quota.
    pub charged: Usage,
    /// How many of its sandboxes run.
    pub running: u64,
}

/// Durable state of the control plane. Every method fails with [`Error`] if the database does.
#[async_trait]
pub trait Store:
    node::NodeStore + lease::LeaseStore + forecast::ForecastStore + WebhookStore
{
    /// What it is in, in a word.
    fn kind(&self) -> &'static str;

    /// The value of this name; writes the given one first if there is none.
    async fn meta_ensure(&self, name: &str, value: &str) -> Result<String>;

    /// Makes sure that the team exists.
    async fn team_ensure(&self, team: &TeamId, name: &str, at: Timestamp) -> Result<()>;

    /// Adds a team, unless its id or its name is taken. Its usage is none, whatever the row says.
    async fn team_insert(&self, team: &TeamRow) -> Result<Inserted>;

    /// Changes a team.
    async fn team_update(&self, team: &TeamId, change: TeamChange) -> Result<TeamChanged>;

    /// One team.
    async fn team_get(&self, team: &TeamId) -> Result<Option<TeamRow>>;

    /// Every team, oldest first.
    async fn team_list(&self) -> Result<Vec<TeamRow>>;

    /// What the team has; nothing for an unknown one.
    async fn team_usage(&self, team: &TeamId) -> Result<TeamUsage>;

    /// Adds a key, unless its hash is known.
    async fn key_insert(&self, key: &KeyRow) -> Result<Inserted>;

    /// The key with this hash.
    async fn key_find(&self, hash: &str) -> Result<Option<KeyRow>>;

    /// The team's keys, oldest first.
    async fn key_list(&self, team: &TeamId) -> Result<Vec<KeyRow>>;

    /// Removes one of the team's keys. Answers whether there was one.
    async fn key_remove(&self, team: &TeamId, key: &KeyId) -> Result<bool>;

    /// Writes when keys were last presented.
    async fn key_touch(&self, used: Vec<(KeyId, Timestamp)>) -> Result<()>;

    /// Adds a template with its first build and its names, unless its owner has a template of one
    /// of these names.
    async fn template_insert(&self, template: &Template) -> Result<Inserted>;

    /// Writes the status, resources and agent version of the template's newest build.
    async fn template_update(&self, template: &Template) -> Result<()>;

    /// Every template, oldest first.
    async fn template_list(&self) -> Result<Vec<TemplateRow>>;

    /// Counts sandboxes started from a template.
    async fn template_spawned(&self, id: &TemplateId, count: u64, last: Timestamp) -> Result<()>;

    /// Removes a template, unless sandboxes use it.
    async fn template_remove(&self, id: &TemplateId) -> Result<Removed>;

    /// Adds a sandbox, if quota and idempotency key allow.
    async fn sandbox_insert(&self, new: NewSandbox) -> Result<Admission>;

    /// Forgets that an idempotency key made this sandbox, so that it may make another. A key that
    /// made another already stays.
    async fn idempotency_release(
        &self,
        team: &TeamId,
        key: &str,
        sandbox: &SandboxId,
    ) -> Result<()>;

    /// One sandbox, in whatever state.
    async fn sandbox_get(&self, id: &SandboxId) -> Result<Option<Sandbox>>;

    /// Those of these sandboxes that there are, in whatever state and order; at most
    /// [`IDS_MAX`] are asked for.
    async fn sandbox_list_by_id(&self, ids: &[SandboxId]) -> Result<Vec<Sandbox>>;

    /// A page of a team's sandboxes.
    async fn sandbox_list(&self, filter: &SandboxFilter) -> Result<Vec<Sandbox>>;

    /// A page of all sandboxes that are not stopped, by id.
    async fn sandbox_list_live(
        &self,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Sandbox>>;

    /// Changes the state. Answers the new row; none if the row was not as expected.
    async fn sandbox_transition(&self, transition: Transition) -> Result<Option<Sandbox>>;

    /// Changes the state of a paused sandbox that should serve to one that counts for more against
    /// its team's quota, if that allows; `limits` are those of a team without its own.
    async fn sandbox_readmit(&self, transition: Transition, limits: Limits) -> Result<Readmission>;

    /// Changes what is wanted. Answers the new row; none if there is no such sandbox, it is
    /// unwanted already, or the change has no effect.
    async fn sandbox_intend(&self, intent: Intent) -> Result<Option<Sandbox>>;

    /// Appends events that belong to no other change.
    async fn event_append(&self, events: Vec<EventRow>) -> Result<()>;

    /// A page of a subject's events by time; those of one instant in the order of their commits.
    async fn event_list(&self, filter: &EventFilter) -> Result<Vec<StoredEvent>>;

    /// The next events after a cursor, at most `limit` of them.
    async fn event_list_after(
        &self,
        after: Cursor,
        query: &EventQuery,
        limit: u32,
    ) -> Result<EventPage>;

    /// A page of events by their cursors, after leaving out `offset` of them. For people who leaf
    /// through what is recent; whoever must miss nothing reads after a cursor.
    async fn event_page(
        &self,
        query: &EventQuery,
        is_ascending: bool,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<StoredEvent>>;

    /// The newest event's cursor, as it moves: it changes once for each commit with events, when
    /// they can be read.
    fn event_head(&self) -> watch::Receiver<Cursor>;

    /// What was pruned of the events after a cursor, if anything was.
    async fn event_gap(&self, after: Cursor) -> Result<Option<EventGap>>;

    /// How far the durable subscriber of this name has come.
    async fn event_cursor_get(&self, name: &str) -> Result<Option<Cursor>>;

    /// Remembers how far the durable subscriber of this name has come.
    async fn event_cursor_set(&self, name: &str, cursor: Cursor, at: Timestamp) -> Result<()>;

    /// Appends audit rows, and gives them their places.
    async fn audit_append(&self, rows: Vec<AuditRow>) -> Result<()>;

    /// A page of the audit, newest first.
    async fn audit_list(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>>;

    /// Removes at most `limit` of the oldest audit rows: those from before `before`, and those
    /// beyond the newest `keep`. Answers how many.
    async fn audit_prune(&self, before: Timestamp, keep: u64, limit: u32) -> Result<u64>;

    /// Forgets a little of what need not be kept: ended sandboxes with their history, events, and
    /// idempotency keys.
    async fn history_prune(&self, retention: &Retention) -> Result<Pruned>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<()>;

    /// Stops taking writes and waits until those accepted are durable.
    async fn close(&self);
}
