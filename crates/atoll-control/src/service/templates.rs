//! Templates: finding, listing, importing, removing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_core::error::ErrorKind;
use atoll_core::id::{BuildId, ID_BODY_LEN, TeamId, TemplateId};
use atoll_core::node::{CallOutcome, Refusal};
use atoll_core::template::{BuildStatus, Template, TemplateSource};
use atoll_store::store::{Inserted, Removed, TemplateRow};
use tokio::time::timeout;

use super::create::CAPACITY_RETRY_AFTER;
use super::{ControlPlane, Inner, demand_full, unavailable};
use crate::catalog::{Found, is_ready};
use crate::error::{Error, Result, code};
use crate::lock::lock;
use crate::node_client::NodeClient;
use crate::reference::{Reference, is_name};
use crate::request::ImportRequest;
use crate::view::{TemplateView, Tenant};

/// How long a node may take to make a template: pulling and unpacking a large image over a slow
/// line.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// How long a node may take to remove one.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(60);

/// The least a sandbox needs to start at all.
const MEMORY_MIB_MIN: u32 = 64;

/// The templates that every node must have, with what they are made from: those that the
/// composition declares at each start. A handful.
pub(super) type Declared = Mutex<BTreeMap<TemplateId, TemplateSource>>;

fn view(row: &TemplateRow) -> TemplateView {
    TemplateView {
        template: row.template.clone(),
        spawn_count: row.spawn_count,
        last_spawned_at: row.last_spawned_at,
        build_count: row.build_count,
    }
}

fn not_found(reference: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("template '{reference}' not found"),
    )
}

impl ControlPlane {
    /// The team's templates and the global ones, by name.
    ///
    /// # Errors
    /// `Unavailable` for the store.
    pub async fn template_list(&self, tenant: &Tenant) -> Result<Vec<TemplateView>> {
        self.inner.flush_spawned().await;
        let rows = self.inner.catalog.list(&tenant.team);
        Ok(rows.iter().map(|row| view(row)).collect())
    }

    /// One template, by id or name.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` where it exists and belongs to another team.
    pub async fn template_get(&self, tenant: &Tenant, reference: &str) -> Result<TemplateView> {
        let row = self.inner.find_template(&tenant.team, reference)?;
        Ok(view(&row))
    }

    /// The template that `[namespace/]alias[:tag]` or an id stands for, ready to start.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed reference; `NotFound`; `PermissionDenied`; `Conflict`
    /// while it is not ready; `NoCapacity` or `Unavailable` while no node has what every node has.
    pub async fn template_resolve(&self, tenant: &Tenant, reference: &str) -> Result<Template> {
        let inner = &self.inner;
        let mut found = inner.find_template(&tenant.team, reference);
        let is_found = matches!(&found, Ok(row) if is_ready(&row.template));
        if !is_found && inner.may_look_up() {
            inner.load_catalog().await?;
            found = inner.find_template(&tenant.team, reference);
        }
        let row = found?;
        if !is_ready(&row.template) {
            return Err(self.not_ready(&row.template, reference));
        }
        Ok(row.template.clone())
    }

