//! Pausing, resuming, connecting and restarting.

use atoll_control::view::{Connected, Tenant};
use atoll_core::id::SandboxId;
use axum::extract::State;
use http::{Method, StatusCode};

use super::sandboxes::positive_timeout;
use super::{Answer, Api, SandboxPath, Table, json, no_content};
use crate::auth::Caller;
use crate::body::{JsonBody, OptionalJsonBody};
use crate::dto::{PauseDto, ResumeDto, SandboxDto};
use crate::error::ApiError;
use crate::limit::{DEFAULT_TIMEOUT_V1_SECONDS, DEFAULT_TIMEOUT_V2_SECONDS};

pub(super) fn routes(table: Table) -> Table {
    table
        .add(Method::POST, "/sandboxes/{sandboxID}/pause", pause)
        .add(Method::POST, "/sandboxes/{sandboxID}/resume", resume)
        .add(Method::POST, "/sandboxes/{sandboxID}/restart", restart)
        .add(Method::POST, "/sandboxes/{sandboxID}/connect", connect_v1)
        .add(
            Method::POST,
            "/v2/sandboxes/{sandboxID}/connect",
            connect_v2,
        )
}

async fn pause(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
    OptionalJsonBody(body): OptionalJsonBody<PauseDto>,
) -> Answer {
    if body.require_healthy_guest == Some(true) {
        return Err(ApiError::unsupported(
            "checking the guest before a pause (`requireHealthyGuest`)",
        ));
    }
    let keep_memory = body.memory.unwrap_or(true);
    api.control()
        .sandbox_pause(&tenant, &id, keep_memory)
        .await?;
    Ok(no_content())
}

async fn resume(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
    OptionalJsonBody(body): OptionalJsonBody<ResumeDto>,
) -> Answer {
    check_memory(&body)?;
    let seconds = body.timeout.unwrap_or(DEFAULT_TIMEOUT_V1_SECONDS);
    let timeout = positive_timeout(seconds)?;
    let view = api.control().sandbox_resume(&tenant, &id, timeout).await?;
    let document = SandboxDto::new(view, api.sandbox_domain());
    Ok(json(StatusCode::CREATED, document))
}

async fn restart(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
) -> Answer {
    let view = api.control().sandbox_restart(&tenant, &id).await?;
    let document = SandboxDto::new(view, api.sandbox_domain());
    Ok(json(StatusCode::OK, document))
}

async fn connect_v1(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
    JsonBody { value: body, .. }: JsonBody<ResumeDto>,
) -> Answer {
    check_memory(&body)?;
    let Some(seconds) = body.timeout else {
        return Err(ApiError::validation("missing field `timeout`"));
    };
    connect(&api, &tenant, &id, seconds).await
}

async fn connect_v2(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
    OptionalJsonBody(body): OptionalJsonBody<ResumeDto>,
) -> Answer {
    check_memory(&body)?;
    let seconds = body.timeout.unwrap_or(DEFAULT_TIMEOUT_V2_SECONDS);
    connect(&api, &tenant, &id, seconds).await
}

async fn connect(api: &Api, tenant: &Tenant, id: &SandboxId, seconds: i64) -> Answer {
    let timeout = positive_timeout(seconds)?;
    let (view, connected) = api.control().sandbox_connect(tenant, id, timeout).await?;
    let status = match connected {
        Connected::WasRunning => StatusCode::OK,
        Connected::Resumed => StatusCode::CREATED,
    };
    Ok(json(status, SandboxDto::new(view, api.sandbox_domain())))
}

/// What is paused with its memory resumes with it: to drop it at the resume would end processes
/// that their owner asked to keep.
fn check_memory(body: &ResumeDto) -> Result<(), ApiError> {
    match body.memory {
        Some(false) => Err(ApiError::unsupported(
            "dropping the memory at a resume (`memory` false); pause without it instead",
        )),
        Some(true) | None => Ok(()),
    }
}
