//! Where a sandbox would go.

use atoll_control::DryRun;
use atoll_control::view::Tenant;
use atoll_proto::orchestrator::{DryRunSandboxRequest, DryRunSandboxResponse, SchedulingDecision};

use super::decision::with_record;
use super::sandboxes::create_request;
use crate::error::ApiError;
use crate::rest::Api;

pub(super) async fn dry_run(
    api: &Api,
    tenant: &Tenant,
    request: DryRunSandboxRequest,
) -> Result<DryRunSandboxResponse, ApiError> {
    let wanted = request.sandbox.into_option().unwrap_or_default();
    let wanted = create_request(wanted).map_err(|error| error.within("sandbox"))?;
    let asked = DryRun {
        template: wanted.template,
        resources: None,
        metadata: wanted.metadata,
        scheduling: wanted.scheduling,
    };
    let ran = api.control().sandbox_dry_run(tenant, asked).await?;
    let (score, reason) = match &ran.found {
        Ok(decision) => (decision.score.total(), decision.reason().to_string()),
        Err(refusal) => (0, refusal.to_string()),
    };
    let alternatives = ran.record.alternatives.iter();
    let told = SchedulingDecision {
        score,
        reason,
        alternatives: alternatives.map(|other| other.node.to_string()).collect(),
        ..SchedulingDecision::default()
    };
    let decision = SchedulingDecision {
        seed: 0,
        generation: 0,
        ..with_record(told, &ran.record)
    };
    Ok(DryRunSandboxResponse {
        decision: decision.into(),
        ..DryRunSandboxResponse::default()
    })
}
