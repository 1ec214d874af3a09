//! Nodes and corrections.

use async_trait::async_trait;
use atoll_core::correction::{Correction, CorrectionKind};
use atoll_core::event::Cursor;
use atoll_core::id::{Generation, NodeId};
use atoll_core::node::{DrainMode, NodeInfo};
use atoll_core::time::Timestamp;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::SqliteStore;
use super::apply::{Reply, Write, execute, fetch};
use super::decode::{column, time};
use super::{event, read};
use crate::descriptor_row::{descriptor_from_json, descriptor_to_json};
use crate::queries;
use crate::row::{
    corrupt, drain_from_name, drain_name, fields_from_json, fields_to_json, parse, to_i64,
};
use crate::store::node::{CORRECTIONS_MAX, NodeRow, NodeStore};
use crate::store::{EventRow, Result};

const NODES: &str = "nodes";
const CORRECTIONS: &str = "corrections";

/// One write about nodes.
#[derive(Debug)]
pub(super) enum NodeWrite {
    Join {
        id: NodeId,
        info: Box<NodeInfo>,
        at: Timestamp,
    },
    Drain {
        id: NodeId,
        drain: Option<DrainMode>,
        at: Timestamp,
        events: Vec<EventRow>,
    },
    Remove {
        id: NodeId,
        events: Vec<EventRow>,
    },
    Correct(Vec<Correction>),
}

/// Carries out one write inside the caller's transaction.
pub(super) async fn apply(
    tx: &mut SqliteConnection,
    write: &NodeWrite,
    head: &mut Cursor,
) -> Result<Reply> {
    match write {
        NodeWrite::Join { id, info, at } => {
            let statement = sqlx::query(queries::NODE_JOIN)
                .bind(id.as_str())
                .bind(&info.name)
                .bind(info.address.as_deref())
                .bind(fields_to_json(&info.tags))
                .bind(at.as_micros())
                .bind(descriptor_to_json(&info.descriptor));
            let row = fetch(tx, "join a node", statement).await?;
            let row = row.map(|row| node(&row)).transpose()?;
            Ok(Reply::Node(row.map(Box::new)))
        }
        NodeWrite::Drain {
            id,
            drain,
            at,
            events,
        } => {
            let statement = sqlx::query(queries::NODE_DRAIN)
                .bind(id.as_str())
                .bind(drain.map(drain_name))
                .bind(at.as_micros());
            let changed = execute(tx, "drain a node", statement).await?;
            tell(tx, changed, events, head).await
        }
        NodeWrite::Remove { id, events } => {
            let statement = sqlx::query(queries::NODE_REMOVE).bind(id.as_str());
            let changed = execute(tx, "remove a node", statement).await?;
            tell(tx, changed, events, head).await
        }
        NodeWrite::Correct(corrections) => correct(tx, corrections).await,
    }
}

/// Appends the events of a change, if there was one.
async fn tell(
    tx: &mut SqliteConnection,
    changed: u64,
    events: &[EventRow],
    head: &mut Cursor,
) -> Result<Reply> {
    if changed > 0 && !events.is_empty() {
        event::append(tx, &events.iter().collect::<Vec<_>>(), head).await?;
    }
    Ok(Reply::Count(changed))
}

async fn correct(tx: &mut SqliteConnection, corrections: &[Correction]) -> Result<Reply> {
    for correction in corrections {
        let statement = sqlx::query(queries::CORRECTION_INSERT)
            .bind(correction.at.as_micros())
            .bind(correction.kind.as_str())
            .bind(correction.node.as_ref().map(NodeId::as_str))
            .bind(correction.sandbox.as_ref().map(|id| id.as_str()))
            .bind(correction.generation.map(|number| to_i64(number.get())))
            .bind(&correction.reason);
        execute(tx, "add a correction", statement).await?;
    }
    let statement = sqlx::query(queries::CORRECTION_PRUNE).bind(i64::from(CORRECTIONS_MAX));
    execute(tx, "forget old corrections", statement).await?;
    Ok(Reply::Unit)
}

fn node(row: &SqliteRow) -> Result<NodeRow> {
    let id: &str = column(row, 0)?;
    let drain: Option<&str> = column(row, 4)?;
    let drain = drain.map(|name| {
        drain_from_name(name).ok_or_else(|| corrupt(NODES, id, format!("drain `{name}`")))
    });
    let tags: &str = column(row, 3)?;
    let descriptor: &str = column(row, 7)?;
    Ok(NodeRow {
        id: parse(NODES, id, id)?,
        info: NodeInfo {
            name: column(row, 1)?,
            address: column(row, 2)?,
            tags: fields_from_json(id, tags)?,
            descriptor: descriptor_from_json(id, descriptor)?,
        },
        drain: drain.transpose()?,
        joined_at: time(row, 5)?,
        updated_at: time(row, 6)?,
    })
}

fn correction(row: &SqliteRow) -> Result<Correction> {
    let kind: &str = column(row, 1)?;
    let generation: Option<i64> = column(row, 4)?;
    let node: Option<&str> = column(row, 2)?;
    let sandbox: Option<&str> = column(row, 3)?;
    Ok(Correction {
        at: time(row, 0)?,
        kind: CorrectionKind::from_name(kind)
            .ok_or_else(|| corrupt(CORRECTIONS, kind, "unknown kind".to_owned()))?,
        node: node.map(|id| parse(CORRECTIONS, id, id)).transpose()?,
        sandbox: sandbox.map(|id| parse(CORRECTIONS, id, id)).transpose()?,
        generation: generation.map(|number| Generation::new(u64::try_from(number).unwrap_or(0))),
        reason: column(row, 5)?,
    })
}

#[async_trait]
impl NodeStore for SqliteStore {
    async fn node_join(&self, id: &NodeId, info: &NodeInfo, at: Timestamp) -> Result<NodeRow> {
        let write = NodeWrite::Join {
            id: id.clone(),
            info: Box::new(info.clone()),
            at,
        };
        let row = self.write(Write::Node(write)).await?.into_node();
        row.ok_or_else(|| corrupt(NODES, id.as_str(), "it was not written".to_owned()))
    }

    async fn node_drain(
        &self,
        id: &NodeId,
        drain: Option<DrainMode>,
        at: Timestamp,
        events: Vec<EventRow>,
    ) -> Result<bool> {
        let write = NodeWrite::Drain {
            id: id.clone(),
            drain,
            at,
            events,
        };
        Ok(self.write(Write::Node(write)).await?.into_count() > 0)
    }

    async fn node_list(&self) -> Result<Vec<NodeRow>> {
        let statement = sqlx::query(queries::NODE_LIST);
        let rows = read::all(&self.readers, "list nodes", statement).await?;
        rows.iter().map(node).collect()
    }

    async fn node_remove(&self, id: &NodeId, events: Vec<EventRow>) -> Result<bool> {
        let id = id.clone();
        let write = NodeWrite::Remove { id, events };
        Ok(self.write(Write::Node(write)).await?.into_count() > 0)
    }

    async fn correction_append(&self, corrections: Vec<Correction>) -> Result<()> {
        let write = Write::Node(NodeWrite::Correct(corrections));
        self.write(write).await.map(Reply::into_unit)
    }

    async fn correction_list(&self, limit: u32) -> Result<Vec<Correction>> {
        let statement = sqlx::query(queries::CORRECTION_LIST).bind(i64::from(limit));
        let rows = read::all(&self.readers, "list corrections", statement).await?;
        rows.iter().map(correction).collect()
    }
}
