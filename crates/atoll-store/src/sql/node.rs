//! Nodes and corrections.

use async_trait::async_trait;
use atoll_core::correction::{Correction, CorrectionKind};
use atoll_core::id::{Generation, NodeId};
use atoll_core::node::{DrainMode, NodeInfo};
use atoll_core::time::Timestamp;

use super::SqlStore;
use super::apply::{Reply, Write};
use super::decode::time;
use super::dialect::{Columns, Reader, Tx, column, fetch};
use super::many::{Many, many};
use super::statement::query;
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
pub(crate) enum NodeWrite {
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
pub(super) async fn apply<T: Tx>(tx: &mut T, write: &NodeWrite) -> Result<Reply> {
    match write {
        NodeWrite::Join { id, info, at } => {
            let statement = query(queries::NODE_JOIN)
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
            let statement = query(queries::NODE_DRAIN)
                .bind(id.as_str())
                .bind(drain.map(drain_name))
                .bind(at.as_micros());
            let changed = tx.execute("drain a node", statement).await?;
            tell(tx, changed, events).await
        }
        NodeWrite::Remove { id, events } => {
            let statement = query(queries::NODE_REMOVE).bind(id.as_str());
            let changed = tx.execute("remove a node", statement).await?;
            tell(tx, changed, events).await
        }
        NodeWrite::Correct(corrections) => correct(tx, corrections).await,
    }
}

/// Appends the events of a change, if there was one.
async fn tell<T: Tx>(tx: &mut T, changed: u64, events: &[EventRow]) -> Result<Reply> {
    if changed > 0 && !events.is_empty() {
        tx.tell(&events.iter().collect::<Vec<_>>(), &[]).await?;
    }
    Ok(Reply::Count(changed))
}

static CORRECTED: Many = many!(queries::CORRECTION_INSERT, "ntttnt");

async fn correct<T: Tx>(tx: &mut T, corrections: &[Correction]) -> Result<Reply> {
    let rows = corrections.iter().map(|correction| {
        query(queries::CORRECTION_INSERT)
            .bind(correction.at.as_micros())
            .bind(correction.kind.as_str())
            .bind(correction.node.as_ref().map(NodeId::as_str))
            .bind(correction.sandbox.as_ref().map(|id| id.as_str()))
            .bind(correction.generation.map(|number| to_i64(number.get())))
            .bind(&correction.reason)
    });
    tx.many("add a correction", &CORRECTED, rows.collect())
        .await?;
    let statement = query(queries::CORRECTION_PRUNE).bind(i64::from(CORRECTIONS_MAX));
    tx.execute("forget old corrections", statement).await?;
    Ok(Reply::Unit)
}

fn node(row: &impl Columns) -> Result<NodeRow> {
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

fn correction(row: &impl Columns) -> Result<Correction> {
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
impl<R: Reader> NodeStore for SqlStore<R> {
    async fn node_join(&self, id: &NodeId, info: &NodeInfo, at: Timestamp) -> Result<NodeRow> {
        let write = NodeWrite::Join {
            id: id.clone(),
            info: Box::new(info.clone()),
            at,
        };
        let row = self.writer.submit(Write::Node(write)).await?.into_node();
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
        Ok(self.writer.submit(Write::Node(write)).await?.into_count() > 0)
    }

    async fn node_list(&self) -> Result<Vec<NodeRow>> {
        let statement = query(queries::NODE_LIST);
        let rows = self.readers.all("list nodes", statement).await?;
        rows.iter().map(node).collect()
    }

    async fn node_remove(&self, id: &NodeId, events: Vec<EventRow>) -> Result<bool> {
        let id = id.clone();
        let write = NodeWrite::Remove { id, events };
        Ok(self.writer.submit(Write::Node(write)).await?.into_count() > 0)
    }

    async fn correction_append(&self, corrections: Vec<Correction>) -> Result<()> {
        let write = Write::Node(NodeWrite::Correct(corrections));
        self.writer.submit(write).await.map(Reply::into_unit)
    }

    async fn correction_list(&self, limit: u32) -> Result<Vec<Correction>> {
        let statement = query(queries::CORRECTION_LIST).bind(i64::from(limit));
        let rows = self.readers.all("list corrections", statement).await?;
        rows.iter().map(correction).collect()
    }
}
