//! What the store was told, commit by commit, judged by a second opinion: the transitions of the
//! design's table and the events that belong to them, written down here anew rather than taken
//! from the code that is checked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use atoll_core::id::{SandboxId, TeamId};
use atoll_core::node::ObservedState;
use atoll_core::sandbox::{Desired, EndReason, Sandbox, State};
use atoll_store::store::{IntentChange, NewSandbox};

use crate::link::Cable;
use crate::machine::Delivery;
use crate::world::{World, lock};

/// What is remembered of one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) team: TeamId,
    /// The client's idempotency key, told by a label, whatever became of the key itself.
    pub(crate) key: Option<String>,
    /// The events that must be in its history, in order.
    pub(crate) events: Vec<&'static str>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Book {
    world: Arc<World>,
    cables: Vec<Arc<Cable>>,
    entries: Mutex<BTreeMap<SandboxId, Entry>>,
}

/// The label under which clients repeat their idempotency key.
pub(crate) const KEY_LABEL: &str = "key";

/// Every event that belongs to a change.
pub(crate) const CHANGES: [&str; 7] = [
    "sandbox.created",
    "sandbox.running",
    "sandbox.paused",
    "sandbox.resumed",
    "sandbox.updated",
    "sandbox.deleted",
    "sandbox.error",
];

impl Book {
    pub(crate) fn new(world: Arc<World>, cables: Vec<Arc<Cable>>) -> Self {
        Self {
            world,
            cables,
            entries: Mutex::default(),
        }
    }

    /// Everything that was ever accepted.
    pub(crate) fn entries(&self) -> BTreeMap<SandboxId, Entry> {
        lock(&self.entries).clone()
    }

    pub(crate) fn inserted(&self, new: &NewSandbox) {
        let row = &new.sandbox;
        self.world.note(format_args!(
            "row {} {:?} g{} on {}",
            row.id,
            row.state,
            row.generation,
            place(row)
        ));
        let entry = Entry {
            team: row.team.clone(),
            key: row.config.metadata.get(KEY_LABEL).cloned(),
            events: vec!["sandbox.created"],
        };
        lock(&self.entries).insert(row.id.clone(), entry);
    }

    pub(crate) fn moved(&self, before: &Sandbox, after: &Sandbox) {
        self.world.note(format_args!(
            "row {} {:?} → {:?} g{} on {}",
            after.id,
            before.state,
            after.state,
            after.generation,
            place(after)
        ));
        if !is_legal(before.state, after.state) {
            self.world.violate(format_args!(
                "{} went from {:?} to {:?}, which the design does not allow",
                after.id, before.state, after.state
            ));
        }
        if let Some(event) = event_of(before.state, after.state)
            && let Some(entry) = lock(&self.entries).get_mut(&after.id)
        {
            entry.events.push(event);
        }
        self.judge_placement(before, after);
        self.judge_pause(before, after);
        self.judge_loss(before, after);
    }

    pub(crate) fn intended(&self, after: &Sandbox, change: &IntentChange) {
        self.world
            .note(format_args!("row {} is to {change:?}", after.id));
        let is_update = match change {
            IntentChange::SetDeadline(_)
            | IntentChange::ExtendDeadline(_)
            | IntentChange::SetNetwork(_)
            | IntentChange::Restart => true,
            IntentChange::Stop(_)
            | IntentChange::Expire { .. }
            | IntentChange::Pause { .. }
            | IntentChange::Resume { .. }
            | IntentChange::NoteSnapshot(_)
            | IntentChange::StayPaused => false,
        };
        if is_update && let Some(entry) = lock(&self.entries).get_mut(&after.id) {
            entry.events.push("sandbox.updated");
        }
    }

    /// A placement is never given up while its node has it: an unknown outcome is no refusal.
    fn judge_placement(&self, before: &Sandbox, after: &Sandbox) {
        if before.generation == after.generation || before.desired != Desired::Running {
            return;
        }
        if after.generation < before.generation {
            self.world.violate(format_args!(
                "{} went back from generation {} to {}",
                after.id, before.generation, after.generation
            ));
        }
        let Some(cable) = self.cable(before) else {
            return;
        };
        let copy = cable.machine.copy(&before.id, before.generation);
        let is_kept = copy.is_some_and(|copy| {
            copy.delivery == Delivery::First
                && !copy.is_ending
                && copy.state != ObservedState::Exited
        });
        if is_kept && before.state == State::Creating {
            self.world.violate(format_args!(
                "{} was placed anew although {} has generation {}",
                after.id,
                place(before),
                before.generation
            ));
        }
    }

    /// What was paused can be resumed: it fails only if it ended by itself or with the machine.
    fn judge_pause(&self, before: &Sandbox, after: &Sandbox) {
        let is_paused = matches!(before.state, State::Paused | State::Resuming);
        let is_failed = after.state == State::Error && before.desired != Desired::Stopped;
        let has_lost = self
            .cable(before)
            .is_some_and(|cable| cable.machine.has_lost(&before.id));
        if is_paused && is_failed && !has_lost {
            self.world.violate(format_args!(
                "{} was paused on {} and failed: {:?}",
                after.id,
                place(before),
                after.last_error
            ));
        }
    }

    /// A node is given up only after it was silent for long enough.
    fn judge_loss(&self, before: &Sandbox, after: &Sandbox) {
        let is_given_up = before.state != State::Error
            && after.state == State::Error
            && after.stop_reason == Some(EndReason::NodeLost);
        let Some(cable) = self.cable(before).filter(|_| is_given_up) else {
            return;
        };
        if !cable.may_be_given_up() {
            self.world.violate(format_args!(
                "{} was given up with {}, which was not silent",
                after.id,
                place(before)
            ));
        }
    }

    fn cable(&self, row: &Sandbox) -> Option<&Arc<Cable>> {
        let node = row.node.as_ref()?;
        self.cables.iter().find(|cable| cable.machine.id() == node)
    }
}

fn place(row: &Sandbox) -> &str {
    row.node.as_ref().map_or("no node", |node| node.as_str())
}

/// The design's table of states.
const fn is_legal(from: State, to: State) -> bool {
    use State as S;
    match from {
        S::Pending => matches!(to, S::Creating | S::Stopping | S::Error),
        S::Creating => matches!(to, S::Creating | S::Running | S::Stopping | S::Error),
        S::Running => matches!(to, S::Pausing | S::Stopping | S::Error),
        S::Pausing => matches!(to, S::Paused | S::Running | S::Stopping | S::Error),
        S::Paused => matches!(to, S::Resuming | S::Stopping | S::Error),
        S::Resuming => matches!(to, S::Running | S::Paused | S::Stopping | S::Error),
        S::Stopping => matches!(to, S::Pending | S::Stopped),
        S::Error => matches!(to, S::Stopping),
        S::Stopped => false,
    }
}

/// The event that belongs to a change of state.
const fn event_of(from: State, to: State) -> Option<&'static str> {
    match (from, to) {
        (State::Creating, State::Running) => Some("sandbox.running"),
        (State::Resuming, State::Running) => Some("sandbox.resumed"),
        (State::Pausing, State::Paused) => Some("sandbox.paused"),
        (_, State::Stopped) => Some("sandbox.deleted"),
        (_, State::Error) => Some("sandbox.error"),
        _ => None,
    }
}
