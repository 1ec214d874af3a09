//! Whether the API is there.

use atoll_control::view::HealthStatus;
use atoll_core::error::ErrorKind;
use axum::extract::State;
use http::Method;

use super::{Answer, Api, Table, no_content};
use crate::error::ApiError;

pub(super) fn routes(table: Table) -> Table {
    table.add(Method::GET, "/health", health)
}

async fn health(State(api): State<Api>) -> Answer {
    match api.control().health().await.status {
        HealthStatus::Healthy | HealthStatus::Degraded => Ok(no_content()),
        HealthStatus::Unhealthy => Err(ApiError::new(
            ErrorKind::Unavailable,
            "the control plane is unhealthy",
        )),
    }
}
