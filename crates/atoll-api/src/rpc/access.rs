//! Who may make which call, decided before anything of its message is read.

use atoll_control::view::{Scope, Tenant};
use atoll_core::error::ErrorKind;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use connectrpc::RequestContext;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};

use super::status;
use crate::audit::{self, Note};
use crate::auth::{self, ADMIN_TOKEN, API_KEY, Operator, TEAM_ID, operator_of};
use crate::error::ApiError;
use crate::rest::Api;

const SERVICE: &str = "/atoll.orchestrator.v1.OrchestratorService/";

/// What a call asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Nothing: the description of the service, and whether it is there.
    Open,
    /// To be, or to act for, a team.
    Team,
    /// To be a team or the operator; what it may see differs.
    Either,
    /// To be the operator.
    Operator,
    /// To be a node, or the operator.
    Node,
}

/// A caller that was let in.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// Whom it acts for. An operator who names no team acts for the default one.
    pub(super) tenant: Tenant,
    /// Whether it may see what belongs to no team.
    pub(super) is_operator: bool,
    /// Whether it said for which team it acts, or is one.
    pub(super) names_team: bool,
    /// Where the audit learns what the call is about.
    pub(super) note: Note,
}

/// The caller of a call that is not open.
pub(super) fn identity(ctx: &RequestContext) -> Result<&Identity, ApiError> {
    ctx.extensions()
        .get()
        .ok_or_else(|| ApiError::new(ErrorKind::Internal, "the call was not authorized"))
}

/// Lets a call through with its caller's identity, or refuses it.
pub(super) async fn check(State(api): State<Api>, request: Request, next: Next) -> Response {
    let access = access(request.uri().path());
    let (mut parts, body) = request.into_parts();
    match identify(access, &mut parts, &api).await {
        Ok(None) => {}
        Ok(Some(identity)) => {
            parts.extensions.insert(identity);
        }
        Err(error) => {
            Note::of(&parts.extensions).ended::<()>(&Err(error.clone()));
            return status::refuse(&error, &parts.headers);
        }
    }
    next.run(Request::from_parts(parts, body)).await
}

/// Has every call that changes something recorded. Heartbeats are not: a node sends one every two
/// seconds, and what they change is what the control plane believes, not what anybody has.
pub(super) async fn record(State(api): State<Api>, request: Request, next: Next) -> Response {
    let method = changing(request.uri().path());
    let operation = method.map(|method| format!("rpc {method}"));
    audit::call(api, operation, request, next).await
}

/// The name of a call that changes something.
fn changing(path: &str) -> Option<&str> {
    let method = path.strip_prefix(SERVICE)?;
    matches!(
        method,
        "CreateSandbox"
            | "BatchCreateSandboxes"
            | "DeleteSandbox"
            | "RestartSandbox"
            | "PauseSandbox"
            | "ResumeSandbox"
            | "RegisterNode"
            | "DrainNode"
    )
    .then_some(method)
}

/// What each call asks. One that does not exist asks nothing: its answer says so.
fn access(path: &str) -> Access {
    let Some(method) = path.strip_prefix(SERVICE) else {
        return Access::Open;
    };
    match method {
        "CreateSandbox"
        | "BatchCreateSandboxes"
        | "GetSandbox"
        | "ListSandboxes"
        | "DeleteSandbox"
        | "RestartSandbox"
        | "PauseSandbox"
        | "ResumeSandbox"
        | "WatchSandbox" => Access::Team,
        "WatchEvents" | "ExplainSandbox" | "DryRunSandbox" | "GetResourceUsage" => Access::Either,
        "RegisterNode" | "Heartbeat" => Access::Node,
        "GetNodeStatus" | "ListNodes" | "DrainNode" | "GetSystemMetrics" | "GetHealth" => {
            Access::Operator
        }
        _ => Access::Open,
    }
}

async fn identify(
    access: Access,
    parts: &mut Parts,
    api: &Api,
) -> Result<Option<Identity>, ApiError> {
    let shows_key = shows_key(&parts.headers);
    let is_operator = parts.headers.contains_key(ADMIN_TOKEN) && !shows_key;
    if access == Access::Node && !is_operator && shows_join_token(&parts.headers, api) {
        return Ok(Some(Identity {
            tenant: operator_of(api.default_team().clone())?,
            is_operator: false,
            names_team: false,
            note: Note::of(&parts.extensions),
        }));
    }
    let as_operator = match access {
        Access::Open => return Ok(None),
        Access::Team => false,
        Access::Either => is_operator,
        Access::Operator | Access::Node if is_operator => true,
        Access::Operator | Access::Node if shows_key => {
            // Whoever has no valid key at all learns that first.
            auth::authenticate(parts, api).await?;
            let message = "this call is the operator's: it needs the X-Admin-Token";
            return Err(ApiError::new(ErrorKind::PermissionDenied, message));
        }
        Access::Operator | Access::Node => true,
    };
    let tenant = if as_operator {
        Operator::from_request_parts(parts, api).await?.0
    } else {
        auth::authenticate(parts, api).await?
    };
    if tenant.scope == Scope::ReadOnly && changing(parts.uri.path()).is_some() {
        return Err(auth::read_only());
    }
    Ok(Some(Identity {
        tenant,
        is_operator,
        names_team: !is_operator || parts.headers.contains_key(TEAM_ID),
        note: Note::of(&parts.extensions),
    }))
}

/// Whether a node may come in with what it shows. Where no token is set everybody may.
fn shows_join_token(headers: &HeaderMap, api: &Api) -> bool {
    let shown = headers
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes);
    api.membership().is_some_and(|membership| {
        let token = membership.token.as_ref();
        token.is_none_or(|token| token.is_shown_by(shown))
    })
}

fn shows_key(headers: &HeaderMap) -> bool {
    headers.contains_key(API_KEY) || headers.contains_key(header::AUTHORIZATION)
}
