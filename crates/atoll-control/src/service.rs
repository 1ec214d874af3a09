//! The control plane's use cases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::error::ErrorKind;
use atoll_core::id::{KeyId, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::NodeEvent;
use atoll_core::sandbox::UsageSample;
use atoll_core::template::Template;
use atoll_core::time::{Clock, Timestamp};
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::node_client::NodeClient;
use crate::random::Random;
use crate::request::{CreateRequest, ImportRequest, ListQuery, LogQuery};
use crate::route_publisher::RoutePublisher;
use crate::view::{
    Bootstrapped, Connected, CreatedKey, Health, KeyView, LogLine, NodeView, SandboxPage,
    SandboxView, Scope, TemplateView, Tenant,
};

/// What the control plane is built from.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where intent is kept.
    pub store: Arc<dyn atoll_store::store::Store>,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids, keys and the token seed.
    pub random: Arc<dyn Random>,
    /// Who learns of routes.
    pub routes: Arc<dyn RoutePublisher>,
}

/// The use cases. Cheap to clone; every clone is the same control plane.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    config: Config,
}

fn unsupported<T>() -> Result<T> {
    Err(Error::new(
        ErrorKind::Unsupported,
        "this installation cannot do that",
    ))
}

impl ControlPlane {
    /// Opens the control plane on its store: makes the secrets it needs once, loads what lives.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer.
    pub async fn open(config: Config, parts: Parts) -> Result<Self> {
        Ok(Self {
            inner: Arc::new(Inner { parts, config }),
        })
    }

    /// Does the background work until `cancel`: deadlines, node events, full synchronisation,
    /// retention. Returns once every task it started has ended.
    pub async fn run(&self, cancel: CancellationToken) {
        cancel.cancelled().await;
    }

    /// Makes the default team and a key, once. With `key` given (`e2b_` and 40 hex digits), that
    /// key works afterwards; without, a key is made if the team has none.
    ///
    /// # Errors
    /// `InvalidArgument` for a key of another form; `Unavailable` for the store.
    pub async fn bootstrap(&self, key: Option<SecretString>) -> Result<Bootstrapped> {
        let _ = key;
        unsupported()
    }

    /// Adds a node and synchronises with it: what is intended is adopted, what is not is removed,
    /// what is missing fails. Returns when that is done. `events` is what the node reports of its
    /// own accord.
    ///
    /// # Errors
    /// `Unavailable` if the node does not report.
    pub async fn node_join(
        &self,
        client: Arc<dyn NodeClient>,
        events: mpsc::Receiver<NodeEvent>,
    ) -> Result<()> {
        let _ = (client, events);
        unsupported()
    }

    /// The nodes, by id.
    #[must_use]
    pub fn node_list(&self) -> Vec<NodeView> {
        Vec::new()
    }

    /// Ends every sandbox of every team with reason `Shutdown`, and waits at most `limit` for it.
    /// Answers how many are still on their way.
    ///
    /// # Errors
    /// `Unavailable` for the store.
    pub async fn sandboxes_end_all(&self, limit: Duration) -> Result<usize> {
        let _ = limit;
        unsupported()
    }

    /// Tells who presents this key.
    ///
    /// # Errors
    /// `Unauthenticated` for a malformed, unknown or revoked key.
    pub async fn authenticate(&self, presented: &str) -> Result<Tenant> {
        let _ = presented;
        unsupported()
    }

    /// Makes a sandbox and waits until it serves.
    ///
    /// # Errors
    /// `InvalidArgument` (timeout out of range), `NotFound` (template), `QuotaExceeded`,
    /// `NoCapacity`, `Conflict` (idempotency key), `DeadlineExceeded`, `Unsupported`,
    /// `PermissionDenied` (read-only key), `Unavailable`, `Internal`.
    pub async fn sandbox_create(
        &self,
        tenant: &Tenant,
        request: CreateRequest,
    ) -> Result<SandboxView> {
        let _ = (tenant, request);
        unsupported()
    }

    /// One sandbox that serves or is paused.
    ///
    /// # Errors
    /// `NotFound` for an unknown, foreign or ended one.
    pub async fn sandbox_get(&self, tenant: &Tenant, id: &SandboxId) -> Result<SandboxView> {
        let _ = tenant;
        Err(Error::no_sandbox(id))
    }

    /// A page of the team's sandboxes.
    ///
    /// # Errors
    /// `InvalidArgument` for a limit out of range.
    pub async fn sandbox_list(&self, tenant: &Tenant, query: &ListQuery) -> Result<SandboxPage> {
        let _ = (tenant, query);
        unsupported()
    }

    /// Ends a sandbox. Answers when that is durable, its route is withdrawn, and the node
    /// confirmed or the bound passed; in the latter case the removal goes on.
    ///
    /// # Errors
    /// `NotFound` for an unknown, foreign or ended one.
    pub async fn sandbox_kill(&self, tenant: &Tenant, id: &SandboxId) -> Result<()> {
        let _ = tenant;
        Err(Error::no_sandbox(id))
    }

    /// Makes sure that a sandbox serves, for at least `timeout` from now; never shortens.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a timeout out of range.
    pub async fn sandbox_connect(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        timeout: Duration,
    ) -> Result<(SandboxView, Connected)> {
        let _ = (tenant, timeout);
        Err(Error::no_sandbox(id))
    }

