//! Events: read, followed, and sent to webhooks.
//!
//! `/events/sandboxes` and `/events/webhooks` are E2B's; `/events` and `/events/stream` are ours,
//! for readers that must miss nothing.

use std::convert::Infallible;

use atoll_control::EventStream;
use atoll_control::request::{
    EVENT_LIMIT_MAX, EventSelection, NewWebhook, RecentEvents, StartAt, WebhookChange,
};
use atoll_control::view::{EventPage, EventView, Watched, WebhookView};
use atoll_core::error::ErrorKind;
use atoll_core::event::{Cursor, EventKind};
use atoll_core::id::{NodeId, SandboxId, TeamId, WebhookId};
use axum::extract::State;
use axum::response::IntoResponse as _;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::StreamExt as _;
use http::{HeaderMap, Method, StatusCode};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Answer, Api, SandboxPath, Segment, Table, json};
use crate::auth::{Caller, Operator};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::lifecycle::{self, LifecycleEventDto};
use crate::limit::{
    EVENT_KEEP_ALIVE, EVENT_OFFSET_MAX, EVENT_RECENT_MAX, EVENT_STREAM_TIMEOUT_MAX,
};
use crate::query::Query;
use crate::time;

/// Events of a page where the request does not say.
const DEFAULT_LIMIT: u32 = 100;
/// The same for E2B's listing (E2B wire protocol).
const DEFAULT_RECENT: u32 = 10;

