//! Making a sandbox.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::crash;
use atoll_core::error::ErrorKind;
use atoll_core::id::{Generation, ID_BODY_LEN, SandboxId, TeamId};
use atoll_core::lifecycle::{Announcement, Event, step};
use atoll_core::quota::Exceeded;
use atoll_core::sandbox::{Desired, EndReason, Sandbox, SandboxConfig, State};
use atoll_core::scheduler::overlay::Laid;
use atoll_core::template::Template;
use atoll_store::store::{Admission, EventRow, IdempotencyKey, Intent, IntentChange, NewSandbox};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use super::{ControlPlane, Inner, demand_full, unavailable};
use crate::error::{Error, Result, code};
use crate::events;
use crate::exhausted;
use crate::metrics;
use crate::reconciler::{Due, Goal, Watch, is_over};
use crate::registry::fairness::NotForIt;
use crate::request::CreateRequest;
use crate::view::{SandboxView, Tenant};

/// When to try again after no node had room: shares count on it
/// ([`RETRY`](atoll_core::scheduler::shares::RETRY)).
pub(super) const CAPACITY_RETRY_AFTER: Duration = Duration::from_secs(5);

/// When to try again after too many creates were under way.
const OVERLOAD_RETRY_AFTER: Duration = Duration::from_secs(2);

/// The outcome that successful creates are counted under.
const OK: &str = "ok";

/// When to try again after the quota was used up.
const QUOTA_RETRY_AFTER: Duration = Duration::from_secs(5);

/// What became of a create's intent.
enum Admitted {
    /// It was written.
    Now(Box<Sandbox>),
    /// An earlier request with the same key made this one.
    Before(SandboxId),
}

impl ControlPlane {
    /// Makes a sandbox and waits until it serves.
    ///
    /// Goes on to its end if the caller goes away.
    ///
    /// # Errors
    /// `InvalidArgument` (timeout out of range), `NotFound` (template), `QuotaExceeded`,
    /// `NoCapacity`, `Conflict` (idempotency key), `DeadlineExceeded`,
    /// `PermissionDenied` (read-only key), `Unavailable`, `Internal`.
    pub async fn sandbox_create(
        &self,
        tenant: &Tenant,
        request: CreateRequest,
    ) -> Result<SandboxView> {
        let began = Instant::now();
        let created = self.accept_create(tenant, request).await;
        let outcome = created
            .as_ref()
            .map_or_else(|error| error.kind.as_str(), |_| OK);
        metrics::created(outcome, began.elapsed());
        created
    }

    async fn accept_create(&self, tenant: &Tenant, request: CreateRequest) -> Result<SandboxView> {
        demand_full(tenant)?;
        let places = self.inner.enter_create(tenant).await?;
        self.inner.check_timeout(request.timeout)?;
        let template = self.template_resolve(tenant, &request.template).await?;
        let inner = Arc::clone(&self.inner);
        let tenant = tenant.clone();
        let span = tracing::info_span!("create", team = %tenant.team, template = %template.id);
        // A caller that hangs up must not leave an intent that nobody drives or gives up.
        let work = async move {
            let created = inner.create(&tenant, request, &template).await;
            // Not sooner: also a create that nobody waits for is under way.
            drop(places);
            created
        };
        let task = self.inner.tasks.spawn(work.instrument(span));
        task.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "the create did not end").with_source(error)
        })?
    }
}

impl Inner {
    /// Takes a place among the creates under way, of the team and of all.
    async fn enter_create(&self, tenant: &Tenant) -> Result<[OwnedSemaphorePermit; 2]> {
        let gate = self.gate(&tenant.team).await?.ok_or_else(no_team)?;
        self.take_place(&tenant.team, "creates", gate.creates())
            .await?;
        let of_team = gate.begin_create()?;
        let of_all = Arc::clone(&self.creating)
            .try_acquire_owned()
            .map_err(|_| {
                let most = self.config.creates_in_flight_max;
                Error::new(
                    ErrorKind::Unavailable,
                    format!("the server has {most} creates under way, which is the most"),
                )
                .with_code(code::OVERLOADED)
                .with_retry_after(OVERLOAD_RETRY_AFTER)
            })?;
        Ok([of_team, of_all])
    }

