//! How well the control plane and what it depends on do.
//!
//! A check runs every 30 seconds and whenever somebody asks. A load balancer asks often: it gets
//! the last check as long as that is fresh.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::breaker;
use atoll_core::heartbeat::Gauge;
use atoll_core::node::NodeState;
use atoll_core::time::Timestamp;
use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::{ControlPlane, Inner};
use crate::lock::lock;
use crate::view::{ComponentHealth, Health, HealthStatus, NodeView};

/// How long the store may take to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// A store that takes so long holds up every create.
const STORE_SLOW: Duration = Duration::from_millis(500);

/// How long another part may take to be checked.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A check that is younger is not repeated for who does not insist.
const FRESH: Duration = Duration::from_secs(1);

/// Nodes that are named where more than one is missing.
const MISSING_SHOWN: usize = 16;

/// Parts that can be watched beside the built-in ones.
const PROBES_MAX: usize = 64;

/// Clocks that differ by more make deadlines and histories of nodes hard to read. Some of it is the
/// time the heartbeat was under way.
const SKEW_DEGRADED: Duration = Duration::from_secs(1);

/// Clocks that differ by more are wrong.
const SKEW_UNHEALTHY: Duration = Duration::from_secs(30);

/// A disk of which less is free, in percent, will be full soon.
const DISK_DEGRADED_PCT: u64 = 10;

/// A disk of which less is free, in percent, refuses sandboxes and databases.
const DISK_UNHEALTHY_PCT: u64 = 2;

/// What a part says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How well it does.
    pub status: HealthStatus,
    /// Why, for people; empty when healthy.
    pub detail: String,
}

impl Verdict {
    /// It works.
    #[must_use]
    pub const fn healthy() -> Self {
        Self {
            status: HealthStatus::Healthy,
            detail: String::new(),
        }
    }

    /// It works in part.
    #[must_use]
    pub fn degraded(detail: impl Into<String>) -> Self {
        Self {
            status: HealthStatus::Degraded,
            detail: detail.into(),
        }
    }

    /// It does not work.
    #[must_use]
    pub fn unhealthy(detail: impl Into<String>) -> Self {
        Self {
            status: HealthStatus::Unhealthy,
            detail: detail.into(),
        }
    }

    /// How well a disk does with so much of it in use.
    #[must_use]
    pub fn of_disk(disk: Gauge) -> Self {
        if disk.total == 0 {
            return Self::degraded("its size is not known");
        }
        let free_pct = u128::from(disk.available()) * 100 / u128::from(disk.total);
        let detail = || format!("{free_pct} % of it is free");
        if free_pct < u128::from(DISK_UNHEALTHY_PCT) {
            Self::unhealthy(detail())
        } else if free_pct < u128::from(DISK_DEGRADED_PCT) {
            Self::degraded(detail())
        } else {
            Self::healthy()
        }
    }
}

/// A part that is watched beside the store, the cache, the discovery and the nodes: a disk.
#[async_trait]
pub trait HealthProbe: Send + Sync + std::fmt::Debug {
    /// What it is called.
    fn name(&self) -> String;

    /// Looks how well it does. Is given up after some seconds.
    async fn check(&self) -> Verdict;
}

/// What is known of earlier checks.
#[derive(Debug, Default)]
pub(crate) struct HealthBook {
    probes: Mutex<Vec<Arc<dyn HealthProbe>>>,
    last: Mutex<Option<(Instant, Health)>>,
    /// Held by whoever checks for those who do not insist.
    checking: tokio::sync::Mutex<()>,
    successes: Mutex<BTreeMap<String, Timestamp>>,
}

impl HealthBook {
    /// The last check, if it is fresh.
    fn fresh(&self) -> Option<Health> {
        let last = lock(&self.last);
        let (at, health) = last.as_ref()?;
        (at.elapsed() < FRESH).then(|| health.clone())
    }
}

impl ControlPlane {
    /// Checks everything now.
    pub async fn health(&self) -> Health {
        self.inner.check_health().await
    }

    /// The last check; a new one if that is not fresh.
    pub async fn health_recent(&self) -> Health {
        let book = &self.inner.health;
        if let Some(health) = book.fresh() {
            return health;
        }
        // Many ask at the moment when the last check grows old: one checks, the others hear of it.
        let _checking = book.checking.lock().await;
        match book.fresh() {
            Some(health) => health,
            None => self.health().await,
        }
    }

