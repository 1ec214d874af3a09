//! What is written into the history of sandboxes, nodes and the fleet.
//!
//! An event that tells of a change is written in that change's transaction; the others go through
//! `Store::event_append`. Everything that subscribers see begins here.

use std::collections::BTreeMap;

use atoll_core::event::{EventKind, Subject};
use atoll_core::id::TeamId;
use atoll_core::lifecycle::{Announcement, Effect};
use atoll_core::sandbox::{EndReason, Sandbox};
use atoll_core::time::Timestamp;
use atoll_store::store::EventRow;

use crate::placement::Placed;

/// Text of an end reason, for people and fields.
pub(crate) const fn reason_text(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Killed => "killed",
        EndReason::Expired => "timed out",
        EndReason::Failed => "failed",
        EndReason::NodeLost => "node lost",
        EndReason::NoCapacity => "no capacity",
        EndReason::Shutdown => "server shut down",
        EndReason::Evicted => "its node was drained",
    }
}

/// One event about a sandbox.
pub(crate) fn event(
    sandbox: &Sandbox,
    at: Timestamp,
    kind: EventKind,
    level: &str,
    message: impl Into<String>,
) -> EventRow {
    about(
        Subject::Sandbox(sandbox.id.clone()),
        Some(sandbox.team.clone()),
        at,
        kind,
        level,
        message,
    )
}

/// One event about anything.
pub(crate) fn about(
    subject: Subject,
    team: Option<TeamId>,
    at: Timestamp,
    kind: EventKind,
    level: &str,
    message: impl Into<String>,
) -> EventRow {
    EventRow {
        subject,
        team,
        at,
        kind,
        level: level.to_owned(),
        message: message.into(),
        fields: BTreeMap::new(),
        decision: None,
    }
}

/// Adds a field.
pub(crate) fn with(mut event: EventRow, name: &str, value: impl Into<String>) -> EventRow {
    event.fields.insert(name.to_owned(), value.into());
    event
}

/// The event for a placement.
pub(crate) fn placed(row: &Sandbox, at: Timestamp, placed: &Placed) -> EventRow {
    let decision = &placed.decision;
    let alternatives: Vec<_> = decision
        .alternatives
        .iter()
        .map(|candidate| candidate.node.as_str())
        .collect();
    let mut line = event(
        row,
        at,
        EventKind::SandboxPlaced,
        "info",
        decision.reason().to_string(),
    );
    line = with(line, "node", decision.node.as_str());
    line = with(line, "score", decision.score.total().to_string());
    if !alternatives.is_empty() {
        line = with(line, "alternatives", alternatives.join(","));
    }
    if decision.counts.sum() > 0 {
        line = with(line, "rejected", decision.counts.to_string());
    }
    line.decision = Some(placed.record.clone());
    line
}

/// The event for an announcement about a sandbox as it is after the change.
pub(crate) fn announce(sandbox: &Sandbox, at: Timestamp, announcement: Announcement) -> EventRow {
    let (level, message) = match announcement {
        Announcement::Created => ("info", "sandbox accepted".to_owned()),
        Announcement::Running => ("info", "sandbox is running".to_owned()),
        Announcement::Paused => ("info", "sandbox is paused".to_owned()),
        Announcement::Resumed => ("info", "sandbox is running again".to_owned()),
        Announcement::Updated => ("info", "sandbox was updated".to_owned()),
        Announcement::Deleted => {
            let reason = sandbox.stop_reason.map_or("unknown", reason_text);
            ("info", format!("sandbox ended: {reason}"))
        }
        Announcement::Error => {
            let detail = sandbox.last_error.as_deref().unwrap_or("unknown");
            ("error", format!("sandbox failed: {detail}"))
        }
    };
    let mut row = event(sandbox, at, announcement.into(), level, message);
    row = with(row, "generation", sandbox.generation.to_string());
    if let Some(node) = &sandbox.node {
        row = with(row, "node", node.as_str());
    }
    row
}

/// The events among a step's effects.
pub(crate) fn announcements(effects: &[Effect], sandbox: &Sandbox, at: Timestamp) -> Vec<EventRow> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Announce(announcement) => Some(announce(sandbox, at, *announcement)),
            Effect::StampStart
            | Effect::StampPause
            | Effect::StampEnd
            | Effect::PublishRoute
            | Effect::WithdrawRoute => None,
        })
        .collect()
}
