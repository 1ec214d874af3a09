//! What has to be done so that the world becomes what is intended.
//!
//! The planner is pure and total: from the intended sandbox, what is observed of it, the health of
//! the nodes and the time, it answers the actions that lead to rest, assuming each succeeds. The
//! executor carries out the first one, looks at what really happened, and asks again. Once all of
//! a plan has been done, the next plan is empty; a test checks that for every combination.
//!
//! What it deliberately does not do: choose a node (placement does), or decide which state may
//! follow (the lifecycle does).

use std::collections::BTreeMap;

use crate::id::NodeId;
use crate::lifecycle::Event;
use crate::node::{ObservedSandbox, ObservedState};
use crate::sandbox::{Desired, EndReason, OnTimeout, Sandbox, State};
use crate::time::Timestamp;

/// What control knows of a sandbox on the node it is placed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// The node said that it has no such sandbox.
    Absent,
    /// Nobody asked since the last order, or the answer was lost.
    Unknown,
    /// What the node said last.
    Known(ObservedSandbox),
}

/// Whether a node can be worked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeHealth {
    /// It answers.
    Ready,
    /// It did not answer lately; it gets no new sandboxes.
    Suspect,
    /// It did not answer for so long that what it ran counts as gone.
    Lost,
}

/// The nodes by id. One that is not listed counts as suspect: it may still join.
pub type Nodes = BTreeMap<NodeId, NodeHealth>;

/// One thing to do. It speaks of the sandbox's row as it is when its turn comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Choose a node; commit node and next generation.
    Place,
    /// Tell the row's node to run the row's generation.
    Ensure,
    /// Tell the row's node to keep it without serving.
    Pause,
    /// Take its whole room on its node again; commit that it resumes, under the next generation.
    Readmit,
    /// Tell the row's node to let what it keeps serve again, under the row's generation.
    Resume,
    /// Commit that shared storage has what the row's node keeps, so that others can go on with it.
    NoteSnapshot,
    /// Choose a node for what shared storage has; commit that it resumes there, under the next
    /// generation.
    Relocate,
    /// Tell the row's node to remove the sandbox.
    Remove,
    /// Commit the state that follows this event. A pause that failed takes back the wish that it
    /// be paused, a resume that failed the wish that it serve.
    Advance(Event),
    /// Commit that it stays paused although it should serve, because its node cannot be worked
    /// with.
    StayPaused,
    /// Commit that it failed, and with it the wish that it be gone.
    Fail {
        /// Why it will have ended.
        reason: EndReason,
        /// What happened, for people.
        detail: String,
    },
    /// Commit the wish that it be gone, or be paused, because its deadline passed.
    Expire,
}

/// The actions that lead from what is observed to what is intended.
#[must_use]
pub fn plan(sandbox: &Sandbox, observed: &Observed, nodes: &Nodes, now: Timestamp) -> Vec<Action> {
    let health = sandbox
        .node
        .as_ref()
        .map(|node| nodes.get(node).copied().unwrap_or(NodeHealth::Suspect));
    if sandbox.desired == Desired::Stopped || sandbox.state == State::Error {
        return plan_removal(sandbox.state, observed, health);
    }
    match sandbox.state {
        State::Pending => then_pause(sandbox, place()),
        State::Creating => plan_creating(sandbox, observed, health),
        State::Running => plan_running(sandbox, observed, health, now),
        State::Pausing => plan_pausing(sandbox, observed, health),
        State::Paused => plan_paused(sandbox, observed, health),
        State::Resuming => plan_resuming(sandbox, observed, health),
        State::Stopping if sandbox.is_restarting => plan_restart(sandbox, observed, health),
        // Somebody began to remove it without the wish: the removal is finished.
        State::Stopping => plan_removal(sandbox.state, observed, health),
        State::Stopped | State::Error => Vec::new(),
    }
}

fn place() -> Vec<Action> {
    vec![
        Action::Place,
        Action::Ensure,
        Action::Advance(Event::Started),
    ]
}

