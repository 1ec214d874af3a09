//! The control plane's use cases: what they share. Each use case has a file of its own beneath.

mod audit;
mod bootstrap;
mod create;
mod delete;
mod events;
mod explain;
mod fleet;
mod get;
pub(crate) mod health;
mod keys;
mod list;
mod logs;
mod metrics;
mod network;
mod nodes;
mod observe;
mod outcome;
mod pause;
pub(crate) mod resource;
mod restart;
mod resume;
pub(crate) mod schedule;
mod teams;
mod templates;
mod timeout;
mod webhooks;

pub use resume::TrafficAccess;

use std::sync::Arc;

use atoll_core::error::ErrorKind;
use atoll_core::event::Cursor;
use atoll_core::id::{SandboxId, TeamId};
use atoll_core::route::{Route, RouteUpdate};
use atoll_core::sandbox::{Desired, Sandbox, State};
use atoll_core::scheduler::policy::Policy;
use atoll_core::time::Clock;
use atoll_store::cache::Cache;
use atoll_store::store::Store;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Refusals;
use crate::backlog::Backlog;
use crate::bus::Bus;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::corrections::{CorrectionBook, RECENT_MAX};
use crate::deadlines::Deadlines;
use crate::discovery::DirectoryBook;
use crate::error::{Error, Result};
use crate::exhausted::Exhausted;
use crate::gate::{Gates, Limiter};
use crate::limit::{LOOKUPS, STRANGER_REFUSALS};
use crate::placement;
use crate::random::Random;
use crate::reconciler::Reconciler;
use crate::registry::Registry;
use crate::route_publisher::RoutePublisher;
use crate::servers::Servers;
use crate::service::health::HealthBook;
use crate::tasks;
use crate::tokens::{SEED_LEN, Tokens};
use crate::usage::UsageBook;
use crate::view::{SandboxView, Scope, Tenant};
use crate::webhooks::Webhooks;

/// Rows read at a time where all live sandboxes are walked.
pub(crate) const LIVE_PAGE: u32 = 1_000;

/// What the control plane is built from.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where intent is kept.
    pub store: Arc<dyn Store>,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids, keys and the token seed.
    pub random: Arc<dyn Random>,
    /// Who learns of routes.
    pub routes: Arc<dyn RoutePublisher>,
    /// What the servers on one store share to be fairer and faster.
    pub cache: Option<Arc<dyn Cache>>,
}

/// The use cases. Cheap to clone; every clone is the same control plane.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    pub(crate) inner: Arc<Inner>,
}

/// What all use cases and background tasks share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    pub(crate) routes: Arc<dyn RoutePublisher>,
    pub(crate) cache: Option<Arc<dyn Cache>>,
    /// Those on the same store.
    pub(crate) servers: Servers,
    pub(crate) registry: Registry,
    /// How nodes are chosen where nobody says otherwise.
    pub(crate) policy: Policy,
    pub(crate) reconciler: Reconciler,
    pub(crate) deadlines: Deadlines,
    pub(crate) usage: UsageBook,
    pub(crate) corrections: CorrectionBook,
    /// What is still to be written of them, and of the nodes.
    pub(crate) backlog: Backlog,
    pub(crate) health: HealthBook,
    pub(crate) exhausted: Exhausted,
    pub(crate) directory: DirectoryBook,
    pub(crate) catalog: Catalog,
    declared: templates::Declared,
    pub(crate) tokens: Tokens,
    keys: keys::KnownKeys,
    pub(crate) bus: Arc<Bus>,
    /// The newest event when this control plane began to read what there is.
    pub(crate) opened_at: Cursor,
    /// Bounds the looks for what this server does not know, and another may.
    lookups: Limiter,
    pub(crate) webhooks: Webhooks,
    gates: Gates,
    /// Bounds what is recorded of callers without a team.
    stranger_refusals: Refusals,
    creating: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
}

