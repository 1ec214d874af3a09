//! Checks the health of everything now and then, so that it is known when nobody asked.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::service::Inner;
use crate::view::{Health, HealthStatus};

/// How often there is a check.
const INTERVAL: Duration = Duration::from_secs(30);

pub(super) async fn run(inner: &Arc<Inner>, cancel: &CancellationToken) {
    let mut before = HealthStatus::Healthy;
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let health = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            health = inner.check_health() => health,
        };
        if health.status != before {
            tell(&health);
            before = health.status;
        }
    }
}

fn tell(health: &Health) {
    let ailing: Vec<_> = health
        .components
        .iter()
        .filter(|part| part.status != HealthStatus::Healthy)
        .map(|part| format!("{}: {}", part.name, part.detail))
        .collect();
    let parts = ailing.join("; ");
    match health.status {
        HealthStatus::Healthy => tracing::info!("everything is healthy again"),
        HealthStatus::Degraded => tracing::warn!(parts, "the installation is degraded"),
        // No error: that would be a defect of ours, and this is what our surroundings do.
        HealthStatus::Unhealthy => tracing::warn!(parts, "the installation is unhealthy"),
    }
}
