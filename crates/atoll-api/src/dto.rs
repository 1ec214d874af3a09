//! The documents of the wire, hand-written against `spec/openapi.yml`.
//!
//! Required fields are always present: the Python SDK's generated client fails on a missing one.
//! Unknown fields of requests are tolerated, since newer SDKs send more than older servers know.

use std::collections::BTreeMap;

use atoll_control::request::VisibleState;
use atoll_control::view::{KeyView, LogLine, SandboxView, Scope, TemplateView};
use atoll_core::sandbox::{AccessToken, OnTimeout, UsageSample};
use atoll_core::template::BuildStatus;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::network::{NetworkDto, NetworkShown};
use crate::time;

/// Older SDKs join it to the sandbox id with a dash; the server cuts it off again.
const CLIENT_ID: &str = "atoll";

/// Thousandths in a core.
const MILLIS_PER_CORE: u32 = 1_000;

/// `POST /sandboxes`, `POST /v2/sandboxes`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewSandbox {
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    pub(crate) timeout: Option<i64>,
    pub(crate) auto_pause: Option<bool>,
    pub(crate) auto_pause_memory: Option<bool>,
    pub(crate) auto_resume: Option<AutoResume>,
    pub(crate) secure: Option<bool>,
    #[serde(rename = "allow_internet_access")]
    pub(crate) allow_internet_access: Option<bool>,
    pub(crate) network: Option<NetworkDto>,
    pub(crate) metadata: Option<BTreeMap<String, String>>,
    pub(crate) env_vars: Option<BTreeMap<String, String>>,
    pub(crate) iam: Option<Iam>,
    pub(crate) volume_mounts: Option<Vec<Value>>,
    pub(crate) scheduling: Option<Value>,
}

/// Whether traffic wakes a paused sandbox.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct AutoResume {
    pub(crate) enabled: bool,
}

/// Workload identities, which this version does not issue.
#[derive(Debug, Deserialize)]
pub(crate) struct Iam {
    pub(crate) tokens: Option<BTreeMap<String, Value>>,
}

/// `POST …/timeout`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct TimeoutDto {
    pub(crate) timeout: Option<i64>,
}

/// `POST …/resume`, `POST …/connect`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ResumeDto {
    pub(crate) timeout: Option<i64>,
    pub(crate) memory: Option<bool>,
}

/// `POST …/pause`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PauseDto {
    pub(crate) memory: Option<bool>,
    pub(crate) require_healthy_guest: Option<bool>,
}

/// `POST …/refreshes`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct RefreshDto {
    pub(crate) duration: Option<i64>,
}

/// What create and connect answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SandboxDto {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    envd_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    envd_access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic_access_token: Option<String>,
    domain: Option<String>,
}

impl SandboxDto {
    pub(crate) fn new(view: SandboxView, domain: Option<&str>) -> Self {
        Self {
            template_id: view.sandbox.config.template.to_string(),
            sandbox_id: view.sandbox.id.to_string(),
            client_id: CLIENT_ID,
            envd_version: view.envd_version,
            alias: view.sandbox.config.alias,
            envd_access_token: expose(view.envd_access_token),
            traffic_access_token: expose(view.traffic_token),
            domain: domain.map(str::to_owned),
        }
    }
}

fn expose(token: Option<AccessToken>) -> Option<String> {
    token.map(|token| token.expose().to_owned())
}

/// One row of a listing, and the beginning of a detail.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListedSandboxDto {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    started_at: String,
    end_at: String,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u32,
    state: &'static str,
    envd_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    metadata: BTreeMap<String, String>,
    volume_mounts: [(); 0],
}

impl From<SandboxView> for ListedSandboxDto {
    fn from(view: SandboxView) -> Self {
        let state = match view.visible_state() {
            VisibleState::Running => "running",
            VisibleState::Paused => "paused",
        };
        let (cpu_count, memory_mb, disk_size_mb) =
            (view.cpu_count(), view.memory_mib(), view.disk_mib());
        let sandbox = view.sandbox;
        Self {
            template_id: sandbox.config.template.to_string(),
            sandbox_id: sandbox.id.to_string(),
            client_id: CLIENT_ID,
            started_at: time::to_rfc3339(sandbox.started_at.unwrap_or(sandbox.created_at)),
            // The deadline of a paused one does not run: its time ended when it was paused.
            end_at: time::to_rfc3339(sandbox.kept.map_or(sandbox.deadline, |kept| kept.at)),
            cpu_count,
            memory_mb,
            disk_size_mb,
            state,
            envd_version: view.envd_version,
            alias: sandbox.config.alias,
            metadata: sandbox.config.metadata,
            volume_mounts: [],
        }
    }
}

