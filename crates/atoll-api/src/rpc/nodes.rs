//! Calls about nodes and what they have, as use cases.

use atoll_control::UsageOf;
use atoll_control::fleet::{Fleet, JoinError};
use atoll_core::descriptor::Descriptor;
use atoll_core::error::ErrorKind;
use atoll_core::heartbeat::{
    HEARTBEAT_INTERVAL, Heartbeat, LOST_AFTER, SUSPECT_AFTER, StateDigest,
};
use atoll_core::node::{DrainMode as Drain, NodeInfo};
use atoll_core::scheduler::constraint::{Taint, Version};
use atoll_proto::orchestrator::{
    DrainMode, DrainNodeRequest, DrainNodeResponse, GetNodeStatusRequest, GetNodeStatusResponse,
    GetResourceUsageRequest, GetResourceUsageResponse, HeartbeatRequest, HeartbeatResponse,
    ListNodesResponse, NodeDescriptor, NodeTaint, RegisterNodeRequest, RegisterNodeResponse,
};
use atoll_proto::orchestrator_oneof::get_resource_usage_request::Scope;

use buffa::EnumValue;
use buffa_types::google::protobuf;

use super::access::Identity;
use super::field::{self, Problems};
use super::message;
use crate::error::ApiError;
use crate::limit::{MAX_NODE_TAGS, MAX_NODE_TEXT_LEN};
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
    let node = api.control().node_get(&id)?;
    let allocations = api.control().node_allocations(&id)?;
    Ok(GetNodeStatusResponse {
        node: message::node(node).into(),
        allocations: allocations.iter().map(message::allocation).collect(),
        ..GetNodeStatusResponse::default()
    })
}

fn membership(api: &Api) -> Result<&Fleet, ApiError> {
    let membership = api.membership();
    membership
        .map(|membership| &membership.fleet)
        .ok_or_else(|| ApiError::unsupported("joining a server that runs its own node"))
}

/// The incarnation of a node's agent.
fn incarnation(text: &str) -> Result<(), ApiError> {
    if (1..=MAX_NODE_TEXT_LEN).contains(&text.len()) {
        return Ok(());
    }
    let problem = format!("`incarnation` must have 1 to {MAX_NODE_TEXT_LEN} bytes");
    Err(ApiError::validation(problem).at("incarnation"))
}

pub(super) async fn register(
    api: &Api,
    request: RegisterNodeRequest,
) -> Result<RegisterNodeResponse, ApiError> {
    let mut problems = Problems::default();
    let id = problems.take(field::node_id(&request.node_id).map(Some));
    problems.take(incarnation(&request.incarnation));
    problems.take(text("address", &request.address));
    problems.take(text("name", &request.name));
    problems.take(tags(&request));
    let descriptor = problems.take(descriptor(request.descriptor.into_option()));
    problems.finish()?;
    let id = id.ok_or_else(|| ApiError::validation("missing node id"))?;
    let info = NodeInfo {
        name: request.name,
        address: Some(request.address),
        tags: field::ordered(request.tags),
        descriptor,
    };
    let joining = membership(api)?.join(id.clone(), info, &request.incarnation);
    joining.await.map_err(|error| not_joined(&error))?;
    Ok(RegisterNodeResponse {
        node: message::node(api.control().node_get(&id)?).into(),
        heartbeat_interval: protobuf::Duration::from(HEARTBEAT_INTERVAL).into(),
        suspect_after: protobuf::Duration::from(SUSPECT_AFTER).into(),
        lost_after: protobuf::Duration::from(LOST_AFTER).into(),
        ..RegisterNodeResponse::default()
    })
}

impl Api {
    /// Takes in a node that was found, as if it had asked for it.
    ///
    /// # Errors
    /// Why it is not taken in.
    pub async fn node_admit(&self, request: RegisterNodeRequest) -> Result<(), String> {
        let admitted = register(self, request).await;
        admitted
            .map(drop)
            .map_err(|error| error.message().to_owned())
    }
}

