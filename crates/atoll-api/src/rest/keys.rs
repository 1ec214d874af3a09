//! API keys of the caller's team.

use atoll_control::ControlPlane;
use atoll_control::view::{Scope, Tenant};
use atoll_core::error::ErrorKind;
use atoll_core::id::KeyId;
use axum::extract::State;
use http::{Method, StatusCode};
use secrecy::ExposeSecret as _;

use super::{Answer, Api, Segment, Table, json, made, no_content};
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::dto::{KeyDto, NewKey};
use crate::error::ApiError;

pub(super) fn routes(table: Table) -> Table {
    table
        .add(Method::GET, "/api-keys", list)
        .add(Method::POST, "/api-keys", create)
        .add(Method::DELETE, "/api-keys/{apiKeyID}", revoke)
}

async fn list(State(api): State<Api>, Caller(tenant): Caller) -> Answer {
    list_of(api.control(), &tenant).await
}

async fn create(State(api): State<Api>, Caller(tenant): Caller, body: JsonBody<NewKey>) -> Answer {
    create_for(api.control(), &tenant, body.value).await
}

async fn revoke(State(api): State<Api>, Caller(tenant): Caller, Segment(id): Segment) -> Answer {
    revoke_of(api.control(), &tenant, &id).await
}

pub(super) async fn list_of(control: &ControlPlane, tenant: &Tenant) -> Answer {
    let keys = control.key_list(tenant).await?;
    let keys: Vec<KeyDto> = keys.into_iter().map(|key| KeyDto::new(key, None)).collect();
    Ok(json(StatusCode::OK, keys))
}

pub(super) async fn create_for(control: &ControlPlane, tenant: &Tenant, new: NewKey) -> Answer {
    let scope = if new.read_only {
        Scope::ReadOnly
    } else {
        Scope::Full
    };
    let created = control.key_create(tenant, &new.name, scope).await?;
    let text = created.text.expose_secret().to_owned();
    let id = created.view.id.clone();
    let document = KeyDto::new(created.view, Some(text));
    Ok(made(StatusCode::CREATED, id.as_str(), document))
}

pub(super) async fn revoke_of(control: &ControlPlane, tenant: &Tenant, id: &str) -> Answer {
    // What is no id cannot be the id of a key.
    let key: KeyId = id
        .parse()
        .map_err(|_| ApiError::new(ErrorKind::NotFound, "no such API key"))?;
    control.key_revoke(tenant, &key).await?;
    Ok(no_content())
}
