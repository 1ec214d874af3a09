//! The messages of `atoll/node/v1/node.proto` and the domain types that they stand for.
//!
//! What comes from the other side is checked here: an order or an answer that is malformed never
//! becomes a domain value. A malformed answer is an unknown outcome, because the node may have
//! acted before it gave it.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use atoll_core::id::{Generation, InvalidId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{
    CallOutcome, NodeEvent, NodeReport, ObservedSandbox, ObservedState, Refusal,
};
use atoll_core::resources::Resources;
use atoll_core::sandbox::{AccessToken, SandboxSpec, UsageSample};
use atoll_core::snapshot::{Snapshot, Stored, Unneeded};
use atoll_core::template::TemplateSource;
use atoll_core::time::Timestamp;

use crate::node as wire;
use crate::node_oneof::list_snapshots_response::Outcome as ListOutcome;
use crate::node_oneof::node_event::Event;
use crate::node_oneof::order_response::Outcome as OrderOutcome;
use crate::node_oneof::refusal::Reason;
use crate::node_oneof::sandbox_response::Outcome as SandboxOutcome;
use crate::node_oneof::template_source::Source;

/// Why a message stands for no value of the domain.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// A field that must be there is not, or has a value this build does not know.
    #[error("`{0}` is missing or unknown")]
    Missing(&'static str),
    /// An id is none.
    #[error(transparent)]
    Id(#[from] InvalidId),
}

/// Parses an id of a message.
///
/// # Errors
/// If the text is none.
pub fn id<T: FromStr<Err = InvalidId>>(text: &str) -> Result<T, Malformed> {
    Ok(text.parse()?)
}

impl From<Resources> for wire::Resources {
    fn from(amount: Resources) -> Self {
        Self {
            cpu_millis: amount.cpu_millis,
            memory_mib: amount.memory_mib,
            disk_mib: amount.disk_mib,
            ..Self::default()
        }
    }
}

impl From<wire::Resources> for Resources {
    fn from(amount: wire::Resources) -> Self {
        Self {
            cpu_millis: amount.cpu_millis,
            memory_mib: amount.memory_mib,
            disk_mib: amount.disk_mib,
        }
    }
}

impl From<&NetworkPolicy> for wire::NetworkPolicy {
    fn from(policy: &NetworkPolicy) -> Self {
        Self {
            internet_access: policy.internet_access,
            allow_out: policy.allow_out.clone(),
            deny_out: policy.deny_out.clone(),
            public_traffic: policy.public_traffic,
            mask_request_host: policy.mask_request_host.clone(),
            ..Self::default()
        }
    }
}

impl From<wire::NetworkPolicy> for NetworkPolicy {
    fn from(policy: wire::NetworkPolicy) -> Self {
        Self {
            internet_access: policy.internet_access,
            allow_out: policy.allow_out,
            deny_out: policy.deny_out,
            public_traffic: policy.public_traffic,
            mask_request_host: policy.mask_request_host,
        }
    }
}

impl From<&SandboxSpec> for wire::SandboxSpec {
    fn from(spec: &SandboxSpec) -> Self {
        let token = spec.access_token.as_ref();
        Self {
            id: spec.id.to_string(),
            generation: spec.generation.get(),
            team: spec.team.to_string(),
            template: spec.template.to_string(),
            build: spec.build.to_string(),
            resources: wire::Resources::from(spec.resources).into(),
            env: spec.env.clone().into_iter().collect(),
            network: wire::NetworkPolicy::from(&spec.network).into(),
            access_token: token.map(|token| token.expose().to_owned()),
            snapshot: spec.snapshot.as_ref().map(wire::Snapshot::from).into(),
            ..Self::default()
        }
    }
}

impl TryFrom<wire::SandboxSpec> for SandboxSpec {
    type Error = Malformed;

    fn try_from(spec: wire::SandboxSpec) -> Result<Self, Malformed> {
        // An absent policy must not read as the default of the wire, which denies, nor as ours.
        let network = spec.network.into_option();
        let resources = spec.resources.into_option();
        Ok(Self {
            id: id(&spec.id)?,
            generation: Generation::new(spec.generation),
            team: id(&spec.team)?,
            template: id(&spec.template)?,
            build: id(&spec.build)?,
            resources: resources.ok_or(Malformed::Missing("resources"))?.into(),
            env: spec.env.into_iter().collect(),
            network: network.ok_or(Malformed::Missing("network"))?.into(),
            access_token: spec.access_token.map(AccessToken::new),
            snapshot: snapshot(spec.snapshot.into_option())?,
        })
    }
}

impl From<&ObservedSandbox> for wire::ObservedSandbox {
    fn from(seen: &ObservedSandbox) -> Self {
        let state = match seen.state {
            ObservedState::Starting => wire::ObservedState::OBSERVED_STATE_STARTING,
            ObservedState::Running => wire::ObservedState::OBSERVED_STATE_RUNNING,
            ObservedState::Paused => wire::ObservedState::OBSERVED_STATE_PAUSED,
            ObservedState::Exited => wire::ObservedState::OBSERVED_STATE_EXITED,
        };
        Self {
            id: seen.id.to_string(),
            generation: seen.generation.get(),
            state: state.into(),
            resources: wire::Resources::from(seen.resources).into(),
            started_at_us: seen.started_at.map(Timestamp::as_micros),
            detail: seen.detail.clone(),
            snapshot: seen.snapshot.as_ref().map(wire::Snapshot::from).into(),
            ..Self::default()
        }
    }
}

impl TryFrom<wire::ObservedSandbox> for ObservedSandbox {
    type Error = Malformed;

    fn try_from(seen: wire::ObservedSandbox) -> Result<Self, Malformed> {
        let state = match seen.state.as_known() {
            Some(wire::ObservedState::OBSERVED_STATE_STARTING) => ObservedState::Starting,
            Some(wire::ObservedState::OBSERVED_STATE_RUNNING) => ObservedState::Running,
            Some(wire::ObservedState::OBSERVED_STATE_PAUSED) => ObservedState::Paused,
            Some(wire::ObservedState::OBSERVED_STATE_EXITED) => ObservedState::Exited,
            Some(wire::ObservedState::OBSERVED_STATE_UNSPECIFIED) | None => {
                return Err(Malformed::Missing("state"));
            }
        };
        let resources = seen.resources.into_option();
        Ok(Self {
            id: id(&seen.id)?,
            generation: Generation::new(seen.generation),
            state,
            resources: resources.ok_or(Malformed::Missing("resources"))?.into(),
            started_at: seen.started_at_us.map(Timestamp::from_micros),
            detail: seen.detail,
            snapshot: snapshot(seen.snapshot.into_option())?,
        })
    }
}

impl From<&Snapshot> for wire::Snapshot {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            store: snapshot.store.to_string(),
            generation: snapshot.generation.get(),
            digest: snapshot.digest.to_string(),
            bytes: snapshot.bytes,
            ..Self::default()
        }
    }
}

