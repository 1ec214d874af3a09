//! Events in E2B's form, for its event listing and for webhooks.
//!
//! E2B knows six kinds of events of sandboxes. Ours that mean the same carry its names there; the
//! others carry their own, so that a receiver can have them too. What E2B's form has no place for
//! stands next to it in `kind`, `message` and `fields`.

use std::collections::BTreeMap;

use atoll_control::view::EventView;
use atoll_core::event::EventKind;
use atoll_core::sandbox::{EndReason, Sandbox};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::error::ApiError;
use crate::time;

/// The version of E2B's form.
pub(crate) const VERSION: &str = "v2";

const MICROS_PER_MILLI: u128 = 1_000;

/// Kinds that have a name of E2B's.
const NAMES: [(EventKind, &str); 5] = [
    (EventKind::SandboxCreated, "sandbox.lifecycle.created"),
    (EventKind::SandboxUpdated, "sandbox.lifecycle.updated"),
    (EventKind::SandboxPaused, "sandbox.lifecycle.paused"),
    (EventKind::SandboxResumed, "sandbox.lifecycle.resumed"),
    (EventKind::SandboxDeleted, "sandbox.lifecycle.killed"),
];

/// The kinds that E2B's listing of events has.
pub(crate) fn e2b_kinds() -> Vec<EventKind> {
    NAMES.iter().map(|(kind, _)| *kind).collect()
}

/// The name that E2B's clients know, where there is one, otherwise ours.
pub(crate) fn name(kind: EventKind) -> &'static str {
    NAMES
        .iter()
        .find(|(named, _)| *named == kind)
        .map_or(kind.as_str(), |(_, name)| *name)
}

/// The kind of a name, E2B's or ours.
///
/// # Errors
/// A refusal that lists what there is.
pub(crate) fn kind(text: &str) -> Result<EventKind, ApiError> {
    NAMES
        .iter()
        .find(|(_, name)| *name == text)
        .map(|(kind, _)| *kind)
        .or_else(|| EventKind::from_name(text))
        .ok_or_else(|| {
            let names: Vec<_> = EventKind::ALL.iter().map(|kind| name(*kind)).collect();
            ApiError::validation(format_args!(
                "`{}` is no kind of event; there are {}",
                crate::query::shorten(text),
                names.join(", ")
            ))
        })
}

/// An event in E2B's form.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LifecycleEventDto {
    version: &'static str,
    id: String,
    #[serde(rename = "type")]
    event_type: &'static str,
    event_data: EventData,
    sandbox_id: Option<String>,
    sandbox_execution_id: Option<String>,
    sandbox_template_id: Option<String>,
    sandbox_build_id: Option<String>,
    sandbox_team_id: Option<String>,
    timestamp: String,
    kind: &'static str,
    level: &'static str,
    message: String,
    fields: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct EventData {
    sandbox_metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution: Option<Execution>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kill_reason: Option<&'static str>,
}

/// What E2B tells of a run that ended.
#[derive(Debug, Serialize)]
struct Execution {
    started_at: String,
    vcpu_count: u32,
    memory_mb: u32,
    /// In milliseconds.
    execution_time: u64,
}

impl LifecycleEventDto {
    pub(crate) fn new(event: &EventView, sandbox: Option<&Sandbox>) -> Self {
        let generation = event.fields.get("generation");
        let id = event.subject.sandbox();
        Self {
            version: VERSION,
            id: event_id(event),
            event_type: name(event.kind),
            event_data: EventData {
                sandbox_metadata: sandbox
                    .map(|sandbox| sandbox.config.metadata.clone())
                    .unwrap_or_default(),
                execution: sandbox.and_then(|sandbox| execution(event, sandbox)),
                kill_reason: sandbox
                    .filter(|_| event.kind == EventKind::SandboxDeleted)
                    .and_then(|sandbox| sandbox.stop_reason)
                    .map(reason),
            },
            sandbox_id: id.map(ToString::to_string),
            sandbox_execution_id: id.map(|id| match generation {
                Some(generation) => format!("{id}-{generation}"),
                None => id.to_string(),
            }),
            sandbox_template_id: sandbox.map(|row| row.config.template.to_string()),
            sandbox_build_id: sandbox.map(|row| row.config.build.to_string()),
            sandbox_team_id: event.team.as_ref().map(ToString::to_string),
            timestamp: time::to_rfc3339(event.at),
            kind: event.kind.as_str(),
            level: event.level.as_str(),
            message: event.message.clone(),
            fields: event.fields.clone(),
        }
    }

    /// Makes the document small.
    pub(crate) fn leave_out_metadata(&mut self) {
        self.event_data.sandbox_metadata.clear();
        self.fields.clear();
    }
}

const fn reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Killed => "killed",
        EndReason::Expired => "timeout",
        EndReason::Failed => "failed",
        EndReason::NodeLost => "node_lost",
        EndReason::NoCapacity => "no_capacity",
        EndReason::Shutdown => "shutdown",
        EndReason::Evicted => "evicted",
    }
}

fn execution(event: &EventView, sandbox: &Sandbox) -> Option<Execution> {
    if !matches!(
        event.kind,
        EventKind::SandboxDeleted | EventKind::SandboxPaused
    ) {
        return None;
    }
    let started_at = sandbox.started_at?;
    let ran = event.at.saturating_since(started_at).as_micros() / MICROS_PER_MILLI;
    Some(Execution {
        started_at: time::to_rfc3339(started_at),
        vcpu_count: sandbox.config.resources.cpu_millis.div_ceil(1_000),
        memory_mb: sandbox.config.resources.memory_mib,
        execution_time: u64::try_from(ran).unwrap_or(u64::MAX),
    })
}

/// The same for every delivery of an event, and another for every event.
fn event_id(event: &EventView) -> String {
    let mut digest = Sha256::new();
    digest.update(b"event");
    digest.update(event.cursor.get().to_be_bytes());
    digest.update(event.at.as_micros().to_be_bytes());
    digest.update(event.subject.to_string().as_bytes());
    let digest = digest.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes)
        .into_uuid()
        .to_string()
}
