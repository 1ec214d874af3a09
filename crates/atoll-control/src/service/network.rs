//! Changing what a running sandbox may reach.

use std::time::Duration;

use atoll_core::error::ErrorKind;
use atoll_core::id::SandboxId;
use atoll_core::lifecycle::Announcement;
use atoll_core::network::NetworkPolicy;
use atoll_core::node::CallOutcome;
use atoll_core::sandbox::State;
use atoll_store::store::{Intent, IntentChange};
use tokio::time::timeout;

use super::{ControlPlane, demand_full, unavailable};
use crate::error::{Error, Result};
use crate::events;
use crate::view::Tenant;

/// How long the node may take.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(10);

impl ControlPlane {
    /// Replaces the egress part of the network policy. `public_traffic` and `mask_request_host`
    /// stay as created.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it does not run; `Unavailable` if the node does not answer:
    /// the policy is stored then, and setting it again is safe.
    pub async fn sandbox_update_network(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        policy: NetworkPolicy,
    ) -> Result<()> {
        demand_full(tenant)?;
        let inner = &self.inner;
        let row = inner.visible(tenant, id).await?;
        if row.state != State::Running {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the network of a sandbox can be changed only while it runs",
            ));
        }
        let policy = NetworkPolicy {
            public_traffic: row.config.network.public_traffic,
            mask_request_host: row.config.network.mask_request_host.clone(),
            ..policy
        };
        let claim = tenant.claim().await;
        let now = inner.clock.now();
        let event = events::announce(&row, now, Announcement::Updated);
        let intent = Intent {
            id: id.clone(),
            change: IntentChange::SetNetwork(policy.clone()),
            claimed_by: None,
            at: now,
            events: vec![events::with(event, "changed", "network")],
            audit: claim.as_ref().map(|claim| claim.row(id.as_str(), now)),
        };
        let row = inner
            .store
            .sandbox_intend(intent)
            .await
            .map_err(unavailable)?
            .ok_or_else(|| Error::no_sandbox(id))?;
        if let Some(claim) = claim {
            claim.keep();
        }
        let client = row
            .node
            .as_ref()
            .and_then(|node| inner.registry.client(node));
        let outcome = match client {
            Some(client) => {
                let call = client.update_network(id, row.generation, &policy);
                timeout(UPDATE_TIMEOUT, call).await.unwrap_or_else(|_| {
                    CallOutcome::Unknown("the node did not answer in time".to_owned())
                })
            }
            None => CallOutcome::Unknown("the node has not joined".to_owned()),
        };
        match outcome {
            CallOutcome::Done(()) => Ok(()),
            CallOutcome::Refused(refusal) => Err(Error::new(
                ErrorKind::Conflict,
                "the node did not change the network",
            )
            .with_source(refusal)),
            CallOutcome::Unknown(detail) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("the node did not confirm the change: {detail}"),
            )),
        }
    }
}
