//! What a node is told about its machine.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;

use atoll_core::descriptor::{Descriptor, WrittenTaint, check_name, check_value};
use atoll_core::node::NodeInfo;
use atoll_core::resources::Resources;
use clap::Args;

use super::SourceArgs;

/// The longest name for people: what the server takes.
const DISPLAY_NAME_LEN_MAX: usize = 256;

/// A node on this machine.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MachineArgs {
    #[command(flatten)]
    pub(crate) sources: SourceArgs,
    #[command(flatten)]
    pub(crate) described: DescribedArgs,
    #[command(flatten)]
    pub(crate) given: GivenArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

/// Where a node keeps the files of paused sandboxes for other nodes, too.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SharedArgs {
    /// Storage that nodes share, for the files of paused sandboxes, file:///DIRECTORY or
    /// s3://BUCKET/PREFIX; nothing is shared unless given.
    #[arg(long, value_name = "URL", env = "ATOLL_SNAPSHOT_STORE")]
    pub(crate) snapshot_store: Option<String>,
    /// File with settings of the S3 client, a line NAME=VALUE each, over the environment's
    /// (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION and others).
    #[arg(long, value_name = "FILE", env = "ATOLL_SNAPSHOT_CREDENTIALS")]
    pub(crate) snapshot_credentials: Option<PathBuf>,
    /// MiB of snapshots that come and go in a second; as fast as it goes unless given.
    #[arg(long, value_name = "MIB", env = "ATOLL_SNAPSHOT_MIB_PER_SECOND")]
    pub(crate) snapshot_mib_per_second: Option<NonZeroU32>,
}

/// What policies can ask for. Architecture, processor features and the driver's version are found.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DescribedArgs {
    /// Name of the node for people; its identity unless given.
    #[arg(long, value_parser = parse_display_name, env = "ATOLL_NODE_DISPLAY_NAME")]
    pub(crate) display_name: Option<String>,
    /// A label of the node that policies can ask for; may repeat.
    #[arg(
        long = "label",
        value_name = "KEY=VALUE",
        value_parser = parse_label,
        env = "ATOLL_NODE_LABELS",
        value_delimiter = ','
    )]
    pub(crate) labels: Vec<(String, String)>,
    /// A word about the node that policies can ask for, with or without a value; may repeat.
    #[arg(
        long = "tag",
        value_name = "TAG[=VALUE]",
        value_parser = parse_tag,
        env = "ATOLL_NODE_TAGS",
        value_delimiter = ','
    )]
    pub(crate) tags: Vec<(String, String)>,
    /// Keep sandboxes away that do not tolerate this; may repeat.
    #[arg(
        long = "taint",
        value_name = "KEY[=VALUE]:no_schedule",
        env = "ATOLL_NODE_TAINTS",
        value_delimiter = ','
    )]
    pub(crate) taints: Vec<WrittenTaint>,
    /// Where the node is, for policies that spread over zones.
    #[arg(long, value_parser = parse_zone, env = "ATOLL_NODE_ZONE")]
    pub(crate) zone: Option<String>,
}

/// What a node gives to sandboxes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GivenArgs {
    /// Sandboxes at a time.
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1..=SANDBOXES_MAX),
        env = "ATOLL_NODE_SANDBOXES_MAX"
    )]
    pub(crate) sandboxes_max: Option<u32>,
    /// Sandboxes that may start at a time.
    #[arg(
        long,
        value_parser = clap::value_parser!(u16).range(1..=1_024),
        env = "ATOLL_NODE_STARTS_MAX"
    )]
    pub(crate) starts_max: Option<u16>,
    /// Thousandths of a core that new sandboxes leave free.
    #[arg(long, default_value_t = 0, env = "ATOLL_NODE_HEADROOM_CPU_MILLIS")]
    pub(crate) headroom_cpu_millis: u32,
    /// MiB of memory that new sandboxes leave free.
    #[arg(long, default_value_t = 0, env = "ATOLL_NODE_HEADROOM_MEMORY_MIB")]
    pub(crate) headroom_memory_mib: u32,
    /// MiB of disk that new sandboxes leave free.
    #[arg(long, default_value_t = 0, env = "ATOLL_NODE_HEADROOM_DISK_MIB")]
    pub(crate) headroom_disk_mib: u32,
    /// How many times the machine's cpu is given away; 256 unless given.
    #[arg(long, value_parser = parse_ratio, env = "ATOLL_NODE_OVERCOMMIT_CPU")]
    pub(crate) overcommit_cpu: Option<f64>,
    /// How many times the machine's memory is given away; 16 unless given.
    #[arg(long, value_parser = parse_ratio, env = "ATOLL_NODE_OVERCOMMIT_MEMORY")]
    pub(crate) overcommit_memory: Option<f64>,
    /// How many times the machine's free disk is given away; 32 unless given.
    #[arg(long, value_parser = parse_ratio, env = "ATOLL_NODE_OVERCOMMIT_DISK")]
    pub(crate) overcommit_disk: Option<f64>,
}

/// Sandboxes at a time at most, and unless told otherwise; each has a network slot and an uid
/// range.
pub(crate) const SANDBOXES_MAX: i64 = 2_000;

impl MachineArgs {
    /// What the operator says of the node.
    ///
    /// # Errors
    /// If there is more of something than there may be, or two values of one name.
    pub(crate) fn info(&self) -> anyhow::Result<NodeInfo> {
        let given = &self.given;
        let described = &self.described;
        let descriptor = Descriptor {
            labels: unique("--label", &described.labels)?,
            taints: described
                .taints
                .iter()
                .map(|taint| taint.0.clone())
                .collect(),
            zone: described.zone.clone().unwrap_or_default(),
            sandboxes_max: given.sandboxes_max,
            starts_max: given.starts_max,
            headroom: Resources {
                cpu_millis: given.headroom_cpu_millis,
                memory_mib: given.headroom_memory_mib,
                disk_mib: given.headroom_disk_mib,
            },
            ..Descriptor::default()
        };
        descriptor.check()?;
        Ok(NodeInfo {
            name: described.display_name.clone().unwrap_or_default(),
            tags: unique("--tag", &described.tags)?,
            descriptor,
            ..NodeInfo::default()
        })
    }
}

fn unique(flag: &str, pairs: &[(String, String)]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs {
        if let Some(other) = map.insert(key.clone(), value.clone()) {
            anyhow::bail!("{flag} gives `{key}` twice: `{other}` and `{value}`");
        }
    }
    Ok(map)
}

fn parse_display_name(text: &str) -> Result<String, String> {
    if (1..=DISPLAY_NAME_LEN_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "must have 1 to {DISPLAY_NAME_LEN_MAX} bytes, none of them control characters"
    ))
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err("must be KEY=VALUE, such as disk=nvme".to_owned());
    };
    pair("label", key, value)
}

fn parse_tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    pair("tag", key, value)
}

fn pair(what: &'static str, key: &str, value: &str) -> Result<(String, String), String> {
    check_name(what, key).map_err(|error| error.problem)?;
    check_value(what, value).map_err(|error| error.problem)?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_zone(text: &str) -> Result<String, String> {
    check_name("zone", text).map_err(|error| error.problem)?;
    Ok(text.to_owned())
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    let ratio = text
        .parse()
        .ok()
        .filter(|ratio| (0.1..=1_000.0).contains(ratio));
    ratio.ok_or_else(|| "must be a number from 0.1 to 1000".to_owned())
}

#[cfg(test)]
mod tests;
