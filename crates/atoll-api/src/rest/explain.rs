//! `/admin/v1/explain`: why a sandbox or a node is as it is.

use std::collections::BTreeMap;

use atoll_control::view::{EventView, NodeExplanation, SandboxExplanation, SandboxOnNode};
use atoll_core::id::{NodeId, SandboxId};
use atoll_core::lifecycle::state_name;
use atoll_core::node::ObservedState;
use atoll_core::reconcile::{NodeHealth, Observed};
use atoll_core::sandbox::Desired;
use axum::extract::State;
use http::{Method, StatusCode};
use serde::Serialize;

mod decision;

use self::decision::DecisionDto;
use super::admin::nodes::{NodeDto, ResourcesDto};
use super::{Answer, Api, Segment, Table, json};
use crate::auth::Operator;
use crate::error::ApiError;
use crate::time::to_rfc3339;

pub(super) fn routes(table: Table) -> Table {
    table
        .add(
            Method::GET,
            "/admin/v1/explain/sandboxes/{sandboxID}",
            sandbox,
        )
        .add(Method::GET, "/admin/v1/explain/nodes/{nodeID}", node)
}

async fn sandbox(State(api): State<Api>, _: Operator, Segment(id): Segment) -> Answer {
    let id: SandboxId = id
        .parse()
        .map_err(|error| ApiError::validation(format_args!("sandboxID: {error}")))?;
    let explanation = api.control().sandbox_explain(None, &id).await?;
    Ok(json(StatusCode::OK, SandboxDto::from(&explanation)))
}

async fn node(State(api): State<Api>, _: Operator, Segment(id): Segment) -> Answer {
    let id: NodeId = id
        .parse()
        .map_err(|error| ApiError::validation(format_args!("nodeID: {error}")))?;
    let explanation = api.control().node_explain(&id).await?;
    Ok(json(StatusCode::OK, ExplainedNodeDto::from(explanation)))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SandboxDto {
    #[serde(rename = "sandboxID")]
    id: String,
    #[serde(rename = "teamID")]
    team: String,
    #[serde(rename = "templateID")]
    template: String,
    /// The key it was made with, or who acted without one.
    created_by: Option<String>,
    at: String,
    intent: IntentDto,
    observed: ObservedDto,
    /// What would be done now, in order.
    plan: Vec<String>,
    in_progress: bool,
    decisions: Vec<DecisionDto>,
    corrections: Vec<EventDto>,
    errors: Vec<EventDto>,
    history: Vec<EventDto>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct IntentDto {
    state: &'static str,
    desired: &'static str,
    generation: u64,
    #[serde(rename = "nodeID")]
    node: Option<String>,
    node_health: Option<&'static str>,
    resources: ResourcesDto,
    created_at: String,
    started_at: Option<String>,
    deadline: String,
    updated_at: String,
    ended_at: Option<String>,
    last_error: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ObservedDto {
    /// `absent`, `unknown`, or the state in the node's own words.
    state: &'static str,
    generation: Option<u64>,
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct EventDto {
    cursor: u64,
    at: String,
    kind: &'static str,
    level: &'static str,
    message: String,
    fields: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainedNodeDto {
    node: NodeDto,
    at: String,
    sandboxes: Vec<PlacedDto>,
    sandboxes_left_out: usize,
    errors: Vec<EventDto>,
    history: Vec<EventDto>,
}

#[derive(Debug, Serialize)]
struct PlacedDto {
    #[serde(rename = "sandboxID")]
    id: String,
    observed: ObservedDto,
}

impl From<&SandboxExplanation> for SandboxDto {
    fn from(explanation: &SandboxExplanation) -> Self {
        let row = &explanation.sandbox;
        Self {
            id: row.id.to_string(),
            team: row.team.to_string(),
            template: row.config.template.to_string(),
            created_by: row.created_by.as_ref().map(ToString::to_string),
            at: to_rfc3339(explanation.at),
            intent: IntentDto {
                state: state_name(row.state),
                desired: desired_name(row.desired),
                generation: row.generation.get(),
                node: row.node.as_ref().map(ToString::to_string),
                node_health: explanation.node_health.map(health_name),
                resources: row.config.resources.into(),
                created_at: to_rfc3339(row.created_at),
                started_at: row.started_at.map(to_rfc3339),
                deadline: to_rfc3339(row.deadline),
                updated_at: to_rfc3339(row.updated_at),
                ended_at: row.ended.map(|(at, _)| to_rfc3339(at)),
                last_error: row.last_error.clone(),
            },
            observed: ObservedDto::from(&explanation.observed),
            plan: explanation.plan.iter().map(ToString::to_string).collect(),
            in_progress: explanation.is_driven,
            decisions: decision::all(&explanation.decisions),
            corrections: events(&explanation.corrections),
            errors: events(&explanation.errors),
            history: events(&explanation.history),
        }
    }
}

impl From<NodeExplanation> for ExplainedNodeDto {
    fn from(explanation: NodeExplanation) -> Self {
        let placed = |sandbox: SandboxOnNode| PlacedDto {
            id: sandbox.id.to_string(),
            observed: ObservedDto::from(&sandbox.observed),
        };
        Self {
            at: to_rfc3339(explanation.at),
            sandboxes: explanation.sandboxes.into_iter().map(placed).collect(),
            sandboxes_left_out: explanation.sandboxes_left_out,
            errors: events(&explanation.errors),
            history: events(&explanation.history),
            node: explanation.node.into(),
        }
    }
}

impl From<&Observed> for ObservedDto {
    fn from(observed: &Observed) -> Self {
        let unseen = |state| Self {
            state,
            generation: None,
            detail: None,
        };
        match observed {
            Observed::Absent => unseen("absent"),
            Observed::Unknown => unseen("unknown"),
            Observed::Known(seen) => Self {
                state: match seen.state {
                    ObservedState::Starting => "starting",
                    ObservedState::Running => "running",
                    ObservedState::Paused => "paused",
                    ObservedState::Exited => "exited",
                },
                generation: Some(seen.generation.get()),
                detail: seen.detail.clone(),
            },
        }
    }
}

fn events(views: &[EventView]) -> Vec<EventDto> {
    views.iter().map(EventDto::from).collect()
}

impl From<&EventView> for EventDto {
    fn from(view: &EventView) -> Self {
        Self {
            cursor: view.cursor.get(),
            at: to_rfc3339(view.at),
            kind: view.kind.as_str(),
            level: view.level.as_str(),
            message: view.message.clone(),
            fields: view.fields.clone(),
        }
    }
}

const fn desired_name(desired: Desired) -> &'static str {
    match desired {
        Desired::Running => "running",
        Desired::Paused => "paused",
        Desired::Stopped => "stopped",
    }
}

const fn health_name(health: NodeHealth) -> &'static str {
    match health {
        NodeHealth::Ready => "ready",
        NodeHealth::Suspect => "suspect",
        NodeHealth::Lost => "lost",
    }
}
