//! `/metrics`: what this process counted, in Prometheus' text format.

use axum::extract::State;
use axum::response::IntoResponse as _;
use http::{Method, header};

use super::{Answer, Api, Table};
use crate::auth::Scraper;
use crate::error::ApiError;

/// Prometheus' text exposition format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn routes(table: Table) -> Table {
    table.add(Method::GET, "/metrics", metrics)
}

async fn metrics(State(api): State<Api>, _: Scraper) -> Answer {
    let Some(render) = api.metrics() else {
        return Err(ApiError::unsupported("counting"));
    };
    api.control().observe();
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], render()).into_response())
}
