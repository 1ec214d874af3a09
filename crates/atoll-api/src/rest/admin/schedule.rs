//! Where a sandbox would go, for the operator.

use std::collections::BTreeMap;

use atoll_control::DryRun;
use atoll_core::error::ErrorKind;
use atoll_core::resources::Resources;
use atoll_core::scheduler::constraint::Counts;
use atoll_core::scheduler::decision::{Decision, Refusal};
use axum::extract::State;
use http::{Method, StatusCode};
use serde::Serialize;

use crate::auth::Operator;
use crate::check;
use crate::error::ApiError;
use crate::query::Query;
use crate::rest::{Answer, Api, Table, json};
use crate::scheduling;

/// What a score is out of.
const SCORE_MAX: f64 = 1_000_000.0;

/// What a part's weight is out of.
const WEIGHT_MAX: f64 = 1_000.0;

pub(super) fn routes(table: Table) -> Table {
    table.add(Method::GET, "/admin/v1/schedule", dry_run)
}

#[derive(Debug, Serialize)]
struct PartDto {
    term: &'static str,
    value: f64,
    weight: f64,
}

#[derive(Debug, Serialize)]
struct CandidateDto {
    #[serde(rename = "nodeID")]
    node_id: String,
    score: f64,
}

/// How many nodes fell to a constraint.
#[derive(Debug, Serialize)]
struct FallenDto {
    constraint: &'static str,
    nodes: u32,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct ScheduleDto {
    fits: bool,
    reason: String,
    #[serde(rename = "nodeID", skip_serializing_if = "Option::is_none")]
    node_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    parts: Vec<PartDto>,
    alternatives: Vec<CandidateDto>,
    fitting: u32,
    fallen: Vec<FallenDto>,
    #[serde(skip_serializing_if = "Option::is_none")]
    smallest_change: Option<String>,
}

fn fallen(counts: &Counts) -> Vec<FallenDto> {
    let all = counts.iter();
    all.map(|(constraint, nodes)| FallenDto {
        constraint: constraint.as_str(),
        nodes,
    })
    .collect()
}

impl From<&Decision> for ScheduleDto {
    fn from(decision: &Decision) -> Self {
        let parts = decision.score.parts().map(|part| PartDto {
            term: part.term.as_str(),
            value: f64::from(part.value) / SCORE_MAX,
            weight: f64::from(part.weight_permille) / WEIGHT_MAX,
        });
        let alternatives = decision.alternatives.iter().map(|candidate| CandidateDto {
            node_id: candidate.node.to_string(),
            score: f64::from(candidate.score) / SCORE_MAX,
        });
        Self {
            fits: true,
            reason: decision.reason().to_string(),
            node_id: Some(decision.node.to_string()),
            strategy: Some(decision.strategy.as_str()),
            score: Some(f64::from(decision.score.total()) / SCORE_MAX),
            parts: parts.collect(),
            alternatives: alternatives.collect(),
            fitting: decision.fitting,
            fallen: fallen(&decision.counts),
            smallest_change: None,
        }
    }
}

impl From<&Refusal> for ScheduleDto {
    fn from(refusal: &Refusal) -> Self {
        let change = refusal.smallest_change.as_ref();
        Self {
            reason: refusal.to_string(),
            fallen: fallen(&refusal.counts),
            smallest_change: change.map(ToString::to_string),
            ..Self::default()
        }
    }
}

async fn dry_run(State(api): State<Api>, Operator(mut tenant): Operator, query: Query) -> Answer {
    if let Some(team) = query.get("teamID") {
        let parsed = team.parse();
        tenant.team = parsed.map_err(|_| ApiError::new(ErrorKind::NotFound, "no such team"))?;
    }
    let asked = DryRun {
        template: query.get("template").unwrap_or("base").to_owned(),
        resources: resources(&query)?,
        metadata: metadata(&query)?,
        scheduling: query.get("policy").map(scheduling::of_text).transpose()?,
    };
    check::template(&asked.template)?;
    let ran = api.control().sandbox_dry_run(&tenant, asked).await?;
    let told = match &ran.found {
        Ok(decision) => ScheduleDto::from(decision.as_ref()),
        Err(refusal) => ScheduleDto::from(refusal),
    };
    Ok(json(StatusCode::OK, told))
}

/// All three, or what the template says.
fn resources(query: &Query) -> Result<Option<Resources>, ApiError> {
    let amount = |name| query.number(name, 0, u32::MAX);
    match (
        amount("cpuMillis")?,
        amount("memoryMiB")?,
        amount("diskMiB")?,
    ) {
        (None, None, None) => Ok(None),
        (Some(cpu_millis), Some(memory_mib), Some(disk_mib)) => Ok(Some(Resources {
            cpu_millis,
            memory_mib,
            disk_mib,
        })),
        _ => Err(ApiError::validation(
            "`cpuMillis`, `memoryMiB` and `diskMiB` are given together",
        )),
    }
}

fn metadata(query: &Query) -> Result<BTreeMap<String, String>, ApiError> {
    let Some(text) = query.get("metadata") else {
        return Ok(BTreeMap::new());
    };
    let read: Result<BTreeMap<String, String>, _> = serde_json::from_str(text);
    let metadata = read.map_err(|error| {
        ApiError::validation(format_args!(
            "`metadata` is no JSON object of texts: {error}"
        ))
    })?;
    check::metadata(&metadata)?;
    Ok(metadata)
}
