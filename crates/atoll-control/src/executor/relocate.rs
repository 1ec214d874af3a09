//! What shared storage has of a sandbox: noting it, going on from it on another node, and removing
//! what is not needed any more.
//!
//! Until it serves elsewhere, the node that keeps it keeps it: a resume that fails ends there. Once
//! it serves, the copies are in the way, and go.

use atoll_core::crash;
use atoll_core::error::ErrorKind;
use atoll_core::event::EventKind;
use atoll_core::id::Generation;
use atoll_core::lifecycle::Event;
use atoll_core::node::{CallOutcome, Refusal};
use atoll_core::reconcile::Observed;
use atoll_core::sandbox::Sandbox;
use atoll_core::snapshot::Unneeded;
use atoll_store::store::{Intent, IntentChange};

use super::{Attempt, Change, Executor, disagreed};
use crate::events;
use crate::exhausted;
use crate::reconciler::{Setback, Slot};
use crate::service::Inner;

/// What a caller is told where no node has room for what only shared storage has.
const NO_NODE: &str = "no node that has its storage has room for it";

impl Executor {
    /// Notes that others can go on with what its node keeps.
    pub(super) async fn note_snapshot(&self, row: Sandbox) -> Attempt {
        let Observed::Known(seen) = self.inner.registry.observed(&row.id) else {
            return Attempt::LookAgain;
        };
        let Some(snapshot) = seen.snapshot else {
            return Attempt::LookAgain;
        };
        let text = "its files are in shared storage, read back and whole".to_owned();
        let at = self.inner.clock.now();
        let event = events::event(&row, at, EventKind::Log, "info", text);
        let event = events::with(event, "bytes", snapshot.bytes.to_string());
        let event = events::with(event, "digest", snapshot.digest.to_string());
        let older = snapshot.generation.before();
        let intent = Intent {
            id: row.id.clone(),
            change: IntentChange::NoteSnapshot(snapshot),
            at,
            events: vec![event],
            audit: None,
            claimed_by: None,
        };
        match self.inner.store.sandbox_intend(intent).await {
            Ok(Some(next)) => {
                crash::reached("control.snapshot");
                self.inner.drop_snapshots(&next, older);
                Attempt::Moved(Box::new(next))
            }
            // It is unwanted, or its node told of something that is not kept.
            Ok(None) => Attempt::LookAgain,
            Err(error) => Attempt::Wait(format!("note its snapshot: {error}")),
        }
    }

    /// Takes room on another node for what shared storage has.
    pub(super) async fn relocate(&mut self, slot: &Slot, row: Sandbox) -> Attempt {
        let laid = match self.inner.lay(&row).await {
            Ok(laid) => laid,
            Err(error) if error.kind == ErrorKind::InvalidArgument => {
                let setback = Setback::Refused(Refusal::Failed(error.to_string()));
                return self.stay_paused(slot, row, setback).await;
            }
            Err(error) => return Attempt::Wait(error.to_string()),
        };
        let generation = row.generation.next();
        let placed = self.inner.place(&row, &laid, generation, &self.refused_by);
        let Ok(placed) = placed else {
            self.inner.registry.follow(&row);
            return self.stay_paused(slot, row, Setback::NoRoom(NO_NODE)).await;
        };
        let change = Change {
            events: vec![events::placed(&row, self.inner.clock.now(), &placed)],
            placement: Some((placed.decision.node.clone(), generation)),
            ..Change::default()
        };
        let (transition, effects) = match self.transition(&row, Event::Resume, change) {
            Ok(planned) => planned,
            Err(refused) => return disagreed(&row, refused),
        };
        self.commit_resume(slot, row, transition, effects, "control.relocating")
            .await
    }

    /// No node takes what is kept.
    pub(super) async fn stay_where_kept(&mut self, slot: &Slot, row: Sandbox) -> Attempt {
        let setback = match self.refusal.take() {
            Some(refusal) if !matches!(refusal, Refusal::NoRoom(_)) => Setback::Refused(refusal),
            _ => Setback::NoRoom(NO_NODE),
        };
        let told = exhausted::of_node(&self.inner, &row.team, NO_NODE);
        if let Some(told) = told
            && let Err(error) = self.inner.store.event_append(vec![told]).await
        {
            tracing::warn!(%error, "that no node had room is not told");
        }
        self.inner.registry.follow(&row);
        self.resume_failed(slot, row, setback).await
    }
}

impl Inner {
    /// Removes what is kept of a sandbox that serves now, `before` it did: the copy of a node that
    /// it does not serve on, and what shared storage has.
    pub(super) fn clear_kept(&self, before: &Sandbox) {
        let Some(kept) = before.kept else { return };
        if let Some(snapshot) = &before.snapshot {
            self.drop_snapshots(before, snapshot.generation);
        }
        let home = before.kept_on.as_ref().filter(|_| before.is_elsewhere());
        let Some(client) = home.and_then(|home| self.registry.client(home)) else {
            return;
        };
        let id = before.id.clone();
        self.tasks.spawn(async move {
            let outcome = client.remove(&id, kept.generation).await;
            if outcome != CallOutcome::Done(()) {
                // The next report of that node tells of it as of a stranger.
                tracing::debug!(sandbox = %id, ?outcome, "the kept copy stays for now");
            }
        });
    }

    /// Removes from shared storage what it may have of a sandbox up to this generation. What is not
    /// removed now is found by the sweep.
    pub(super) fn drop_snapshots(&self, row: &Sandbox, through: Generation) {
        let storages = self.registry.storages();
        let unneeded = Unneeded {
            id: row.id.clone(),
            through,
            quiet_for: std::time::Duration::ZERO,
        };
        let known = row.snapshot.as_ref().map(|snapshot| &snapshot.store);
        // One that was never paused has nothing anywhere, nearly always.
        let is_likely = known.is_some() || row.kept.is_some();
        let clients = storages
            .into_iter()
            .filter(|(id, _)| is_likely && known.is_none_or(|known| known == id));
        for (_, client) in clients {
            let unneeded = unneeded.clone();
            self.tasks.spawn(async move {
                let outcome = client.drop_snapshots(&unneeded).await;
                if outcome != CallOutcome::Done(()) {
                    let id = &unneeded.id;
                    tracing::debug!(sandbox = %id, ?outcome, "snapshots stay for now");
                }
            });
        }
    }
}
