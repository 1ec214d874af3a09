//! Nodes, what they have, and what was repaired, for the operator.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_control::UsageOf;
use atoll_control::view::{AllocationView, Amounts, HeartbeatView, NodeView, ResourceUsage};
use atoll_core::correction::Correction;
use atoll_core::descriptor::{Descriptor, WrittenTaint};
use atoll_core::error::ErrorKind;
use atoll_core::heartbeat::{Gauge, MachineUsage};
use atoll_core::id::NodeId;
use atoll_core::node::{DrainMode, ObservedState};
use atoll_core::resources::Resources;
use axum::extract::State;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::auth::Operator;
use crate::body::OptionalJsonBody;
use crate::error::ApiError;
use crate::query::Query;
use crate::rest::{Answer, Api, Segment, Table, json, no_content};
use crate::time;

/// Corrections in one answer, unless the request says otherwise.
const CORRECTIONS_DEFAULT: usize = 100;

/// Corrections in one answer, at most: as many as are kept in memory.
const CORRECTIONS_MAX: usize = 1_000;

pub(super) fn routes(table: Table) -> Table {
    table
        .add(Method::GET, "/admin/v1/nodes", list)
        .add(Method::GET, "/admin/v1/nodes/{nodeID}", show)
        .add(Method::DELETE, "/admin/v1/nodes/{nodeID}", remove)
        .add(Method::POST, "/admin/v1/nodes/{nodeID}/drain", drain)
        .add(Method::POST, "/admin/v1/nodes/{nodeID}/undrain", undrain)
        .add(Method::GET, "/admin/v1/usage", usage)
        .add(Method::GET, "/admin/v1/corrections", corrections)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::rest) struct ResourcesDto {
    cpu_millis: u32,
    #[serde(rename = "memoryMiB")]
    memory_mib: u32,
    #[serde(rename = "diskMiB")]
    disk_mib: u32,
}

impl From<Resources> for ResourcesDto {
    fn from(resources: Resources) -> Self {
        Self {
            cpu_millis: resources.cpu_millis,
            memory_mib: resources.memory_mib,
            disk_mib: resources.disk_mib,
        }
    }
}

#[derive(Debug, Serialize)]
struct GaugeDto {
    total: u64,
    used: u64,
    available: u64,
}

