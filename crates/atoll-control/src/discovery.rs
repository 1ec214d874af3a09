//! Sandboxes where others look for services: in a directory such as Consul's.
//!
//! The directory is told, never asked: no decision depends on it, and no create waits for it. What
//! changes is noted and written by one task, many in one transaction; every 30 seconds the whole
//! directory is compared with what is intended, so that what somebody deleted by hand comes back
//! and what nothing intends goes.
//!
//! A sandbox is registered from its first start until its end, also while it is paused. One that
//! starts anew is not while it does.
//!
//! What goes over the wire is the [`Directory`]'s: this module knows no HTTP.

mod keeper;
mod waiting;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::id::{NodeId, SandboxId, TeamId, TemplateId};
use atoll_core::sandbox::{Desired, Sandbox, State};
use atoll_core::time::Timestamp;

use self::keeper::Keeper;
use crate::lock::lock;
use crate::service::health::Verdict;
use crate::service::{ControlPlane, Inner};

/// Changes that go in one transaction: with the node that each is on, what Consul takes at a time.
pub const CHANGES_MAX: usize = 32;

/// A sandbox, as others find it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Registration {
    /// Which.
    pub sandbox: SandboxId,
    /// On which node it is.
    pub node: NodeId,
    /// `host:port` of that node.
    pub authority: String,
    /// Whose it is.
    pub team: TeamId,
    /// What it was made from.
    pub template: TemplateId,
}

/// What the directory has below a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The id it has there.
    pub id: String,
    /// What it says; none: nothing that we write.
    pub registration: Option<Registration>,
}

/// A change of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It says this, and nothing else, of a sandbox on a node.
    Register(Registration),
    /// It has nothing of this id below this node.
    Remove {
        /// The node.
        node: NodeId,
        /// The id.
        id: String,
    },
}

/// Where sandboxes are registered. Every call is bounded in time; an error is for people.
#[async_trait]
pub trait Directory: Send + Sync + std::fmt::Debug {
    /// The nodes below which this installation has something, or had.
    ///
    /// # Errors
    /// Why that cannot be said.
    async fn nodes(&self) -> Result<BTreeSet<NodeId>, String>;

    /// What is registered below a node.
    ///
    /// # Errors
    /// Why that cannot be said.
    async fn registered(&self, node: &NodeId) -> Result<Vec<Found>, String>;

    /// Makes all of at most [`CHANGES_MAX`] changes, or none. Repeating them is harmless.
    ///
    /// # Errors
    /// Why they are not made, or may not be.
    async fn apply(&self, changes: &[Change]) -> Result<(), String>;

    /// Forgets a node with everything below it.
    ///
    /// # Errors
    /// Why it is not forgotten, or may not be.
    async fn release(&self, node: &NodeId) -> Result<(), String>;
}

/// How the directory is kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// `host:port` at which a node is reached that has no address of its own.
    pub authority: String,
    /// How often the whole directory is compared with what is intended:
    /// [`crate::limit::DISCOVERY_INTERVAL`].
    pub interval: Duration,
}

/// The directory, if there is one, and how it does.
#[derive(Debug, Default)]
pub(crate) struct DirectoryBook {
    standing: OnceLock<Arc<Standing>>,
}

/// How the directory does.
#[derive(Debug, Default)]
struct Standing {
    last: Mutex<Last>,
}

#[derive(Debug, Default, Clone)]
struct Last {
    latency: Option<Duration>,
    success: Option<Timestamp>,
    problem: Option<String>,
}

impl Standing {
    /// Notes how a call went. Answers whether that is news.
    fn note(&self, result: Result<(), &str>, latency: Duration, now: Timestamp) -> bool {
        let mut last = lock(&self.last);
        last.latency = Some(latency);
        let before = last.problem.take();
        match result {
            Ok(()) => {
                last.success = Some(now);
                before.is_some()
            }
            Err(problem) => {
                last.problem = Some(problem.to_owned());
                before.is_none()
            }
        }
    }
}

impl DirectoryBook {
    /// What health says of the directory, how long its last call took and when one last worked;
    /// none: there is no directory.
    pub(crate) fn health(&self) -> Option<(Verdict, Option<Duration>, Option<Timestamp>)> {
        let last = lock(&self.standing.get()?.last).clone();
        let verdict = match last.problem {
            Some(problem) => Verdict::degraded(format!("sandboxes are not registered: {problem}")),
            None if last.success.is_none() => Verdict::degraded("sandboxes are not registered yet"),
            None => Verdict::healthy(),
        };
        Some((verdict, last.latency, last.success))
    }
}

impl ControlPlane {
    /// A name that this installation has kept since its store was made, unlike all others.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer.
    pub async fn installation(&self) -> crate::error::Result<String> {
        let drawn = self.inner.draw_uuid();
        let kept = self.inner.store.meta_ensure("installation", &drawn).await;
        kept.map_err(crate::service::unavailable)
    }

    /// Keeps the directory as it must be until the control plane ends. Only the first call does
    /// anything.
    ///
    /// # Errors
    /// If there are too many watchers of events already.
    pub fn discovery_keep(
        &self,
        directory: Arc<dyn Directory>,
        config: Config,
    ) -> crate::error::Result<()> {
        let standing = Arc::<Standing>::default();
        if self
            .inner
            .directory
            .standing
            .set(Arc::clone(&standing))
            .is_err()
        {
            return Ok(());
        }
        let keeper = Keeper::new(Arc::clone(&self.inner), directory, standing, config);
        keeper.spawn()
    }
}

impl Inner {
    /// What the directory must say of a sandbox; none: nothing.
    fn registration(&self, row: &Sandbox, authority: &str) -> Option<Registration> {
        let is_there = matches!(
            row.state,
            State::Running | State::Pausing | State::Paused | State::Resuming
        );
        let node = row.node.clone()?;
        (is_there && row.desired != Desired::Stopped).then(|| Registration {
            authority: self
                .registry
                .authority_of(&node)
                .unwrap_or_else(|| authority.to_owned()),
            sandbox: row.id.clone(),
            node,
            team: row.team.clone(),
            template: row.config.template.clone(),
        })
    }
}
