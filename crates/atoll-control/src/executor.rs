//! Carries out one action of a plan. It decides nothing: what follows from the outcome is the
//! next plan's business.

mod pause;
mod relocate;

use std::sync::Arc;
use std::time::Duration;

use atoll_core::crash;
use atoll_core::error::ErrorKind;
use atoll_core::event::EventKind;
use atoll_core::id::{Generation, NodeId};
use atoll_core::lifecycle::{Effect, Event, Refused, state_name, step};
use atoll_core::node::{CallOutcome, ObservedSandbox, Refusal};
use atoll_core::reconcile::{Action, Observed};
use atoll_core::route::RouteUpdate;
use atoll_core::sandbox::{Desired, EndReason, Sandbox, SandboxSpec, State};
use atoll_core::scheduler::record::Record;
use atoll_core::time::Timestamp;
use atoll_store::store::{AuditRow, EventRow, Intent, IntentChange, Transition};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tracing::Instrument as _;

use crate::events;
use crate::exhausted;
use crate::metrics;
use crate::node_client::NodeClient;
use crate::placement::Unplaced;
use crate::reconciler::{Goal, Setback, Slot};
use crate::service::Inner;

/// How long a node may take to start a sandbox before the outcome counts as unknown.
const ENSURE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a node may take to remove one before the outcome counts as unknown.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Definite refusals after which a create is given up.
const REFUSALS_MAX: usize = 5;

/// What an attempt came to.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The row is this; that was read, and nothing was done.
    Found(Box<Sandbox>),
    /// The row is now this.
    Moved(Box<Sandbox>),
    /// Something changed; read the row again.
    LookAgain,
    /// There is nothing to do.
    Rest,
    /// Another server does it; look how far it is.
    StandBy,
    /// It did not work; try again later.
    Wait(String),
}

/// A change of state with what comes with it.
#[derive(Debug, Default)]
struct Change {
    desired: Option<Desired>,
    deadline: Option<Timestamp>,
    placement: Option<(NodeId, Generation)>,
    is_detached: bool,
    stop_reason: Option<EndReason>,
    last_error: Option<String>,
    events: Vec<EventRow>,
    audit: Option<Box<AuditRow>>,
    /// A refusal of the scheduler, which goes with the event that tells of the failure.
    decision: Option<Box<Record>>,
}

/// Carries out actions for one sandbox. It remembers, for the life of its task, who refused it.
#[derive(Debug)]
pub(crate) struct Executor {
    inner: Arc<Inner>,
    refused_by: Vec<NodeId>,
    refusal: Option<Refusal>,
}

