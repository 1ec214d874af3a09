//! How what a node says of itself looks in its column.

use std::collections::{BTreeMap, BTreeSet};

use atoll_core::descriptor::Descriptor;
use atoll_core::resources::Resources;
use atoll_core::scheduler::constraint::Taint;
use serde::{Deserialize, Serialize};

use crate::row::{corrupt, json, parse};
use crate::store::Result;

/// The version of [`Row`] that is written.
const VERSION: u32 = 1;

const NODES: &str = "nodes";

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    v: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    taints: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    zone: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    architecture: String,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    cpu_features: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    drivers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sandboxes_max: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    starts_max: Option<u16>,
    /// Of cpu in thousandths of a core, of memory and of disk in MiB.
    #[serde(default)]
    headroom: (u32, u32, u32),
}

pub(crate) fn descriptor_to_json(descriptor: &Descriptor) -> String {
    let taints = descriptor.taints.iter().cloned();
    let drivers = descriptor.drivers.iter();
    let kept = descriptor.headroom;
    json(&Row {
        v: VERSION,
        labels: descriptor.labels.clone(),
        taints: taints.map(|taint| (taint.key, taint.value)).collect(),
        zone: descriptor.zone.clone(),
        architecture: descriptor.architecture.clone(),
        cpu_features: descriptor.cpu_features.clone(),
        drivers: drivers
            .map(|(name, version)| (name.clone(), version.to_string()))
            .collect(),
        sandboxes_max: descriptor.sandboxes_max,
        starts_max: descriptor.starts_max,
        headroom: (kept.cpu_millis, kept.memory_mib, kept.disk_mib),
    })
}

pub(crate) fn descriptor_from_json(id: &str, text: &str) -> Result<Descriptor> {
    let row: Row =
        serde_json::from_str(text).map_err(|error| corrupt(NODES, id, error.to_string()))?;
    if row.v != VERSION {
        let detail = format!("descriptor version {} is not known", row.v);
        return Err(corrupt(NODES, id, detail));
    }
    let taints = row.taints.into_iter();
    let drivers = row.drivers.into_iter().map(|(name, version)| {
        let version = parse(NODES, id, &version)?;
        Ok((name, version))
    });
    let (cpu_millis, memory_mib, disk_mib) = row.headroom;
    Ok(Descriptor {
        labels: row.labels,
        taints: taints.map(|(key, value)| Taint { key, value }).collect(),
        zone: row.zone,
        architecture: row.architecture,
        cpu_features: row.cpu_features,
        drivers: drivers.collect::<Result<_>>()?,
        sandboxes_max: row.sandboxes_max,
        starts_max: row.starts_max,
        headroom: Resources {
            cpu_millis,
            memory_mib,
            disk_mib,
        },
    })
}
