//! Calls about sandboxes, as use cases.

use atoll_control::request::{CreateRequest, LIST_LIMIT_MAX, ListQuery, Order, VisibleState};
use atoll_control::view::{SandboxView, Tenant};
use atoll_core::network::NetworkPolicy;
use atoll_core::sandbox::OnTimeout as Rule;
use atoll_proto::orchestrator::batch_create_sandboxes_response::Result as BatchResult;
use atoll_proto::orchestrator::list_sandboxes_request::Order as WireOrder;
use atoll_proto::orchestrator::{
    BatchCreateSandboxesRequest, BatchCreateSandboxesResponse, CreateSandboxRequest,
    CreateSandboxResponse, DeleteSandboxRequest, DeleteSandboxResponse, ExplainSandboxRequest,
    ExplainSandboxResponse, GetSandboxRequest, GetSandboxResponse, ListSandboxesRequest,
    ListSandboxesResponse, Network, NodeState, OnTimeout, PauseSandboxRequest,
    PauseSandboxResponse, RestartSandboxRequest, RestartSandboxResponse, ResumeSandboxRequest,
    ResumeSandboxResponse, SandboxState,
};
use buffa::EnumValue;
use futures::future::join_all;
use sha2::{Digest as _, Sha256};
use std::time::Duration;

use super::access::Identity;
use super::field::{self, Problems};
use super::{message, status};
use crate::check;
use crate::error::ApiError;
use crate::limit::{
    DEFAULT_TIMEOUT_V2_SECONDS, MAX_BATCH, MAX_BATCH_REQUEST_ID_LEN, MAX_IDEMPOTENCY_KEY_LEN,
};
use crate::network::{EgressDto, NetworkDto};
use crate::query::{decode_cursor, encode_cursor};
use crate::rest::Api;
use crate::scheduling;

/// What tells fingerprints of this door from those of the other.
const FINGERPRINT_DOMAIN: &[u8] = b"rpc\0";

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(DEFAULT_TIMEOUT_V2_SECONDS.unsigned_abs());

pub(super) async fn create(
    api: &Api,
    tenant: &Tenant,
    request: CreateSandboxRequest,
) -> Result<CreateSandboxResponse, ApiError> {
    let request = create_request(request)?;
    made(api, tenant, request).await
}

async fn made(
    api: &Api,
    tenant: &Tenant,
    request: CreateRequest,
) -> Result<CreateSandboxResponse, ApiError> {
    let view = api.control().sandbox_create(tenant, request).await?;
    Ok(CreateSandboxResponse {
        access: access(api, &view).into(),
        sandbox: message::sandbox(view.sandbox).into(),
        ..CreateSandboxResponse::default()
    })
}

fn access(api: &Api, view: &SandboxView) -> atoll_proto::orchestrator::SandboxAccess {
    message::access(view, api.sandbox_domain())
}

pub(super) async fn batch_create(
    api: &Api,
    caller: &Identity,
    batch: BatchCreateSandboxesRequest,
) -> Result<BatchCreateSandboxesResponse, ApiError> {
    let requests = batch_requests(batch)?;
    let tenant = caller.tenant.without_receipt();
    let calls = requests
        .into_iter()
        .map(|request| made(api, &tenant, request));
    let results = join_all(calls).await.into_iter().map(|result| {
        let outcome = match result {
            Ok(created) => {
                caller.note.about(&created.sandbox.id);
                created.into()
            }
            Err(error) => {
                error.log();
                status::status(&error).into()
            }
        };
        BatchResult {
            outcome,
            ..BatchResult::default()
        }
    });
    Ok(BatchCreateSandboxesResponse {
        results: results.collect(),
        ..BatchCreateSandboxesResponse::default()
    })
}

