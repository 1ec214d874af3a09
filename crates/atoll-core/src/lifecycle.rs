//! The lifecycle of a sandbox: the one function that decides which state may follow which.
//!
//! Nothing else in Atoll writes a state. The function is pure: it answers the next state and the
//! effects that belong to the change, as data; control commits the state first and then carries
//! out the effects, each of which may be repeated without harm.
//!
//! The table, printed from the code and compared with this text by a test:
//!
//! ```text
//! from     | event         | to       | effects
//! pending  | place         | creating | -
//! pending  | delete        | stopping | -
//! pending  | fail          | error    | announce sandbox.error
//! creating | place         | creating | -
//! creating | started       | running  | stamp start, publish route, announce sandbox.running
//! creating | delete        | stopping | -
//! creating | fail          | error    | announce sandbox.error
//! running  | pause         | pausing  | withdraw route
//! running  | restart       | stopping | withdraw route
//! running  | delete        | stopping | withdraw route
//! running  | fail          | error    | withdraw route, announce sandbox.error
//! pausing  | pause done    | paused   | stamp pause, announce sandbox.paused
//! pausing  | pause failed  | running  | publish route
//! pausing  | delete        | stopping | -
//! pausing  | fail          | error    | announce sandbox.error
//! paused   | resume        | resuming | -
//! paused   | detach        | paused   | -
//! paused   | delete        | stopping | -
//! paused   | fail          | error    | announce sandbox.error
//! resuming | place         | resuming | -
//! resuming | started       | running  | stamp start, publish route, announce sandbox.resumed
//! resuming | resume failed | paused   | -
//! resuming | delete        | stopping | -
//! resuming | fail          | error    | announce sandbox.error
//! stopping | delete        | stopping | -
//! stopping | vacated       | pending  | -
//! stopping | removed       | stopped  | stamp end, announce sandbox.deleted
//! stopped  | delete        | stopped  | -
//! error    | delete        | stopping | -
//! ```
//!
//! Why some edges are as they are:
//! - `creating` accepts `place` again: a definite refusal sends the sandbox to the next node,
//!   under a new generation.
//! - `delete` is legal everywhere and harmless when repeated, so a delete can always be retried.
//! - `pausing` that fails returns to `running`, and `resuming` that fails to `paused`: neither may
//!   lose a sandbox that is intact.
//! - `paused` fails only if its node says that what was kept is gone; a node that is silent or lost
//!   may come back with it.
//! - `paused` is detached from its node when only shared storage keeps it any more; what is resumed
//!   from there is placed again, as in `creating`, if a node refuses it.
//! - A restart is a removal that ends in `pending` instead of `stopped`: the sandbox never counts
//!   as ended.
//! - `error` leads only to removal; control asks for it by itself.

use std::fmt;

use crate::sandbox::State;

/// Every state, in the order of the table.
pub const STATES: [State; 9] = [
    State::Pending,
    State::Creating,
    State::Running,
    State::Pausing,
    State::Paused,
    State::Resuming,
    State::Stopping,
    State::Stopped,
    State::Error,
];

/// Something that may change the state of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// A node was chosen and the choice is part of the same commit.
    Place,
    /// The node says that it serves.
    Started,
    /// It should be frozen.
    Pause,
    /// The node says that it is frozen.
    PauseDone,
    /// It could not be frozen and is intact.
    PauseFailed,
    /// It should serve again.
    Resume,
    /// No node keeps it any more; shared storage does.
    Detach,
    /// It could not be resumed; what was kept is intact.
    ResumeFailed,
    /// It should begin anew under the same identity.
    Restart,
    /// It should be gone.
    Delete,
    /// Nothing of it is left on its node, and it is wanted anew.
    Vacated,
    /// Nothing of it is left on its node, or the node is gone for good.
    Removed,
    /// It cannot serve any more, or never could.
    Fail,
}

/// Every event, in the order of the table.
pub const EVENTS: [Event; 13] = [
    Event::Place,
    Event::Started,
    Event::Pause,
    Event::PauseDone,
    Event::PauseFailed,
    Event::Resume,
    Event::Detach,
    Event::ResumeFailed,
    Event::Restart,
    Event::Delete,
    Event::Vacated,
    Event::Removed,
    Event::Fail,
];

/// What the world is told about a sandbox, through its history and the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Announcement {
    /// It was accepted.
    Created,
    /// It serves for the first time under this placement.
    Running,
    /// It is kept without serving.
    Paused,
    /// It serves again.
    Resumed,
    /// Its deadline, network policy or placement changed.
    Updated,
    /// It is gone.
    Deleted,
    /// It failed.
    Error,
}

impl Announcement {
    /// The event's name, as stored and as subscribers see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "sandbox.created",
            Self::Running => "sandbox.running",
            Self::Paused => "sandbox.paused",
            Self::Resumed => "sandbox.resumed",
            Self::Updated => "sandbox.updated",
            Self::Deleted => "sandbox.deleted",
            Self::Error => "sandbox.error",
        }
    }
}

