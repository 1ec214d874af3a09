//! The domain's types as messages.

use atoll_control::view::{
    AllocationView, Amounts as Kinds, ComponentHealth as ComponentView, EventView,
    Health as HealthView, HealthStatus as Status, NodeView, ResourceUsage, SandboxView,
};
use atoll_core::heartbeat::{Gauge, MachineUsage};
use atoll_core::id::SandboxId;
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{DrainMode as Drain, NodeState as Standing, ObservedState as Seen};
use atoll_core::reconcile::{NodeHealth, Observed};
use atoll_core::resources::Resources as Amounts;
use atoll_core::sandbox::{OnTimeout as Rule, Sandbox as Row, State};
use atoll_core::time::Timestamp;
use atoll_proto::orchestrator::{
    Allocation, Capacity, ComponentHealth, DrainMode, Event, GetHealthResponse,
    GetResourceUsageResponse, HealthStatus, Network, Node, NodeDescriptor, NodeState,
    ObservedState, OnTimeout, Resources, Sandbox, SandboxAccess, SandboxReport, SandboxState,
};
use buffa_types::google::protobuf;

const MICROS_PER_SECOND: i64 = 1_000_000;
const NANOS_PER_MICRO: i64 = 1_000;
pub(super) const BYTES_PER_MIB: u64 = 1024 * 1024;

/// A point in time.
pub(super) fn time(at: Timestamp) -> protobuf::Timestamp {
    let micros = at.as_micros();
    let nanos = micros.rem_euclid(MICROS_PER_SECOND) * NANOS_PER_MICRO;
    protobuf::Timestamp {
        seconds: micros.div_euclid(MICROS_PER_SECOND),
        nanos: i32::try_from(nanos).unwrap_or_default(),
        ..protobuf::Timestamp::default()
    }
}

/// Amounts in the wire's units. Bandwidth is neither limited nor accounted for.
pub(super) fn resources(amounts: Amounts) -> Resources {
    Resources {
        cpu_millicores: u64::from(amounts.cpu_millis),
        memory_bytes: u64::from(amounts.memory_mib) * BYTES_PER_MIB,
        disk_bytes: u64::from(amounts.disk_mib) * BYTES_PER_MIB,
        ..Resources::default()
    }
}

/// What there is, what is taken, what is left.
pub(super) fn capacity(total: &Resources, used: &Resources) -> Capacity {
    let available = Resources {
        cpu_millicores: total.cpu_millicores.saturating_sub(used.cpu_millicores),
        memory_bytes: total.memory_bytes.saturating_sub(used.memory_bytes),
        disk_bytes: total.disk_bytes.saturating_sub(used.disk_bytes),
        ..Resources::default()
    };
    Capacity {
        total: total.clone().into(),
        used: used.clone().into(),
        available: available.into(),
        ..Capacity::default()
    }
}

const fn state(state: State) -> SandboxState {
    match state {
        State::Pending => SandboxState::Pending,
        State::Creating => SandboxState::Creating,
        State::Running => SandboxState::Running,
        State::Pausing => SandboxState::Pausing,
        State::Paused => SandboxState::Paused,
        State::Resuming => SandboxState::Resuming,
        State::Stopping => SandboxState::Stopping,
        State::Stopped => SandboxState::Stopped,
        State::Error => SandboxState::Error,
    }
}

const fn on_timeout(rule: Rule) -> OnTimeout {
    match rule {
        Rule::Kill => OnTimeout::Kill,
        Rule::Pause { keep_memory: true } => OnTimeout::Pause,
        Rule::Pause { keep_memory: false } => OnTimeout::PauseFilesOnly,
    }
}

fn network(policy: NetworkPolicy) -> Network {
    Network {
        internet_access: Some(policy.internet_access),
        allow_out: policy.allow_out,
        deny_out: policy.deny_out,
        public_traffic: Some(policy.public_traffic),
        mask_request_host: policy.mask_request_host,
        ..Network::default()
    }
}

