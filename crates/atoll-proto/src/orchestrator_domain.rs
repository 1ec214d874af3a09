//! Messages of `atoll/orchestrator/v1` that parts of the fleet make, from the domain's types. What
//! the orchestrator makes of them is checked where it arrives.

use atoll_core::descriptor::Descriptor;
use atoll_core::heartbeat::{Gauge, Heartbeat, MachineUsage};
use atoll_core::node::NodeInfo;
use atoll_core::resources::Resources as Amounts;
use buffa_types::google::protobuf;

use crate::orchestrator::{
    Capacity, HeartbeatRequest, NodeDescriptor, NodeTaint, RegisterNodeRequest, Resources,
};

const MICROS_PER_SECOND: i64 = 1_000_000;
const NANOS_PER_MICRO: i64 = 1_000;
const BYTES_PER_MIB: u64 = 1024 * 1024;

/// Everything but the incarnation, which a heartbeat does not know.
impl From<&Heartbeat> for HeartbeatRequest {
    fn from(heartbeat: &Heartbeat) -> Self {
        let micros = heartbeat.at.as_micros();
        let nanos = micros.rem_euclid(MICROS_PER_SECOND) * NANOS_PER_MICRO;
        let at = protobuf::Timestamp {
            seconds: micros.div_euclid(MICROS_PER_SECOND),
            nanos: i32::try_from(nanos).unwrap_or_default(),
            ..protobuf::Timestamp::default()
        };
        Self {
            node_id: heartbeat.node.to_string(),
            at: at.into(),
            total: amounts(heartbeat.total).into(),
            allocated: amounts(heartbeat.allocated).into(),
            sandboxes: heartbeat.sandboxes,
            measured: Capacity::from(&heartbeat.usage).into(),
            digest: heartbeat.digest.bits(),
            driver: heartbeat.driver.clone(),
            driver_problem: heartbeat.driver_problem.clone().unwrap_or_default(),
            ..Self::default()
        }
    }
}

/// What a node says of itself; its id, address and incarnation are its agent's to add.
impl From<&NodeInfo> for RegisterNodeRequest {
    fn from(info: &NodeInfo) -> Self {
        Self {
            name: info.name.clone(),
            tags: info.tags.clone().into_iter().collect(),
            descriptor: NodeDescriptor::from(&info.descriptor).into(),
            ..Self::default()
        }
    }
}

impl From<&Descriptor> for NodeDescriptor {
    fn from(descriptor: &Descriptor) -> Self {
        let taints = descriptor.taints.iter().map(|taint| NodeTaint {
            key: taint.key.clone(),
            value: taint.value.clone(),
            ..NodeTaint::default()
        });
        let drivers = descriptor.drivers.iter();
        let drivers = drivers.map(|(name, version)| (name.clone(), version.to_string()));
        Self {
            labels: descriptor.labels.clone().into_iter().collect(),
            taints: taints.collect(),
            zone: descriptor.zone.clone(),
            architecture: descriptor.architecture.clone(),
            cpu_features: descriptor.cpu_features.iter().cloned().collect(),
            drivers: drivers.collect(),
            sandboxes_max: descriptor.sandboxes_max,
            starts_max: descriptor.starts_max.map(u32::from),
            headroom: amounts(descriptor.headroom).into(),
            ..Self::default()
        }
    }
}

fn amounts(amounts: Amounts) -> Resources {
    Resources {
        cpu_millicores: u64::from(amounts.cpu_millis),
        memory_bytes: u64::from(amounts.memory_mib) * BYTES_PER_MIB,
        disk_bytes: u64::from(amounts.disk_mib) * BYTES_PER_MIB,
        ..Resources::default()
    }
}

/// What a machine has and uses, as measured.
impl From<&MachineUsage> for Capacity {
    fn from(usage: &MachineUsage) -> Self {
        let amounts = |of: fn(Gauge) -> u64| Resources {
            cpu_millicores: of(usage.cpu_millis),
            memory_bytes: of(usage.memory_bytes),
            disk_bytes: of(usage.disk_bytes),
            network_bits_per_second: Some(of(usage.network_bps)),
            ..Resources::default()
        };
        Self {
            total: amounts(|gauge| gauge.total).into(),
            used: amounts(|gauge| gauge.used).into(),
            available: amounts(Gauge::available).into(),
            ..Self::default()
        }
    }
}
