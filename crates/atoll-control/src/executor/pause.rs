//! The actions of a pause and of the resume after it.
//!
//! A refusal leaves the sandbox as it was, so it takes back the wish instead of failing the
//! sandbox; an unknown outcome is asked for again, of the same node and under the same generation.

use std::time::Duration;

use atoll_core::crash;
use atoll_core::event::EventKind;
use atoll_core::id::{Generation, NodeId};
use atoll_core::lifecycle::{Effect, Event};
use atoll_core::node::{CallOutcome, NodeState, ObservedSandbox, ObservedState, Refusal};
use atoll_core::reconcile::Observed;
use atoll_core::sandbox::{Desired, Sandbox, State};
use atoll_core::time::Timestamp;
use atoll_store::store::{Intent, IntentChange, Readmission, Transition};

use super::{Attempt, Change, Executor, disagreed};
use crate::events;
use crate::exhausted;
use crate::reconciler::{Setback, Slot};

/// How long a node may take to pause a sandbox before the outcome counts as unknown: its dirty
/// pages have to reach the disk.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a node may take to resume one before the outcome counts as unknown.
const RESUME_TIMEOUT: Duration = Duration::from_secs(60);

/// When a pause at the deadline that was refused is tried again. The sandbox serves meanwhile: to
/// end it would lose what its owner asked to keep.
const EXPIRY_RETRY_AFTER: Duration = Duration::from_secs(60);

impl Executor {
    pub(super) async fn pause(&self, slot: &Slot, row: Sandbox) -> Attempt {
        let Some((_, client)) = self.node_of(&row) else {
            return Attempt::Wait("its node has not joined".to_owned());
        };
        // One that serves although it counts as paused does so under what its node says.
        let generation = match self.inner.registry.observed(&row.id) {
            Observed::Known(seen) if row.is_own_generation(seen.generation) => seen.generation,
            Observed::Known(_) | Observed::Absent | Observed::Unknown => row.generation,
        };
        let (id, keep_memory) = (row.id.clone(), row.keep_memory);
        let call = async move { client.pause(&id, generation, keep_memory).await };
        match self.order(slot, &row, PAUSE_TIMEOUT, call).await {
            Some(outcome) => self.paused(slot, row, generation, outcome).await,
            None => Attempt::LookAgain,
        }
    }

    async fn paused(
        &self,
        slot: &Slot,
        row: Sandbox,
        generation: Generation,
        outcome: CallOutcome<ObservedSandbox>,
    ) -> Attempt {
        let observe = |seen| {
            self.inner.registry.observe(&row.id, generation, seen);
        };
        match outcome {
            CallOutcome::Done(seen) if seen.state == ObservedState::Paused => {
                observe(Observed::Known(seen));
                Attempt::Moved(Box::new(row))
            }
            CallOutcome::Done(seen) => {
                Attempt::Wait(format!("its node calls it paused and {:?}", seen.state))
            }
            CallOutcome::Unknown(detail) => {
                observe(Observed::Unknown);
                Attempt::Wait(detail)
            }
            CallOutcome::Refused(Refusal::UnknownSandbox) => {
                observe(Observed::Absent);
                Attempt::Moved(Box::new(row))
            }
            CallOutcome::Refused(refusal) if row.state == State::Pausing => {
                observe(Observed::Unknown);
                self.pause_failed(slot, row, refusal).await
            }
            CallOutcome::Refused(refusal) => Attempt::Wait(format!("pause: {refusal}")),
        }
    }

    async fn pause_failed(&self, slot: &Slot, row: Sandbox, refusal: Refusal) -> Attempt {
        let text = format!("the pause failed: {refusal}");
        tracing::warn!(sandbox = %row.id, %refusal, "node did not pause a sandbox");
        slot.set_back(Setback::Refused(refusal));
        let now = self.inner.clock.now();
        let is_due = row.deadline <= now;
        let change = Change {
            desired: Some(Desired::Running),
            deadline: is_due.then(|| now.saturating_add(EXPIRY_RETRY_AFTER)),
            events: vec![events::event(
                &row,
                now,
                EventKind::Log,
                "warn",
                text.clone(),
            )],
            last_error: Some(text),
            ..Change::default()
        };
        self.commit(row, Event::PauseFailed, change).await
    }

    pub(super) async fn readmit(&mut self, slot: &Slot, row: Sandbox) -> Attempt {
        let state = |node: &NodeId| self.inner.registry.standing(node).map(|(state, _)| state);
        let node = row.node.clone();
        let node = match node.as_ref().and_then(state).zip(node) {
            Some((NodeState::Draining, _)) if row.snapshot.is_some() => {
                return self.relocate(slot, row).await;
            }
            Some((NodeState::Ready | NodeState::Draining, node)) => node,
            _ => return Attempt::Wait("its node does not answer".to_owned()),
        };
        let generation = row.generation.next();
        let change = Change {
            placement: Some((node, generation)),
            ..Change::default()
        };
        let (transition, effects) = match self.transition(&row, Event::Resume, change) {
            Ok(planned) => planned,
            Err(refused) => return disagreed(&row, refused),
        };
        match self.inner.registry.readmit(&row, generation) {
            Ok(()) => {}
            Err(_) if row.snapshot.is_some() => return self.relocate(slot, row).await,
            Err(short) => return self.stay_paused(slot, row, Setback::NoRoom(short)).await,
        }
        self.commit_resume(slot, row, transition, effects, "control.resuming")
            .await
    }

