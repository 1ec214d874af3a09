//! A decision of the scheduler as JSON, beside the event that tells of it. Short names: one is
//! written with every create.

use atoll_core::id::{Generation, NodeId};
use atoll_core::scheduler::decision::Candidate;
use atoll_core::scheduler::record::{Asked, Part, Record, Rejected, Short, SmallestChange};
use serde::{Deserialize, Serialize};

use super::{corrupt, json, parse};
use crate::store::Result;

/// The form that is written. Older ones stay readable.
const VERSION: u32 = 1;

const TABLE: &str = "events";

#[derive(Debug, Serialize, Deserialize)]
struct Decision {
    v: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    node: Option<String>,
    score: u32,
    how: String,
    sparing: String,
    fit: u32,
    /// Term, value, weight.
    parts: Vec<(String, u32, u32)>,
    /// Node, score.
    next: Vec<(String, u32)>,
    /// Constraint, nodes.
    fell: Vec<(String, u32)>,
    refused: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    change: Option<Change>,
    seed: u64,
    r#gen: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Change {
    text: String,
    nodes: u32,
    /// Dimension, needs, free.
    short: Vec<(String, u32, u32)>,
}

/// As it is stored.
pub(crate) fn decision_to_json(record: &Record) -> String {
    let names = |ids: &[NodeId]| ids.iter().map(ToString::to_string).collect();
    let parts = record.parts.iter();
    let next = record.alternatives.iter();
    let fell = record.rejected.iter();
    json(&Decision {
        v: VERSION,
        node: record.node.as_ref().map(ToString::to_string),
        score: record.score,
        how: record.strategy.clone(),
        sparing: record.sparing.clone(),
        fit: record.fitting,
        parts: parts
            .map(|part| (part.term.clone(), part.value, part.weight_permille))
            .collect(),
        next: next.map(|c| (c.node.to_string(), c.score)).collect(),
        fell: fell.map(|r| (r.constraint.clone(), r.nodes)).collect(),
        refused: names(&record.asked.refused),
        change: record.smallest_change.as_ref().map(change_to_json),
        seed: record.asked.seed,
        r#gen: record.asked.generation.get(),
    })
}

fn change_to_json(change: &SmallestChange) -> Change {
    let short = change.short.iter();
    Change {
        text: change.text.clone(),
        nodes: change.nodes,
        short: short
            .map(|short| (short.dimension.clone(), short.needs, short.free))
            .collect(),
    }
}

/// As it was stored with the event of that number.
pub(crate) fn decision_from_json(id: &str, text: &str) -> Result<Record> {
    let row: Decision =
        serde_json::from_str(text).map_err(|error| corrupt(TABLE, id, error.to_string()))?;
    if row.v != VERSION {
        let detail = format!("decision version {} is not known", row.v);
        return Err(corrupt(TABLE, id, detail));
    }
    let node = |name: &str| parse::<NodeId>(TABLE, id, name);
    let next = row.next.into_iter().map(|(name, score)| {
        let node = node(&name)?;
        Ok(Candidate { node, score })
    });
    let refused = row.refused.iter().map(|name| node(name));
    Ok(Record {
        node: row.node.as_deref().map(node).transpose()?,
        score: row.score,
        parts: row.parts.into_iter().map(part).collect(),
        alternatives: next.collect::<Result<_>>()?,
        strategy: row.how,
        sparing: row.sparing,
        fitting: row.fit,
        rejected: row.fell.into_iter().map(rejected).collect(),
        smallest_change: row.change.map(change_from_json),
        asked: Asked {
            generation: Generation::new(row.r#gen),
            seed: row.seed,
            refused: refused.collect::<Result<_>>()?,
        },
    })
}

fn part((term, value, weight_permille): (String, u32, u32)) -> Part {
    Part {
        term,
        value,
        weight_permille,
    }
}

fn rejected((constraint, nodes): (String, u32)) -> Rejected {
    Rejected { constraint, nodes }
}

fn change_from_json(change: Change) -> SmallestChange {
    let short = change.short.into_iter();
    SmallestChange {
        text: change.text,
        nodes: change.nodes,
        short: short
            .map(|(dimension, needs, free)| Short {
                dimension,
                needs,
                free,
            })
            .collect(),
    }
}
