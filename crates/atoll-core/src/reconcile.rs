//! What has to be done so that the world becomes what is intended.
//!
//! The planner is pure and total: from the intended sandbox, what is observed of it, the health of
//! the nodes and the time, it answers the actions that lead to rest, assuming each succeeds. The
//! executor carries out the first one, looks at what really happened, and asks again. Once all of
//! a plan has been done, the next plan is empty; a test checks that for every combination.
//!
//! What it deliberately does not do: choose a node (placement does), decide which state may follow
//! (the lifecycle does), or plan pauses: no use case asks for one yet, so the pausing states are
//! left alone except for deletion.

use std::collections::BTreeMap;

use crate::id::NodeId;
use crate::lifecycle::Event;
use crate::node::{ObservedSandbox, ObservedState};
use crate::sandbox::{Desired, EndReason, Sandbox, State};
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
    /// Tell the row's node to remove the sandbox.
    Remove,
    /// Commit the state that follows this event.
    Advance(Event),
    /// Commit that it failed, and with it the wish that it be gone.
    Fail {
        /// Why it will have ended.
        reason: EndReason,
        /// What happened, for people.
        detail: String,
    },
    /// Commit the wish that it be gone, because its deadline passed.
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
        State::Pending => place(),
        State::Creating => plan_creating(sandbox, observed, health),
        State::Running => plan_running(sandbox, observed, health, now),
        // Somebody began to remove it without the wish: the removal is finished.
        State::Stopping => plan_removal(sandbox.state, observed, health),
        State::Pausing | State::Paused | State::Resuming | State::Stopped | State::Error => {
            Vec::new()
        }
    }
}

fn place() -> Vec<Action> {
    vec![
        Action::Place,
        Action::Ensure,
        Action::Advance(Event::Started),
    ]
}

fn plan_creating(
    sandbox: &Sandbox,
    observed: &Observed,
    health: Option<NodeHealth>,
) -> Vec<Action> {
    match health {
        None => return place(),
        Some(NodeHealth::Lost) => return fail_node_lost(),
        Some(NodeHealth::Ready | NodeHealth::Suspect) => {}
    }
    match current(sandbox, observed) {
        Some(seen) if seen.state == ObservedState::Running => {
            vec![Action::Advance(Event::Started)]
        }
        Some(seen) if seen.state == ObservedState::Exited => fail_exited(seen),
        _ => vec![Action::Ensure, Action::Advance(Event::Started)],
    }
}

fn plan_running(
    sandbox: &Sandbox,
    observed: &Observed,
    health: Option<NodeHealth>,
    now: Timestamp,
) -> Vec<Action> {
    match health {
        None => return fail("it runs on no node", false),
        Some(NodeHealth::Lost) => return fail_node_lost(),
        Some(NodeHealth::Ready | NodeHealth::Suspect) => {}
    }
    match observed {
        Observed::Absent => return fail("its node does not have it any more", false),
        Observed::Known(seen) if seen.generation != sandbox.generation => {
            return fail("its node has another placement of it", true);
        }
        Observed::Known(seen) if seen.state == ObservedState::Exited => return fail_exited(seen),
        Observed::Known(_) | Observed::Unknown => {}
    }
    if sandbox.deadline <= now {
        let mut actions = vec![Action::Expire];
        actions.extend(plan_removal(sandbox.state, observed, health));
        return actions;
    }
    Vec::new()
}

fn plan_removal(state: State, observed: &Observed, health: Option<NodeHealth>) -> Vec<Action> {
    if state == State::Stopped {
        return Vec::new();
    }
    let mut actions = Vec::new();
    if state != State::Stopping {
        actions.push(Action::Advance(Event::Delete));
    }
    // A lost node learns at its return that the sandbox is no longer its own.
    let is_there_somebody_to_tell = !matches!(health, None | Some(NodeHealth::Lost));
    if is_there_somebody_to_tell && *observed != Observed::Absent {
        actions.push(Action::Remove);
    }
    actions.push(Action::Advance(Event::Removed));
    actions
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

#[cfg(test)]
mod tests;
