//! What there is and what is in use, by node, by team and of the whole fleet.
//!
//! The view is cached: it is what heartbeats said last, and it says how old that is. Allocations
//! are not: they are the control plane's own and exact.

use std::time::Duration;

use atoll_core::error::ErrorKind;
use atoll_core::heartbeat::{Gauge, MachineUsage};
use atoll_core::id::{NodeId, TeamId};
use atoll_core::resources::Resources;

use super::{ControlPlane, Inner, unavailable};
use crate::error::{Error, Result};
use crate::view::{AllocationView, Amounts, NodeView, ResourceUsage};

/// Whose resources are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsageOf {
    /// A node's.
    Node(NodeId),
    /// A team's.
    Team(TeamId),
    /// All nodes' together.
    Fleet,
}

impl ControlPlane {
    /// What there is and what is in use.
    ///
    /// # Errors
    /// `NotFound` for an unknown node or team; `Unavailable` for the store, which is asked about
    /// teams only.
    pub async fn resource_usage(&self, of: &UsageOf) -> Result<ResourceUsage> {
        match of {
            UsageOf::Node(id) => Ok(of_nodes(&[self.node_get(id)?])),
            UsageOf::Fleet => Ok(of_nodes(&self.node_list())),
            UsageOf::Team(team) => self.inner.team_resources(team).await,
        }
    }

    /// What each sandbox holds of a node, by id.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn node_allocations(&self, id: &NodeId) -> Result<Vec<AllocationView>> {
        self.node_get(id)?;
        Ok(self.inner.registry.allocations(id))
    }
}

fn of_nodes(nodes: &[NodeView]) -> ResourceUsage {
    let mut usage = ResourceUsage {
        nodes: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
        ..ResourceUsage::default()
    };
    let mut measured = MachineUsage::default();
    for node in nodes {
        // What is lost or left gives nothing.
        if node.is_reachable {
            usage.total = usage.total.plus(amounts(node.allocatable));
        }
        usage.used = usage.used.plus(amounts(node.allocated));
        usage.sandboxes = usage.sandboxes.saturating_add(node.sandboxes);
        if let Some(beat) = node.last_heartbeat.as_ref().filter(|_| node.is_reachable) {
            measured = measured.plus(beat.heartbeat.usage);
            usage.age = Some(
                usage
                    .age
                    .map_or(beat.age, |age: Duration| age.max(beat.age)),
            );
        }
    }
    usage.total.network_bps = measured.network_bps.total;
    usage.used.network_bps = measured.network_bps.used;
    usage.available = usage.total.minus(usage.used);
    usage.measured = usage.age.map(|_| measured);
    usage
}

fn amounts(resources: Resources) -> Amounts {
    Amounts {
        cpu_millis: u64::from(resources.cpu_millis),
        memory_bytes: u64::from(resources.memory_mib) << 20,
        disk_bytes: u64::from(resources.disk_mib) << 20,
        network_bps: 0,
    }
}

impl Inner {
    /// A team's: of what it may have, what it has. Bandwidth is neither limited nor measured by
    /// team.
    async fn team_resources(&self, team: &TeamId) -> Result<ResourceUsage> {
        let row = self.store.team_get(team).await.map_err(unavailable)?;
        let row = row
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no team `{team}`")))?;
        let limits = row.overrides.over(self.config.team_limits);
        let charged = row.usage.charged;
        let total = Amounts {
            cpu_millis: limits.cpu_millis,
            memory_bytes: limits.memory_mib.saturating_mul(1 << 20),
            disk_bytes: limits.disk_mib.saturating_mul(1 << 20),
            network_bps: 0,
        };
        let used = Amounts {
            cpu_millis: charged.cpu_millis,
            memory_bytes: charged.memory_mib.saturating_mul(1 << 20),
            disk_bytes: charged.disk_mib.saturating_mul(1 << 20),
            network_bps: 0,
        };
        let (measured, age) = self.measured_of(team);
        Ok(ResourceUsage {
            total,
            used,
            available: total.minus(used),
            measured,
            age,
            nodes: 0,
            sandboxes: u32::try_from(charged.places).unwrap_or(u32::MAX),
        })
    }

    /// What the sandboxes of a team use, by their last samples, and the age of the oldest of those.
    fn measured_of(&self, team: &TeamId) -> (Option<MachineUsage>, Option<Duration>) {
        let now = self.clock.now();
        let mut sum = MachineUsage::default();
        let mut oldest: Option<Duration> = None;
        for id in self.registry.of_team(team) {
            let Some(sample) = self.usage.latest(&id) else {
                continue;
            };
            sum = sum.plus(MachineUsage {
                cpu_millis: Gauge {
                    total: u64::from(sample.cpu_count) * 1_000,
                    used: millis(sample.cpu_used_pct),
                },
                memory_bytes: Gauge {
                    total: sample.memory_total_bytes,
                    used: sample.memory_used_bytes,
                },
                disk_bytes: Gauge {
                    total: sample.disk_total_bytes,
                    used: sample.disk_used_bytes,
                },
                network_bps: Gauge::default(),
            });
            let age = now.saturating_since(sample.at);
            oldest = Some(oldest.map_or(age, |oldest| oldest.max(age)));
        }
        (oldest.map(|_| sum), oldest)
    }
}

/// Thousandths of a core from percent of one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates, and a measurement is not exact"
)]
fn millis(percent: f32) -> u64 {
    (percent * 10.0) as u64
}
