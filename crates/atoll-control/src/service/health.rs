//! How well the control plane and what it depends on do.

use std::time::Duration;

use atoll_core::reconcile::NodeHealth;
use tokio::time::timeout;

use super::ControlPlane;
use crate::view::{ComponentHealth, Health, HealthStatus};

/// How long the store may take to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

impl ControlPlane {
    /// How well the control plane and what it depends on do.
    pub async fn health(&self) -> Health {
        let mut components = vec![self.store_health().await];
        let nodes = self.inner.registry.health();
        for (id, health) in &nodes {
            let (status, detail) = match health {
                NodeHealth::Ready => (HealthStatus::Healthy, ""),
                NodeHealth::Suspect => (HealthStatus::Degraded, "does not answer"),
                NodeHealth::Lost => (HealthStatus::Unhealthy, "is lost"),
            };
            components.push(ComponentHealth {
                name: format!("node {id}"),
                status,
                detail: detail.to_owned(),
            });
        }
        let store = components
            .first()
            .map_or(HealthStatus::Unhealthy, |store| store.status);
        let fleet = if nodes.values().all(|health| *health == NodeHealth::Ready) {
            HealthStatus::Healthy
        } else if nodes.values().any(|health| *health == NodeHealth::Ready) {
            HealthStatus::Degraded
        } else {
            HealthStatus::Unhealthy
        };
        Health {
            status: store.max(fleet),
            components,
        }
    }

    async fn store_health(&self) -> ComponentHealth {
        let (status, detail) = match timeout(STORE_TIMEOUT, self.inner.store.ping()).await {
            Ok(Ok(())) => (HealthStatus::Healthy, String::new()),
            Ok(Err(error)) => (HealthStatus::Unhealthy, error.to_string()),
            Err(_) => (
                HealthStatus::Unhealthy,
                "does not answer in time".to_owned(),
            ),
        };
        ComponentHealth {
            name: "store".to_owned(),
            status,
            detail,
        }
    }
}