pub(super) fn routes(table: Table) -> Table {
    table
        .add(Method::GET, "/events", list)
        .add(Method::GET, "/events/stream", stream)
        .add(Method::GET, "/events/sandboxes", recent)
        .add(Method::GET, "/events/sandboxes/{sandboxID}", recent_of)
        .add(Method::GET, "/events/webhooks", list_webhooks)
        .add(Method::POST, "/events/webhooks", create_webhook)
        .add(Method::GET, "/events/webhooks/{webhookID}", get_webhook)
        .add(
            Method::PATCH,
            "/events/webhooks/{webhookID}",
            update_webhook,
        )
        .add(
            Method::DELETE,
            "/events/webhooks/{webhookID}",
            remove_webhook,
        )
        .add(Method::GET, "/admin/v1/events", list_all)
        .add(Method::GET, "/admin/v1/events/stream", stream_all)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EventDto {
    cursor: u64,
    kind: &'static str,
    timestamp: String,
    #[serde(rename = "sandboxID", skip_serializing_if = "Option::is_none")]
    sandbox: Option<String>,
    #[serde(rename = "nodeID", skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(rename = "teamID", skip_serializing_if = "Option::is_none")]
    team: Option<String>,
    level: &'static str,
    message: String,
    fields: std::collections::BTreeMap<String, String>,
}

impl From<EventView> for EventDto {
    fn from(event: EventView) -> Self {
        Self {
            cursor: event.cursor.get(),
            kind: event.kind.as_str(),
            timestamp: time::to_rfc3339(event.at),
            sandbox: event.subject.sandbox().map(ToString::to_string),
            node: event.subject.node().map(ToString::to_string),
            team: event.team.as_ref().map(ToString::to_string),
            level: event.level.as_str(),
            message: event.message,
            fields: event.fields,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PageDto {
    events: Vec<EventDto>,
    cursor: u64,
    is_last: bool,
    missed: u64,
}

impl From<EventPage> for PageDto {
    fn from(page: EventPage) -> Self {
        Self {
            events: page.events.into_iter().map(EventDto::from).collect(),
            cursor: page.next.get(),
            is_last: page.is_last,
            missed: page.missed,
        }
    }
}

#[derive(Debug, Serialize)]
struct LaggedDto {
    from: u64,
    to: u64,
    missed: u64,
}

fn kinds(query: &Query) -> Result<Vec<EventKind>, ApiError> {
    query.list("kind").map(lifecycle::kind).collect()
}

/// What is wanted; of a node and of a team only for operators.
fn selection(query: &Query) -> Result<EventSelection, ApiError> {
    let invalid = |error: atoll_core::id::InvalidId| ApiError::validation(error);
    let sandbox = query.get("sandbox").map(SandboxId::parse_client_form);
    let node = query.get("node").map(str::parse::<NodeId>);
    let team = query.get("team").map(str::parse::<TeamId>);
    Ok(EventSelection {
        kinds: kinds(query)?,
        sandbox: sandbox.transpose().map_err(invalid)?,
        node: node.transpose().map_err(invalid)?,
        team: team.transpose().map_err(invalid)?,
    })
}

fn start(query: &Query, default: StartAt) -> Result<StartAt, ApiError> {
    if let Some(cursor) = query.number("cursor", 0, u64::MAX)? {
        return Ok(StartAt::After(Cursor::new(cursor)));
    }
    let words = [("beginning", StartAt::Beginning), ("now", StartAt::Now)];
    Ok(query.word("from", &words)?.unwrap_or(default))
}

fn limit(query: &Query) -> Result<u32, ApiError> {
    let limit = query.number("limit", 1, EVENT_LIMIT_MAX)?;
    Ok(limit.unwrap_or(DEFAULT_LIMIT))
}

async fn list(State(api): State<Api>, Caller(tenant): Caller, query: Query) -> Answer {
    let (wanted, from) = (selection(&query)?, start(&query, StartAt::Beginning)?);
    let limit = limit(&query)?;
    let page = api.control().events_list(&tenant, &wanted, from, limit);
    Ok(json(StatusCode::OK, PageDto::from(page.await?)))
}

async fn list_all(State(api): State<Api>, _: Operator, query: Query) -> Answer {
    let (wanted, from) = (selection(&query)?, start(&query, StartAt::Beginning)?);
    let page = api
        .control()
        .fleet_events_list(&wanted, from, limit(&query)?);
    Ok(json(StatusCode::OK, PageDto::from(page.await?)))
}

/// Where a stream begins: a client that reconnects says what it had last.
fn resume(query: &Query, headers: &HeaderMap) -> Result<StartAt, ApiError> {
    let Some(last) = headers.get("last-event-id") else {
        return start(query, StartAt::Now);
    };
    let cursor = last.to_str().ok().and_then(|text| text.parse().ok());
    let cursor = cursor.ok_or_else(|| ApiError::validation("Last-Event-ID is no cursor"))?;
    Ok(StartAt::After(Cursor::new(cursor)))
}

async fn stream(
    State(api): State<Api>,
    Caller(tenant): Caller,
    headers: HeaderMap,
    query: Query,
) -> Answer {
    let from = resume(&query, &headers)?;
    let wanted = selection(&query)?;
    Ok(follow(api.control().events_watch(&tenant, &wanted, from)?))
}

async fn stream_all(
    State(api): State<Api>,
    _: Operator,
    headers: HeaderMap,
    query: Query,
) -> Answer {
    let from = resume(&query, &headers)?;
    Ok(follow(
        api.control()
            .fleet_events_watch(&selection(&query)?, from)?,
    ))
}

/// Server-sent events. The stream ends where reading fails, and after a while: the client comes
/// again with the id of the last event it had.
fn follow(events: EventStream) -> axum::response::Response {
    let lines = events
        .into_stream()
        .take_until(tokio::time::sleep(EVENT_STREAM_TIMEOUT_MAX))
        .take_while(|item| std::future::ready(item.is_ok()))
        .filter_map(|item| std::future::ready(item.ok()))
        .map(|item| Ok::<_, Infallible>(line(item)));
    Sse::new(lines)
        .keep_alive(KeepAlive::new().interval(EVENT_KEEP_ALIVE))
        .into_response()
}

fn line(item: Watched) -> Event {
    let (line, document) = match item {
        Watched::Event(event) => {
            let line = Event::default()
                .id(event.cursor.to_string())
                .event(event.kind.as_str());
            (line, serde_json::to_string(&EventDto::from(event)))
        }
        Watched::Lagged { from, to, missed } => {
            let (from, to) = (from.get(), to.get());
            let lagged = LaggedDto { from, to, missed };
            let line = Event::default().event("lagged");
            (line, serde_json::to_string(&lagged))
        }
    };
    line.data(document.unwrap_or_default())
}

async fn recent(State(api): State<Api>, Caller(tenant): Caller, query: Query) -> Answer {
    recent_events(&api, &tenant, None, &query).await
}

async fn recent_of(
    State(api): State<Api>,
    Caller(tenant): Caller,
    SandboxPath(id): SandboxPath,
    query: Query,
) -> Answer {
    recent_events(&api, &tenant, Some(id), &query).await
}

async fn recent_events(
    api: &Api,
    tenant: &atoll_control::view::Tenant,
    sandbox: Option<SandboxId>,
    query: &Query,
) -> Answer {
    let kinds: Vec<_> = query
        .list("types")
        .map(lifecycle::kind)
        .collect::<Result<_, _>>()?;
    let orders = [("true", true), ("false", false)];
    let wanted = RecentEvents {
        sandbox,
        kinds: if kinds.is_empty() {
            lifecycle::e2b_kinds()
        } else {
            kinds
        },
        is_ascending: query.word("orderAsc", &orders)?.unwrap_or(false),
        offset: query.number("offset", 0, EVENT_OFFSET_MAX)?.unwrap_or(0),
        limit: query
            .number("limit", 1, EVENT_RECENT_MAX)?
            .unwrap_or(DEFAULT_RECENT),
    };
    let events = api.control().events_recent(tenant, &wanted).await?;
    let events: Vec<_> = events
        .iter()
        .map(|(event, sandbox)| LifecycleEventDto::new(event, sandbox.as_deref()))
        .collect();
    Ok(json(StatusCode::OK, events))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookDto {
    id: String,
    team_id: String,
    name: String,
    url: String,
    enabled: bool,
    events: Vec<&'static str>,
    created_at: String,
    updated_at: String,
    disabled_reason: Option<String>,
    failing_since: Option<String>,
    last_error: Option<String>,
}

impl From<WebhookView> for WebhookDto {
    fn from(hook: WebhookView) -> Self {
        Self {
            id: hook.id.to_string(),
            team_id: hook.team.to_string(),
            name: hook.name,
            url: hook.url,
            enabled: hook.is_enabled,
            events: hook.kinds.into_iter().map(lifecycle::name).collect(),
            created_at: time::to_rfc3339(hook.created_at),
            updated_at: time::to_rfc3339(hook.updated_at),
            disabled_reason: hook.disabled_reason,
            failing_since: hook.failing_since.map(time::to_rfc3339),
            last_error: hook.last_error,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewWebhookDto {
    name: String,
    url: String,
    #[serde(default = "yes")]
    enabled: bool,
    events: Vec<String>,
    signature_secret: SecretText,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WebhookChangeDto {
    name: Option<String>,
    url: Option<String>,
    enabled: Option<bool>,
    events: Option<Vec<String>>,
    signature_secret: Option<SecretText>,
}

/// A secret on its way in; it is never shown.
#[derive(Debug, Deserialize)]
#[serde(from = "String")]
struct SecretText(SecretString);

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(SecretString::from(text))
    }
}

const fn yes() -> bool {
    true
}

fn wanted(names: &[String]) -> Result<Vec<EventKind>, ApiError> {
    let mut kinds = Vec::new();
    for name in names {
        let kind = lifecycle::kind(name)?;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

fn webhook_id(text: &str) -> Result<WebhookId, ApiError> {
    // What is no id cannot be the id of a webhook.
    text.parse()
        .map_err(|_| ApiError::new(ErrorKind::NotFound, "no such webhook"))
}

async fn list_webhooks(State(api): State<Api>, Caller(tenant): Caller) -> Answer {
    let hooks = api.control().webhook_list(&tenant).await?;
    let hooks: Vec<_> = hooks.into_iter().map(WebhookDto::from).collect();
    Ok(json(StatusCode::OK, hooks))
}

async fn create_webhook(
    State(api): State<Api>,
    Caller(tenant): Caller,
    body: JsonBody<NewWebhookDto>,
) -> Answer {
    let new = body.value;
    let new = NewWebhook {
        kinds: wanted(&new.events)?,
        name: new.name,
        url: new.url,
        is_enabled: new.enabled,
        secret: new.signature_secret.0,
    };
    let hook = api.control().webhook_create(&tenant, new).await?;
    Ok(json(StatusCode::CREATED, WebhookDto::from(hook)))
}

async fn get_webhook(
    State(api): State<Api>,
    Caller(tenant): Caller,
    Segment(id): Segment,
) -> Answer {
    let hook = api
        .control()
        .webhook_get(&tenant, &webhook_id(&id)?)
        .await?;
    Ok(json(StatusCode::OK, WebhookDto::from(hook)))
}

async fn update_webhook(
    State(api): State<Api>,
    Caller(tenant): Caller,
    Segment(id): Segment,
    body: JsonBody<WebhookChangeDto>,
) -> Answer {
    let change = body.value;
    let change = WebhookChange {
        name: change.name,
        url: change.url,
        kinds: change.events.as_deref().map(wanted).transpose()?,
        secret: change.signature_secret.map(|text| text.0),
        is_enabled: change.enabled,
    };
    let hook = api
        .control()
        .webhook_update(&tenant, &webhook_id(&id)?, change)
        .await?;
    Ok(json(StatusCode::OK, WebhookDto::from(hook)))
}

async fn remove_webhook(
    State(api): State<Api>,
    Caller(tenant): Caller,
    Segment(id): Segment,
) -> Answer {
    let id = webhook_id(&id)?;
    let hook = api.control().webhook_remove(&tenant, &id).await?;
    Ok(json(StatusCode::OK, WebhookDto::from(hook)))
}