/// All requests of a batch; none if any is malformed.
fn batch_requests(batch: BatchCreateSandboxesRequest) -> Result<Vec<CreateRequest>, ApiError> {
    let count = batch.requests.len();
    if !(1..=MAX_BATCH).contains(&count) {
        let problem = format!("`requests` must have 1 to {MAX_BATCH} entries, not {count}");
        return Err(ApiError::validation(problem).at("requests"));
    }
    let mut problems = Problems::default();
    let id = field::non_empty(batch.request_id);
    if let Some(id) = &id {
        problems.take(check::idempotency_key(id));
        if id.len() > MAX_BATCH_REQUEST_ID_LEN && id.len() <= MAX_IDEMPOTENCY_KEY_LEN {
            let problem =
                format!("`requestId` has more than {MAX_BATCH_REQUEST_ID_LEN} characters");
            problems.take::<()>(Err(ApiError::validation(problem).at("request_id")));
        }
    }
    let mut requests = Vec::with_capacity(count);
    for (place, mut request) in batch.requests.into_iter().enumerate() {
        if let (Some(id), true) = (&id, request.request_id.is_empty()) {
            request.request_id = format!("{id}-{place}");
        }
        let read = create_request(request);
        let read = read.map_err(|error| error.within(&format!("requests[{place}]")));
        requests.extend(problems.take(read.map(Some)));
    }
    problems.finish()?;
    Ok(requests)
}

pub(super) fn create_request(request: CreateSandboxRequest) -> Result<CreateRequest, ApiError> {
    let fingerprint = fingerprint(&request);
    let mut problems = Problems::default();
    problems.take(check::template(&request.template));
    let timeout = problems.take(timeout(request.timeout.into_option()));
    let metadata = field::ordered(request.metadata);
    problems.take(check::metadata(&metadata));
    let env = field::ordered(request.env_vars);
    problems.take(check::env(&env));
    let is_secured = request.secured.unwrap_or(true);
    let network = problems.take(network(request.network.into_option(), is_secured));
    let on_timeout = problems.take(on_timeout(request.on_timeout).map(Some));
    if on_timeout == Some(Rule::Pause { keep_memory: false }) && request.auto_resume {
        let problem = "`autoResume` cannot be combined with `ON_TIMEOUT_PAUSE_FILES_ONLY`: without \
                       its memory a sandbox has to be resumed explicitly";
        problems.take::<()>(Err(ApiError::validation(problem).at("auto_resume")));
    }
    let idempotency_key = field::non_empty(request.request_id);
    if let Some(key) = &idempotency_key {
        problems.take(check::idempotency_key(key));
    }
    let said = field::non_empty(request.scheduling_json);
    let said = said.map(|text| scheduling::of_text(&text));
    let scheduling = problems.take(said.transpose());
    problems.finish()?;
    Ok(CreateRequest {
        scheduling,
        template: request.template,
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
        metadata,
        env,
        network,
        is_secured,
        on_timeout: on_timeout.unwrap_or(Rule::Kill),
        auto_resume: request.auto_resume,
        idempotency_key,
        fingerprint,
    })
}

/// A digest of what is asked for, whatever the order in which it was written.
fn fingerprint(request: &CreateSandboxRequest) -> String {
    let content = CreateSandboxRequest {
        request_id: String::new(),
        ..request.clone()
    };
    // Objects of JSON values are kept sorted by name, so this is canonical.
    let content = serde_json::to_value(content).unwrap_or_default();
    let mut digest = Sha256::new();
    digest.update(FINGERPRINT_DOMAIN);
    digest.update(content.to_string());
    hex::encode(digest.finalize())
}

/// How long a sandbox is to live.
fn timeout(
    value: Option<buffa_types::google::protobuf::Duration>,
) -> Result<Option<Duration>, ApiError> {
    let timeout = field::duration("timeout", value)?;
    if timeout == Some(Duration::ZERO) {
        let problem = "Timeout must be greater than 0";
        return Err(ApiError::validation(problem).at("timeout"));
    }
    Ok(timeout)
}