fn snapshot(message: Option<wire::Snapshot>) -> Result<Option<Snapshot>, Malformed> {
    let Some(message) = message else {
        return Ok(None);
    };
    let digest = message.digest.parse();
    Ok(Some(Snapshot {
        store: id(&message.store)?,
        generation: Generation::new(message.generation),
        digest: digest.map_err(|_| Malformed::Missing("digest"))?,
        bytes: message.bytes,
    }))
}

impl From<CallOutcome<Vec<Stored>>> for wire::ListSnapshotsResponse {
    fn from(outcome: CallOutcome<Vec<Stored>>) -> Self {
        let outcome = match outcome {
            CallOutcome::Done(found) => ListOutcome::from(wire::StoredSnapshots {
                found: found.iter().map(wire::StoredSnapshot::from).collect(),
                ..wire::StoredSnapshots::default()
            }),
            CallOutcome::Refused(refusal) => ListOutcome::from(wire::Refusal::from(refusal)),
            CallOutcome::Unknown(detail) => ListOutcome::Unknown(detail),
        };
        Self {
            outcome: Some(outcome),
            ..Self::default()
        }
    }
}

impl From<wire::ListSnapshotsResponse> for CallOutcome<Vec<Stored>> {
    fn from(response: wire::ListSnapshotsResponse) -> Self {
        match response.outcome {
            Some(ListOutcome::Done(list)) => {
                let found = list.found.into_iter().map(Stored::try_from);
                match found.collect::<Result<_, _>>() {
                    Ok(found) => Self::Done(found),
                    Err(error) => Self::Unknown(malformed(&error)),
                }
            }
            Some(ListOutcome::Refused(refusal)) => refused(*refusal),
            Some(ListOutcome::Unknown(detail)) => Self::Unknown(detail),
            None => Self::Unknown(Malformed::Missing("outcome").to_string()),
        }
    }
}