    /// Why a template cannot be started: what every node has is made when one joins.
    fn not_ready(&self, template: &Template, reference: &str) -> Error {
        let is_coming = template.team.is_none() && template.status != BuildStatus::Failed;
        if !is_coming {
            let message = format!("template '{reference}' is not ready");
            return Error::new(ErrorKind::Conflict, message);
        }
        if self.inner.registry.clients().is_empty() {
            let message = "no node has joined the server: sandboxes need one";
            return Error::new(ErrorKind::NoCapacity, message)
                .with_code(code::CAPACITY_UNAVAILABLE)
                .with_retry_after(CAPACITY_RETRY_AFTER);
        }
        let message = format!("template '{reference}' is being made; try again");
        Error::new(ErrorKind::Unavailable, message).with_retry_after(CAPACITY_RETRY_AFTER)
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
        demand_full(tenant)?;
        check_import(&request)?;
        let reference = Reference::parse(&format!("{}/{}", tenant.team, request.name))?;
        let existing = match self.inner.catalog.find(&tenant.team, &reference) {
            Found::Usable(row) if is_ready(&row.template) => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("template '{}' exists; remove it first", request.name),
                ));
            }
            // An import that was cut off: it is begun again under the same ids.
            Found::Usable(row) => Some(row),
            Found::Foreign | Found::Nothing => None,
        };
        let template = self
            .inner
            .prepare_template(Some(tenant.team.clone()), existing.as_deref(), &request)
            .await?;
        let row = self.import(template, request.source).await?;
        Ok(view(&row))
    }

    /// Makes sure that a global template of this name exists, and that the nodes have it, those of
    /// now and those that join later: `base`. Idempotent, for the composition's start. While there
    /// are no nodes it is not ready.
    ///
    /// # Errors
    /// `InvalidArgument` (name), `Unavailable`, `Internal` with what the node said.
    pub async fn template_ensure_global(&self, request: ImportRequest) -> Result<TemplateId> {
        check_import(&request)?;
        let inner = &self.inner;
        let existing = inner.catalog.global(&request.name);
        let prepared = inner.prepare_template(None, existing.as_deref(), &request);
        let template = match prepared.await {
            Err(error) if error.kind == ErrorKind::AlreadyExists => {
                // Another server made it in the same moment.
                inner.load_catalog().await?;
                let existing = inner.catalog.global(&request.name);
                let prepared = inner.prepare_template(None, existing.as_deref(), &request);
                prepared.await?
            }
            prepared => prepared?,
        };
        let id = template.id.clone();
        lock(&self.inner.declared).insert(id.clone(), request.source.clone());
        if !self.inner.registry.clients().is_empty() {
            self.import(template, request.source).await?;
        }
        Ok(id)
    }

    /// Removes a template of the team's own, by id or name.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` while sandboxes use it; `PermissionDenied` for one that is
    /// not the team's own.
    pub async fn template_remove(&self, tenant: &Tenant, reference: &str) -> Result<()> {
        demand_full(tenant)?;
        let inner = &self.inner;
        let row = inner.find_template(&tenant.team, reference)?;
        if row.template.team.as_ref() != Some(&tenant.team) {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("template '{reference}' is not your team's own"),
            ));
        }
        let id = &row.template.id;
        match inner.store.template_remove(id).await.map_err(unavailable)? {
            Removed::Yes => {}
            Removed::Unknown => return Err(not_found(reference)),
            Removed::InUse(count) => {
                return Err(Error::invalid(format!(
                    "template '{reference}' is used by {count} sandbox(es); end them first"
                )));
            }
        }
        inner.catalog.remove(id);
        for client in inner.registry.clients() {
            let call = client.remove_template(id, &row.template.build);
            match timeout(REMOVE_TIMEOUT, call).await {
                Ok(CallOutcome::Done(())) => {
                    let build = &row.template.build;
                    inner.registry.note_template(client.node(), build, false);
                }
                Ok(CallOutcome::Refused(_) | CallOutcome::Unknown(_)) | Err(_) => {
                    // Its files stay until the node is told again; nothing can start from them.
                    tracing::warn!(template = %id, node = %client.node(), "template stays on node");
                }
            }
        }
        Ok(())
    }

    /// Has every node make the template, then shows it as ready. Goes on to its end if the caller
    /// goes away.
    async fn import(&self, template: Template, source: TemplateSource) -> Result<Arc<TemplateRow>> {
        let inner = Arc::clone(&self.inner);
        let task = self
            .inner
            .tasks
            .spawn(async move { inner.import(template, &source).await });
        task.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "the import did not end").with_source(error)
        })?
    }
}