    /// Commits that it resumes where room was taken for it, if its team's quota allows.
    pub(super) async fn commit_resume(
        &self,
        slot: &Slot,
        row: Sandbox,
        transition: Transition,
        effects: &'static [Effect],
        step: &'static str,
    ) -> Attempt {
        let limits = self.inner.config.team_limits;
        let readmission = self.inner.store.sandbox_readmit(transition, limits).await;
        if !matches!(readmission, Ok(Readmission::Accepted(_))) {
            self.inner.registry.follow(&row);
        }
        match readmission {
            Ok(Readmission::Accepted(next)) => {
                crash::reached(step);
                self.inner.apply_effects(effects, &next);
                Attempt::Moved(next)
            }
            Ok(Readmission::Stale) => Attempt::LookAgain,
            Ok(Readmission::QuotaExceeded(exceeded)) => {
                let setback = Setback::QuotaExceeded(exceeded);
                self.stay_paused(slot, row, setback).await
            }
            Err(error) => Attempt::Wait(format!("readmit: {error}")),
        }
    }

    pub(super) async fn stay_paused(&self, slot: &Slot, row: Sandbox, setback: Setback) -> Attempt {
        let told = match &setback {
            Setback::NoRoom(short) => exhausted::of_node(&self.inner, &row.team, short),
            Setback::QuotaExceeded(exceeded) => {
                exhausted::of_quota(&self.inner, &row.team, exceeded)
            }
            Setback::Refused(_) | Setback::NodeLost => None,
        };
        slot.set_back(setback);
        let intent = Intent {
            id: row.id.clone(),
            change: IntentChange::StayPaused,
            claimed_by: None,
            at: self.now(),
            events: told.into_iter().collect(),
            audit: None,
        };
        match self.inner.store.sandbox_intend(intent).await {
            Ok(Some(next)) => Attempt::Moved(Box::new(next)),
            Ok(None) => Attempt::LookAgain,
            Err(error) => Attempt::Wait(format!("stay paused: {error}")),
        }
    }

    pub(super) async fn resume(&mut self, slot: &Slot, row: Sandbox) -> Attempt {
        let Some((node, client)) = self.node_of(&row) else {
            return Attempt::Wait("its node has not joined".to_owned());
        };
        let spec = self.inner.spec(&row);
        let call = async move { client.resume(&spec).await };
        let Some(outcome) = self.order(slot, &row, RESUME_TIMEOUT, call).await else {
            return Attempt::LookAgain;
        };
        let observe = |seen| {
            self.inner.registry.observe(&row.id, row.generation, seen);
        };
        match outcome {
            CallOutcome::Done(seen) => {
                let generation = seen.generation;
                observe(Observed::Known(seen));
                self.inner.registry.accepted(&row.id, generation);
                Attempt::Moved(Box::new(row))
            }
            CallOutcome::Unknown(detail) => {
                observe(Observed::Unknown);
                self.inner.registry.start_failed(&node);
                Attempt::Wait(detail)
            }
            CallOutcome::Refused(Refusal::UnknownSandbox) => {
                observe(Observed::Absent);
                Attempt::Moved(Box::new(row))
            }
            CallOutcome::Refused(refusal) => {
                tracing::warn!(sandbox = %row.id, %refusal, "node did not resume a sandbox");
                if matches!(refusal, Refusal::Failed(_)) {
                    self.inner.registry.start_failed(&node);
                }
                observe(Observed::Unknown);
                let is_tried = self.refused_by.contains(&node);
                let is_stale = matches!(refusal, Refusal::StaleGeneration { .. });
                if row.snapshot.is_some() && !is_tried && !is_stale {
                    // Others have its files, too.
                    self.refused_by.push(node);
                    let generation = row.generation.next();
                    return self.place_under(slot, row, generation).await;
                }
                self.resume_failed(slot, row, Setback::Refused(refusal))
                    .await
            }
        }
    }

    pub(super) async fn resume_failed(
        &self,
        slot: &Slot,
        row: Sandbox,
        setback: Setback,
    ) -> Attempt {
        let (detail, known) = match &setback {
            Setback::Refused(Refusal::StaleGeneration { known, .. }) => {
                ("its node knows a newer placement".to_owned(), Some(*known))
            }
            Setback::Refused(refusal) => (refusal.to_string(), None),
            Setback::NodeLost => ("its node is lost".to_owned(), None),
            Setback::NoRoom(short) => ((*short).to_owned(), None),
            Setback::QuotaExceeded(exceeded) => (exceeded.to_string(), None),
        };
        slot.set_back(setback);
        let text = format!("the resume failed: {detail}");
        // The next resume has to be newer than what the node knows.
        let newest = known.filter(|known| *known > row.generation);
        let placement = if row.is_elsewhere() {
            let newest = newest.unwrap_or(row.generation);
            let home = row.kept_on.as_ref().or(row.node.as_ref());
            home.cloned().map(|home| (home, newest))
        } else {
            row.node.clone().zip(newest)
        };
        let change = Change {
            desired: Some(Desired::Paused),
            placement,
            is_detached: row.kept_on.is_none(),
            events: vec![events::event(
                &row,
                self.now(),
                EventKind::Log,
                "warn",
                text.clone(),
            )],
            last_error: Some(text),
            ..Change::default()
        };
        self.commit(row, Event::ResumeFailed, change).await
    }

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }
}
