//! Makes true what is intended, one task per sandbox.
//!
//! [`Reconciler::wake`] means "look again at this sandbox" and carries no instructions: the task
//! reads the intent, plans, carries out the first action, looks at what really happened, and plans
//! again, until there is nothing to do. Handlers wake it after they wrote intent and then watch
//! the rows it commits; timers, node events and the full pass wake it the same way, so the path of
//! a request is the path of a repair.
//!
//! Invariants:
//! - At most one task of a server drives a sandbox; it alone commits states there. Where several
//!   servers share a store, the sandbox is one of them's to drive at a time (see
//!   [`crate::servers`]); for those who wait at another, the task there reads the rows that the
//!   driver commits.
//! - An order to a node is never abandoned half-way: it runs to its end in a task of its own, even
//!   when the driver stops waiting for it because a delete overtook it.
//! - A task that cannot go on waits with a growing delay, and is shortened by the next wake.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_core::id::SandboxId;
use atoll_core::node::Refusal;
use atoll_core::quota::Exceeded;
use atoll_core::reconcile::plan;
use atoll_core::sandbox::{Sandbox, State};
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::Notify;
use tracing::Instrument as _;

use crate::audit::{Claim, Receipt};
use crate::executor::{Attempt, Executor};
use crate::lock::lock;
use crate::metrics;
use crate::progress::Progress;
use crate::servers::is_turning;
use crate::service::Inner;

/// The first delay after something did not work; each further one is twice as long.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// The longest delay, before up to as much again is added at random, so that the sandboxes of a
/// node that comes back do not all ask it in the same moment.
const BACKOFF_MAX: Duration = Duration::from_millis(2_500);

/// How often a task looks for what another server committed, where no event told of it.
const STAND_BY_INTERVAL: Duration = Duration::from_millis(500);

/// What a task shares with those who wait for it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// How many wait for it.
    watchers: AtomicUsize,
    is_woken: AtomicBool,
    wake: Notify,
    progress: Progress,
    setback: Mutex<Option<Setback>>,
    /// Of the request whose wish the task carries out.
    due: Mutex<Option<Due>>,
}

/// A request that is done once its sandbox comes to be as it asked.
#[derive(Debug)]
pub(crate) struct Due {
    receipt: Receipt,
    goal: Goal,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// To serve: newly made, resumed, or begun anew.
    Serving,
    /// To be kept without serving.
    Paused,
}

impl Due {
    /// None for a wish whose request has its row written elsewhere, or has none.
    pub(crate) fn new(receipt: Option<&Receipt>, goal: Goal) -> Option<Self> {
        let receipt = receipt?.clone();
        Some(Self { receipt, goal })
    }
}

/// Why a wish was taken back: what the row says of it, in a form that an answer can be made of.
#[derive(Debug, Clone)]
pub(crate) enum Setback {
    /// The team's quota leaves no room.
    QuotaExceeded(Exceeded),
    /// Its node has too little of something.
    NoRoom(&'static str),
    /// Its node is lost.
    NodeLost,
    /// Its node did not do it.
    Refused(Refusal),
}

impl Slot {
    /// Notes why the wish is taken back that the next row no longer has.
    pub(crate) fn set_back(&self, setback: Setback) {
        *lock(&self.setback) = Some(setback);
        // Its request was not done: its door tells of that.
        *lock(&self.due) = None;
    }

    /// The right to the row of the request that asked for this, for the transaction with which it
    /// comes to be.
    pub(crate) async fn claim(&self, goal: Goal) -> Option<Claim> {
        let receipt = {
            let due = lock(&self.due);
            let due = due.as_ref().filter(|due| due.goal == goal);
            due?.receipt.clone()
        };
        receipt.claim().await
    }

    /// Notes whose wish the task carries out from now on.
    fn owe(&self, due: Option<Due>) {
        if due.is_some() {
            *lock(&self.due) = due;
        }
    }