fn text(name: &'static str, text: &str) -> Result<(), ApiError> {
    if text.len() <= MAX_NODE_TEXT_LEN {
        return Ok(());
    }
    let problem = format!("`{name}` has more than {MAX_NODE_TEXT_LEN} bytes");
    Err(ApiError::validation(problem).at(name))
}

fn tags(request: &RegisterNodeRequest) -> Result<(), ApiError> {
    if request.tags.len() > MAX_NODE_TAGS {
        let problem = format!("`tags` has more than {MAX_NODE_TAGS} entries");
        return Err(ApiError::validation(problem).at("tags"));
    }
    let mut texts = request.tags.iter().flat_map(|(key, value)| [key, value]);
    texts.try_for_each(|part| text("tags", part))
}

/// What a node says of itself, within its limits.
fn descriptor(message: Option<NodeDescriptor>) -> Result<Descriptor, ApiError> {
    let message = message.unwrap_or_default();
    let refuse = |field: &str, problem: &dyn std::fmt::Display| {
        let field = format!("descriptor.{field}");
        ApiError::validation(format!("`{field}` {problem}")).at(field)
    };
    let drivers = message.drivers.into_iter().map(|(name, version)| {
        let version = version.parse::<Version>();
        let version = version.map_err(|error| refuse("drivers", &format!("of `{name}`: {error}")));
        Ok((name, version?))
    });
    let starts_max = message.starts_max.map(u16::try_from).transpose();
    let headroom = message.headroom.as_option();
    let headroom = headroom.map(|amount| field::resources("descriptor.headroom", Some(amount)));
    let descriptor = Descriptor {
        labels: field::ordered(message.labels),
        taints: message.taints.into_iter().map(taint).collect(),
        zone: message.zone,
        architecture: message.architecture,
        cpu_features: message.cpu_features.into_iter().collect(),
        drivers: drivers.collect::<Result<_, ApiError>>()?,
        sandboxes_max: message.sandboxes_max,
        starts_max: starts_max.map_err(|_| refuse("starts_max", &"is out of range"))?,
        headroom: headroom.transpose()?.unwrap_or_default(),
    };
    let checked = descriptor.check();
    checked.map_err(|invalid| refuse(invalid.field, &invalid.problem))?;
    Ok(descriptor)
}

fn taint(taint: NodeTaint) -> Taint {
    Taint {
        key: taint.key,
        value: taint.value,
    }
}

fn not_joined(error: &JoinError) -> ApiError {
    let message = error.to_string();
    match error {
        JoinError::Address(_) => ApiError::validation(message).at("address"),
        JoinError::NameTaken(..) => ApiError::new(ErrorKind::AlreadyExists, message),
        JoinError::Full => ApiError::new(ErrorKind::NoCapacity, message),
        JoinError::Unreachable(..) => ApiError::new(ErrorKind::Conflict, message),
    }
}

pub(super) async fn heartbeat(
    api: &Api,
    request: HeartbeatRequest,
) -> Result<HeartbeatResponse, ApiError> {
    incarnation(&request.incarnation)?;
    let (heartbeat, incarnation) = beat(request)?;
    let is_member = membership(api)?.beat(heartbeat, &incarnation).await?;
    Ok(HeartbeatResponse {
        is_member,
        ..HeartbeatResponse::default()
    })
}

/// The heartbeat of a request, and whose incarnation's it is.
fn beat(request: HeartbeatRequest) -> Result<(Heartbeat, String), ApiError> {
    let missing = |name: &str| ApiError::validation(format!("missing field `{name}`")).at(name);
    let mut problems = Problems::default();
    let node = problems.take(field::node_id(&request.node_id).map(Some));
    let at = field::timestamp("at", request.at.into_option());
    let at = problems.take(at.and_then(|at| at.map(Some).ok_or_else(|| missing("at"))));
    let total = problems.take(field::resources("total", request.total.as_option()));
    let allocated = problems.take(field::resources("allocated", request.allocated.as_option()));
    for (name, text) in [
        ("driver", &request.driver),
        ("driver_problem", &request.driver_problem),
    ] {
        problems.take(self::text(name, text));
    }
    problems.finish()?;
    let measured = request.measured.into_option().unwrap_or_default();
    let heartbeat = Heartbeat {
        node: node.ok_or_else(|| missing("node_id"))?,
        at: at.ok_or_else(|| missing("at"))?,
        total,
        allocated,
        sandboxes: request.sandboxes,
        usage: message::machine_usage(&measured),
        digest: StateDigest::from_bits(request.digest),
        driver: request.driver,
        driver_problem: field::non_empty(request.driver_problem),
    };
    Ok((heartbeat, request.incarnation))
}

