//! Templates as their team sees them.

use atoll_control::request::LIST_LIMIT_MAX;
use atoll_control::view::{TemplateView, Tenant};
use atoll_core::error::ErrorKind;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, Method, StatusCode};

use super::{Answer, Api, NEXT_TOKEN, Segment, Table, json, no_content};
use crate::auth::Caller;
use crate::dto::{AliasDto, TemplateDto, TemplateWithBuildsDto};
use crate::error::ApiError;
use crate::limit::MAX_TEMPLATE_REFERENCE_LEN;
use crate::query::{Query, shorten};

/// The tag a reference without one means.
const DEFAULT_TAG: &str = "default";

pub(super) fn routes(table: Table) -> Table {
    table
        .add(Method::GET, "/templates", list_v1)
        .add(Method::GET, "/v2/templates", list_v2)
        .add(Method::GET, "/templates/{templateID}", get)
        .add(Method::DELETE, "/templates/{templateID}", remove)
        .add(Method::GET, "/templates/aliases/{alias}", get_alias)
}

async fn list_v1(State(api): State<Api>, Caller(tenant): Caller, query: Query) -> Answer {
    check_team(&tenant, &query)?;
    let templates = api.control().template_list(&tenant).await?;
    let rows: Vec<TemplateDto> = templates.into_iter().map(TemplateDto::from).collect();
    Ok(json(StatusCode::OK, rows))
}

async fn list_v2(State(api): State<Api>, Caller(tenant): Caller, query: Query) -> Answer {
    check_team(&tenant, &query)?;
    let limit = query
        .number("limit", 1, LIST_LIMIT_MAX)?
        .unwrap_or(LIST_LIMIT_MAX);
    let after = query.get("nextToken").map(decode_cursor).transpose()?;
    let mut templates = api.control().template_list(&tenant).await?;
    // By id, so that a name that changes between two pages moves nothing.
    templates.sort_by(|a, b| a.template.id.cmp(&b.template.id));
    templates.retain(|view| {
        after
            .as_ref()
            .is_none_or(|after| view.template.id.as_str() > after.as_str())
    });
    let page_len = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = templates.len() > page_len;
    templates.truncate(page_len);
    let next = templates.last().filter(|_| has_more).map(encode_cursor);
    let rows: Vec<TemplateDto> = templates.into_iter().map(TemplateDto::from).collect();
    let mut response = json(StatusCode::OK, rows);
    if let Some(Ok(token)) = next.map(|next| HeaderValue::from_str(&next)) {
        response.headers_mut().insert(NEXT_TOKEN, token);
    }
    Ok(response)
}

fn encode_cursor(view: &TemplateView) -> String {
    URL_SAFE_NO_PAD.encode(view.template.id.as_str())
}

fn decode_cursor(text: &str) -> Result<String, ApiError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| ApiError::validation("parameter `nextToken` is not one of ours"))
}

/// A key speaks for one team only; asking for another's templates is refused, not ignored.
fn check_team(tenant: &Tenant, query: &Query) -> Result<(), ApiError> {
    match query.get("teamID") {
        Some(team) if team != tenant.team.as_str() => Err(ApiError::new(
            ErrorKind::PermissionDenied,
            "the API key does not belong to the team in `teamID`",
        )),
        _ => Ok(()),
    }
}

async fn get(
    State(api): State<Api>,
    Caller(tenant): Caller,
    Segment(reference): Segment,
) -> Answer {
    check_reference(&reference)?;
    let view = api.control().template_get(&tenant, &reference).await?;
    Ok(json(StatusCode::OK, TemplateWithBuildsDto::from(view)))
}

async fn remove(
    State(api): State<Api>,
    Caller(tenant): Caller,
    Segment(reference): Segment,
) -> Answer {
    check_reference(&reference)?;
    api.control().template_remove(&tenant, &reference).await?;
    Ok(no_content())
}

async fn get_alias(
    State(api): State<Api>,
    Caller(tenant): Caller,
    Segment(alias): Segment,
) -> Answer {
    check_reference(&alias)?;
    let (name, tag) = alias.split_once(':').unwrap_or((&alias, DEFAULT_TAG));
    let view = api.control().template_get(&tenant, name).await?;
    // Builds are not tagged yet: there is the default one.
    if tag != DEFAULT_TAG {
        return Err(ApiError::new(
            ErrorKind::NotFound,
            format!("template `{}` has no tag `{}`", shorten(name), shorten(tag)),
        ));
    }
    let document = AliasDto {
        template_id: view.template.id.to_string(),
        public: view.template.is_public,
    };
    Ok(json(StatusCode::OK, document))
}

pub(super) fn check_reference(reference: &str) -> Result<(), ApiError> {
    if reference.is_empty()
        || reference.len() > MAX_TEMPLATE_REFERENCE_LEN
        || reference.contains(char::is_control)
    {
        return Err(ApiError::validation(format_args!(
            "`{}` is not a template id or name",
            shorten(reference)
        )));
    }
    Ok(())
}
