//! The operator's view of nodes on the E2B surface: fewer words than `/admin/v1/nodes` has.

use atoll_control::view::NodeView;
use atoll_core::node::{DrainMode, NodeState};
use axum::extract::State;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::admin::nodes::node_id;
use super::{Answer, Api, Segment, Table, json, no_content};
use crate::auth::Operator;
use crate::body::JsonBody;
use crate::error::ApiError;

pub(super) fn routes(table: Table) -> Table {
    table
        .add(Method::GET, "/nodes", list)
        .add(Method::GET, "/nodes/{nodeID}", show)
        .add(Method::POST, "/nodes/{nodeID}", set_status)
}

#[derive(Debug, Serialize)]
struct NodeDto {
    #[serde(rename = "nodeID")]
    node_id: String,
    status: &'static str,
    #[serde(rename = "sandboxCount")]
    sandbox_count: u32,
    metrics: MetricsDto,
}

#[derive(Debug, Serialize)]
struct MetricsDto {
    /// Cores, rounded up.
    #[serde(rename = "allocatedCPU")]
    allocated_cpu: u32,
    #[serde(rename = "cpuCount")]
    cpu_count: u64,
    /// Of all cores together.
    #[serde(rename = "cpuPercent")]
    cpu_percent: u64,
    #[serde(rename = "allocatedMemoryBytes")]
    allocated_memory_bytes: u64,
    #[serde(rename = "memoryUsedBytes")]
    memory_used_bytes: u64,
    #[serde(rename = "memoryTotalBytes")]
    memory_total_bytes: u64,
}

impl From<NodeView> for NodeDto {
    fn from(node: NodeView) -> Self {
        let status = match node.state {
            NodeState::Ready => "ready",
            NodeState::Draining => "draining",
            // It joined and has not reported yet.
            NodeState::Suspect if node.last_heartbeat.is_none() => "connecting",
            NodeState::Suspect | NodeState::Lost | NodeState::Left => "unhealthy",
        };
        let usage = node.last_heartbeat.map(|beat| beat.heartbeat.usage);
        let usage = usage.unwrap_or_default();
        let cpu = usage.cpu_millis;
        Self {
            node_id: node.id.to_string(),
            status,
            sandbox_count: node.sandboxes,
            metrics: MetricsDto {
                allocated_cpu: node.allocated.cpu_millis.div_ceil(1_000),
                cpu_count: cpu.total / 1_000,
                cpu_percent: (cpu.used * 100).checked_div(cpu.total).unwrap_or(0),
                allocated_memory_bytes: u64::from(node.allocated.memory_mib) << 20,
                memory_used_bytes: usage.memory_bytes.used,
                memory_total_bytes: usage.memory_bytes.total,
            },
        }
    }
}

async fn list(State(api): State<Api>, _: Operator) -> Answer {
    let nodes = api.control().node_list();
    let nodes: Vec<NodeDto> = nodes.into_iter().map(NodeDto::from).collect();
    Ok(json(StatusCode::OK, nodes))
}

async fn show(State(api): State<Api>, _: Operator, Segment(id): Segment) -> Answer {
    let node = api.control().node_get(&node_id(&id)?)?;
    Ok(json(StatusCode::OK, NodeDto::from(node)))
}

/// `POST /nodes/{nodeID}`.
#[derive(Debug, Deserialize)]
struct StatusChange {
    status: String,
}

async fn set_status(
    State(api): State<Api>,
    _: Operator,
    Segment(id): Segment,
    body: JsonBody<StatusChange>,
) -> Answer {
    let id = node_id(&id)?;
    match body.value.status.as_str() {
        "ready" => api.control().node_undrain(&id).await?,
        "draining" => api.control().node_drain(&id, DrainMode::Wait).await?,
        // The others are what is seen of a node, not what can be wished.
        other => {
            return Err(ApiError::validation(format_args!(
                "`status` can be set to `ready` or `draining`, not to `{}`",
                crate::query::shorten(other)
            )));
        }
    };
    Ok(no_content())
}
