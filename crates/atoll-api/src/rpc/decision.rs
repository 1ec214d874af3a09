//! Decisions of the scheduler as messages.

use atoll_control::view::EventView;
use atoll_core::id::NodeId;
use atoll_core::scheduler::record::{Record, SmallestChange};
use atoll_proto::orchestrator::{
    ConstraintCount, NodeScore, SchedulingDecision, ScorePart, Shortage,
    SmallestChange as SmallestChangeMessage,
};

use super::message::time;

/// A decision, from the event that tells of it.
pub(super) fn decision(view: EventView) -> SchedulingDecision {
    let field = |name: &str| view.fields.get(name).cloned().unwrap_or_default();
    let sandbox = view.subject.sandbox();
    let alternatives = field("alternatives");
    let told = SchedulingDecision {
        sandbox_id: sandbox.map_or_else(String::new, ToString::to_string),
        node_id: field("node"),
        score: field("score").parse().unwrap_or_default(),
        alternatives: alternatives
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        rejected: field("rejected"),
        decided_at: time(view.at).into(),
        reason: view.message,
        ..SchedulingDecision::default()
    };
    match view.decision {
        Some(record) => with_record(told, &record),
        None => told,
    }
}

pub(super) fn with_record(told: SchedulingDecision, record: &Record) -> SchedulingDecision {
    let parts = record.parts.iter().map(|part| ScorePart {
        term: part.term.clone(),
        value: part.value,
        weight_permille: part.weight_permille,
        ..ScorePart::default()
    });
    let ranked = record.alternatives.iter().map(|other| NodeScore {
        node_id: other.node.to_string(),
        score: other.score,
        ..NodeScore::default()
    });
    let fallen = record.rejected.iter().map(|rejected| ConstraintCount {
        constraint: rejected.constraint.clone(),
        nodes: rejected.nodes,
        ..ConstraintCount::default()
    });
    let names = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect();
    SchedulingDecision {
        // A refusal has none, whatever else its event tells.
        node_id: record
            .node
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        strategy: record.strategy.clone(),
        sparing: record.sparing.clone(),
        fitting: record.fitting,
        parts: parts.collect(),
        ranked: ranked.collect(),
        fallen: fallen.collect(),
        refused_by: names(&record.asked.refused),
        smallest_change: record.smallest_change.as_ref().map(change).into(),
        seed: record.asked.seed,
        generation: record.asked.generation.get(),
        ..told
    }
}

fn change(change: &SmallestChange) -> SmallestChangeMessage {
    let short = change.short.iter().map(|short| Shortage {
        dimension: short.dimension.clone(),
        needs: short.needs,
        free: short.free,
        ..Shortage::default()
    });
    SmallestChangeMessage {
        text: change.text.clone(),
        nodes: change.nodes,
        short: short.collect(),
        ..SmallestChangeMessage::default()
    }
}