fn pause() -> Vec<Action> {
    vec![
        Action::Advance(Event::Pause),
        Action::Pause,
        Action::Advance(Event::PauseDone),
    ]
}

fn relocate() -> Vec<Action> {
    vec![
        Action::Relocate,
        Action::Ensure,
        Action::Advance(Event::Started),
    ]
}

fn resume() -> Vec<Action> {
    vec![
        Action::Readmit,
        Action::Resume,
        Action::Advance(Event::Started),
    ]
}

/// What leads to serving, and on to the pause if that is what is wanted.
fn then_pause(sandbox: &Sandbox, mut actions: Vec<Action>) -> Vec<Action> {
    if sandbox.desired == Desired::Paused {
        actions.extend(pause());
    }
    actions
}

/// What leads to the pause, and on to serving if that is what is wanted.
fn then_resume(sandbox: &Sandbox, observed: &Observed, mut actions: Vec<Action>) -> Vec<Action> {
    if sandbox.desired == Desired::Running {
        actions.extend(resume());
    } else if let Observed::Known(seen) = observed
        && has_news(sandbox, seen)
    {
        actions.push(Action::NoteSnapshot);
    }
    actions
}

fn plan_creating(
    sandbox: &Sandbox,
    observed: &Observed,
    health: Option<NodeHealth>,
) -> Vec<Action> {
    match health {
        None => return then_pause(sandbox, place()),
        Some(NodeHealth::Lost) => return fail_node_lost(),
        Some(NodeHealth::Ready | NodeHealth::Suspect) => {}
    }
    let actions = match current(sandbox, observed) {
        Some(seen) if seen.state == ObservedState::Running => {
            vec![Action::Advance(Event::Started)]
        }
        Some(seen) if seen.state == ObservedState::Exited => return fail_exited(seen),
        _ => vec![Action::Ensure, Action::Advance(Event::Started)],
    };
    then_pause(sandbox, actions)
}

fn plan_running(
    sandbox: &Sandbox,
    observed: &Observed,
    health: Option<NodeHealth>,
    now: Timestamp,
) -> Vec<Action> {
    if sandbox.is_restarting {
        return plan_restart(sandbox, observed, health);
    }
    if let Some(failure) = failure_of_serving(sandbox, observed, health) {
        return failure;
    }
    if current(sandbox, observed).is_some_and(|seen| seen.state == ObservedState::Paused) {
        let actions = vec![
            Action::Advance(Event::Pause),
            Action::Advance(Event::PauseDone),
        ];
        return then_resume(sandbox, observed, actions);
    }
    if sandbox.desired == Desired::Paused {
        return pause();
    }
    if sandbox.deadline > now {
        return Vec::new();
    }
    let mut actions = vec![Action::Expire];
    actions.extend(match sandbox.config.on_timeout {
        OnTimeout::Kill => plan_removal(sandbox.state, observed, health),
        OnTimeout::Pause { .. } => pause(),
    });
    actions
}

/// Why a sandbox that serves, or that is about to be paused, does so no more.
fn failure_of_serving(
    sandbox: &Sandbox,
    observed: &Observed,
    health: Option<NodeHealth>,
) -> Option<Vec<Action>> {
    match health {
        None => return Some(fail("it runs on no node", false)),
        Some(NodeHealth::Lost) => return Some(fail_node_lost()),
        Some(NodeHealth::Ready | NodeHealth::Suspect) => {}
    }
    match observed {
        Observed::Absent => Some(fail("its node does not have it any more", false)),
        Observed::Known(seen) if seen.generation != sandbox.generation => {
            Some(fail("its node has another placement of it", true))
        }
        Observed::Known(seen) if seen.state == ObservedState::Exited => Some(fail_exited(seen)),
        Observed::Known(_) | Observed::Unknown => None,
    }
}