fn check_import(request: &ImportRequest) -> Result<()> {
    if !is_name(&request.name) {
        return Err(Error::invalid(format!(
            "`{}` is not a template name: lower-case letters, digits, `-` and `_`",
            request.name
        )));
    }
    let resources = request.resources;
    if resources.cpu_millis == 0 || resources.memory_mib < MEMORY_MIB_MIN || resources.disk_mib == 0
    {
        return Err(Error::invalid(format!(
            "a template needs some cpu and disk, and at least {MEMORY_MIB_MIN} MiB of memory"
        )));
    }
    Ok(())
}

/// The error for a template that a node did not make.
fn not_made(refusal: &Refusal) -> Error {
    let kind = match refusal {
        Refusal::BadSource(_) => ErrorKind::InvalidArgument,
        Refusal::Unsupported(_) => ErrorKind::Unsupported,
        Refusal::NoRoom(_)
        | Refusal::StaleGeneration { .. }
        | Refusal::UnknownSandbox
        | Refusal::UnknownTemplate
        | Refusal::BadSnapshot(_)
        | Refusal::Failed(_) => ErrorKind::Internal,
    };
    Error::new(kind, format!("the template could not be made: {refusal}"))
}

impl Inner {
    fn find_template(&self, team: &TeamId, reference: &str) -> Result<Arc<TemplateRow>> {
        match self.catalog.find(team, &Reference::parse(reference)?) {
            Found::Usable(row) => Ok(row),
            // One answer for both: who may not see it learns not even that it exists.
            Found::Foreign | Found::Nothing => Err(not_found(reference)),
        }
    }