/// What belongs to a change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// `started_at` becomes now, in the same commit.
    StampStart,
    /// What is kept of it is noted, with the time, in the same commit.
    StampPause,
    /// `ended` becomes now with the stop reason, in the same commit.
    StampEnd,
    /// The edges learn where its traffic goes, after the commit.
    PublishRoute,
    /// The edges forget it, after the commit.
    WithdrawRoute,
    /// An event of this kind is written in the same commit.
    Announce(Announcement),
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StampStart => f.write_str("stamp start"),
            Self::StampPause => f.write_str("stamp pause"),
            Self::StampEnd => f.write_str("stamp end"),
            Self::PublishRoute => f.write_str("publish route"),
            Self::WithdrawRoute => f.write_str("withdraw route"),
            Self::Announce(announcement) => write!(f, "announce {}", announcement.as_str()),
        }
    }
}

/// A legal change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The state that follows.
    pub next: State,
    /// What belongs to the change, in order.
    pub effects: &'static [Effect],
}

/// An event that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a sandbox that is {} cannot take the event `{}`",
    state_name(*.state),
    event_name(*.event)
)]
pub struct Refused {
    /// Where the sandbox stands.
    pub state: State,
    /// What was to happen.
    pub event: Event,
}

/// The name of a state, as stored and shown.
#[must_use]
pub const fn state_name(state: State) -> &'static str {
    match state {
        State::Pending => "pending",
        State::Creating => "creating",
        State::Running => "running",
        State::Pausing => "pausing",
        State::Paused => "paused",
        State::Resuming => "resuming",
        State::Stopping => "stopping",
        State::Stopped => "stopped",
        State::Error => "error",
    }
}

/// The state of a name from [`state_name`].
#[must_use]
pub fn state_from_name(name: &str) -> Option<State> {
    STATES.into_iter().find(|state| state_name(*state) == name)
}

/// The name of an event, for tables and messages.
#[must_use]
pub const fn event_name(event: Event) -> &'static str {
    match event {
        Event::Place => "place",
        Event::Started => "started",
        Event::Pause => "pause",
        Event::PauseDone => "pause done",
        Event::PauseFailed => "pause failed",
        Event::Resume => "resume",
        Event::Detach => "detach",
        Event::ResumeFailed => "resume failed",
        Event::Restart => "restart",
        Event::Delete => "delete",
        Event::Vacated => "vacated",
        Event::Removed => "removed",
        Event::Fail => "fail",
    }
}

/// Decides what follows when `event` happens in `state`.
///
/// # Errors
/// [`Refused`] if the state does not allow the event; nothing changes then.
pub const fn step(state: State, event: Event) -> Result<Step, Refused> {
    use Announcement as A;
    use Effect::{Announce, PublishRoute, StampEnd, StampPause, StampStart, WithdrawRoute};

    const NONE: &[Effect] = &[];
    const FAIL: &[Effect] = &[Announce(A::Error)];
    const FAIL_SERVING: &[Effect] = &[WithdrawRoute, Announce(A::Error)];
    const START: &[Effect] = &[StampStart, PublishRoute, Announce(A::Running)];
    const RESUMED: &[Effect] = &[StampStart, PublishRoute, Announce(A::Resumed)];
    const KEPT: &[Effect] = &[StampPause, Announce(A::Paused)];
    const WITHDRAW: &[Effect] = &[WithdrawRoute];
    const END: &[Effect] = &[StampEnd, Announce(A::Deleted)];

    let (next, effects) = match (state, event) {
        (State::Pending | State::Creating, Event::Place) => (State::Creating, NONE),
        (State::Creating, Event::Started) => (State::Running, START),
        (State::Resuming, Event::Started) => (State::Running, RESUMED),
        (State::Running, Event::Pause) => (State::Pausing, WITHDRAW),
        (State::Pausing, Event::PauseDone) => (State::Paused, KEPT),
        (State::Pausing, Event::PauseFailed) => (State::Running, &[PublishRoute] as &[Effect]),
        (State::Paused, Event::Resume) | (State::Resuming, Event::Place) => (State::Resuming, NONE),
        (State::Paused, Event::Detach) => (State::Paused, NONE),
        (State::Resuming, Event::ResumeFailed) => (State::Paused, NONE),
        (State::Running, Event::Restart | Event::Delete) => (State::Stopping, WITHDRAW),
        (
            State::Pending
            | State::Creating
            | State::Pausing
            | State::Paused
            | State::Resuming
            | State::Stopping
            | State::Error,
            Event::Delete,
        ) => (State::Stopping, NONE),
        (State::Stopped, Event::Delete) => (State::Stopped, NONE),
        (State::Stopping, Event::Vacated) => (State::Pending, NONE),
        (State::Stopping, Event::Removed) => (State::Stopped, END),
        (State::Running, Event::Fail) => (State::Error, FAIL_SERVING),
        (
            State::Pending | State::Creating | State::Pausing | State::Paused | State::Resuming,
            Event::Fail,
        ) => (State::Error, FAIL),
        _ => return Err(Refused { state, event }),
    };
    Ok(Step { next, effects })
}

#[cfg(test)]
mod tests;