fn plan_pausing(sandbox: &Sandbox, observed: &Observed, health: Option<NodeHealth>) -> Vec<Action> {
    if let Some(failure) = failure_of_serving(sandbox, observed, health) {
        return failure;
    }
    let actions = match current(sandbox, observed) {
        Some(seen) if seen.state == ObservedState::Paused => {
            vec![Action::Advance(Event::PauseDone)]
        }
        _ => vec![Action::Pause, Action::Advance(Event::PauseDone)],
    };
    then_resume(sandbox, observed, actions)
}

/// Why what a node kept of a sandbox is of no use any more. That it is silent, or lost, is no
/// reason: it may return with it.
fn failure_of_keeping(
    sandbox: &Sandbox,
    observed: &Observed,
    health: Option<NodeHealth>,
) -> Option<Vec<Action>> {
    if health.is_none() {
        return Some(fail("it is kept on no node", false));
    }
    // One that is lost is told at its return.
    let is_there = health != Some(NodeHealth::Lost);
    match observed {
        Observed::Absent => Some(fail("its node does not keep it any more", false)),
        Observed::Known(seen) if !sandbox.is_own_generation(seen.generation) => {
            Some(fail("its node has another placement of it", is_there))
        }
        Observed::Known(seen) if seen.state == ObservedState::Exited => {
            let mut actions = fail_exited(seen);
            actions.retain(|action| is_there || *action != Action::Remove);
            Some(actions)
        }
        Observed::Known(_) | Observed::Unknown => None,
    }
}

fn plan_paused(sandbox: &Sandbox, observed: &Observed, health: Option<NodeHealth>) -> Vec<Action> {
    if let Some(failure) = failure_of_keeping(sandbox, observed, health) {
        return match sandbox.snapshot {
            Some(_) => plan_detached(sandbox, &failure),
            None => failure,
        };
    }
    if health == Some(NodeHealth::Lost) {
        return match (sandbox.desired, &sandbox.snapshot) {
            (Desired::Running, Some(_)) => relocate(),
            (Desired::Running, None) => vec![Action::StayPaused],
            (Desired::Paused | Desired::Stopped, _) => Vec::new(),
        };
    }
    let actions = match observed {
        // It serves nevertheless.
        Observed::Known(seen) if seen.state != ObservedState::Paused => vec![Action::Pause],
        Observed::Known(_) | Observed::Absent | Observed::Unknown => Vec::new(),
    };
    then_resume(sandbox, observed, actions)
}

/// Whether its node tells of a newer copy in shared storage than is known.
fn has_news(sandbox: &Sandbox, seen: &ObservedSandbox) -> bool {
    let known = sandbox.snapshot.as_ref().map(|known| known.generation);
    let told = seen.snapshot.as_ref().map(|told| told.generation);
    seen.state == ObservedState::Paused && told == Some(seen.generation) && known < told
}

/// What its node kept is of no use any more; what shared storage has is.
fn plan_detached(sandbox: &Sandbox, failure: &[Action]) -> Vec<Action> {
    let mut actions = detach(sandbox, failure);
    if sandbox.desired == Desired::Running {
        actions.extend(relocate());
    }
    actions
}

fn detach(sandbox: &Sandbox, failure: &[Action]) -> Vec<Action> {
    let mut actions = Vec::new();
    if sandbox.node.is_some() {
        if failure.contains(&Action::Remove) {
            actions.push(Action::Remove);
        }
        actions.push(Action::Advance(Event::Detach));
    }
    actions
}

fn plan_resuming(
    sandbox: &Sandbox,
    observed: &Observed,
    health: Option<NodeHealth>,
) -> Vec<Action> {
    if sandbox.is_elsewhere() {
        return plan_relocating(sandbox, observed, health);
    }
    if let Some(failure) = failure_of_keeping(sandbox, observed, health) {
        // With a copy in shared storage it is paused still, and the next plan detaches it.
        return match sandbox.snapshot {
            Some(_) => {
                let mut actions = vec![Action::Advance(Event::ResumeFailed)];
                actions.extend(detach(sandbox, &failure));
                actions
            }
            None => failure,
        };
    }
    if health == Some(NodeHealth::Lost) {
        return vec![Action::Advance(Event::ResumeFailed)];
    }
    let actions = match current(sandbox, observed) {
        Some(seen) if seen.state == ObservedState::Running => {
            vec![Action::Advance(Event::Started)]
        }
        _ => vec![Action::Resume, Action::Advance(Event::Started)],
    };
    then_pause(sandbox, actions)
}

