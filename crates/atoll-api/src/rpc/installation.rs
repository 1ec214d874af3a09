//! Calls about the installation as a whole: its health and its figures.

use atoll_control::clock::SystemClock;
use atoll_control::view::HealthStatus;
use atoll_core::time::Clock as _;
use atoll_proto::orchestrator::{
    GetHealthRequest, GetHealthResponse, GetSystemMetricsRequest, GetSystemMetricsResponse, Metric,
    ORCHESTRATOR_SERVICE_SERVICE_NAME,
};
use connectrpc::ConnectError;
use connectrpc_health::{Checker, Status, StatusStream};
use futures::stream;

use super::exposition::{self, Sample};
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

/// The figures of `/metrics`.
pub(super) fn metrics(
    api: &Api,
    request: &GetSystemMetricsRequest,
) -> Result<GetSystemMetricsResponse, ApiError> {
    let Some(render) = api.metrics() else {
        return Err(ApiError::unsupported("counting"));
    };
    api.control().observe();
    let text = render();
    let samples = exposition::samples(&text);
    let wanted = samples.filter(|sample| sample.name.starts_with(&request.name_prefix));
    let metric = |sample: Sample| Metric {
        name: sample.name,
        labels: sample.labels.into_iter().collect(),
        value: sample.value,
        ..Metric::default()
    };
    Ok(GetSystemMetricsResponse {
        metrics: wanted.map(metric).collect(),
        at: message::time(SystemClock.now()).into(),
        ..GetSystemMetricsResponse::default()
    })
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
