//! What control and a node say to each other. The transport (in process, RPC) carries these types.

use std::collections::BTreeMap;

use crate::descriptor::Descriptor;
use crate::id::{Generation, NodeId, SandboxId};
use crate::resources::Resources;
use crate::sandbox::UsageSample;
use crate::snapshot::Snapshot;
use crate::time::Timestamp;

/// What a node is called and where it is, in its operator's words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeInfo {
    /// A name for people; empty: its id is its name.
    pub name: String,
    /// Where it is reached; none for a node in the control plane's own process.
    pub address: Option<String>,
    /// Its operator's tags: words, some with a value.
    pub tags: BTreeMap<String, String>,
    /// What else it is.
    pub descriptor: Descriptor,
}

/// How a node is emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DrainMode {
    /// It gets no new sandboxes; those it has go on until they end by themselves.
    Wait,
    /// Those that run are ended as well. Paused ones stay: their files are nowhere else.
    Evict,
}

/// How a node stands, in one word. The first that holds counts, in the order lost, suspect,
/// draining, ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeState {
    /// It answers and gets new sandboxes.
    Ready,
    /// It is being emptied and gets none.
    Draining,
    /// It did not answer lately, or never yet; it gets none.
    Suspect,
    /// It did not answer for so long that what it ran counts as gone.
    Lost,
    /// The operator removed it; what it ran counts as gone.
    Left,
}

impl NodeState {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
            Self::Left => "left",
        }
    }
}

/// What became of a call to a node.
///
/// A time-out or a lost connection is `Unknown`: the node may or may not have acted, so the caller
/// asks the same node again and must never treat it as refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallOutcome<T> {
    /// The node did it and answered.
    Done(T),
    /// The node did nothing, and says why.
    Refused(Refusal),
    /// Nobody can say whether the node acted.
    Unknown(String),
}

/// Why a node did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not enough room; another node may do.
    #[error("no room: {0}")]
    NoRoom(String),
    /// The order belongs to an older placement than the node knows.
    #[error("generation {ordered} is older than {known}")]
    StaleGeneration {
        /// What the order carried.
        ordered: Generation,
        /// What the node has.
        known: Generation,
    },
    /// The node has no such sandbox.
    #[error("unknown sandbox")]
    UnknownSandbox,
    /// What a template is to be made from is missing, malformed or refused: its author's to mend.
    #[error("{0}")]
    BadSource(String),
    /// What is in the storage of snapshots is not what was put there: nothing was started from it.
    #[error("{0}")]
    BadSnapshot(String),
    /// The node lacks the template build.
    #[error("unknown template build")]
    UnknownTemplate,
    /// The driver cannot do this at all.
    #[error("not supported by this driver: {0}")]
    Unsupported(String),
    /// It was tried, failed, and was undone.
    #[error("failed: {0}")]
    Failed(String),
}

/// What runs under an id on a node, in the node's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObservedState {
    /// Being made.
    Starting,
    /// Serving: the guest agent answered.
    Running,
    /// Frozen.
    Paused,
    /// It ended by itself or was killed from outside; what it held is being released.
    Exited,
}

/// A node's report of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedSandbox {
    /// Which.
    pub id: SandboxId,
    /// The placement the node runs.
    pub generation: Generation,
    /// What it sees.
    pub state: ObservedState,
    /// What it allocated to it.
    pub resources: Resources,
    /// When it began to serve, by the node's clock.
    pub started_at: Option<Timestamp>,
    /// Why it ended, where it did.
    pub detail: Option<String>,
    /// The copy of its files that other nodes can go on from, once it was read back.
    pub snapshot: Option<Snapshot>,
}

/// A node's whole report: the answer to a full synchronisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Who reports.
    pub node: NodeId,
    /// What it has in total to give to sandboxes.
    pub total: Resources,
    /// The sum of its allocations.
    pub allocated: Resources,
    /// Everything it runs, ordered by id.
    pub sandboxes: Vec<ObservedSandbox>,
}

/// Something that happened on a node that control did not order.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeEvent {
    /// A sandbox changed by itself.
    Changed(ObservedSandbox),
    /// A periodic sample of what one sandbox uses.
    Usage(SandboxId, UsageSample),
    /// One line about a sandbox, for its log.
    Log {
        /// Which sandbox.
        id: SandboxId,
        /// When.
        at: Timestamp,
        /// `debug`, `info`, `warn` or `error`.
        level: &'static str,
        /// What happened.
        message: String,
    },
}