    /// Sets the deadline to `timeout` from now; may shorten. Capped at the lifetime limit.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a timeout out of range.
    pub async fn sandbox_set_timeout(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        timeout: Duration,
    ) -> Result<()> {
        let _ = (tenant, timeout);
        Err(Error::no_sandbox(id))
    }

    /// Moves the deadline to at least `duration` from now; never shortens.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a duration out of range.
    pub async fn sandbox_refresh(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        duration: Duration,
    ) -> Result<()> {
        let _ = (tenant, duration);
        Err(Error::no_sandbox(id))
    }

    /// Replaces the egress part of the network policy. `public_traffic` and `mask_request_host`
    /// stay as created.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it does not run; `Unavailable` if the node does not answer.
    pub async fn sandbox_update_network(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        policy: NetworkPolicy,
    ) -> Result<()> {
        let _ = (tenant, policy);
        Err(Error::no_sandbox(id))
    }

    /// Usage samples of one sandbox with `start <= at <= end`, oldest first.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` if `end` is before `start`.
    pub async fn sandbox_metrics(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        start: Option<Timestamp>,
        end: Option<Timestamp>,
    ) -> Result<Vec<UsageSample>> {
        let _ = (tenant, start, end);
        Err(Error::no_sandbox(id))
    }

    /// The newest sample of each of several sandboxes; unknown and foreign ones are left out.
    ///
    /// # Errors
    /// `InvalidArgument` for more than 100 ids.
    pub async fn sandbox_metrics_latest(
        &self,
        tenant: &Tenant,
        ids: &[SandboxId],
    ) -> Result<BTreeMap<SandboxId, UsageSample>> {
        let _ = (tenant, ids);
        unsupported()
    }

    /// Lines of a sandbox's log, also after it ended, as long as its history is kept.
    ///
    /// # Errors
    /// `NotFound` for an unknown or foreign one; `InvalidArgument` for a limit out of range.
    pub async fn sandbox_logs(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        query: &LogQuery,
    ) -> Result<Vec<LogLine>> {
        let _ = (tenant, query);
        Err(Error::no_sandbox(id))
    }

    /// The templates the team may start, its own and the global ones, by name.
    ///
    /// # Errors
    /// `Unavailable` for the store.
    pub async fn template_list(&self, tenant: &Tenant) -> Result<Vec<TemplateView>> {
        let _ = tenant;
        unsupported()
    }

    /// One template, by id or name.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` where it exists and belongs to another team.
    pub async fn template_get(&self, tenant: &Tenant, reference: &str) -> Result<TemplateView> {
        let _ = (tenant, reference);
        unsupported()
    }

    /// The template that `[namespace/]alias[:tag]` or an id stands for, ready to start.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed reference; `NotFound`; `PermissionDenied`.
    pub async fn template_resolve(&self, tenant: &Tenant, reference: &str) -> Result<Template> {
        let _ = (tenant, reference);
        unsupported()
    }

    /// Makes a template of the team's own, and waits until it can be started.
    ///
    /// # Errors
    /// `InvalidArgument` (name), `AlreadyExists`, `Unavailable`, `Internal` with what the node
    /// said.
    pub async fn template_import(
        &self,
        tenant: &Tenant,
        request: ImportRequest,
    ) -> Result<TemplateView> {
        let _ = (tenant, request);
        unsupported()
    }

    /// Makes sure that a global template of this name exists and the nodes have it: `base`.
    /// Idempotent, for the composition's start.
    ///
    /// # Errors
    /// `InvalidArgument` (name), `Unavailable`, `Internal` with what the node said.
    pub async fn template_ensure_global(&self, request: ImportRequest) -> Result<TemplateId> {
        let _ = request;
        unsupported()
    }

    /// Removes a template of the team's own, by id or name.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` while sandboxes use it.
    pub async fn template_remove(&self, tenant: &Tenant, reference: &str) -> Result<()> {
        let _ = (tenant, reference);
        unsupported()
    }

    /// Makes a key for the caller's team.
    ///
    /// # Errors
    /// `InvalidArgument` (name), `QuotaExceeded` (too many keys), `PermissionDenied`.
    pub async fn key_create(
        &self,
        tenant: &Tenant,
        name: &str,
        scope: Scope,
    ) -> Result<CreatedKey> {
        let _ = (tenant, name, scope);
        unsupported()
    }

    /// The keys of the caller's team, oldest first.
    ///
    /// # Errors
    /// `Unavailable` for the store.
    pub async fn key_list(&self, tenant: &Tenant) -> Result<Vec<KeyView>> {
        let _ = tenant;
        unsupported()
    }

    /// Revokes a key of the caller's team, at once.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn key_revoke(&self, tenant: &Tenant, key: &KeyId) -> Result<()> {
        let _ = (tenant, key);
        unsupported()
    }

    /// How well the control plane and what it depends on do.
    pub async fn health(&self) -> Health {
        let _ = (&self.inner.parts, &self.inner.config);
        Health {
            status: crate::view::HealthStatus::Healthy,
            components: Vec::new(),
        }
    }
}