/// A sandbox, with all that is recorded of it but its environment, which may hold secrets.
pub(super) fn sandbox(row: Row) -> Sandbox {
    let config = row.config;
    Sandbox {
        id: row.id.to_string(),
        team_id: row.team.to_string(),
        created_by: row
            .created_by
            .map_or_else(String::new, |key| key.to_string()),
        template_id: config.template.to_string(),
        build_id: config.build.to_string(),
        alias: config.alias.unwrap_or_default(),
        state: state(row.state).into(),
        node_id: row.node.map_or_else(String::new, |node| node.to_string()),
        generation: row.generation.get(),
        resources: resources(config.resources).into(),
        network: network(config.network).into(),
        metadata: config.metadata.into_iter().collect(),
        secured: config.is_secured,
        on_timeout: on_timeout(config.on_timeout).into(),
        auto_resume: config.auto_resume,
        deadline: time(row.deadline).into(),
        created_at: time(row.created_at).into(),
        started_at: row.started_at.map(time).into(),
        updated_at: time(row.updated_at).into(),
        last_error: row.last_error.unwrap_or_default(),
        ..Sandbox::default()
    }
}

/// What its owner needs to use it.
pub(super) fn access(view: &SandboxView, domain: Option<&str>) -> SandboxAccess {
    let expose = |token: &Option<atoll_core::sandbox::AccessToken>| {
        token
            .as_ref()
            .map_or_else(String::new, |token| token.expose().to_owned())
    };
    SandboxAccess {
        envd_access_token: expose(&view.envd_access_token),
        traffic_access_token: expose(&view.traffic_token),
        domain: domain.unwrap_or_default().to_owned(),
        envd_version: view.envd_version.clone(),
        ..SandboxAccess::default()
    }
}

const fn node_state(state: Standing) -> NodeState {
    match state {
        Standing::Ready => NodeState::Ready,
        Standing::Suspect => NodeState::Suspect,
        Standing::Lost => NodeState::Lost,
        Standing::Draining => NodeState::Draining,
        Standing::Left => NodeState::Left,
    }
}

const fn drain(mode: Option<Drain>) -> DrainMode {
    match mode {
        None => DrainMode::Unspecified,
        Some(Drain::Wait) => DrainMode::Wait,
        Some(Drain::Evict) => DrainMode::Evict,
    }
}

fn amounts(amounts: Kinds) -> Resources {
    Resources {
        cpu_millicores: amounts.cpu_millis,
        memory_bytes: amounts.memory_bytes,
        disk_bytes: amounts.disk_bytes,
        network_bits_per_second: Some(amounts.network_bps),
        ..Resources::default()
    }
}

/// What a node, a team or the fleet has.
pub(super) fn usage(view: &ResourceUsage) -> GetResourceUsageResponse {
    let capacity = Capacity {
        total: amounts(view.total).into(),
        used: amounts(view.used).into(),
        available: amounts(view.available).into(),
        ..Capacity::default()
    };
    GetResourceUsageResponse {
        capacity: capacity.into(),
        sandboxes: view.sandboxes,
        measured: view.measured.as_ref().map(Capacity::from).into(),
        ..GetResourceUsageResponse::default()
    }
}

/// What one sandbox holds of its node.
pub(super) fn allocation(view: &AllocationView) -> Allocation {
    Allocation {
        sandbox_id: view.sandbox.to_string(),
        team_id: view.team.to_string(),
        generation: view.generation.get(),
        resources: resources(view.resources).into(),
        ..Allocation::default()
    }
}

/// What a machine says that it has and uses.
pub(super) fn machine_usage(measured: &Capacity) -> MachineUsage {
    let gauge = |of: fn(&Resources) -> u64| Gauge {
        total: of(&measured.total),
        used: of(&measured.used),
    };
    MachineUsage {
        cpu_millis: gauge(|amounts| amounts.cpu_millicores),
        memory_bytes: gauge(|amounts| amounts.memory_bytes),
        disk_bytes: gauge(|amounts| amounts.disk_bytes),
        network_bps: gauge(|amounts| amounts.network_bits_per_second.unwrap_or_default()),
    }
}

/// A node as operators see it.
pub(super) fn node(view: NodeView) -> Node {
    let last = view.last_heartbeat;
    let (driver, driver_problem) = last.as_ref().map_or_else(Default::default, |last| {
        let problem = last.heartbeat.driver_problem.clone();
        (last.heartbeat.driver.clone(), problem.unwrap_or_default())
    });
    Node {
        id: view.id.to_string(),
        name: view.info.name,
        address: view.info.address.unwrap_or_default(),
        state: node_state(view.state).into(),
        capacity: capacity(&resources(view.allocatable), &resources(view.allocated)).into(),
        sandboxes: view.sandboxes,
        tags: view.info.tags.into_iter().collect(),
        descriptor: NodeDescriptor::from(&view.info.descriptor).into(),
        last_heartbeat_at: last.as_ref().map(|last| time(last.received_at)).into(),
        driver,
        driver_problem,
        drain: drain(view.drain).into(),
        measured: last
            .map(|last| Capacity::from(&last.heartbeat.usage))
            .into(),
        joined_at: view.joined_at.map(time).into(),
        ..Node::default()
    }
}