/// `GET /sandboxes/{id}`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SandboxDetailDto {
    #[serde(flatten)]
    listed: ListedSandboxDto,
    #[serde(skip_serializing_if = "Option::is_none")]
    envd_access_token: Option<String>,
    allow_internet_access: bool,
    domain: Option<String>,
    network: NetworkShown,
    lifecycle: LifecycleDto,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_mode: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LifecycleDto {
    auto_resume: bool,
    on_timeout: &'static str,
}

impl SandboxDetailDto {
    pub(crate) fn new(mut view: SandboxView, domain: Option<&str>) -> Self {
        let config = &view.sandbox.config;
        let lifecycle = LifecycleDto {
            auto_resume: config.auto_resume,
            on_timeout: match config.on_timeout {
                OnTimeout::Kill => "kill",
                OnTimeout::Pause { .. } => "pause",
            },
        };
        let pause_mode = match (view.visible_state(), view.sandbox.keep_memory) {
            (VisibleState::Running, _) => None,
            (VisibleState::Paused, true) => Some("full"),
            (VisibleState::Paused, false) => Some("filesystem"),
        };
        Self {
            pause_mode,
            allow_internet_access: config.network.internet_access,
            network: NetworkShown::from(&config.network),
            lifecycle,
            domain: domain.map(str::to_owned),
            envd_access_token: expose(view.envd_access_token.take()),
            listed: view.into(),
        }
    }
}

/// One sample of what a sandbox uses.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MetricDto {
    timestamp: String,
    timestamp_unix: i64,
    cpu_count: u32,
    cpu_used_pct: f32,
    mem_used: u64,
    mem_total: u64,
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

impl From<UsageSample> for MetricDto {
    fn from(sample: UsageSample) -> Self {
        Self {
            timestamp: time::to_rfc3339(sample.at),
            timestamp_unix: time::to_unix_seconds(sample.at),
            cpu_count: sample.cpu_count,
            // JSON has no infinities.
            cpu_used_pct: if sample.cpu_used_pct.is_finite() {
                sample.cpu_used_pct
            } else {
                0.0
            },
            mem_used: sample.memory_used_bytes,
            mem_total: sample.memory_total_bytes,
            mem_cache: sample.memory_cache_bytes,
            disk_used: sample.disk_used_bytes,
            disk_total: sample.disk_total_bytes,
        }
    }
}

/// `GET /sandboxes/metrics`.
#[derive(Debug, Serialize)]
pub(crate) struct MetricsOfManyDto {
    pub(crate) sandboxes: BTreeMap<String, MetricDto>,
}

/// One line of a log.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LogEntryDto {
    timestamp: String,
    message: String,
    level: &'static str,
    fields: BTreeMap<String, String>,
}

impl From<LogLine> for LogEntryDto {
    fn from(line: LogLine) -> Self {
        Self {
            timestamp: time::to_rfc3339(line.at),
            message: line.message,
            level: line.level.as_str(),
            fields: line.fields,
        }
    }
}

/// One line of a log in the first version: the CLI parses `line` as JSON.
#[derive(Debug, Serialize)]
struct LogLineDto {
    timestamp: String,
    line: String,
}

/// `GET /sandboxes/{id}/logs`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogsV1Dto {
    logs: Vec<LogLineDto>,
    log_entries: Vec<LogEntryDto>,
}

/// `GET /v2/sandboxes/{id}/logs`.
#[derive(Debug, Serialize)]
pub(crate) struct LogsV2Dto {
    pub(crate) logs: Vec<LogEntryDto>,
}

impl From<Vec<LogLine>> for LogsV1Dto {
    fn from(lines: Vec<LogLine>) -> Self {
        let entries: Vec<LogEntryDto> = lines.into_iter().map(LogEntryDto::from).collect();
        Self {
            logs: entries.iter().map(LogLineDto::from).collect(),
            log_entries: entries,
        }
    }
}