impl From<&Unneeded> for wire::DropSnapshotsRequest {
    fn from(unneeded: &Unneeded) -> Self {
        Self {
            id: unneeded.id.to_string(),
            through: unneeded.through.get(),
            quiet_secs: unneeded.quiet_for.as_secs(),
            ..Self::default()
        }
    }
}

impl TryFrom<wire::DropSnapshotsRequest> for Unneeded {
    type Error = Malformed;

    fn try_from(request: wire::DropSnapshotsRequest) -> Result<Self, Malformed> {
        Ok(Self {
            id: id(&request.id)?,
            through: Generation::new(request.through),
            quiet_for: Duration::from_secs(request.quiet_secs),
        })
    }
}

impl From<&Stored> for wire::StoredSnapshot {
    fn from(stored: &Stored) -> Self {
        Self {
            id: stored.id.to_string(),
            oldest: stored.oldest.get(),
            ..Self::default()
        }
    }
}

impl TryFrom<wire::StoredSnapshot> for Stored {
    type Error = Malformed;

    fn try_from(stored: wire::StoredSnapshot) -> Result<Self, Malformed> {
        Ok(Self {
            id: id(&stored.id)?,
            oldest: Generation::new(stored.oldest),
        })
    }
}

impl From<Refusal> for wire::Refusal {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal {
            Refusal::NoRoom(what) => Reason::NoRoom(what),
            Refusal::StaleGeneration { ordered, known } => Reason::from(wire::StaleGeneration {
                ordered: ordered.get(),
                known: known.get(),
                ..wire::StaleGeneration::default()
            }),
            Refusal::UnknownSandbox => Reason::UnknownSandbox(Box::default()),
            Refusal::UnknownTemplate => Reason::UnknownTemplate(Box::default()),
            Refusal::Unsupported(what) => Reason::Unsupported(what),
            Refusal::Failed(what) => Reason::Failed(what),
            Refusal::BadSource(what) => Reason::BadSource(what),
            Refusal::BadSnapshot(what) => Reason::BadSnapshot(what),
        };
        Self {
            reason: Some(reason),
            ..Self::default()
        }
    }
}

impl TryFrom<wire::Refusal> for Refusal {
    type Error = Malformed;

    fn try_from(refusal: wire::Refusal) -> Result<Self, Malformed> {
        Ok(match refusal.reason.ok_or(Malformed::Missing("reason"))? {
            Reason::NoRoom(what) => Self::NoRoom(what),
            Reason::StaleGeneration(stale) => Self::StaleGeneration {
                ordered: Generation::new(stale.ordered),
                known: Generation::new(stale.known),
            },
            Reason::UnknownSandbox(_) => Self::UnknownSandbox,
            Reason::UnknownTemplate(_) => Self::UnknownTemplate,
            Reason::Unsupported(what) => Self::Unsupported(what),
            Reason::Failed(what) => Self::Failed(what),
            Reason::BadSource(what) => Self::BadSource(what),
            Reason::BadSnapshot(what) => Self::BadSnapshot(what),
        })
    }
}

impl From<CallOutcome<()>> for wire::OrderResponse {
    fn from(outcome: CallOutcome<()>) -> Self {
        let outcome = match outcome {
            CallOutcome::Done(()) => OrderOutcome::Done(Box::default()),
            CallOutcome::Refused(refusal) => OrderOutcome::from(wire::Refusal::from(refusal)),
            CallOutcome::Unknown(detail) => OrderOutcome::Unknown(detail),
        };
        Self {
            outcome: Some(outcome),
            ..Self::default()
        }
    }
}