/// How a node stands, as far as its silence tells.
pub(super) const fn node_health(health: NodeHealth) -> NodeState {
    match health {
        NodeHealth::Ready => NodeState::Ready,
        NodeHealth::Suspect => NodeState::Suspect,
        NodeHealth::Lost => NodeState::Lost,
    }
}

const fn observed_state(state: Seen) -> ObservedState {
    match state {
        Seen::Starting => ObservedState::Starting,
        Seen::Running => ObservedState::Running,
        Seen::Paused => ObservedState::Paused,
        Seen::Exited => ObservedState::Exited,
    }
}

/// What a sandbox's node said of it last; none if nobody knows.
pub(super) fn observed(id: &SandboxId, observed: Observed) -> Option<SandboxReport> {
    match observed {
        Observed::Unknown => None,
        Observed::Absent => Some(SandboxReport {
            sandbox_id: id.to_string(),
            state: ObservedState::Absent.into(),
            ..SandboxReport::default()
        }),
        Observed::Known(seen) => Some(SandboxReport {
            sandbox_id: seen.id.to_string(),
            generation: seen.generation.get(),
            state: observed_state(seen.state).into(),
            resources: resources(seen.resources).into(),
            started_at: seen.started_at.map(time).into(),
            detail: seen.detail.unwrap_or_default(),
            ..SandboxReport::default()
        }),
    }
}

/// Something that happened.
pub(super) fn event(view: EventView) -> Event {
    let field = |name: &str| view.fields.get(name).map(String::as_str);
    let node = view.subject.node().map(atoll_core::id::NodeId::as_str);
    let sandbox = view.subject.sandbox();
    Event {
        cursor: view.cursor.to_string(),
        r#type: view.kind.as_str().to_owned(),
        at: time(view.at).into(),
        sandbox_id: sandbox.map_or_else(String::new, ToString::to_string),
        node_id: node
            .or_else(|| field("node"))
            .unwrap_or_default()
            .to_owned(),
        generation: field("generation")
            .and_then(|text| text.parse().ok())
            .unwrap_or_default(),
        team_id: view.team.map_or_else(String::new, |team| team.to_string()),
        level: view.level.as_str().to_owned(),
        message: view.message,
        fields: view.fields.into_iter().collect(),
        ..Event::default()
    }
}

const fn health_status(status: Status) -> HealthStatus {
    match status {
        Status::Healthy => HealthStatus::Healthy,
        Status::Degraded => HealthStatus::Degraded,
        Status::Unhealthy => HealthStatus::Unhealthy,
    }
}

/// The health of everything.
pub(super) fn health(view: HealthView) -> GetHealthResponse {
    let component = |component: ComponentView| ComponentHealth {
        name: component.name,
        status: health_status(component.status).into(),
        detail: component.detail,
        latency: component.latency.map(protobuf::Duration::from).into(),
        last_success_at: component.last_success.map(time).into(),
        ..ComponentHealth::default()
    };
    GetHealthResponse {
        status: health_status(view.status).into(),
        components: view.components.into_iter().map(component).collect(),
        ..GetHealthResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_the_epoch_have_positive_nanoseconds() {
        let at = time(Timestamp::from_micros(1_790_000_000_000_100));
        assert_eq!((at.seconds, at.nanos), (1_790_000_000, 100_000));
        let at = time(Timestamp::from_micros(-1));
        assert_eq!((at.seconds, at.nanos), (-1, 999_999_000));
    }

    #[test]
    fn what_is_left_is_never_less_than_nothing() {
        let amounts = |memory_mib| {
            resources(Amounts {
                cpu_millis: 1_000,
                memory_mib,
                disk_mib: 1,
            })
        };
        let capacity = capacity(&amounts(1), &amounts(2));
        assert_eq!(capacity.available.memory_bytes, 0);
        assert_eq!(capacity.used.memory_bytes, 2 * BYTES_PER_MIB);
        assert_eq!(capacity.available.cpu_millicores, 0);
    }
}