    /// Why no sandbox can be made here now, if so: no store, or no node that takes any.
    pub async fn unready(&self) -> Option<String> {
        let health = self.health_recent().await;
        let store = health.components.iter().find(|part| part.name == STORE);
        if let Some(store) = store.filter(|store| store.status == HealthStatus::Unhealthy) {
            return Some(format!("the store is unhealthy: {}", store.detail));
        }
        let nodes = self.node_list();
        let is_served = nodes.iter().any(|node| node.state == NodeState::Ready);
        (!is_served).then(|| "no node takes sandboxes".to_owned())
    }

    /// Watches one more part.
    pub fn health_watch(&self, probe: Arc<dyn HealthProbe>) {
        let mut probes = lock(&self.inner.health.probes);
        if probes.len() < PROBES_MAX {
            probes.push(probe);
        } else {
            tracing::error!(
                name = probe.name(),
                "too many parts: this one is not watched"
            );
        }
    }
}

const STORE: &str = "store";

/// How a directory does, how long its last call took, and when one last worked.
type Directory = (Verdict, Option<Duration>, Option<Timestamp>);

/// How often the cache is compared before it counts as different: a template that is being made is
/// in one place before the other.
const CACHE_LOOKS: u32 = 2;

impl Inner {
    pub(crate) async fn check_health(&self) -> Health {
        let probes = lock(&self.health.probes).clone();
        let (store, cache, others) = tokio::join!(
            self.store_health(),
            self.cache_health(),
            join_all(probes.iter().map(|probe| watched(probe.as_ref()))),
        );
        let nodes = self.registry.view();
        let fleet = fleet_status(&nodes);
        let essential = store.status.max(fleet);
        let directory = self.directory.health();
        let mut components = vec![store, cache, discovery(&nodes, directory)];
        components.extend(others);
        components.extend(nodes.iter().flat_map(of_node));
        self.note_successes(&mut components);
        let worst = components.iter().map(|part| part.status).max();
        let health = Health {
            // What is not essential only degrades.
            status: match worst {
                Some(HealthStatus::Degraded | HealthStatus::Unhealthy) => {
                    essential.max(HealthStatus::Degraded)
                }
                Some(HealthStatus::Healthy) | None => essential,
            },
            components,
        };
        *lock(&self.health.last) = Some((Instant::now(), health.clone()));
        health
    }

    async fn store_health(&self) -> ComponentHealth {
        let begun = Instant::now();
        let answer = timeout(STORE_TIMEOUT, self.store.ping()).await;
        let latency = begun.elapsed();
        let mut verdict = match answer {
            Ok(Ok(())) if latency >= STORE_SLOW => {
                Verdict::degraded(format!("answers after {} ms", latency.as_millis()))
            }
            Ok(Ok(())) => Verdict::healthy(),
            Ok(Err(error)) => Verdict::unhealthy(error.to_string()),
            Err(_) => Verdict::unhealthy("does not answer in time"),
        };
        let kind = self.store.kind();
        verdict.detail = match verdict.detail.as_str() {
            "" => kind.to_owned(),
            detail => format!("{kind}: {detail}"),
        };
        component(STORE.to_owned(), verdict, Some(latency))
    }

    /// The copies in memory that creates decide by: whether they have what the store has.
    async fn cache_health(&self) -> ComponentHealth {
        let begun = Instant::now();
        let look = async {
            let mut differences = 0;
            for _ in 0..CACHE_LOOKS {
                let rows = self.store.template_list().await.map_err(|_| ())?;
                differences = self.catalog.differences(&rows);
                if differences == 0 {
                    break;
                }
            }
            Ok(differences)
        };
        let verdict = match timeout(STORE_TIMEOUT, look).await {
            Ok(Ok(0)) => Verdict::healthy(),
            Ok(Ok(differences)) => {
                Verdict::degraded(format!("{differences} templates are not as in the store"))
            }
            Ok(Err(())) | Err(_) => Verdict::degraded("cannot be compared with the store"),
        };
        component("cache".to_owned(), verdict, Some(begun.elapsed()))
    }

    /// Fills in when each component last worked. Those that are gone are forgotten.
    fn note_successes(&self, components: &mut [ComponentHealth]) {
        let now = self.clock.now();
        let mut successes = lock(&self.health.successes);
        successes.retain(|name, _| components.iter().any(|part| part.name == *name));
        for part in components {
            if part.status == HealthStatus::Healthy {
                let at = part.last_success.unwrap_or(now);
                successes.insert(part.name.clone(), at);
            }
            if part.last_success.is_none() {
                part.last_success = successes.get(&part.name).copied();
            }
        }
    }
}