pub(super) async fn drain(
    api: &Api,
    request: DrainNodeRequest,
) -> Result<DrainNodeResponse, ApiError> {
    let mut problems = Problems::default();
    let id = problems.take(field::node_id(&request.node_id).map(Some));
    let mode = problems.take(drain_mode(request.mode).map(Some));
    problems.finish()?;
    let id = id.ok_or_else(|| ApiError::validation("missing node id"))?;
    let node = if request.undo {
        api.control().node_undrain(&id).await?
    } else {
        let mode = mode.unwrap_or(Drain::Wait);
        api.control().node_drain(&id, mode).await?
    };
    Ok(DrainNodeResponse {
        node: message::node(node).into(),
        ..DrainNodeResponse::default()
    })
}

fn drain_mode(mode: EnumValue<DrainMode>) -> Result<Drain, ApiError> {
    match mode {
        EnumValue::Known(DrainMode::Unspecified | DrainMode::Wait) => Ok(Drain::Wait),
        EnumValue::Known(DrainMode::Evict) => Ok(Drain::Evict),
        EnumValue::Unknown(number) => Err(field::unknown("mode", number)),
    }
}

pub(super) async fn usage(
    api: &Api,
    caller: &Identity,
    request: GetResourceUsageRequest,
) -> Result<GetResourceUsageResponse, ApiError> {
    let of = match request.scope {
        Some(Scope::NodeId(id)) => {
            demand_operator(caller, "node_id")?;
            UsageOf::Node(field::node_id(&id)?)
        }
        Some(Scope::Fleet(_)) => {
            demand_operator(caller, "fleet")?;
            UsageOf::Fleet
        }
        Some(Scope::TeamId(id)) => {
            if id != caller.tenant.team.as_str() {
                demand_operator(caller, "team_id")?;
            }
            UsageOf::Team(field::team_id(&id)?)
        }
        None => UsageOf::Team(caller.tenant.team.clone()),
    };
    Ok(message::usage(&api.control().resource_usage(&of).await?))
}

fn demand_operator(caller: &Identity, scope: &str) -> Result<(), ApiError> {
    if caller.is_operator {
        return Ok(());
    }
    let message = format!("`{scope}` is the operator's to ask: it needs the X-Admin-Token");
    Err(ApiError::new(ErrorKind::PermissionDenied, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::heartbeat::{Gauge, MachineUsage};
    use atoll_core::resources::Resources;
    use atoll_core::time::Timestamp;

    #[test]
    fn what_a_node_says_of_itself_arrives_as_it_was_said() {
        let gauge = |total| Gauge { total, used: 7 };
        let said = Heartbeat {
            node: "n1".parse().unwrap(),
            at: Timestamp::from_micros(1_790_000_000_123_456),
            total: Resources {
                cpu_millis: 4_000,
                memory_mib: u32::MAX,
                disk_mib: 5,
            },
            allocated: Resources {
                cpu_millis: 1,
                memory_mib: 2,
                disk_mib: 3,
            },
            sandboxes: 9,
            usage: MachineUsage {
                cpu_millis: gauge(11),
                memory_bytes: gauge(12),
                disk_bytes: gauge(13),
                network_bps: gauge(14),
            },
            digest: StateDigest::from_bits(u64::MAX),
            driver: "jail".to_owned(),
            driver_problem: Some("no cgroups".to_owned()),
        };
        let request = HeartbeatRequest {
            incarnation: "once".to_owned(),
            ..HeartbeatRequest::from(&said)
        };
        let (heard, incarnation) = beat(request).unwrap();
        assert_eq!(heard, said);
        assert_eq!(incarnation, "once");
    }
}