impl Executor {
    pub(crate) const fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            refused_by: Vec::new(),
            refusal: None,
        }
    }

    /// Carries out one action.
    pub(crate) async fn execute(&mut self, slot: &Slot, row: Sandbox, action: &Action) -> Attempt {
        match action {
            Action::Place => self.place(slot, row).await,
            Action::Ensure => self.ensure(slot, row).await,
            Action::Pause => self.pause(slot, row).await,
            Action::Readmit => self.readmit(slot, row).await,
            Action::Resume => self.resume(slot, row).await,
            Action::StayPaused => self.stay_paused(slot, row, Setback::NodeLost).await,
            Action::NoteSnapshot => self.note_snapshot(row).await,
            Action::Relocate => self.relocate(slot, row).await,
            Action::Remove => self.remove(row).await,
            // Nothing else leads there: its node is lost.
            Action::Advance(Event::ResumeFailed) => {
                self.resume_failed(slot, row, Setback::NodeLost).await
            }
            Action::Advance(event @ Event::Started) => {
                self.done(slot, row, *event, Goal::Serving).await
            }
            Action::Advance(event @ Event::PauseDone) => {
                self.done(slot, row, *event, Goal::Paused).await
            }
            Action::Advance(event @ Event::Detach) => {
                let change = Change {
                    is_detached: true,
                    ..Change::default()
                };
                self.commit(row, *event, change).await
            }
            Action::Advance(event) => self.commit(row, *event, Change::default()).await,
            Action::Fail { reason, detail } => self.fail(row, *reason, detail.clone()).await,
            Action::Expire => self.expire(row).await,
        }
    }

    async fn place(&mut self, slot: &Slot, row: Sandbox) -> Attempt {
        // The first placement keeps the generation the row was made with.
        let generation = match row.node {
            None => row.generation,
            Some(_) => row.generation.next(),
        };
        self.place_under(slot, row, generation).await
    }

    async fn place_under(&mut self, slot: &Slot, row: Sandbox, generation: Generation) -> Attempt {
        let now = self.inner.clock.now();
        let laid = match self.inner.lay(&row).await {
            Ok(laid) => laid,
            Err(error) if error.kind == ErrorKind::InvalidArgument => {
                // A policy above it was changed since it was made.
                let detail = error.to_string();
                if row.kept.is_some() {
                    let setback = Setback::Refused(Refusal::Failed(detail));
                    return self.resume_failed(slot, row, setback).await;
                }
                return self.fail(row, EndReason::NoCapacity, detail).await;
            }
            Err(error) => return Attempt::Wait(error.to_string()),
        };
        match self.inner.place(&row, &laid, generation, &self.refused_by) {
            Ok(placed) => {
                let change = Change {
                    events: vec![events::placed(&row, now, &placed)],
                    placement: Some((placed.decision.node.clone(), generation)),
                    ..Change::default()
                };
                self.commit(row, Event::Place, change).await
            }
            Err(_) if row.kept.is_some() => self.stay_where_kept(slot, row).await,
            Err(unplaced) => self.give_up(row, *unplaced).await,
        }
    }

    async fn give_up(&mut self, row: Sandbox, unplaced: Unplaced) -> Attempt {
        match self.refusal.take() {
            // A node tried: what it said is nearer to the cause than that no other is left.
            Some(refusal) if !matches!(refusal, Refusal::NoRoom(_)) => {
                self.fail(row, EndReason::Failed, refusal.to_string()).await
            }
            _ => {
                let told = exhausted::of_capacity(&self.inner, &row.team, &unplaced.refusal);
                let change = Change {
                    events: told.into_iter().collect(),
                    decision: Some(unplaced.record),
                    ..Change::default()
                };
                let detail = unplaced.refusal.to_string();
                self.fail_with(row, EndReason::NoCapacity, detail, change)
                    .await
            }
        }
    }

    async fn ensure(&mut self, slot: &Slot, row: Sandbox) -> Attempt {
        let Some((node, client)) = self.node_of(&row) else {
            return Attempt::Wait("its node has not joined".to_owned());
        };
        let spec = self.inner.spec(&row);
        let call = async move { client.ensure(&spec).await };
        match self.order(slot, &row, ENSURE_TIMEOUT, call).await {
            Some(outcome) => self.ensured(slot, row, node, outcome).await,
            None => Attempt::LookAgain,
        }
    }

    /// The node of a row, and the way to it if it joined.
    fn node_of(&self, row: &Sandbox) -> Option<(NodeId, Arc<dyn NodeClient>)> {
        let node = row.node.clone()?;
        let client = self.inner.registry.client(&node)?;
        Some((node, client))
    }

    /// Gives an order to a node and waits for its outcome; none if the sandbox became unwanted
    /// meanwhile. The order itself runs to its end either way.
    async fn order<T: Send + 'static>(
        &self,
        slot: &Slot,
        row: &Sandbox,
        limit: Duration,
        call: impl Future<Output = CallOutcome<T>> + Send + 'static,
    ) -> Option<CallOutcome<T>> {
        let call = async move {
            match timeout(limit, call).await {
                Ok(outcome) => outcome,
                Err(_) => CallOutcome::Unknown("the node did not answer in time".to_owned()),
            }
        };
        let mut call: JoinHandle<CallOutcome<T>> = self.inner.tasks.spawn(call.in_current_span());
        loop {
            tokio::select! {
                biased;
                outcome = &mut call => {
                    let lost = |error: JoinError| CallOutcome::Unknown(error.to_string());
                    return Some(outcome.unwrap_or_else(lost));
                }
                () = slot.woken() => {
                    if self.is_overtaken(slot, row).await {
                        return None;
                    }
                }
            }
        }
    }

    /// Whether the sandbox became unwanted while its node carries out an order.
    async fn is_overtaken(&self, slot: &Slot, row: &Sandbox) -> bool {
        slot.acknowledge();
        match self.inner.store.sandbox_get(&row.id).await {
            Ok(Some(current)) => {
                current.desired == Desired::Stopped || current.generation != row.generation
            }
            Ok(None) => true,
            // The order goes on; the end of it will look again.
            Err(_) => false,
        }
    }

    async fn ensured(
        &mut self,
        slot: &Slot,
        row: Sandbox,
        node: NodeId,
        outcome: CallOutcome<ObservedSandbox>,
    ) -> Attempt {
        match outcome {
            CallOutcome::Done(seen) => {
                let generation = seen.generation;
                self.inner
                    .registry
                    .observe(&row.id, generation, Observed::Known(seen));
                self.inner.registry.accepted(&row.id, generation);
                metrics::retried(self.refused_by.len());
                Attempt::Moved(Box::new(row))
            }
            CallOutcome::Unknown(detail) => {
                self.inner
                    .registry
                    .observe(&row.id, row.generation, Observed::Unknown);
                self.inner.registry.start_failed(&node);
                Attempt::Wait(detail)
            }
            CallOutcome::Refused(refusal) => {
                tracing::warn!(sandbox = %row.id, %node, %refusal, "node refused a sandbox");
                if matches!(refusal, Refusal::Failed(_)) {
                    self.inner.registry.start_failed(&node);
                }
                self.inner
                    .registry
                    .observe(&row.id, row.generation, Observed::Absent);
                let generation = match &refusal {
                    Refusal::StaleGeneration { known, .. } => {
                        known.next().max(row.generation.next())
                    }
                    _ => {
                        self.refused_by.push(node);
                        row.generation.next()
                    }
                };
                let is_exhausted = self.refused_by.len() >= REFUSALS_MAX;
                // Another node would find the same in the storage.
                let is_hopeless = matches!(refusal, Refusal::BadSnapshot(_));
                if row.kept.is_some() && (is_exhausted || is_hopeless) {
                    let setback = Setback::Refused(refusal);
                    return self.resume_failed(slot, row, setback).await;
                }
                let text = refusal.to_string();
                self.refusal = Some(refusal);
                if is_exhausted {
                    return self.fail(row, EndReason::Failed, text).await;
                }
                self.place_under(slot, row, generation).await
            }
        }
    }

    async fn remove(&self, row: Sandbox) -> Attempt {
        let Some(client) = row
            .node
            .as_ref()
            .and_then(|node| self.inner.registry.client(node))
        else {
            return Attempt::Wait("its node has not joined".to_owned());
        };
        let id = row.id.clone();
        let generation = row.generation;
        let call = async move {
            match timeout(REMOVE_TIMEOUT, client.remove(&id, generation)).await {
                Ok(outcome) => outcome,
                Err(_) => CallOutcome::Unknown("the node did not answer in time".to_owned()),
            }
        };
        let call = self.inner.tasks.spawn(call.in_current_span());
        let outcome = call
            .await
            .unwrap_or_else(|error| CallOutcome::Unknown(error.to_string()));
        match outcome {
            CallOutcome::Done(())
            | CallOutcome::Refused(Refusal::UnknownSandbox | Refusal::StaleGeneration { .. }) => {
                self.inner
                    .registry
                    .observe(&row.id, row.generation, Observed::Absent);
                Attempt::Moved(Box::new(row))
            }
            CallOutcome::Refused(refusal) => Attempt::Wait(format!("remove: {refusal}")),
            CallOutcome::Unknown(detail) => {
                self.inner
                    .registry
                    .observe(&row.id, row.generation, Observed::Unknown);
                Attempt::Wait(detail)
            }
        }
    }

    /// It came to be as somebody asked; with that their request is done.
    async fn done(&self, slot: &Slot, row: Sandbox, event: Event, goal: Goal) -> Attempt {
        let claim = slot.claim(goal).await;
        let before = row.clone();
        let at = self.inner.clock.now();
        let change = Change {
            audit: claim.as_ref().map(|claim| claim.row(row.id.as_str(), at)),
            ..Change::default()
        };
        let attempt = self.commit(row, event, change).await;
        if let (Attempt::Moved(_), Some(claim)) = (&attempt, claim) {
            claim.keep();
        }
        if matches!(attempt, Attempt::Moved(_)) && event == Event::Started {
            self.inner.clear_kept(&before);
        }
        attempt
    }

    async fn fail(&self, row: Sandbox, reason: EndReason, detail: String) -> Attempt {
        self.fail_with(row, reason, detail, Change::default()).await
    }

    /// The same, with what there is to tell besides in the same commit.
    async fn fail_with(
        &self,
        mut row: Sandbox,
        reason: EndReason,
        detail: String,
        change: Change,
    ) -> Attempt {
        row.last_error = Some(detail.clone());
        let change = Change {
            stop_reason: Some(reason),
            last_error: Some(detail),
            ..change
        };
        self.commit(row, Event::Fail, change).await
    }

    async fn expire(&self, row: Sandbox) -> Attempt {
        let intent = Intent {
            id: row.id.clone(),
            change: IntentChange::Expire {
                seen: row.deadline,
                how: row.config.on_timeout,
            },
            claimed_by: self.inner.servers.claim(),
            at: self.inner.clock.now(),
            events: Vec::new(),
            audit: None,
        };
        match self.inner.store.sandbox_intend(intent).await {
            Ok(Some(next)) => {
                if next.desired == Desired::Stopped {
                    // As with a kill: who no longer sees it in a list must not reach it either.
                    let withdrawal = RouteUpdate::Withdraw(next.id.clone(), next.generation);
                    self.inner.routes.publish(withdrawal);
                }
                Attempt::Moved(Box::new(next))
            }
            Ok(None) => Attempt::LookAgain,
            Err(error) => Attempt::Wait(format!("expire: {error}")),
        }
    }

    /// Commits the state that follows `event`, then carries out the effects.
    async fn commit(&self, row: Sandbox, event: Event, change: Change) -> Attempt {
        let (transition, effects) = match self.transition(&row, event, change) {
            Ok(planned) => planned,
            Err(refused) => return disagreed(&row, refused),
        };
        let next = transition.next;
        match self.inner.store.sandbox_transition(transition).await {
            Ok(Some(next_row)) => {
                tracing::debug!(state = ?next, "state committed");
                crash::reached(committed(event));
                self.inner.apply_effects(effects, &next_row);
                Attempt::Moved(Box::new(next_row))
            }
            Ok(None) => Attempt::LookAgain,
            Err(error) => Attempt::Wait(format!("commit {next:?}: {error}")),
        }
    }

    /// The write for the state that follows `event`, and the effects that belong to it.
    fn transition(
        &self,
        row: &Sandbox,
        event: Event,
        change: Change,
    ) -> Result<(Transition, &'static [Effect]), Refused> {
        let next = step(row.state, event)?;
        let at = self.inner.clock.now();
        let mut after = row.clone();
        after.stop_reason = after.stop_reason.or(change.stop_reason);
        let mut events = change.events;
        events.extend(events::announcements(next.effects, &after, at));
        if let Some(told) = events.last_mut().filter(|_| change.decision.is_some()) {
            told.decision = change.decision;
        }
        if events.is_empty() && !self.inner.servers.is_alone() {
            // Nobody is told of this state but the other servers.
            let text = format!("sandbox is {}", state_name(next.next));
            events.push(events::event(row, at, EventKind::Log, "debug", text));
        }
        let stamp = |effect| next.effects.contains(&effect).then_some(at);
        let transition = Transition {
            id: row.id.clone(),
            team: row.team.clone(),
            expected: (row.state, row.generation),
            next: next.next,
            placement: change.placement,
            is_detached: change.is_detached,
            started_at: stamp(Effect::StampStart),
            paused_at: stamp(Effect::StampPause),
            ended_at: stamp(Effect::StampEnd),
            desired: change.desired,
            deadline: change.deadline,
            stop_reason: change.stop_reason,
            last_error: change.last_error,
            at,
            events,
            audit: change.audit,
        };
        Ok((transition, next.effects))
    }
}