impl From<&LogEntryDto> for LogLineDto {
    fn from(entry: &LogEntryDto) -> Self {
        let mut line: BTreeMap<&str, &str> = entry
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        line.insert("level", entry.level);
        line.insert("message", &entry.message);
        line.entry("logger").or_insert("atoll");
        Self {
            timestamp: entry.timestamp.clone(),
            line: serde_json::to_string(&line).unwrap_or_default(),
        }
    }
}

/// A template in a listing, and the beginning of a detail.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TemplateDto {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    build_id: String,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u32,
    public: bool,
    aliases: Vec<String>,
    names: Vec<String>,
    created_at: String,
    updated_at: String,
    created_by: Option<()>,
    last_spawned_at: Option<String>,
    spawn_count: u64,
    build_count: u32,
    envd_version: String,
    build_status: &'static str,
}

const fn build_status(status: BuildStatus) -> &'static str {
    match status {
        BuildStatus::Waiting => "waiting",
        BuildStatus::Building => "building",
        BuildStatus::Ready => "ready",
        BuildStatus::Failed => "error",
    }
}

impl From<TemplateView> for TemplateDto {
    fn from(view: TemplateView) -> Self {
        let template = view.template;
        let names = template.names;
        // An alias is a name without its namespace.
        let bare = |name: &String| name.rsplit('/').next().unwrap_or(name).to_owned();
        Self {
            template_id: template.id.to_string(),
            build_id: template.build.to_string(),
            cpu_count: template
                .resources
                .cpu_millis
                .div_ceil(MILLIS_PER_CORE)
                .max(1),
            memory_mb: template.resources.memory_mib,
            disk_size_mb: template.resources.disk_mib,
            public: template.is_public,
            aliases: names.iter().map(bare).collect(),
            names,
            created_at: time::to_rfc3339(template.created_at),
            updated_at: time::to_rfc3339(template.updated_at),
            created_by: None,
            last_spawned_at: view.last_spawned_at.map(time::to_rfc3339),
            spawn_count: view.spawn_count,
            build_count: view.build_count,
            envd_version: template.envd_version,
            build_status: build_status(template.status),
        }
    }
}

/// `GET /templates/{id}`.
#[derive(Debug, Serialize)]
pub(crate) struct TemplateWithBuildsDto {
    #[serde(flatten)]
    template: TemplateDto,
    builds: Vec<BuildDto>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDto {
    #[serde(rename = "buildID")]
    build_id: String,
    status: &'static str,
    created_at: String,
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u32,
    envd_version: String,
}

impl From<TemplateView> for TemplateWithBuildsDto {
    fn from(view: TemplateView) -> Self {
        let is_finished = matches!(
            view.template.status,
            BuildStatus::Ready | BuildStatus::Failed
        );
        let template = TemplateDto::from(view);
        let build = BuildDto {
            build_id: template.build_id.clone(),
            status: template.build_status,
            created_at: template.created_at.clone(),
            updated_at: template.updated_at.clone(),
            finished_at: is_finished.then(|| template.updated_at.clone()),
            cpu_count: template.cpu_count,
            memory_mb: template.memory_mb,
            disk_size_mb: template.disk_size_mb,
            envd_version: template.envd_version.clone(),
        };
        Self {
            template,
            builds: vec![build],
        }
    }
}

/// `GET /templates/aliases/{alias}`.
#[derive(Debug, Serialize)]
pub(crate) struct AliasDto {
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    pub(crate) public: bool,
}

/// A key as it can be shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeyDto {
    id: String,
    name: String,
    mask: MaskDto,
    created_at: String,
    created_by: Option<()>,
    last_used: Option<String>,
    read_only: bool,
    /// The key itself: only in the answer to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MaskDto {
    prefix: String,
    value_length: u32,
    masked_value_prefix: String,
    masked_value_suffix: String,
}

impl KeyDto {
    pub(crate) fn new(view: KeyView, key: Option<String>) -> Self {
        Self {
            id: view.id.to_string(),
            name: view.name,
            mask: MaskDto {
                prefix: view.prefix,
                value_length: view.body_len,
                masked_value_prefix: view.masked_start,
                masked_value_suffix: view.masked_end,
            },
            created_at: time::to_rfc3339(view.created_at),
            created_by: None,
            last_used: view.last_used_at.map(time::to_rfc3339),
            read_only: view.scope == Scope::ReadOnly,
            key,
        }
    }
}

/// `POST /api-keys`, `POST /admin/v1/keys`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewKey {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) read_only: bool,
}
