//! Who is asking.
//!
//! Three ways in: a team's key (`X-API-Key`, or the same key as `Authorization: Bearer`), the
//! operator's token (`X-Admin-Token`) for the admin surface, and that token with `X-Team-ID` for
//! acting as a team. What a key is worth is the control plane's knowledge; only its text passes
//! through here.

use atoll_control::view::{Scope, Tenant};
use atoll_core::error::ErrorKind;
use atoll_core::id::{KeyId, TeamId};
use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use crate::audit::{self, Note};
use crate::error::ApiError;
use crate::limit::MAX_CREDENTIAL_LEN;
use crate::rest::Api;

pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub(crate) const ADMIN_TOKEN: HeaderName = HeaderName::from_static("x-admin-token");
pub(crate) const TEAM_ID: HeaderName = HeaderName::from_static("x-team-id");

/// The key id under which the operator's deeds are recorded.
const ADMIN_KEY: &str = "admin";

/// A caller of the E2B surface.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Tenant);

/// The operator, acting for a team.
#[derive(Debug, Clone)]
pub(crate) struct Operator(pub(crate) Tenant);

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    /// Whatever the route: a key that only reads gets no further with a method that changes.
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let tenant = authenticate(parts, api).await?;
        if tenant.scope == Scope::ReadOnly && !audit::is_safe(&parts.method) {
            return Err(read_only());
        }
        Ok(Self(tenant))
    }
}

/// The refusal of a change by a key that only reads.
pub(crate) fn read_only() -> ApiError {
    ApiError::new(ErrorKind::PermissionDenied, "this API key may only read")
}

/// Who is asking, whatever for.
pub(crate) async fn authenticate(parts: &Parts, api: &Api) -> Result<Tenant, ApiError> {
    let (headers, note) = (&parts.headers, Note::of(&parts.extensions));
    if let Some(key) = presented_key(headers)? {
        let mut tenant = api.control().authenticate(key).await?;
        note.by_key(&mut tenant);
        return Ok(tenant);
    }
    if headers.contains_key(ADMIN_TOKEN) {
        check_admin(headers, api.admin_token())?;
        return match team(headers)? {
            Some(team) => {
                let mut tenant = operator_of(team)?;
                note.by_operator(&mut tenant);
                Ok(tenant)
            }
            None => Err(unauthenticated("X-Admin-Token needs X-Team-ID here")),
        };
    }
    Err(unauthenticated(
        "no API key given: send it in the X-API-Key header",
    ))
}

impl FromRequestParts<Api> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        check_admin(&parts.headers, api.admin_token())?;
        let team = team(&parts.headers)?.unwrap_or_else(|| api.default_team().clone());
        let mut tenant = operator_of(team)?;
        Note::of(&parts.extensions).by_operator(&mut tenant);
        Ok(Self(tenant))
    }
}

/// The key the caller shows, if it shows one.
pub(crate) fn presented_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    Ok(text(headers, &API_KEY)?.or(bearer(headers)?))
}

/// Whoever may read what was counted: shows the operator's token in its own header, or as the
/// bearer token that Prometheus sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scraper;

impl FromRequestParts<Api> for Scraper {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let headers = &parts.headers;
        if text(headers, &ADMIN_TOKEN)?.is_some() {
            check_admin(headers, api.admin_token())?;
            return Ok(Self);
        }
        match bearer(headers)? {
            Some(token) => check_admin_token(token, api.admin_token())?,
            None => {
                return Err(unauthenticated(
                    "no admin token given: send it as `Authorization: Bearer`",
                ));
            }
        }
        Ok(Self)
    }
}

pub(crate) fn operator_of(team: TeamId) -> Result<Tenant, ApiError> {
    let key: KeyId = ADMIN_KEY
        .parse()
        .map_err(|_| ApiError::new(ErrorKind::Internal, "internal error"))?;
    Ok(Tenant {
        team,
        key,
        scope: Scope::Full,
        receipt: None,
    })
}

fn check_admin(headers: &HeaderMap, expected: Option<&SecretString>) -> Result<(), ApiError> {
    let Some(given) = text(headers, &ADMIN_TOKEN)? else {
        return Err(unauthenticated(
            "no admin token given: send it in the X-Admin-Token header",
        ));
    };
    check_admin_token(given, expected)
}

fn check_admin_token(given: &str, expected: Option<&SecretString>) -> Result<(), ApiError> {
    // Digests are compared, so that the time it takes says nothing about the token.
    let matches = expected
        .is_some_and(|expected| Sha256::digest(given) == Sha256::digest(expected.expose_secret()));
    if matches {
        Ok(())
    } else {
        Err(unauthenticated("invalid admin token"))
    }
}

fn team(headers: &HeaderMap) -> Result<Option<TeamId>, ApiError> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|error| ApiError::validation(format_args!("X-Team-ID: {error}")))
    };
    text(headers, &TEAM_ID)?.map(parse).transpose()
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = text(headers, &header::AUTHORIZATION)? else {
        return Ok(None);
    };
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(unauthenticated(
            "the Authorization header must be `Bearer <key>`",
        )),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(text) if text.len() <= MAX_CREDENTIAL_LEN => Ok(Some(text)),
        _ => Err(unauthenticated("malformed credentials")),
    }
}

fn unauthenticated(message: &str) -> ApiError {
    ApiError::new(ErrorKind::Unauthenticated, message)
}