impl ControlPlane {
    /// Opens the control plane on its store: makes the secrets it needs once, loads what lives.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer.
    pub async fn open(config: Config, parts: Parts) -> Result<Self> {
        let Parts {
            store,
            clock,
            random,
            routes,
            cache,
        } = parts;
        let mut seed = [0; SEED_LEN];
        random.fill(&mut seed);
        let seed = store
            .meta_ensure("token_seed", &hex::encode(seed))
            .await
            .map(SecretString::from)
            .map_err(unavailable)?;
        let seed = hex::decode(seed.expose_secret()).map_err(|error| {
            Error::new(ErrorKind::Internal, "the store's token seed is damaged").with_source(error)
        })?;
        let inner = Inner {
            servers: Servers::new(config.server.as_ref(), &draw_uuid(random.as_ref())),
            registry: Registry::new(config.overcommit, config.forecast),
            policy: placement::default_policy(),
            reconciler: Reconciler::default(),
            deadlines: Deadlines::default(),
            usage: UsageBook::default(),
            corrections: CorrectionBook::default(),
            backlog: Backlog::default(),
            health: HealthBook::default(),
            exhausted: Exhausted::default(),
            directory: DirectoryBook::default(),
            tokens: Tokens::new(&seed),
            keys: keys::KnownKeys::default(),
            webhooks: Webhooks::default(),
            opened_at: *store.event_head().borrow(),
            lookups: Limiter::new(LOOKUPS),
            bus: Arc::new(Bus::new(Arc::clone(&store))),
            gates: Gates::new(config.team_limits, config.team_creates_in_flight_max),
            stranger_refusals: Refusals::new(STRANGER_REFUSALS),
            creating: Arc::new(Semaphore::new(config.creates_in_flight_max)),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            config,
            store,
            clock,
            random,
            routes,
            cache,
            catalog: Catalog::default(),
            declared: templates::Declared::default(),
        };
        // Before anything of it can be seen by the others.
        tasks::servers::look(&inner).await.map_err(unavailable)?;
        inner.fail_interrupted_imports().await?;
        inner.load_nodes().await?;
        inner.load_weights().await?;
        tasks::forecast::restore(&inner).await;
        inner.load_live().await?;
        inner.registry.begin_waiting();
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Does the background work until `cancel`: deadlines, full synchronisation, retention. Then
    /// ends every task in bounded time and closes the store; sandboxes go on.
    pub async fn run(&self, cancel: CancellationToken) {
        crate::tasks::run(&self.inner, cancel).await;
    }
}

impl Inner {
    async fn load_nodes(&self) -> Result<()> {
        for row in self.store.node_list().await.map_err(unavailable)? {
            self.registry.know(row);
        }
        let limit = u32::try_from(RECENT_MAX).unwrap_or(u32::MAX);
        let newest = self.store.correction_list(limit).await;
        self.corrections
            .extend(newest.map_err(unavailable)?.into_iter().rev());
        Ok(())
    }

    async fn load_weights(&self) -> Result<()> {
        for team in self.store.team_list().await.map_err(unavailable)? {
            self.registry.set_weight(&team.id, team.weight);
        }
        Ok(())
    }

    async fn load_live(&self) -> Result<()> {
        let mut after: Option<SandboxId> = None;
        loop {
            let rows = self
                .store
                .sandbox_list_live(after.as_ref(), LIVE_PAGE)
                .await
                .map_err(unavailable)?;
            for row in &rows {
                self.registry.adopt(row);
                self.registry.note_ran(row, self.clock.now());
                if row.state == State::Running {
                    self.deadlines.set(&row.id, row.deadline);
                }
            }
            match rows.last() {
                Some(last) => after = Some(last.id.clone()),
                None => return Ok(()),
            }
        }
    }

    /// A number for placement to break ties with.
    pub(crate) fn draw_seed(&self) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A new UUID (version 4) as text.
    pub(crate) fn draw_uuid(&self) -> String {
        draw_uuid(self.random.as_ref())
    }

    /// Takes the row of a live sandbox into account that was read; another server may have written
    /// it. Answers whether it did, and what it says is new.
    pub(crate) fn know(&self, row: &Sandbox) -> bool {
        if self.servers.is_alone() {
            self.registry.adopt(row);
            return false;
        }
        let is_new = self.registry.heed(row);
        if is_new && !self.reconciler.is_driven(&row.id) {
            self.settle(row);
        }
        is_new
    }

    /// Whether it may be looked up in the store what this server does not know: another may have
    /// made it a moment ago.
    pub(crate) fn may_look_up(&self) -> bool {
        !self.servers.is_alone() && self.lookups.check().is_ok()
    }

