//! Whether the API is there, whether it can make sandboxes, and how each part does.

use atoll_control::view::{ComponentHealth, HealthStatus};
use atoll_core::error::ErrorKind;
use axum::extract::State;
use http::{Method, StatusCode};
use serde::Serialize;

use super::{Answer, Api, Table, json, no_content};
use crate::auth::Operator;
use crate::error::ApiError;
use crate::time;

pub(super) fn routes(table: Table) -> Table {
    table
        .add(Method::GET, "/health", health)
        .add(Method::GET, "/health/ready", ready)
        .add(Method::GET, "/admin/v1/health", detail)
}

/// For load balancers: a degraded installation still serves.
async fn health(State(api): State<Api>) -> Answer {
    match api.control().health_recent().await.status {
        HealthStatus::Healthy | HealthStatus::Degraded => Ok(no_content()),
        HealthStatus::Unhealthy => Err(ApiError::new(
            ErrorKind::Unavailable,
            "the control plane is unhealthy",
        )),
    }
}

/// For who waits for a start: whether a sandbox can be made now.
async fn ready(State(api): State<Api>) -> Answer {
    match api.control().unready().await {
        None => Ok(no_content()),
        Some(why) => Err(ApiError::new(ErrorKind::Unavailable, why)),
    }
}

#[derive(Debug, Serialize)]
struct HealthDto {
    status: &'static str,
    components: Vec<ComponentDto>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ComponentDto {
    name: String,
    status: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_success_at: Option<String>,
}

impl From<ComponentHealth> for ComponentDto {
    fn from(part: ComponentHealth) -> Self {
        Self {
            name: part.name,
            status: word(part.status),
            detail: part.detail,
            latency_seconds: part.latency.map(|latency| latency.as_secs_f64()),
            last_success_at: part.last_success.map(time::to_rfc3339),
        }
    }
}

const fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Healthy => "healthy",
        HealthStatus::Degraded => "degraded",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

/// Checks everything now.
async fn detail(State(api): State<Api>, _: Operator) -> Answer {
    let health = api.control().health().await;
    let document = HealthDto {
        status: word(health.status),
        components: health
            .components
            .into_iter()
            .map(ComponentDto::from)
            .collect(),
    };
    Ok(json(StatusCode::OK, document))
}