/// The planner and the lifecycle disagree: a defect, and nothing may change.
fn disagreed(row: &Sandbox, refused: Refused) -> Attempt {
    tracing::error!(sandbox = %row.id, %refused, "planned an illegal transition");
    Attempt::Wait(refused.to_string())
}

impl Inner {
    /// The order for a sandbox as its row is now.
    fn spec(&self, row: &Sandbox) -> SandboxSpec {
        SandboxSpec {
            id: row.id.clone(),
            generation: row.generation,
            team: row.team.clone(),
            template: row.config.template.clone(),
            build: row.config.build.clone(),
            resources: row.config.resources,
            env: row.config.env.clone(),
            network: row.config.network.clone(),
            access_token: self.tokens.envd(row),
            snapshot: row.snapshot.clone().filter(|_| row.is_elsewhere()),
        }
    }

    /// What follows a commit in memory and on the edges.
    fn apply_effects(&self, effects: &[Effect], row: &Sandbox) {
        for effect in effects {
            match effect {
                Effect::PublishRoute => self.publish_route(row),
                Effect::WithdrawRoute => self
                    .routes
                    .publish(RouteUpdate::Withdraw(row.id.clone(), row.generation)),
                Effect::StampStart
                | Effect::StampPause
                | Effect::StampEnd
                | Effect::Announce(_) => {}
            }
        }
        if row.state == State::Running {
            self.deadlines.set(&row.id, row.deadline);
        } else {
            self.deadlines.forget(&row.id);
        }
        if row.state == State::Stopped {
            self.registry.forget(&row.id);
            self.usage.forget(&row.id);
            self.drop_snapshots(row, Generation::MAX);
        }
    }
}

/// The step that the commit of an event is.
const fn committed(event: Event) -> &'static str {
    match event {
        Event::Place => "control.placed",
        Event::Started => "control.running",
        Event::Pause => "control.pausing",
        Event::PauseDone => "control.paused",
        Event::PauseFailed => "control.pause-failed",
        Event::Resume => "control.resuming",
        Event::Detach => "control.detached",
        Event::ResumeFailed => "control.resume-failed",
        Event::Restart => "control.restarting",
        Event::Delete => "control.stopping",
        Event::Vacated => "control.vacated",
        Event::Removed => "control.removed",
        Event::Fail => "control.failed",
    }
}