    /// Takes the row of a sandbox into account that a task looks at.
    pub(crate) fn follow(&self, row: &Sandbox) {
        if self.servers.is_alone() {
            self.registry.follow(row);
        } else {
            self.registry.heed(row);
        }
    }

    /// Says "look again" at a sandbox whose outcome nobody waits for.
    pub(crate) fn wake(self: &Arc<Self>, id: &SandboxId) {
        drop(self.reconciler.wake(self, id, None));
    }

    /// Tells the edges how to reach a sandbox. Repeating it is harmless.
    pub(crate) fn publish_route(&self, row: &Sandbox) {
        let Some(node) = row.node.clone() else {
            return;
        };
        self.routes.publish(RouteUpdate::Publish(Route {
            sandbox: row.id.clone(),
            node,
            generation: row.generation,
            traffic_token: self.tokens.traffic(row),
            mask_request_host: row.config.network.mask_request_host.clone(),
        }));
    }

    /// Leaves memory and edges as they must be for a row as it is: at rest, and whenever it may
    /// have changed without us knowing. Repeating it is harmless.
    pub(crate) fn settle(&self, row: &Sandbox) {
        if row.state == State::Running && row.desired != Desired::Stopped {
            self.deadlines.set(&row.id, row.deadline);
            self.publish_route(row);
            return;
        }
        self.deadlines.forget(&row.id);
        self.routes
            .publish(RouteUpdate::Withdraw(row.id.clone(), row.generation));
        if row.state == State::Stopped {
            self.registry.forget(&row.id);
            self.usage.forget(&row.id);
        }
    }

    /// A sandbox that the tenant may see: its team's, and neither ended nor about to.
    ///
    /// One read and one answer for an unknown id and another team's: the words are the same, and
    /// the time differs by the decoding of one row, microseconds in an answer of a network. What
    /// would have to be guessed to measure it has a hundred random bits.
    async fn visible(&self, tenant: &Tenant, id: &SandboxId) -> Result<Sandbox> {
        let row = self
            .store
            .sandbox_get(id)
            .await
            .map_err(unavailable)?
            .filter(|row| is_visible_to(row, &tenant.team));
        row.ok_or_else(|| Error::no_sandbox(id))
    }

    /// What its owner gets to see of a sandbox.
    fn view(&self, sandbox: Sandbox) -> SandboxView {
        let (template_names, envd_version) = self
            .catalog
            .names_and_version(&sandbox.config.template)
            .unwrap_or_else(|| (Vec::new(), self.config.envd_version.clone()));
        SandboxView {
            envd_access_token: self.tokens.envd(&sandbox),
            traffic_token: self.tokens.traffic(&sandbox),
            template_names,
            envd_version,
            sandbox,
        }
    }
}

/// A new UUID (version 4) as text.
fn draw_uuid(random: &dyn Random) -> String {
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}

fn is_visible_to(row: &Sandbox, team: &TeamId) -> bool {
    row.team == *team && is_visible(row)
}

/// Whether clients can see a sandbox: from its first start until it is unwanted.
fn is_visible(row: &Sandbox) -> bool {
    let is_there = match row.state {
        State::Running | State::Pausing | State::Paused | State::Resuming => true,
        State::Pending | State::Creating | State::Stopping => row.is_restarting,
        State::Stopped | State::Error => false,
    };
    is_there && row.desired != Desired::Stopped
}

/// What every use case that changes something asks first.
fn demand_full(tenant: &Tenant) -> Result<()> {
    match tenant.scope {
        Scope::Full => Ok(()),
        Scope::ReadOnly => Err(Error::new(
            ErrorKind::PermissionDenied,
            "this API key may only read",
        )),
    }
}

/// The error for a store that did not do what it was asked.
pub(crate) fn unavailable(error: atoll_store::store::Error) -> Error {
    use atoll_store::store::Error as StoreError;
    let (kind, message) = match &error {
        StoreError::Corrupt { .. } => (ErrorKind::Internal, "stored data cannot be read"),
        StoreError::Database { .. }
        | StoreError::Locked { .. }
        | StoreError::Unknown { .. }
        | StoreError::SchemaTooNew { .. }
        | StoreError::Closed => (ErrorKind::Unavailable, "the store does not answer"),
    };
    Error::new(kind, message)
        .with_retry_after(std::time::Duration::from_secs(1))
        .with_source(error)
}