/// A resume on another node, from what shared storage has. That the node has nothing of it means
/// only that it has not begun.
fn plan_relocating(
    sandbox: &Sandbox,
    observed: &Observed,
    health: Option<NodeHealth>,
) -> Vec<Action> {
    let has_failed = match (health, current(sandbox, observed)) {
        (None | Some(NodeHealth::Lost), _) => true,
        (_, Some(seen)) => seen.state == ObservedState::Exited,
        // Without a copy it would begin with the template's files.
        (_, None) => sandbox.snapshot.is_none(),
    };
    if has_failed {
        return vec![Action::Advance(Event::ResumeFailed)];
    }
    let actions = match current(sandbox, observed) {
        Some(seen) if seen.state == ObservedState::Running => {
            vec![Action::Advance(Event::Started)]
        }
        _ => vec![Action::Ensure, Action::Advance(Event::Started)],
    };
    then_pause(sandbox, actions)
}

/// Removes what is there and begins anew. Nothing that was observed matters: all of it goes.
fn plan_restart(sandbox: &Sandbox, observed: &Observed, health: Option<NodeHealth>) -> Vec<Action> {
    let mut actions = Vec::new();
    if sandbox.state != State::Stopping {
        actions.push(Action::Advance(Event::Restart));
    }
    if has_to_be_told(observed, health) {
        actions.push(Action::Remove);
    }
    actions.push(Action::Advance(Event::Vacated));
    actions.extend(place());
    then_pause(sandbox, actions)
}

fn plan_removal(state: State, observed: &Observed, health: Option<NodeHealth>) -> Vec<Action> {
    if state == State::Stopped {
        return Vec::new();
    }
    let mut actions = Vec::new();
    if state != State::Stopping {
        actions.push(Action::Advance(Event::Delete));
    }
    if has_to_be_told(observed, health) {
        actions.push(Action::Remove);
    }
    actions.push(Action::Advance(Event::Removed));
    actions
}

/// Whether a node has to remove something. A lost one learns at its return that the sandbox is no
/// longer its own.
fn has_to_be_told(observed: &Observed, health: Option<NodeHealth>) -> bool {
    !matches!(health, None | Some(NodeHealth::Lost)) && *observed != Observed::Absent
}

/// What is observed, if it is of the placement that is intended.
fn current<'a>(sandbox: &Sandbox, observed: &'a Observed) -> Option<&'a ObservedSandbox> {
    match observed {
        Observed::Known(seen) if seen.generation == sandbox.generation => Some(seen),
        Observed::Known(_) | Observed::Absent | Observed::Unknown => None,
    }
}

fn fail_exited(seen: &ObservedSandbox) -> Vec<Action> {
    let detail = seen
        .detail
        .clone()
        .unwrap_or_else(|| "its first process ended".to_owned());
    fail(&detail, true)
}

fn fail(detail: &str, is_on_node: bool) -> Vec<Action> {
    let mut actions = vec![
        Action::Fail {
            reason: EndReason::Failed,
            detail: detail.to_owned(),
        },
        Action::Advance(Event::Delete),
    ];
    if is_on_node {
        actions.push(Action::Remove);
    }
    actions.push(Action::Advance(Event::Removed));
    actions
}

fn fail_node_lost() -> Vec<Action> {
    vec![
        Action::Fail {
            reason: EndReason::NodeLost,
            detail: "its node is lost".to_owned(),
        },
        Action::Advance(Event::Delete),
        Action::Advance(Event::Removed),
    ]
}

mod words;

#[cfg(test)]
mod tests;
