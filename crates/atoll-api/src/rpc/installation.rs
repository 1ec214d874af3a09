//! Calls about the installation as a whole: its health and its figures.

use atoll_control::view::HealthStatus;
use atoll_proto::orchestrator::{
    GetHealthRequest, GetHealthResponse, GetSystemMetricsResponse,
    ORCHESTRATOR_SERVICE_SERVICE_NAME,
};
use connectrpc::ConnectError;
use connectrpc_health::{Checker, Status, StatusStream};
use futures::stream;

use super::message;
use crate::error::ApiError;
use crate::limit::HEALTH_WATCH_INTERVAL;
use crate::rest::Api;

pub(super) async fn health(api: &Api, request: &GetHealthRequest) -> GetHealthResponse {
    let health = if request.fresh {
        api.control().health().await
    } else {
        api.control().health_recent().await
    };
    message::health(health)
}

pub(super) fn metrics() -> Result<GetSystemMetricsResponse, ApiError> {
    Err(ApiError::unsupported("reading metrics by RPC"))
}

/// The standard health service: the same answer as `GET /health`.
#[derive(Debug)]
pub(super) struct Health {
    api: Api,
}

impl Health {
    pub(super) const fn new(api: Api) -> Self {
        Self { api }
    }

    async fn status(api: &Api) -> Status {
        match api.control().health_recent().await.status {
            HealthStatus::Healthy | HealthStatus::Degraded => Status::Serving,
            HealthStatus::Unhealthy => Status::NotServing,
        }
    }

    /// The whole process is the empty name.
    fn find(service: &str) -> Result<(), ConnectError> {
        if service.is_empty() || service == ORCHESTRATOR_SERVICE_SERVICE_NAME {
            Ok(())
        } else {
            Err(ConnectError::not_found("there is no such service here"))
        }
    }
}

impl Checker for Health {
    async fn check(&self, service: &str) -> Result<Status, ConnectError> {
        Self::find(service)?;
        Ok(Self::status(&self.api).await)
    }

    /// Tells the status now, then each change of it.
    async fn watch(&self, service: &str) -> Result<StatusStream, ConnectError> {
        Self::find(service)?;
        let start = (self.api.clone(), None);
        let changes = stream::unfold(start, |(api, told): (Api, Option<Status>)| async move {
            loop {
                if told.is_some() {
                    tokio::time::sleep(HEALTH_WATCH_INTERVAL).await;
                }
                let now = Self::status(&api).await;
                if told != Some(now) {
                    return Some((now, (api, Some(now))));
                }
            }
        });
        Ok(StatusStream::new(changes))
    }
}