    async fn create(
        self: &Arc<Self>,
        tenant: &Tenant,
        request: CreateRequest,
        template: &Template,
    ) -> Result<SandboxView> {
        let Some(key) = request.idempotency_key.clone() else {
            let admitted = self.admit(tenant, request, template).await?;
            return self.await_admitted(tenant, admitted, false).await;
        };
        let turn = self.take_turn(&tenant.team, &key).await;
        let created = self.create_once(tenant, request, template, &key).await;
        self.end_turn(turn);
        created
    }

    async fn create_once(
        self: &Arc<Self>,
        tenant: &Tenant,
        request: CreateRequest,
        template: &Template,
        key: &str,
    ) -> Result<SandboxView> {
        let mut admitted = self.admit(tenant, request.clone(), template).await?;
        if let Admitted::Before(first) = &admitted
            && self.came_to_nothing(first).await?
        {
            // Refused before it ever served: nothing was done under the key, so it is tried anew.
            // Of several that come at the same time one makes it, and the others find that one.
            let store = &self.store;
            let released = store.idempotency_release(&tenant.team, key, first).await;
            released.map_err(unavailable)?;
            admitted = self.admit(tenant, request, template).await?;
        }
        self.await_admitted(tenant, admitted, true).await
    }

    /// Writes the intent of a create, unless its idempotency key made a sandbox before.
    async fn admit(
        self: &Arc<Self>,
        tenant: &Tenant,
        request: CreateRequest,
        template: &Template,
    ) -> Result<Admitted> {
        let fingerprint = request.fingerprint.clone();
        let idempotency = request.idempotency_key.clone().map(|key| IdempotencyKey {
            key,
            fingerprint: request.fingerprint.clone(),
        });
        let began = Instant::now();
        let mut row = self.new_row(tenant, request, template);
        let room = self.registry.ask_room(&row);
        if let Err(reason) = &room
            && idempotency.is_none()
        {
            return Err(not_for_it(reason));
        }
        let created = events::announce(&row, row.created_at, Announcement::Created);
        let mut events = vec![events::with(
            created,
            "template",
            row.config.template.as_str(),
        )];
        if room.is_ok() {
            let laid = self.lay(&row).await?;
            events.extend(self.place_at_once(&mut row, &laid));
        }
        let new = NewSandbox {
            events,
            sandbox: row.clone(),
            limits: self.config.team_limits,
            idempotency,
        };
        let span = tracing::info_span!("store.insert", sandbox = %row.id);
        let admission = self.store.sandbox_insert(new).instrument(span).await;
        metrics::phase("admit", began.elapsed());
        if !matches!(admission, Ok(Admission::Accepted)) {
            // Gives back what its placement took. A row that is there although the store said
            // otherwise is found by the next full pass.
            self.registry.forget_unadmitted(&row);
        }
        match admission.map_err(unavailable)? {
            Admission::Accepted => crash::reached("control.intent"),
            Admission::QuotaExceeded(exceeded) => {
                self.tell_exceeded(&tenant.team, &exceeded).await;
                return Err(quota_exceeded(exceeded));
            }
            Admission::NoTeam => return Err(no_team()),
            Admission::Replayed {
                sandbox,
                fingerprint: first,
            } => {
                if first != fingerprint {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        "this idempotency key was used with another request",
                    )
                    .with_code(code::IDEMPOTENCY_MISMATCH));
                }
                return Ok(Admitted::Before(sandbox));
            }
        }
        if let Err(reason) = &room {
            // The key did not make one before, and does not now: a later request may.
            self.give_up(&row.id, EndReason::NoCapacity).await;
            return Err(not_for_it(reason));
        }
        self.catalog
            .count_spawned(&row.config.template, row.created_at);
        Ok(Admitted::Now(Box::new(row)))
    }

    /// Waits until what was admitted serves, now or by an earlier request.
    async fn await_admitted(
        self: &Arc<Self>,
        tenant: &Tenant,
        admitted: Admitted,
        has_key: bool,
    ) -> Result<SandboxView> {
        let row = match admitted {
            Admitted::Now(row) => *row,
            Admitted::Before(first) => return self.replay(&first).await,
        };
        let id = row.id.clone();
        let began = Instant::now();
        let due = Due::new(tenant.receipt.as_ref(), Goal::Serving);
        let watch = self.reconciler.wake_for(self, &id, Some(row), due);
        let served = self.await_running(&id, watch, has_key).await;
        if served.is_ok() {
            metrics::phase("start", began.elapsed());
        }
        served
    }

    /// Whether a create ended before its sandbox ever served, and not because somebody said so.
    async fn came_to_nothing(&self, id: &SandboxId) -> Result<bool> {
        let row = self.store.sandbox_get(id).await.map_err(unavailable)?;
        Ok(row.is_some_and(|row| {
            is_over(&row)
                && row.started_at.is_none()
                && matches!(
                    row.stop_reason,
                    Some(EndReason::NoCapacity | EndReason::Failed | EndReason::NodeLost)
                )
        }))
    }

    /// Tells that a team has as much as it may, before it is refused.
    async fn tell_exceeded(&self, team: &TeamId, exceeded: &Exceeded) {
        let Some(event) = exhausted::of_quota(self, team, exceeded) else {
            return;
        };
        if let Err(error) = self.store.event_append(vec![event]).await {
            tracing::warn!(%team, %error, "a used up quota is not told of");
        }
    }

    pub(super) fn new_row(
        &self,
        tenant: &Tenant,
        request: CreateRequest,
        template: &Template,
    ) -> Sandbox {
        let mut random = [0; ID_BODY_LEN];
        self.random.fill(&mut random);
        let now = self.clock.now();
        Sandbox {
            id: SandboxId::from_random(random),
            revision: 0,
            team: tenant.team.clone(),
            created_by: Some(tenant.key.clone()),
            config: SandboxConfig {
                template: template.id.clone(),
                build: template.build.clone(),
                alias: template.names.first().cloned(),
                resources: template.resources,
                metadata: request.metadata,
                env: request.env,
                network: request.network,
                is_secured: request.is_secured,
                on_timeout: request.on_timeout,
                auto_resume: request.auto_resume,
                scheduling: request.scheduling,
            },
            state: State::Pending,
            desired: Desired::Running,
            stop_reason: None,
            generation: Generation::FIRST,
            node: None,
            created_at: now,
            started_at: None,
            timeout: request.timeout,
            deadline: now.saturating_add(request.timeout),
            keep_memory: true,
            kept: None,
            kept_on: None,
            snapshot: None,
            is_restarting: false,
            claimed_by: self.servers.claim(),
            updated_at: now,
            ended: None,
            last_error: None,
        }
    }

    /// Chooses a node before the row is written, so that intent and placement share a commit. A
    /// row that no node can take stays pending, and its task decides what becomes of it.
    fn place_at_once(&self, row: &mut Sandbox, laid: &Laid) -> Vec<EventRow> {
        let placed = self.place_first(row, laid);
        match &placed {
            Ok(_) => self.registry.note_came(row),
            Err(unplaced) => self.registry.note_no_room(row, &unplaced.refusal),
        }
        let (Ok(placed), Ok(next)) = (placed, step(row.state, Event::Place)) else {
            return Vec::new();
        };
        let mut events = vec![events::placed(row, row.created_at, &placed)];
        row.node = Some(placed.decision.node.clone());
        row.state = next.next;
        events.extend(events::announcements(next.effects, row, row.created_at));
        events
    }

    /// Answers a repeated request with what the first one made.
    async fn replay(self: &Arc<Self>, id: &SandboxId) -> Result<SandboxView> {
        let row = self.store.sandbox_get(id).await.map_err(unavailable)?;
        match row {
            Some(row) if super::is_visible(&row) => Ok(self.view(row)),
            Some(row) if !is_over(&row) => {
                let watch = self.reconciler.wake(self, id, None);
                self.await_running(id, watch, true).await
            }
            Some(_) | None => Err(Error::new(
                ErrorKind::Conflict,
                format!("the sandbox made under this idempotency key, {id}, has ended"),
            )
            .with_code(code::IDEMPOTENCY_OUTCOME_UNKNOWN)),
        }
    }

    /// Waits until the sandbox serves or its end is decided, but not longer than the bound.
    async fn await_running(
        self: &Arc<Self>,
        id: &SandboxId,
        mut watch: Watch,
        has_key: bool,
    ) -> Result<SandboxView> {
        let is_decided = |row: &Sandbox| row.started_at.is_some() || is_over(row);
        let decided = timeout(self.config.create_timeout, watch.until(is_decided)).await;
        let row = match decided {
            Ok(Some(row)) => Arc::unwrap_or_clone(row),
            // The task came to rest before we looked, or the server is shutting down.
            Ok(None) => self
                .store
                .sandbox_get(id)
                .await
                .map_err(unavailable)?
                .filter(is_decided)
                .ok_or_else(|| shutting_down(id))?,
            Err(_) => {
                if !has_key {
                    self.give_up(id, EndReason::Failed).await;
                }
                return Err(Error::new(
                    ErrorKind::DeadlineExceeded,
                    format!("sandbox {id} did not start in time"),
                )
                .with_code(code::PLACEMENT_TIMEOUT));
            }
        };
        if row.started_at.is_some() && !is_over(&row) {
            Ok(self.view(row))
        } else {
            Err(not_created(&row))
        }
    }

    /// Makes a sandbox unwanted that its caller no longer waits for.
    async fn give_up(self: &Arc<Self>, id: &SandboxId, reason: EndReason) {
        let intent = Intent {
            id: id.clone(),
            change: IntentChange::Stop(reason),
            claimed_by: self.servers.claim(),
            at: self.clock.now(),
            events: Vec::new(),
            audit: None,
        };
        if let Err(error) = self.store.sandbox_intend(intent).await {
            tracing::warn!(sandbox = %id, %error, "sandbox that did not start stays wanted");
        }
        self.wake(id);
    }
}