impl From<wire::OrderResponse> for CallOutcome<()> {
    fn from(response: wire::OrderResponse) -> Self {
        match response.outcome {
            Some(OrderOutcome::Done(_)) => Self::Done(()),
            Some(OrderOutcome::Refused(refusal)) => refused(*refusal),
            Some(OrderOutcome::Unknown(detail)) => Self::Unknown(detail),
            None => Self::Unknown(Malformed::Missing("outcome").to_string()),
        }
    }
}

impl From<CallOutcome<ObservedSandbox>> for wire::SandboxResponse {
    fn from(outcome: CallOutcome<ObservedSandbox>) -> Self {
        let outcome = match outcome {
            CallOutcome::Done(seen) => SandboxOutcome::from(wire::ObservedSandbox::from(&seen)),
            CallOutcome::Refused(refusal) => SandboxOutcome::from(wire::Refusal::from(refusal)),
            CallOutcome::Unknown(detail) => SandboxOutcome::Unknown(detail),
        };
        Self {
            outcome: Some(outcome),
            ..Self::default()
        }
    }
}

impl From<wire::SandboxResponse> for CallOutcome<ObservedSandbox> {
    fn from(response: wire::SandboxResponse) -> Self {
        match response.outcome {
            Some(SandboxOutcome::Done(seen)) => match (*seen).try_into() {
                Ok(seen) => Self::Done(seen),
                Err(error) => Self::Unknown(malformed(&error)),
            },
            Some(SandboxOutcome::Refused(refusal)) => refused(*refusal),
            Some(SandboxOutcome::Unknown(detail)) => Self::Unknown(detail),
            None => Self::Unknown(Malformed::Missing("outcome").to_string()),
        }
    }
}

fn refused<T>(refusal: wire::Refusal) -> CallOutcome<T> {
    match refusal.try_into() {
        Ok(refusal) => CallOutcome::Refused(refusal),
        Err(error) => CallOutcome::Unknown(malformed(&error)),
    }
}

fn malformed(error: &Malformed) -> String {
    format!("malformed answer: {error}")
}