fn network(network: Option<Network>, is_secured: bool) -> Result<NetworkPolicy, ApiError> {
    let network = network.unwrap_or_default();
    let policy = NetworkDto {
        allow_public_traffic: network.public_traffic,
        mask_request_host: network.mask_request_host,
        egress: EgressDto::of(network.allow_out, network.deny_out),
    };
    policy.into_policy(network.internet_access, is_secured)
}

fn on_timeout(rule: EnumValue<OnTimeout>) -> Result<Rule, ApiError> {
    match rule {
        EnumValue::Known(OnTimeout::Unspecified | OnTimeout::Kill) => Ok(Rule::Kill),
        EnumValue::Known(OnTimeout::Pause) => Ok(Rule::Pause { keep_memory: true }),
        EnumValue::Known(OnTimeout::PauseFilesOnly) => Ok(Rule::Pause { keep_memory: false }),
        EnumValue::Unknown(number) => Err(field::unknown("on_timeout", number)),
    }
}

pub(super) async fn get(
    api: &Api,
    tenant: &Tenant,
    request: GetSandboxRequest,
) -> Result<GetSandboxResponse, ApiError> {
    let id = field::sandbox_id(&request.sandbox_id)?;
    let view = api.control().sandbox_get(tenant, &id).await?;
    Ok(GetSandboxResponse {
        access: access(api, &view).into(),
        sandbox: message::sandbox(view.sandbox).into(),
        ..GetSandboxResponse::default()
    })
}

pub(super) async fn list(
    api: &Api,
    tenant: &Tenant,
    request: ListSandboxesRequest,
) -> Result<ListSandboxesResponse, ApiError> {
    let query = list_query(request)?;
    let page = api.control().sandbox_list(tenant, &query).await?;
    let rows = page.items.into_iter();
    Ok(ListSandboxesResponse {
        sandboxes: rows.map(|view| message::sandbox(view.sandbox)).collect(),
        next_page_token: page
            .next
            .map_or_else(String::new, |cursor| encode_cursor(&cursor)),
        total_running: page.total_running,
        ..ListSandboxesResponse::default()
    })
}

fn list_query(request: ListSandboxesRequest) -> Result<ListQuery, ApiError> {
    let mut problems = Problems::default();
    let limit = match request.page_size {
        0 => LIST_LIMIT_MAX,
        size if size <= LIST_LIMIT_MAX => size,
        size => {
            let problem = format!("`pageSize` must be at most {LIST_LIMIT_MAX}, not {size}");
            problems.take(Err(ApiError::validation(problem).at("page_size")))
        }
    };
    let cursor = match field::non_empty(request.page_token) {
        None => None,
        Some(token) => problems.take(decode_cursor(&token).map(Some).ok_or_else(|| {
            ApiError::validation("`pageToken` is not one of ours").at("page_token")
        })),
    };
    let mut states: Vec<VisibleState> = Vec::new();
    for state in request.states {
        if let Some(state) = problems.take(visible(state).map(Some))
            && !states.contains(&state)
        {
            states.push(state);
        }
    }
    let order = match request.order {
        EnumValue::Known(WireOrder::Unspecified | WireOrder::NewestFirst) => Order::Descending,
        EnumValue::Known(WireOrder::OldestFirst) => Order::Ascending,
        EnumValue::Unknown(number) => {
            problems.take::<()>(Err(field::unknown("order", number)));
            Order::Descending
        }
    };
    let after = field::timestamp("started_after", request.started_after.into_option());
    let started_after = problems.take(after);
    problems.finish()?;
    Ok(ListQuery {
        states,
        metadata: field::ordered(request.metadata),
        template: field::non_empty(request.template),
        order,
        started_after,
        cursor,
        limit,
    })
}