async fn watched(probe: &dyn HealthProbe) -> ComponentHealth {
    let begun = Instant::now();
    let verdict = timeout(PROBE_TIMEOUT, probe.check()).await;
    let verdict = verdict.unwrap_or_else(|_| Verdict::unhealthy("does not answer in time"));
    component(probe.name(), verdict, Some(begun.elapsed()))
}

fn component(name: String, verdict: Verdict, latency: Option<Duration>) -> ComponentHealth {
    ComponentHealth {
        name,
        status: verdict.status,
        detail: verdict.detail,
        latency,
        last_success: None,
    }
}

/// The nodes together: a lost one among several only degrades.
fn fleet_status(nodes: &[NodeView]) -> HealthStatus {
    let is_well = |node: &NodeView| matches!(node.state, NodeState::Ready | NodeState::Draining);
    if nodes.iter().all(is_well) {
        HealthStatus::Healthy
    } else if nodes.iter().any(is_well) {
        HealthStatus::Degraded
    } else {
        HealthStatus::Unhealthy
    }
}

/// Whether the nodes that are known made themselves known to this control plane, so that it can
/// reach them.
///
/// Where there is a directory, also whether sandboxes are registered there; latency and last
/// success are its then.
fn discovery(nodes: &[NodeView], directory: Option<Directory>) -> ComponentHealth {
    let begun = Instant::now();
    let expected = nodes.iter().filter(|node| node.state != NodeState::Left);
    let missing: Vec<_> = expected
        .filter(|node| !node.has_joined)
        .map(|node| node.id.as_str())
        .take(MISSING_SHOWN)
        .collect();
    let verdict = if !nodes.iter().any(|node| node.has_joined) {
        Verdict::degraded("no node has joined since the server started")
    } else if missing.is_empty() {
        Verdict::healthy()
    } else {
        let names = missing.join(", ");
        Verdict::degraded(format!("have not joined since the server started: {names}"))
    };
    let name = "discovery".to_owned();
    let Some((registered, latency, last_success)) = directory else {
        return component(name, verdict, Some(begun.elapsed()));
    };
    let details: Vec<_> = [&registered.detail, &verdict.detail]
        .into_iter()
        .filter(|detail| !detail.is_empty())
        .cloned()
        .collect();
    let both = Verdict {
        status: verdict.status.max(registered.status),
        detail: details.join("; "),
    };
    ComponentHealth {
        last_success,
        ..component(name, both, latency)
    }
}

/// A node, its driver, its disk and its clock. The latency of each is the node's.
fn of_node(node: &NodeView) -> Vec<ComponentHealth> {
    let id = &node.id;
    let verdict = match (node.state, &node.breaker) {
        (NodeState::Suspect, _) => Verdict::degraded("does not answer"),
        (NodeState::Lost, _) => Verdict::unhealthy("is lost"),
        (NodeState::Left, _) => Verdict::unhealthy("was removed"),
        (NodeState::Ready | NodeState::Draining, (breaker::State::Closed, _)) => Verdict::healthy(),
        (NodeState::Ready | NodeState::Draining, (state, why)) => Verdict::degraded(format!(
            "its breaker for starts is {}: {}",
            state.as_str(),
            why.as_deref().unwrap_or("it failed")
        )),
    };
    let mut parts = vec![component(format!("node {id}"), verdict, node.latency)];
    let beat = node.last_heartbeat.as_ref();
    let Some(beat) = beat.filter(|_| node.is_reachable) else {
        return parts;
    };
    parts[0].last_success = Some(beat.received_at);
    let driver = match &beat.heartbeat.driver_problem {
        None => Verdict::healthy(),
        Some(problem) => Verdict::unhealthy(problem.clone()),
    };
    let skew = skew(beat.heartbeat.at, beat.received_at);
    let clock = if skew >= SKEW_UNHEALTHY {
        Verdict::unhealthy(format!("differs by {:.1} s", skew.as_secs_f64()))
    } else if skew >= SKEW_DEGRADED {
        Verdict::degraded(format!("differs by {:.1} s", skew.as_secs_f64()))
    } else {
        Verdict::healthy()
    };
    let driver_name = format!("driver {} on {id}", beat.heartbeat.driver);
    parts.push(component(driver_name, driver, node.latency));
    let disk = Verdict::of_disk(beat.heartbeat.usage.disk_bytes);
    parts.push(component(format!("disk of {id}"), disk, node.latency));
    parts.push(component(format!("clock of {id}"), clock, node.latency));
    for part in &mut parts[1..] {
        part.last_success = Some(beat.received_at);
    }
    parts
}

fn skew(theirs: Timestamp, ours: Timestamp) -> Duration {
    ours.saturating_since(theirs)
        .max(theirs.saturating_since(ours))
}
