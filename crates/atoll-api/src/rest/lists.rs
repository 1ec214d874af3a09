//! Listings of sandboxes.

use atoll_control::request::{LIST_LIMIT_MAX, ListQuery, Order, VisibleState};
use axum::extract::State;
use http::{HeaderValue, Method, StatusCode};

use super::{Answer, Api, NEXT_TOKEN, TOTAL_RUNNING, Table, json};
use crate::auth::Caller;
use crate::dto::ListedSandboxDto;
use crate::limit::MAX_UNPAGED_PAGES;
use crate::query::{Query, encode_cursor};

pub(super) fn routes(table: Table) -> Table {
    table
        .add(Method::GET, "/sandboxes", list_v1)
        .add(Method::GET, "/v2/sandboxes", list_v2)
}

/// All that run, newest first, without pages.
async fn list_v1(State(api): State<Api>, Caller(tenant): Caller, query: Query) -> Answer {
    let mut wanted = ListQuery {
        states: vec![VisibleState::Running],
        metadata: query.metadata()?,
        template: None,
        order: Order::Descending,
        started_after: None,
        cursor: None,
        limit: LIST_LIMIT_MAX,
    };
    let mut rows: Vec<ListedSandboxDto> = Vec::new();
    for _ in 0..MAX_UNPAGED_PAGES {
        let page = api.control().sandbox_list(&tenant, &wanted).await?;
        rows.extend(page.items.into_iter().map(ListedSandboxDto::from));
        wanted.cursor = page.next;
        if wanted.cursor.is_none() {
            break;
        }
    }
    Ok(json(StatusCode::OK, rows))
}

async fn list_v2(State(api): State<Api>, Caller(tenant): Caller, query: Query) -> Answer {
    let states = query.states()?;
    let orders = [("asc", Order::Ascending), ("desc", Order::Descending)];
    let wanted = ListQuery {
        metadata: query.metadata()?,
        template: query.get("template").map(str::to_owned),
        order: query.word("order", &orders)?.unwrap_or(Order::Descending),
        started_after: query.time("startedAfter")?,
        cursor: query.cursor()?,
        limit: query
            .number("limit", 1, LIST_LIMIT_MAX)?
            .unwrap_or(LIST_LIMIT_MAX),
        states,
    };
    let page = api.control().sandbox_list(&tenant, &wanted).await?;
    let rows: Vec<ListedSandboxDto> = page.items.into_iter().map(ListedSandboxDto::from).collect();
    let mut response = json(StatusCode::OK, rows);
    let headers = response.headers_mut();
    if let Some(next) = &page.next
        && let Ok(token) = HeaderValue::from_str(&encode_cursor(next))
    {
        headers.insert(NEXT_TOKEN, token);
    }
    if wanted.states.is_empty() || wanted.states.contains(&VisibleState::Running) {
        headers.insert(TOTAL_RUNNING, HeaderValue::from(page.total_running));
    }
    Ok(response)
}