/// The state to list for a state that is asked for.
fn visible(state: EnumValue<SandboxState>) -> Result<VisibleState, ApiError> {
    match state {
        EnumValue::Known(SandboxState::Running) => Ok(VisibleState::Running),
        EnumValue::Known(SandboxState::Pausing | SandboxState::Paused | SandboxState::Resuming) => {
            Ok(VisibleState::Paused)
        }
        EnumValue::Known(
            SandboxState::Unspecified
            | SandboxState::Pending
            | SandboxState::Creating
            | SandboxState::Stopping
            | SandboxState::Stopped
            | SandboxState::Error,
        ) => Err(ApiError::validation("only running and paused sandboxes are listed").at("states")),
        EnumValue::Unknown(number) => Err(field::unknown("states", number)),
    }
}

pub(super) async fn delete(
    api: &Api,
    tenant: &Tenant,
    request: DeleteSandboxRequest,
) -> Result<DeleteSandboxResponse, ApiError> {
    let id = field::sandbox_id(&request.sandbox_id)?;
    api.control().sandbox_kill(tenant, &id).await?;
    Ok(DeleteSandboxResponse::default())
}

pub(super) async fn restart(
    api: &Api,
    tenant: &Tenant,
    request: RestartSandboxRequest,
) -> Result<RestartSandboxResponse, ApiError> {
    let id = field::sandbox_id(&request.sandbox_id)?;
    let view = api.control().sandbox_restart(tenant, &id).await?;
    Ok(RestartSandboxResponse {
        access: access(api, &view).into(),
        sandbox: message::sandbox(view.sandbox).into(),
        ..RestartSandboxResponse::default()
    })
}

pub(super) async fn pause(
    api: &Api,
    tenant: &Tenant,
    request: PauseSandboxRequest,
) -> Result<PauseSandboxResponse, ApiError> {
    let id = field::sandbox_id(&request.sandbox_id)?;
    let keep_memory = !request.files_only;
    let view = api
        .control()
        .sandbox_pause(tenant, &id, keep_memory)
        .await?;
    Ok(PauseSandboxResponse {
        sandbox: message::sandbox(view.sandbox).into(),
        ..PauseSandboxResponse::default()
    })
}

pub(super) async fn resume(
    api: &Api,
    tenant: &Tenant,
    request: ResumeSandboxRequest,
) -> Result<ResumeSandboxResponse, ApiError> {
    let mut problems = Problems::default();
    let id = problems.take(field::sandbox_id(&request.sandbox_id).map(Some));
    let timeout = problems.take(timeout(request.timeout.into_option()));
    problems.finish()?;
    let id = id.ok_or_else(|| ApiError::validation("Invalid sandbox ID"))?;
    let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT);
    let view = api.control().sandbox_resume(tenant, &id, timeout).await?;
    Ok(ResumeSandboxResponse {
        access: access(api, &view).into(),
        sandbox: message::sandbox(view.sandbox).into(),
        ..ResumeSandboxResponse::default()
    })
}

pub(super) async fn explain(
    api: &Api,
    caller: &Identity,
    request: ExplainSandboxRequest,
) -> Result<ExplainSandboxResponse, ApiError> {
    let id = field::sandbox_id(&request.sandbox_id)?;
    let tenant = caller.names_team.then_some(&caller.tenant);
    let known = api.control().sandbox_explain(tenant, &id).await?;
    let events = |views: Vec<_>| views.into_iter().map(message::event).collect();
    let decisions = known.decisions.into_iter().map(super::decision::decision);
    Ok(ExplainSandboxResponse {
        observed: message::observed(&id, known.observed).into(),
        node_state: known
            .node_health
            .map_or(NodeState::Unspecified, message::node_health)
            .into(),
        plan: known.plan.iter().map(ToString::to_string).collect(),
        in_progress: known.is_driven,
        decisions: decisions.collect(),
        corrections: events(known.corrections),
        errors: events(known.errors),
        history: events(known.history),
        sandbox: message::sandbox(known.sandbox).into(),
        ..ExplainSandboxResponse::default()
    })
}