    fn wake(&self) {
        self.is_woken.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Waits until somebody says "look again", or until it was said since the last look.
    pub(crate) async fn woken(&self) {
        while !self.is_woken.load(Ordering::Acquire) {
            self.wake.notified().await;
        }
    }

    /// Notes that what the last wake was about has been looked at.
    pub(crate) fn acknowledge(&self) {
        self.is_woken.store(false, Ordering::Release);
    }

    fn take_wake(&self) -> bool {
        self.is_woken.swap(false, Ordering::AcqRel)
    }

    /// Shows a committed row to those who wait.
    pub(crate) fn show(&self, row: &Sandbox) {
        self.progress.show(row);
    }
}

/// The rows a task commits, for one who waits.
#[derive(Debug)]
pub(crate) struct Watch {
    slot: Arc<Slot>,
}

impl Watch {
    fn new(slot: &Arc<Slot>) -> Self {
        slot.watchers.fetch_add(1, Ordering::AcqRel);
        Self {
            slot: Arc::clone(slot),
        }
    }

    /// Why the last wish was taken back.
    pub(crate) fn setback(&self) -> Option<Setback> {
        lock(&self.slot.setback).clone()
    }

    /// Waits for a row that satisfies the condition; none if the task came to rest before.
    pub(crate) async fn until(
        &mut self,
        condition: impl Fn(&Sandbox) -> bool,
    ) -> Option<Arc<Sandbox>> {
        self.slot.progress.until(condition).await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.slot.watchers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Tells those who wait that the task is over, also when it panicked.
struct EndOnDrop(Arc<Slot>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.progress.end();
    }
}

/// The running tasks.
#[derive(Debug, Default)]
pub(crate) struct Reconciler {
    slots: Mutex<BTreeMap<SandboxId, Arc<Slot>>>,
}

impl Reconciler {
    /// Says "look again at this sandbox". `hint` is its row if the caller just committed it: it
    /// saves the new task a read.
    pub(crate) fn wake(&self, inner: &Arc<Inner>, id: &SandboxId, hint: Option<Sandbox>) -> Watch {
        self.wake_for(inner, id, hint, None)
    }

    /// As [`Self::wake`], for a wish that was just written; its request is done once that came to
    /// be.
    pub(crate) fn wake_for(
        &self,
        inner: &Arc<Inner>,
        id: &SandboxId,
        hint: Option<Sandbox>,
        due: Option<Due>,
    ) -> Watch {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(id) {
            slot.owe(due);
            slot.wake();
            return Watch::new(slot);
        }
        let slot = Arc::new(Slot::default());
        slot.owe(due);
        let watch = Watch::new(&slot);
        slots.insert(id.clone(), Arc::clone(&slot));
        drop(slots);
        let task = drive(Arc::clone(inner), id.clone(), Arc::clone(&slot), hint);
        // Within the span of whoever woke it first: its work belongs to that request.
        inner.tasks.spawn(task.in_current_span());
        watch
    }

    /// Says "look again" to the task of a sandbox, if there is one.
    pub(crate) fn nudge(&self, id: &SandboxId) {
        if let Some(slot) = lock(&self.slots).get(id) {
            slot.wake();
        }
    }

    /// Whether a task drives this sandbox now.
    pub(crate) fn is_driven(&self, id: &SandboxId) -> bool {
        lock(&self.slots).contains_key(id)
    }

    /// The sandboxes that tasks drive now.
    pub(crate) fn driven(&self) -> Vec<SandboxId> {
        lock(&self.slots).keys().cloned().collect()
    }

    /// Ends a task's life unless it was woken meanwhile.
    fn retire(&self, id: &SandboxId, slot: &Slot) -> bool {
        let mut slots = lock(&self.slots);
        if slot.is_woken.load(Ordering::Acquire) {
            return false;
        }
        slots.remove(id);
        true
    }

