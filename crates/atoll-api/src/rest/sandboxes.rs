//! Making, reading, changing and ending single sandboxes.

use std::time::Duration;

use atoll_control::request::CreateRequest;
use atoll_control::view::Tenant;
use atoll_core::sandbox::OnTimeout;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Answer, Api, SandboxPath, Table, json, made, no_content};
use crate::auth::Caller;
use crate::body::{JsonBody, OptionalJsonBody};
use crate::check;
use crate::dto::{NewSandbox, RefreshDto, SandboxDetailDto, SandboxDto, TimeoutDto};
use crate::error::ApiError;
use crate::limit::{
    DEFAULT_TIMEOUT_V1_SECONDS, DEFAULT_TIMEOUT_V2_SECONDS, MAX_REFRESH_SECONDS, MAX_WIRE_SECONDS,
    MIN_REFRESH_SECONDS,
};
use crate::network::NetworkUpdateDto;
use crate::scheduling;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

pub(super) fn routes(table: Table) -> Table {
    table
        .add(Method::POST, "/sandboxes", create_v1)
        .add(Method::POST, "/v2/sandboxes", create_v2)
        .add(Method::GET, "/sandboxes/{sandboxID}", get)
        .add(Method::DELETE, "/sandboxes/{sandboxID}", kill)
        .add(Method::POST, "/sandboxes/{sandboxID}/timeout", set_timeout)
        .add(Method::POST, "/sandboxes/{sandboxID}/refreshes", refresh)
        .add(
            Method::PUT,
            "/sandboxes/{sandboxID}/network",
            update_network,
        )
}

/// What the two versions of create do differently.
#[derive(Clone, Copy)]
enum Version {
    /// Secured if asked for.
    V1,
    /// Always secured, and with a longer default timeout.
    V2,
}

async fn create_v1(
    State(api): State<Api>,
    Caller(tenant): Caller,
    headers: HeaderMap,
    body: JsonBody<NewSandbox>,
) -> Answer {
    create(&api, &tenant, &headers, body, Version::V1).await
}

async fn create_v2(
    State(api): State<Api>,
    Caller(tenant): Caller,
    headers: HeaderMap,
    body: JsonBody<NewSandbox>,
) -> Answer {
    create(&api, &tenant, &headers, body, Version::V2).await
}

async fn create(
    api: &Api,
    tenant: &Tenant,
    headers: &HeaderMap,
    body: JsonBody<NewSandbox>,
    version: Version,
) -> Answer {
    let idempotency_key = idempotency_key(headers)?;
    let header = scheduling::header(headers)?;
    // Only a key asks whether two requests are the same.
    let fingerprint = idempotency_key.as_ref().map_or_else(String::new, |_| {
        fingerprint(&body, version, header.as_ref())
    });
    let mut request = create_request(body.value, version, idempotency_key, fingerprint)?;
    if let Some(said) = header {
        if request.scheduling.is_some() {
            return Err(scheduling::twice());
        }
        request.scheduling = Some(scheduling::of_request(said)?);
    }
    let view = api.control().sandbox_create(tenant, request).await?;
    let id = view.sandbox.id.clone();
    let document = SandboxDto::new(view, api.sandbox_domain());
    Ok(made(StatusCode::CREATED, id.as_str(), document))
}

fn create_request(
    new: NewSandbox,
    version: Version,
    idempotency_key: Option<String>,
    fingerprint: String,
) -> Result<CreateRequest, ApiError> {
    let (is_secured, default_timeout) = match version {
        Version::V1 => (new.secure.unwrap_or(false), DEFAULT_TIMEOUT_V1_SECONDS),
        Version::V2 => (true, DEFAULT_TIMEOUT_V2_SECONDS),
    };
    check::template(&new.template_id)?;
    if new
        .volume_mounts
        .as_ref()
        .is_some_and(|mounts| !mounts.is_empty())
    {
        return Err(ApiError::unsupported("mounting volumes"));
    }
    if new
        .iam
        .and_then(|iam| iam.tokens)
        .is_some_and(|tokens| !tokens.is_empty())
    {
        return Err(ApiError::unsupported("workload identity (`iam`)"));
    }
    let metadata = new.metadata.unwrap_or_default();
    let env = new.env_vars.unwrap_or_default();
    check::metadata(&metadata)?;
    check::env(&env)?;
    let auto_resume = new.auto_resume.is_some_and(|resume| resume.enabled);
    let on_timeout = on_timeout(
        new.auto_pause.unwrap_or(false),
        new.auto_pause_memory.unwrap_or(true),
        auto_resume,
    )?;
    let network = new
        .network
        .unwrap_or_default()
        .into_policy(new.allow_internet_access, is_secured)?;
    let scheduling = new.scheduling.map(scheduling::of_request).transpose()?;
    Ok(CreateRequest {
        scheduling,
        template: new.template_id,
        timeout: positive_timeout(new.timeout.unwrap_or(default_timeout))?,
        metadata,
        env,
        network,
        is_secured,
        on_timeout,
        auto_resume,
        idempotency_key,
        fingerprint,
    })
}