impl From<Gauge> for GaugeDto {
    fn from(gauge: Gauge) -> Self {
        Self {
            total: gauge.total,
            used: gauge.used,
            available: gauge.available(),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MachineDto {
    cpu_millis: GaugeDto,
    memory_bytes: GaugeDto,
    disk_bytes: GaugeDto,
    network_bps: GaugeDto,
}

impl From<MachineUsage> for MachineDto {
    fn from(usage: MachineUsage) -> Self {
        Self {
            cpu_millis: usage.cpu_millis.into(),
            memory_bytes: usage.memory_bytes.into(),
            disk_bytes: usage.disk_bytes.into(),
            network_bps: usage.network_bps.into(),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HeartbeatDto {
    at: String,
    age_seconds: f64,
    driver: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver_problem: Option<String>,
    digest: String,
    machine: MachineDto,
}

impl From<HeartbeatView> for HeartbeatDto {
    fn from(view: HeartbeatView) -> Self {
        Self {
            at: time::to_rfc3339(view.received_at),
            age_seconds: seconds(view.age),
            driver: view.heartbeat.driver,
            driver_problem: view.heartbeat.driver_problem,
            digest: view.heartbeat.digest.to_string(),
            machine: view.heartbeat.usage.into(),
        }
    }
}

/// What policies can ask for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DescriptorDto {
    labels: BTreeMap<String, String>,
    taints: Vec<String>,
    zone: String,
    architecture: String,
    cpu_features: BTreeSet<String>,
    drivers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandboxes_max: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    starts_max: Option<u16>,
    headroom: ResourcesDto,
}

impl From<Descriptor> for DescriptorDto {
    fn from(descriptor: Descriptor) -> Self {
        let taints = descriptor.taints.into_iter();
        let drivers = descriptor.drivers.into_iter();
        Self {
            labels: descriptor.labels,
            taints: taints
                .map(|taint| WrittenTaint(taint).to_string())
                .collect(),
            zone: descriptor.zone,
            architecture: descriptor.architecture,
            cpu_features: descriptor.cpu_features,
            drivers: drivers
                .map(|(name, version)| (name, version.to_string()))
                .collect(),
            sandboxes_max: descriptor.sandboxes_max,
            starts_max: descriptor.starts_max,
            headroom: descriptor.headroom.into(),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::rest) struct NodeDto {
    id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    tags: BTreeMap<String, String>,
    #[serde(flatten)]
    descriptor: DescriptorDto,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<&'static str>,
    reachable: bool,
    breaker: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker_reason: Option<String>,
    sandboxes: u32,
    total: ResourcesDto,
    allocatable: ResourcesDto,
    allocated: ResourcesDto,
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_heartbeat: Option<HeartbeatDto>,
    /// Of one node only.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocations: Option<Vec<AllocationDto>>,
}

impl From<NodeView> for NodeDto {
    fn from(node: NodeView) -> Self {
        let (breaker, breaker_reason) = node.breaker;
        Self {
            name: if node.info.name.is_empty() {
                node.id.to_string()
            } else {
                node.info.name
            },
            id: node.id.to_string(),
            address: node.info.address,
            tags: node.info.tags,
            descriptor: node.info.descriptor.into(),
            state: node.state.as_str(),
            drain: node.drain.map(|mode| match mode {
                DrainMode::Wait => "wait",
                DrainMode::Evict => "evict",
            }),
            reachable: node.is_reachable,
            breaker: breaker.as_str(),
            breaker_reason,
            sandboxes: node.sandboxes,
            total: node.total.into(),
            allocatable: node.allocatable.into(),
            allocated: node.allocated.into(),
            joined_at: node.joined_at.map(time::to_rfc3339),
            last_heartbeat: node.last_heartbeat.map(HeartbeatDto::from),
            allocations: None,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AllocationDto {
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "teamID")]
    team_id: String,
    generation: u64,
    resources: ResourcesDto,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<&'static str>,
}

impl From<AllocationView> for AllocationDto {
    fn from(view: AllocationView) -> Self {
        Self {
            sandbox_id: view.sandbox.to_string(),
            team_id: view.team.to_string(),
            generation: view.generation.get(),
            resources: view.resources.into(),
            seen: view.seen.map(|state| match state {
                ObservedState::Starting => "starting",
                ObservedState::Running => "running",
                ObservedState::Paused => "paused",
                ObservedState::Exited => "exited",
            }),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AmountsDto {
    cpu_millis: u64,
    memory_bytes: u64,
    disk_bytes: u64,
    network_bps: u64,
}

impl From<Amounts> for AmountsDto {
    fn from(amounts: Amounts) -> Self {
        Self {
            cpu_millis: amounts.cpu_millis,
            memory_bytes: amounts.memory_bytes,
            disk_bytes: amounts.disk_bytes,
            network_bps: amounts.network_bps,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct UsageDto {
    total: AmountsDto,
    used: AmountsDto,
    available: AmountsDto,
    nodes: u32,
    sandboxes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<MachineDto>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
}

impl From<ResourceUsage> for UsageDto {
    fn from(usage: ResourceUsage) -> Self {
        Self {
            total: usage.total.into(),
            used: usage.used.into(),
            available: usage.available.into(),
            nodes: usage.nodes,
            sandboxes: usage.sandboxes,
            measured: usage.measured.map(MachineDto::from),
            age_seconds: usage.age.map(seconds),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CorrectionDto {
    at: String,
    kind: &'static str,
    #[serde(rename = "nodeID", skip_serializing_if = "Option::is_none")]
    node_id: Option<String>,
    #[serde(rename = "sandboxID", skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    reason: String,
}

impl From<Correction> for CorrectionDto {
    fn from(correction: Correction) -> Self {
        Self {
            at: time::to_rfc3339(correction.at),
            kind: correction.kind.as_str(),
            node_id: correction.node.map(|id| id.to_string()),
            sandbox_id: correction.sandbox.map(|id| id.to_string()),
            generation: correction.generation.map(|number| number.get()),
            reason: correction.reason,
        }
    }
}

/// Milliseconds are as exact as anybody reads ages.
fn seconds(age: Duration) -> f64 {
    (age.as_secs_f64() * 1_000.0).round() / 1_000.0
}

/// A text that is no id names no node.
pub(in crate::rest) fn node_id(text: &str) -> Result<NodeId, ApiError> {
    text.parse().map_err(|_| {
        let shown = crate::query::shorten(text);
        ApiError::new(ErrorKind::NotFound, format!("there is no node `{shown}`"))
    })
}

async fn list(State(api): State<Api>, _: Operator) -> Answer {
    let nodes = api.control().node_list();
    let nodes: Vec<NodeDto> = nodes.into_iter().map(NodeDto::from).collect();
    Ok(json(StatusCode::OK, nodes))
}

async fn show(State(api): State<Api>, _: Operator, Segment(id): Segment) -> Answer {
    let id = node_id(&id)?;
    let mut node: NodeDto = api.control().node_get(&id)?.into();
    let allocations = api.control().node_allocations(&id)?;
    node.allocations = Some(allocations.into_iter().map(AllocationDto::from).collect());
    Ok(json(StatusCode::OK, node))
}

async fn remove(State(api): State<Api>, _: Operator, Segment(id): Segment, query: Query) -> Answer {
    let words = [("true", true), ("false", false)];
    let force = query.word("force", &words)?.unwrap_or(false);
    api.control().node_remove(&node_id(&id)?, force).await?;
    Ok(no_content())
}

/// `POST /admin/v1/nodes/{nodeID}/drain`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DrainRequest {
    #[serde(default)]
    mode: ModeDto,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModeDto {
    #[default]
    Wait,
    Evict,
}

async fn drain(
    State(api): State<Api>,
    _: Operator,
    Segment(id): Segment,
    OptionalJsonBody(request): OptionalJsonBody<DrainRequest>,
) -> Answer {
    let mode = match request.mode {
        ModeDto::Wait => DrainMode::Wait,
        ModeDto::Evict => DrainMode::Evict,
    };
    let node = api.control().node_drain(&node_id(&id)?, mode).await?;
    Ok(json(StatusCode::OK, NodeDto::from(node)))
}

async fn undrain(State(api): State<Api>, _: Operator, Segment(id): Segment) -> Answer {
    let node = api.control().node_undrain(&node_id(&id)?).await?;
    Ok(json(StatusCode::OK, NodeDto::from(node)))
}

async fn usage(State(api): State<Api>, _: Operator, query: Query) -> Answer {
    let of =
        match (query.get("nodeID"), query.get("teamID")) {
            (Some(_), Some(_)) => {
                return Err(ApiError::validation(
                    "only one of `nodeID` and `teamID` can be asked for",
                ));
            }
            (Some(node), None) => UsageOf::Node(node_id(node)?),
            (None, Some(team)) => UsageOf::Team(team.parse().map_err(|error| {
                ApiError::validation(format_args!("parameter `teamID`: {error}"))
            })?),
            (None, None) => UsageOf::Fleet,
        };
    let usage = api.control().resource_usage(&of).await?;
    Ok(json(StatusCode::OK, UsageDto::from(usage)))
}

async fn corrections(State(api): State<Api>, _: Operator, query: Query) -> Answer {
    let limit = query.number("limit", 1, CORRECTIONS_MAX)?;
    let newest = api
        .control()
        .corrections(limit.unwrap_or(CORRECTIONS_DEFAULT));
    let newest: Vec<CorrectionDto> = newest.into_iter().map(CorrectionDto::from).collect();
    Ok(json(StatusCode::OK, newest))
}
