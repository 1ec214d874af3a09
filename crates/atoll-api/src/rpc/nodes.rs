//! Calls about nodes and what they have, as use cases.

use atoll_control::view::NodeView;
use atoll_core::error::ErrorKind;
use atoll_core::heartbeat::MachineUsage;
use atoll_core::id::{NodeId, TeamId};
use atoll_proto::orchestrator::{
    DrainNodeRequest, DrainNodeResponse, GetNodeStatusRequest, GetNodeStatusResponse,
    GetResourceUsageRequest, GetResourceUsageResponse, HeartbeatRequest, HeartbeatResponse,
    ListNodesResponse, RegisterNodeRequest, RegisterNodeResponse, Resources,
};
use atoll_proto::orchestrator_oneof::get_resource_usage_request::Scope;

use super::access::Identity;
use super::{field, message};
use crate::error::ApiError;
use crate::rest::Api;

pub(super) fn list(api: &Api) -> ListNodesResponse {
    let nodes = api.control().node_list();
    ListNodesResponse {
        nodes: nodes.into_iter().map(message::node).collect(),
        ..ListNodesResponse::default()
    }
}

pub(super) fn status(
    api: &Api,
    request: &GetNodeStatusRequest,
) -> Result<GetNodeStatusResponse, ApiError> {
    let id = field::node_id(&request.node_id)?;
    find(api, &id)?;
    Err(ApiError::unsupported("showing what is allocated on a node"))
}

fn find(api: &Api, id: &NodeId) -> Result<NodeView, ApiError> {
    let node = api
        .control()
        .node_list()
        .into_iter()
        .find(|node| node.id == *id);
    node.ok_or_else(|| ApiError::new(ErrorKind::NotFound, format!("there is no node `{id}`")))
}

pub(super) fn register(request: &RegisterNodeRequest) -> Result<RegisterNodeResponse, ApiError> {
    field::node_id(&request.node_id)?;
    Err(ApiError::unsupported("registering a node"))
}

pub(super) fn heartbeat(request: &HeartbeatRequest) -> Result<HeartbeatResponse, ApiError> {
    field::node_id(&request.node_id)?;
    Err(ApiError::unsupported("heartbeats of nodes"))
}

pub(super) fn drain(api: &Api, request: &DrainNodeRequest) -> Result<DrainNodeResponse, ApiError> {
    let id = field::node_id(&request.node_id)?;
    find(api, &id)?;
    Err(ApiError::unsupported("draining a node"))
}

pub(super) async fn usage(
    api: &Api,
    caller: &Identity,
    request: GetResourceUsageRequest,
) -> Result<GetResourceUsageResponse, ApiError> {
    match request.scope {
        Some(Scope::NodeId(id)) => {
            demand_operator(caller, "node_id")?;
            let node = find(api, &field::node_id(&id)?)?;
            Ok(usage_of(&[node]))
        }
        Some(Scope::Fleet(_)) => {
            demand_operator(caller, "fleet")?;
            Ok(usage_of(&api.control().node_list()))
        }
        Some(Scope::TeamId(id)) => {
            if id != caller.tenant.team.as_str() {
                demand_operator(caller, "team_id")?;
            }
            usage_of_team(api, &field::team_id(&id)?).await
        }
        None => usage_of_team(api, &caller.tenant.team).await,
    }
}

fn demand_operator(caller: &Identity, scope: &str) -> Result<(), ApiError> {
    if caller.is_operator {
        return Ok(());
    }
    let message = format!("`{scope}` is the operator's to ask: it needs the X-Admin-Token");
    Err(ApiError::new(ErrorKind::PermissionDenied, message))
}

/// What a team's quota allows, and what its sandboxes hold of it.
async fn usage_of_team(api: &Api, id: &TeamId) -> Result<GetResourceUsageResponse, ApiError> {
    let team = api.control().team_get(id).await?;
    let (total, used) = (message::limits(&team.limits), message::charge(&team.usage));
    Ok(GetResourceUsageResponse {
        capacity: message::capacity(&total, &used).into(),
        sandboxes: u32::try_from(team.running).unwrap_or(u32::MAX),
        ..GetResourceUsageResponse::default()
    })
}

fn usage_of(nodes: &[NodeView]) -> GetResourceUsageResponse {
    let mut total = Resources::default();
    let mut used = Resources::default();
    let mut sandboxes = 0_u32;
    let mut measured: Option<MachineUsage> = None;
    for node in nodes {
        total = message::sum(total, &message::resources(node.allocatable));
        used = message::sum(used, &message::resources(node.allocated));
        sandboxes = sandboxes.saturating_add(node.sandboxes);
        if let Some(last) = &node.last_heartbeat {
            measured = Some(measured.unwrap_or_default().plus(last.heartbeat.usage));
        }
    }
    GetResourceUsageResponse {
        capacity: message::capacity(&total, &used).into(),
        sandboxes,
        measured: measured.as_ref().map(message::measured).into(),
        ..GetResourceUsageResponse::default()
    }
}
