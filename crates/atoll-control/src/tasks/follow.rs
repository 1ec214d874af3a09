//! Follows what other servers commit, so that this one's memory and edge are right.
//!
//! The events are the way: each that is about a sandbox or a node says "look again", and the row is
//! read as it is then. What it says is taken over only if it is newer than what is known, so that
//! following one's own commits costs a read and changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::event::{Cursor, EventKind, Subject};
use atoll_core::id::{NodeId, SandboxId};
use atoll_core::sandbox::{Sandbox, State};
use atoll_store::store::{EventQuery, IDS_MAX, Result};
use tokio_util::sync::CancellationToken;

use super::sync;
use crate::servers::is_turning;
use crate::service::Inner;

/// Pause between two looks, so that a busy fleet is followed in pages: a fraction of the second
/// within which a route is right everywhere.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Pause before a store that does not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Events read at a time: no more sandboxes than can be asked for at once.
const PAGE: u32 = 256;

const _: () = assert!(PAGE as usize <= IDS_MAX);

pub(super) async fn run(inner: &Arc<Inner>, cancel: &CancellationToken) {
    if inner.servers.is_alone() {
        return;
    }
    let following = async {
        let query = EventQuery {
            // Lines of logs tell of states that nobody else is told of.
            kinds: EventKind::ALL.to_vec(),
            ..EventQuery::default()
        };
        let mut cursor = inner.opened_at;
        loop {
            // Looked at rather than waited for: it moves with every commit, and a look is a number
            // in memory.
            if inner.bus.now() <= cursor {
                tokio::time::sleep(LOOK_PAUSE).await;
                continue;
            }
            match follow(inner, cursor, &query).await {
                Ok(next) => {
                    cursor = next;
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "what other servers do is not followed");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = following => {}
    }
}

/// Takes over what the events after a cursor are about. Answers where to go on.
async fn follow(inner: &Arc<Inner>, cursor: Cursor, query: &EventQuery) -> Result<Cursor> {
    let page = inner.store.event_list_after(cursor, query, PAGE).await?;
    let passed = page.next.get().saturating_sub(cursor.get());
    if (page.events.len() as u64) < passed {
        // Some were pruned: this server was away for long.
        sync::walk(inner).await;
    }
    let (mut ids, mut nodes) = (BTreeSet::new(), BTreeSet::new());
    for stored in page.events {
        match stored.event.subject {
            Subject::Sandbox(id) => {
                ids.insert(id);
            }
            Subject::Node(id) => {
                nodes.insert(id);
            }
            Subject::Fleet => {}
        }
    }
    let ids: Vec<_> = ids.into_iter().collect();
    let rows = inner.store.sandbox_list_by_id(&ids).await?;
    let mut gone: BTreeSet<&SandboxId> = ids.iter().collect();
    for row in &rows {
        gone.remove(&row.id);
        take_over(inner, row);
    }
    for id in gone {
        // It ended so long ago that its row is pruned.
        inner.registry.forget(id);
        inner.deadlines.forget(id);
        inner.usage.forget(id);
    }
    if !nodes.is_empty() {
        heed_nodes(inner, &nodes).await?;
    }
    Ok(page.next)
}

fn take_over(inner: &Arc<Inner>, row: &Sandbox) {
    if row.state == State::Stopped {
        inner.settle(row);
        inner.reconciler.nudge(&row.id);
        return;
    }
    if !inner.know(row) {
        return;
    }
    let is_own = row.claimed_by.is_some() && row.claimed_by == inner.servers.claim();
    if inner.reconciler.is_driven(&row.id) {
        inner.reconciler.nudge(&row.id);
    } else if is_turning(row) && is_own {
        inner.wake(&row.id);
    }
}

/// Takes over what is kept of nodes, also where no event told of it.
pub(super) async fn heed_all_nodes(inner: &Arc<Inner>) {
    if inner.servers.is_alone() {
        return;
    }
    match inner.store.node_list().await {
        Ok(rows) => rows.into_iter().for_each(|row| inner.registry.know(row)),
        Err(error) => tracing::warn!(%error, "nodes of other servers are not known"),
    }
}

/// Takes over what operators decided about nodes at another server.
async fn heed_nodes(inner: &Arc<Inner>, nodes: &BTreeSet<NodeId>) -> Result<()> {
    let rows = inner.store.node_list().await?;
    let mut gone = nodes.clone();
    for row in rows {
        if gone.remove(&row.id) {
            inner.registry.know(row);
        }
    }
    for id in gone {
        let placed = inner.registry.placed_on(&id);
        inner.registry.leave(&id);
        for sandbox in placed {
            inner.wake(&sandbox);
        }
    }
    Ok(())
}
