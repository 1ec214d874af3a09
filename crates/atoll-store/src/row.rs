//! How domain values look in columns, for every dialect.
//!
//! What is structured but never searched is one JSON text with a version field `v`, so that its
//! shape can change without a migration.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use atoll_core::id::NodeId;
use atoll_core::network::NetworkPolicy;
use atoll_core::node::DrainMode;
use atoll_core::resources::Resources;
use atoll_core::sandbox::{Desired, EndReason, OnTimeout, SandboxConfig, State};
use atoll_core::scheduler::overlay::Overlay;
use atoll_core::template::BuildStatus;
use serde::{Deserialize, Serialize};

use crate::policy_row::PolicyRow;
use crate::store::{Error, Result};

mod decision;
pub(crate) mod forecast;

pub(crate) use decision::{decision_from_json, decision_to_json};

/// The version of [`Config`] that is written.
const CONFIG_VERSION: u32 = 1;

/// The JSON form of what a client asked for; template, build and alias are columns.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    v: u32,
    cpu_millis: u32,
    memory_mib: u32,
    disk_mib: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    network: Network,
    secured: bool,
    on_timeout: String,
    auto_resume: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scheduling: Option<Box<PolicyRow>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Network {
    internet: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allow_out: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deny_out: Vec<String>,
    public: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mask_host: Option<String>,
}

const KILL: &str = "kill";
const PAUSE_MEMORY: &str = "pause";
const PAUSE_FILES: &str = "pause_files";

pub(crate) fn config_to_json(config: &SandboxConfig) -> String {
    let row = Config {
        v: CONFIG_VERSION,
        cpu_millis: config.resources.cpu_millis,
        memory_mib: config.resources.memory_mib,
        disk_mib: config.resources.disk_mib,
        metadata: config.metadata.clone(),
        env: config.env.clone(),
        network: Network {
            internet: config.network.internet_access,
            allow_out: config.network.allow_out.clone(),
            deny_out: config.network.deny_out.clone(),
            public: config.network.public_traffic,
            mask_host: config.network.mask_request_host.clone(),
        },
        secured: config.is_secured,
        on_timeout: match config.on_timeout {
            OnTimeout::Kill => KILL,
            OnTimeout::Pause { keep_memory: true } => PAUSE_MEMORY,
            OnTimeout::Pause { keep_memory: false } => PAUSE_FILES,
        }
        .to_owned(),
        auto_resume: config.auto_resume,
        scheduling: config
            .scheduling
            .as_deref()
            .map(|said| Box::new(said.into())),
    };
    json(&row)
}

pub(crate) fn config_from_json(
    id: &str,
    text: &str,
    template: &str,
    build: &str,
    alias: Option<String>,
) -> Result<SandboxConfig> {
    let corrupt = |detail: String| corrupt("sandboxes", id, detail);
    let row: Config = serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))?;
    if row.v != CONFIG_VERSION {
        return Err(corrupt(format!("config version {} is not known", row.v)));
    }
    let scheduling = row.scheduling.map(|said| (*said).try_into().map(Box::new));
    Ok(SandboxConfig {
        template: parse("sandboxes", id, template)?,
        build: parse("sandboxes", id, build)?,
        alias,
        resources: Resources {
            cpu_millis: row.cpu_millis,
            memory_mib: row.memory_mib,
            disk_mib: row.disk_mib,
        },
        metadata: row.metadata,
        env: row.env,
        network: NetworkPolicy {
            internet_access: row.network.internet,
            allow_out: row.network.allow_out,
            deny_out: row.network.deny_out,
            public_traffic: row.network.public,
            mask_request_host: row.network.mask_host,
        },
        is_secured: row.secured,
        on_timeout: match row.on_timeout.as_str() {
            KILL => OnTimeout::Kill,
            PAUSE_MEMORY => OnTimeout::Pause { keep_memory: true },
            PAUSE_FILES => OnTimeout::Pause { keep_memory: false },
            other => return Err(corrupt(format!("on_timeout `{other}` is not known"))),
        },
        auto_resume: row.auto_resume,
        scheduling: scheduling.transpose().map_err(corrupt)?,
    })
}