    fn abandon(&self, id: &SandboxId) {
        lock(&self.slots).remove(id);
    }
}

async fn drive(inner: Arc<Inner>, id: SandboxId, slot: Arc<Slot>, hint: Option<Sandbox>) {
    let cancel = inner.cancel.clone();
    let _end = EndOnDrop(Arc::clone(&slot));
    tokio::select! {
        biased;
        // What is left undone is found again at the next start.
        () = cancel.cancelled() => inner.reconciler.abandon(&id),
        () = drive_to_rest(&inner, &id, &slot, hint) => {}
    }
}

async fn drive_to_rest(inner: &Arc<Inner>, id: &SandboxId, slot: &Slot, hint: Option<Sandbox>) {
    let mut executor = Executor::new(Arc::clone(inner));
    let mut row = hint;
    let mut failures: u32 = 0;
    // Whether a commit may have been made although its answer was lost, with its effects undone.
    let mut is_unsure = false;
    let mut delays: Option<ExponentialBackoff> = None;
    loop {
        // A wake means that the intent may have changed: what we hold may be old.
        if slot.take_wake() {
            row = None;
        }
        let attempt = match row.take() {
            Some(known) => advance(inner, &mut executor, slot, known).await,
            None => read(inner, id).await,
        };
        match attempt {
            Attempt::Moved(next) => {
                failures = 0;
                delays = None;
                if std::mem::take(&mut is_unsure) {
                    inner.settle(&next);
                }
                row = Some(*next);
            }
            Attempt::Found(found) => {
                // One that is due is about to leave; to set its deadline would only wake us again
                // at once, however often its end cannot be written.
                let is_due = found.state == State::Running && found.deadline <= inner.clock.now();
                if is_unsure && !is_due {
                    is_unsure = false;
                    inner.settle(&found);
                }
                row = Some(*found);
            }
            Attempt::LookAgain => {}
            Attempt::StandBy => {
                tokio::select! {
                    biased;
                    () = slot.woken() => {}
                    () = tokio::time::sleep(STAND_BY_INTERVAL) => {}
                }
            }
            Attempt::Rest => {
                if inner.reconciler.retire(id, slot) {
                    return;
                }
            }
            Attempt::Wait(detail) => {
                is_unsure = true;
                metrics::waited();
                let delay = delays.get_or_insert_with(|| backoff(inner)).next();
                let delay = delay.unwrap_or(BACKOFF_MAX);
                failures = failures.saturating_add(1);
                tracing::warn!(sandbox = %id, detail, failures, "sandbox is not settled");
                tokio::select! {
                    biased;
                    () = slot.woken() => {}
                    () = tokio::time::sleep(delay) => {}
                }
            }
        }
    }
}

async fn read(inner: &Inner, id: &SandboxId) -> Attempt {
    match inner.store.sandbox_get(id).await {
        Ok(Some(row)) => Attempt::Found(Box::new(row)),
        Ok(None) => {
            inner.registry.forget(id);
            Attempt::Rest
        }
        Err(error) => Attempt::Wait(format!("read its row: {error}")),
    }
}

async fn advance(inner: &Inner, executor: &mut Executor, slot: &Slot, row: Sandbox) -> Attempt {
    slot.show(&row);
    if row.state != State::Stopped {
        // A look between placement and commit finds no row, and has it forgotten.
        inner.follow(&row);
    }
    if !inner.is_ours(&row).await {
        inner.settle(&row);
        let is_waited_for = is_turning(&row) && slot.watchers.load(Ordering::Acquire) > 0;
        return if is_waited_for {
            Attempt::StandBy
        } else {
            Attempt::Rest
        };
    }
    match inner.pass_on(&row).await {
        Some(Ok(_)) => return Attempt::LookAgain,
        Some(Err(error)) => return Attempt::Wait(format!("pass it on: {error}")),
        None => {}
    }
    let observed = inner.registry.observed(&row.id);
    let actions = plan(&row, &observed, &inner.registry.health(), inner.clock.now());
    match actions.first() {
        Some(action) => {
            metrics::acted(action.name());
            let span = tracing::info_span!(
                "reconcile",
                sandbox = %row.id,
                generation = row.generation.get(),
                node = row.node.as_ref().map(tracing::field::display),
                action = action.name(),
            );
            executor.execute(slot, row, action).instrument(span).await
        }
        None => {
            inner.settle(&row);
            Attempt::Rest
        }
    }
}

/// The delays of one task. Every order is idempotent, so it is repeated as often as it takes.
fn backoff(inner: &Inner) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(BACKOFF_FIRST)
        .with_max_delay(BACKOFF_MAX)
        .with_jitter()
        .with_jitter_seed(inner.draw_seed())
        .without_max_times()
        .build()
}

/// Whether a sandbox has ended, or will whatever happens.
pub(crate) fn is_over(row: &Sandbox) -> bool {
    matches!(row.state, State::Stopped | State::Error)
        || row.desired == atoll_core::sandbox::Desired::Stopped
}