    /// The template to import, with its row in the store: a new one, or the one that exists with
    /// what the request changes.
    async fn prepare_template(
        &self,
        team: Option<TeamId>,
        existing: Option<&TemplateRow>,
        request: &ImportRequest,
    ) -> Result<Template> {
        let now = self.clock.now();
        if let Some(row) = existing {
            return Ok(Template {
                is_public: request.is_public,
                resources: request.resources,
                envd_version: self.config.envd_version.clone(),
                updated_at: now,
                ..row.template.clone()
            });
        }
        let mut random = [0; ID_BODY_LEN];
        self.random.fill(&mut random);
        let template = Template {
            id: TemplateId::from_random(random),
            build: self.draw_build_id(),
            team,
            names: vec![request.name.clone()],
            is_public: request.is_public,
            resources: request.resources,
            status: BuildStatus::Building,
            envd_version: self.config.envd_version.clone(),
            created_at: now,
            updated_at: now,
        };
        let inserted = self.store.template_insert(&template).await;
        match inserted.map_err(unavailable)? {
            Inserted::Yes => {}
            Inserted::AlreadyExists => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("template '{}' exists", request.name),
                ));
            }
        }
        self.catalog.put(TemplateRow {
            template: template.clone(),
            spawn_count: 0,
            last_spawned_at: None,
            build_count: 1,
        });
        Ok(template)
    }

    fn draw_build_id(&self) -> BuildId {
        self.draw_uuid()
            .parse()
            .expect("a UUID's text is a valid build id")
    }

    async fn import(
        &self,
        template: Template,
        source: &TemplateSource,
    ) -> Result<Arc<TemplateRow>> {
        let outcome = self.import_on_nodes(&template, source).await;
        let status = match &outcome {
            Ok(()) => BuildStatus::Ready,
            Err(_) => BuildStatus::Failed,
        };
        let row = self.finish(template, status).await?;
        outcome.map(|()| row)
    }

    /// Writes where a template's build stands.
    async fn finish(
        &self,
        mut template: Template,
        status: BuildStatus,
    ) -> Result<Arc<TemplateRow>> {
        template.status = status;
        template.updated_at = self.clock.now();
        self.store
            .template_update(&template)
            .await
            .map_err(unavailable)?;
        self.flush_spawned().await;
        let rows = self.store.template_list().await.map_err(unavailable)?;
        let row = rows
            .into_iter()
            .find(|row| row.template.id == template.id)
            .ok_or_else(|| not_found(template.id.as_str()))?;
        self.catalog.put(row.clone());
        Ok(Arc::new(row))
    }

    async fn import_on_nodes(&self, template: &Template, source: &TemplateSource) -> Result<()> {
        let clients = self.registry.clients();
        if clients.is_empty() {
            return Err(Error::new(ErrorKind::Unavailable, "there are no nodes"));
        }
        for client in clients {
            let call = client.import_template(&template.id, &template.build, source);
            let outcome = timeout(IMPORT_TIMEOUT, call).await.unwrap_or_else(|_| {
                CallOutcome::Unknown("the node did not answer in time".to_owned())
            });
            match outcome {
                CallOutcome::Done(()) => {
                    let build = &template.build;
                    self.registry.note_template(client.node(), build, true);
                }
                CallOutcome::Refused(refusal) => return Err(not_made(&refusal)),
                CallOutcome::Unknown(detail) => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!("the node did not confirm the template: {detail}"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Marks templates as failed whose making an earlier run began and did not end: nobody carries
    /// it on, and its source is not kept. Importing again takes the same ids.
    ///
    /// With other servers on the store, one of them may be at it: then it is theirs to say so.
    pub(crate) async fn fail_interrupted_imports(&self) -> Result<()> {
        if self.servers.has_others() {
            return self.load_catalog().await;
        }
        for row in self.store.template_list().await.map_err(unavailable)? {
            if row.template.status != BuildStatus::Building {
                continue;
            }
            tracing::warn!(template = %row.template.id, "the import of a template was interrupted");
            let mut template = row.template;
            template.status = BuildStatus::Failed;
            template.updated_at = self.clock.now();
            let updated = self.store.template_update(&template).await;
            updated.map_err(unavailable)?;
        }
        self.load_catalog().await
    }

    /// Takes over what the store has.
    pub(crate) async fn load_catalog(&self) -> Result<()> {
        let rows = self.store.template_list().await.map_err(unavailable)?;
        self.catalog.load(rows);
        Ok(())
    }

    /// Has a node make the declared templates before it is given sandboxes. What it cannot make is
    /// only told: the node refuses sandboxes of that template, and what runs on it is adopted.
    /// Answers the builds that it has.
    pub(super) async fn prepare_node(&self, client: &dyn NodeClient) -> Vec<BuildId> {
        let mut made = Vec::new();
        let declared = lock(&self.declared).clone();
        for (id, source) in declared {
            let Some(row) = self.catalog.get(&id) else {
                continue;
            };
            let (node, build) = (client.node(), &row.template.build);
            let call = client.import_template(&id, build, &source);
            let outcome = timeout(IMPORT_TIMEOUT, call).await;
            if outcome == Ok(CallOutcome::Done(())) {
                made.push(build.clone());
            }
            match outcome {
                Ok(CallOutcome::Done(())) if is_ready(&row.template) => {}
                Ok(CallOutcome::Done(())) => {
                    if let Err(error) = self.finish(row.template.clone(), BuildStatus::Ready).await
                    {
                        tracing::warn!(template = %id, %error, "template is not marked ready");
                    }
                }
                Ok(CallOutcome::Refused(refusal)) => {
                    tracing::warn!(template = %id, %node, %refusal, "node has no template");
                }
                Ok(CallOutcome::Unknown(detail)) => {
                    tracing::warn!(template = %id, %node, detail, "node may have no template");
                }
                Err(_) => tracing::warn!(template = %id, %node, "node makes its template too long"),
            }
        }
        made
    }

    /// Writes the counts of started sandboxes. They are statistics: a crash may lose the last few
    /// seconds of them.
    pub(crate) async fn flush_spawned(&self) {
        for (id, count, last) in self.catalog.take_spawned() {
            if let Err(error) = self.store.template_spawned(&id, count, last).await {
                tracing::warn!(template = %id, %error, "uses of a template are not counted");
            }
        }
    }
}