pub(crate) fn fields_to_json(fields: &BTreeMap<String, String>) -> String {
    json(fields)
}

pub(crate) fn fields_from_json(id: &str, text: &str) -> Result<BTreeMap<String, String>> {
    serde_json::from_str(text).map_err(|error| corrupt("events", id, error.to_string()))
}

pub(crate) fn node_ids_to_json(ids: &[NodeId]) -> String {
    json(&ids.iter().map(NodeId::as_str).collect::<Vec<_>>())
}

pub(crate) fn node_ids_from_json(table: &'static str, id: &str, text: &str) -> Result<Vec<NodeId>> {
    let ids: Vec<String> =
        serde_json::from_str(text).map_err(|error| corrupt(table, id, error.to_string()))?;
    ids.iter().map(|node| parse(table, id, node)).collect()
}

pub(crate) fn policy_to_json(policy: &Overlay) -> String {
    json(&PolicyRow::from(policy))
}

pub(crate) fn policy_from_json(id: &str, text: &str) -> Result<Box<Overlay>> {
    let row = serde_json::from_str::<PolicyRow>(text).map_err(|error| error.to_string());
    let policy = row.and_then(Overlay::try_from).map(Box::new);
    policy.map_err(|detail| corrupt("teams", id, detail))
}

pub(crate) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("maps with text keys and plain values always serialise")
}

/// What clients see as paused, and what is listed as that.
pub(crate) const fn counts_as_paused(state: State) -> bool {
    matches!(state, State::Pausing | State::Paused | State::Resuming)
}

/// A time span in microseconds. Timeouts stay far below what fits.
pub(crate) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// Our counts stay far below the limit; saturating keeps the conversion total.
pub(crate) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn corrupt(table: &'static str, id: &str, detail: String) -> Error {
    Error::Corrupt {
        table,
        id: id.to_owned(),
        detail,
    }
}

pub(crate) fn parse<T>(table: &'static str, id: &str, text: &str) -> Result<T>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error: T::Err| corrupt(table, id, error.to_string()))
}

pub(crate) const fn desired_name(desired: Desired) -> &'static str {
    match desired {
        Desired::Running => "running",
        Desired::Paused => "paused",
        Desired::Stopped => "stopped",
    }
}

pub(crate) fn desired_from_name(name: &str) -> Option<Desired> {
    [Desired::Running, Desired::Paused, Desired::Stopped]
        .into_iter()
        .find(|desired| desired_name(*desired) == name)
}

pub(crate) const fn reason_name(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Killed => "killed",
        EndReason::Expired => "expired",
        EndReason::Failed => "failed",
        EndReason::NodeLost => "node_lost",
        EndReason::NoCapacity => "no_capacity",
        EndReason::Shutdown => "shutdown",
        EndReason::Evicted => "evicted",
    }
}

pub(crate) fn reason_from_name(name: &str) -> Option<EndReason> {
    [
        EndReason::Killed,
        EndReason::Expired,
        EndReason::Failed,
        EndReason::NodeLost,
        EndReason::NoCapacity,
        EndReason::Shutdown,
        EndReason::Evicted,
    ]
    .into_iter()
    .find(|reason| reason_name(*reason) == name)
}

pub(crate) const fn drain_name(mode: DrainMode) -> &'static str {
    match mode {
        DrainMode::Wait => "wait",
        DrainMode::Evict => "evict",
    }
}

pub(crate) fn drain_from_name(name: &str) -> Option<DrainMode> {
    [DrainMode::Wait, DrainMode::Evict]
        .into_iter()
        .find(|mode| drain_name(*mode) == name)
}

pub(crate) const fn status_name(status: BuildStatus) -> &'static str {
    match status {
        BuildStatus::Waiting => "waiting",
        BuildStatus::Building => "building",
        BuildStatus::Ready => "ready",
        BuildStatus::Failed => "failed",
    }
}

pub(crate) fn status_from_name(name: &str) -> Option<BuildStatus> {
    [
        BuildStatus::Waiting,
        BuildStatus::Building,
        BuildStatus::Ready,
        BuildStatus::Failed,
    ]
    .into_iter()
    .find(|status| status_name(*status) == name)
}