/// The error for a team that has as much as it may.
pub(super) fn quota_exceeded(exceeded: Exceeded) -> Error {
    Error::new(
        ErrorKind::QuotaExceeded,
        format!(
            "{exceeded}; end sandboxes, or ask the operator of this installation for a higher \
             limit"
        ),
    )
    .with_code(code::QUOTA_EXCEEDED)
    .with_retry_after(QUOTA_RETRY_AFTER)
}

/// The error for one who is not to have what room there is.
fn not_for_it(reason: &NotForIt) -> Error {
    Error::new(ErrorKind::NoCapacity, reason.to_string())
        .with_code(code::CAPACITY_UNAVAILABLE)
        .with_retry_after(CAPACITY_RETRY_AFTER)
}

/// The error for a team that was disabled, or is not there.
fn no_team() -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        "this team is disabled or does not exist",
    )
}

fn shutting_down(id: &SandboxId) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the server stops before sandbox {id} runs"),
    )
}

/// The error for a sandbox that ended before it served.
pub(super) fn not_created(row: &Sandbox) -> Error {
    let detail = row.last_error.as_deref().unwrap_or("no reason was given");
    match row.stop_reason {
        Some(EndReason::NoCapacity) => Error::new(
            ErrorKind::NoCapacity,
            format!("no node can take the sandbox: {detail}"),
        )
        .with_code(code::CAPACITY_UNAVAILABLE)
        .with_retry_after(CAPACITY_RETRY_AFTER),
        Some(EndReason::Killed | EndReason::Expired | EndReason::Shutdown | EndReason::Evicted) => {
            Error::new(
                ErrorKind::Conflict,
                format!("sandbox {} was ended while it started", row.id),
            )
        }
        Some(EndReason::Failed | EndReason::NodeLost) | None => Error::new(
            ErrorKind::Internal,
            format!("the sandbox could not be started: {detail}"),
        )
        .with_code(code::CREATE_FAILED),
    }
}