fn on_timeout(pause: bool, keep_memory: bool, resume: bool) -> Result<OnTimeout, ApiError> {
    match (pause, keep_memory) {
        (false, false) => Err(ApiError::validation(
            "`autoPauseMemory` can only be false where `autoPause` is true",
        )),
        (false, true) => Ok(OnTimeout::Kill),
        (true, false) if resume => Err(ApiError::validation(
            "`autoPauseMemory` false cannot be combined with `autoResume`: without its memory a \
             sandbox has to be resumed explicitly",
        )),
        (true, keep_memory) => Ok(OnTimeout::Pause { keep_memory }),
    }
}

/// A timeout of more than zero seconds that the wire can express.
pub(super) fn positive_timeout(seconds: i64) -> Result<Duration, ApiError> {
    if seconds <= 0 {
        return Err(ApiError::validation(format_args!(
            "Timeout must be greater than 0, not {seconds}"
        )));
    }
    wire_seconds("timeout", seconds)
}

fn wire_seconds(name: &str, seconds: i64) -> Result<Duration, ApiError> {
    match u64::try_from(seconds) {
        Ok(whole) if seconds <= MAX_WIRE_SECONDS => Ok(Duration::from_secs(whole)),
        _ => Err(ApiError::validation(format_args!(
            "`{name}` must be from 0 to {MAX_WIRE_SECONDS} seconds, not {seconds}"
        ))),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default();
    check::idempotency_key(key)?;
    Ok(Some(key.to_owned()))
}

/// A digest of what was asked for, whatever the order and spacing of the document.
fn fingerprint(body: &JsonBody<NewSandbox>, version: Version, policy: Option<&Value>) -> String {
    let mut digest = Sha256::new();
    digest.update(match version {
        Version::V1 => b"v1\0",
        Version::V2 => b"v2\0",
    });
    // Objects are kept sorted by name, so this is canonical.
    let document: Result<serde_json::Value, _> = serde_json::from_slice(&body.bytes);
    match document {
        Ok(document) => digest.update(document.to_string()),
        Err(_) => digest.update(&body.bytes),
    }
    if let Some(policy) = policy {
        digest.update(b"\0scheduling\0");
        digest.update(policy.to_string());
    }
    hex::encode(digest.finalize())
}

async fn get(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
) -> Answer {
    let view = api.control().sandbox_get(&tenant, &id).await?;
    let document = SandboxDetailDto::new(view, api.sandbox_domain());
    Ok(json(StatusCode::OK, document))
}

async fn kill(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
) -> Answer {
    api.control().sandbox_kill(&tenant, &id).await?;
    Ok(no_content())
}

async fn set_timeout(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
    body: JsonBody<TimeoutDto>,
) -> Answer {
    let Some(seconds) = body.value.timeout else {
        return Err(ApiError::validation("missing field `timeout`"));
    };
    let timeout = wire_seconds("timeout", seconds)?;
    api.control()
        .sandbox_set_timeout(&tenant, &id, timeout)
        .await?;
    Ok(no_content())
}

async fn refresh(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
    OptionalJsonBody(body): OptionalJsonBody<RefreshDto>,
) -> Answer {
    let seconds = body.duration.unwrap_or(MIN_REFRESH_SECONDS);
    if !(0..=MAX_REFRESH_SECONDS).contains(&seconds) {
        return Err(ApiError::validation(format_args!(
            "`duration` must be from 0 to {MAX_REFRESH_SECONDS} seconds, not {seconds}"
        )));
    }
    let duration = wire_seconds("duration", seconds.max(MIN_REFRESH_SECONDS))?;
    api.control()
        .sandbox_refresh(&tenant, &id, duration)
        .await?;
    Ok(no_content())
}

async fn update_network(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
    body: JsonBody<NetworkUpdateDto>,
) -> Result<Response, ApiError> {
    let policy = body.value.into_policy()?;
    api.control()
        .sandbox_update_network(&tenant, &id, policy)
        .await?;
    Ok(no_content())
}