impl From<&NodeReport> for wire::ReportResponse {
    fn from(report: &NodeReport) -> Self {
        Self {
            node: report.node.to_string(),
            total: wire::Resources::from(report.total).into(),
            allocated: wire::Resources::from(report.allocated).into(),
            sandboxes: report.sandboxes.iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

impl TryFrom<wire::ReportResponse> for NodeReport {
    type Error = Malformed;

    fn try_from(report: wire::ReportResponse) -> Result<Self, Malformed> {
        let total = report.total.into_option();
        let allocated = report.allocated.into_option();
        let sandboxes = report.sandboxes.into_iter().map(TryInto::try_into);
        Ok(Self {
            node: id(&report.node)?,
            total: total.ok_or(Malformed::Missing("total"))?.into(),
            allocated: allocated.ok_or(Malformed::Missing("allocated"))?.into(),
            sandboxes: sandboxes.collect::<Result<_, _>>()?,
        })
    }
}

impl From<&TemplateSource> for wire::TemplateSource {
    fn from(source: &TemplateSource) -> Self {
        // Paths are the node's own, as the operator wrote them; what is not UTF-8 finds nothing.
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let source = match source {
            TemplateSource::Host => Source::Host(Box::default()),
            TemplateSource::Directory(dir) => Source::Directory(path(dir)),
            TemplateSource::Tar(file) => Source::Tar(path(file)),
            TemplateSource::OciLayout(dir) => Source::OciLayout(path(dir)),
            TemplateSource::Image(reference) => Source::Image(reference.clone()),
            TemplateSource::Debian { suite, packages } => {
                Source::from(wire::template_source::Debian {
                    suite: suite.clone(),
                    packages: packages.clone(),
                    ..wire::template_source::Debian::default()
                })
            }
        };
        Self {
            source: Some(source),
            ..Self::default()
        }
    }
}

impl TryFrom<wire::TemplateSource> for TemplateSource {
    type Error = Malformed;

    fn try_from(source: wire::TemplateSource) -> Result<Self, Malformed> {
        Ok(match source.source.ok_or(Malformed::Missing("source"))? {
            Source::Host(_) => Self::Host,
            Source::Directory(path) => Self::Directory(path.into()),
            Source::Tar(path) => Self::Tar(path.into()),
            Source::OciLayout(path) => Self::OciLayout(path.into()),
            Source::Image(reference) => Self::Image(reference),
            Source::Debian(debian) => Self::Debian {
                suite: debian.suite,
                packages: debian.packages,
            },
        })
    }
}

impl From<NodeEvent> for wire::NodeEvent {
    fn from(event: NodeEvent) -> Self {
        let event = match event {
            NodeEvent::Changed(seen) => Event::from(wire::ObservedSandbox::from(&seen)),
            NodeEvent::Usage(id, sample) => Event::from(wire::node_event::Usage {
                id: id.to_string(),
                at_us: sample.at.as_micros(),
                cpu_used_pct: sample.cpu_used_pct,
                cpu_count: sample.cpu_count,
                memory_used_bytes: sample.memory_used_bytes,
                memory_total_bytes: sample.memory_total_bytes,
                memory_cache_bytes: sample.memory_cache_bytes,
                disk_used_bytes: sample.disk_used_bytes,
                disk_total_bytes: sample.disk_total_bytes,
                ..wire::node_event::Usage::default()
            }),
            NodeEvent::Log {
                id,
                at,
                level,
                message,
            } => Event::from(wire::node_event::Log {
                id: id.to_string(),
                at_us: at.as_micros(),
                level: level_number(level).into(),
                message,
                ..wire::node_event::Log::default()
            }),
        };
        Self {
            event: Some(event),
            ..Self::default()
        }
    }
}

/// The event of a message; none for one that only shows that the stream is alive.
///
/// # Errors
/// If it is malformed.
pub fn event(message: wire::NodeEvent) -> Result<Option<NodeEvent>, Malformed> {
    Ok(match message.event.ok_or(Malformed::Missing("event"))? {
        Event::Changed(seen) => Some(NodeEvent::Changed((*seen).try_into()?)),
        Event::Usage(usage) => Some(NodeEvent::Usage(
            id(&usage.id)?,
            UsageSample {
                at: Timestamp::from_micros(usage.at_us),
                cpu_used_pct: usage.cpu_used_pct,
                cpu_count: usage.cpu_count,
                memory_used_bytes: usage.memory_used_bytes,
                memory_total_bytes: usage.memory_total_bytes,
                memory_cache_bytes: usage.memory_cache_bytes,
                disk_used_bytes: usage.disk_used_bytes,
                disk_total_bytes: usage.disk_total_bytes,
            },
        )),
        Event::Log(log) => Some(NodeEvent::Log {
            id: id(&log.id)?,
            at: Timestamp::from_micros(log.at_us),
            level: level_name(log.level.as_known()),
            message: log.message,
        }),
        Event::Alive(_) => None,
    })
}

/// The message that only shows that the stream is alive.
#[must_use]
pub fn alive() -> wire::NodeEvent {
    wire::NodeEvent {
        event: Some(Event::Alive(Box::default())),
        ..wire::NodeEvent::default()
    }
}

fn level_number(level: &str) -> wire::LogLevel {
    match level {
        "debug" => wire::LogLevel::LOG_LEVEL_DEBUG,
        "warn" => wire::LogLevel::LOG_LEVEL_WARN,
        "error" => wire::LogLevel::LOG_LEVEL_ERROR,
        _ => wire::LogLevel::LOG_LEVEL_INFO,
    }
}

const fn level_name(level: Option<wire::LogLevel>) -> &'static str {
    match level {
        Some(wire::LogLevel::LOG_LEVEL_DEBUG) => "debug",
        Some(wire::LogLevel::LOG_LEVEL_WARN) => "warn",
        Some(wire::LogLevel::LOG_LEVEL_ERROR) => "error",
        Some(wire::LogLevel::LOG_LEVEL_INFO | wire::LogLevel::LOG_LEVEL_UNSPECIFIED) | None => {
            "info"
        }
    }
}
