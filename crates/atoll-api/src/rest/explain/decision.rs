//! Decisions of the scheduler, as they are told to operators.

use atoll_control::view::EventView;
use atoll_core::id::NodeId;
use atoll_core::scheduler::record::Record;
use serde::Serialize;

use super::EventDto;

/// An event with the decision that it tells of.
#[derive(Debug, Serialize)]
pub(super) struct DecisionDto {
    #[serde(flatten)]
    event: EventDto,
    /// None for events of servers that did not keep decisions.
    decision: Option<RecordDto>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordDto {
    #[serde(rename = "nodeID")]
    node: Option<String>,
    score: u32,
    parts: Vec<PartDto>,
    alternatives: Vec<CandidateDto>,
    strategy: String,
    sparing: String,
    fitting: u32,
    rejected: Vec<RejectedDto>,
    refused: Vec<String>,
    smallest_change: Option<ChangeDto>,
    /// As text: numbers of JSON are not exact that far.
    seed: String,
    generation: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PartDto {
    term: String,
    value: u32,
    weight_permille: u32,
}

#[derive(Debug, Serialize)]
struct CandidateDto {
    #[serde(rename = "nodeID")]
    node: String,
    score: u32,
}

#[derive(Debug, Serialize)]
struct RejectedDto {
    constraint: String,
    nodes: u32,
}

#[derive(Debug, Serialize)]
struct ChangeDto {
    text: String,
    nodes: u32,
    short: Vec<ShortDto>,
}

#[derive(Debug, Serialize)]
struct ShortDto {
    dimension: String,
    needs: u32,
    free: u32,
}

pub(super) fn all(views: &[EventView]) -> Vec<DecisionDto> {
    let decision = |view: &EventView| DecisionDto {
        event: view.into(),
        decision: view.decision.as_deref().map(RecordDto::from),
    };
    views.iter().map(decision).collect()
}

impl From<&Record> for RecordDto {
    fn from(record: &Record) -> Self {
        let parts = record.parts.iter().map(|part| PartDto {
            term: part.term.clone(),
            value: part.value,
            weight_permille: part.weight_permille,
        });
        let alternatives = record.alternatives.iter().map(|other| CandidateDto {
            node: other.node.to_string(),
            score: other.score,
        });
        let rejected = record.rejected.iter().map(|rejected| RejectedDto {
            constraint: rejected.constraint.clone(),
            nodes: rejected.nodes,
        });
        let change = record.smallest_change.as_ref().map(|change| ChangeDto {
            text: change.text.clone(),
            nodes: change.nodes,
            short: {
                let short = change.short.iter().map(|short| ShortDto {
                    dimension: short.dimension.clone(),
                    needs: short.needs,
                    free: short.free,
                });
                short.collect()
            },
        });
        Self {
            node: record.node.as_ref().map(NodeId::to_string),
            score: record.score,
            parts: parts.collect(),
            alternatives: alternatives.collect(),
            strategy: record.strategy.clone(),
            sparing: record.sparing.clone(),
            fitting: record.fitting,
            rejected: rejected.collect(),
            refused: record.asked.refused.iter().map(NodeId::to_string).collect(),
            smallest_change: change,
            seed: record.asked.seed.to_string(),
            generation: record.asked.generation.get(),
        }
    }
}
