//! What the control plane counts. The names are an interface; docs/metrics.md lists them.

use std::time::Duration;

use atoll_core::breaker::State;
use atoll_core::resources::Resources;
use atoll_core::scheduler::decision::Refusal;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Creates, by how they ended.
const CREATES: &str = "atoll_sandbox_creates_total";
/// How long creates took.
const CREATE_SECONDS: &str = "atoll_sandbox_create_seconds";
/// How long each phase of a create took.
const PHASE_SECONDS: &str = "atoll_sandbox_create_phase_seconds";
/// Decisions of the scheduler.
const DECISIONS: &str = "atoll_schedule_decisions_total";
/// How long they took.
const DECISION_SECONDS: &str = "atoll_schedule_seconds";
/// Refusals of the scheduler, by what nodes fell to.
const REFUSALS: &str = "atoll_schedule_refusals_total";
/// Places that are reserved.
const RESERVATIONS: &str = "atoll_schedule_reservations";
/// Nodes that refused a sandbox before one took it.
const RETRIES: &str = "atoll_schedule_retries";
/// Actions of the reconciler.
const ACTIONS: &str = "atoll_reconcile_actions_total";
/// How often a sandbox had to wait for another attempt.
const WAITS: &str = "atoll_reconcile_waits_total";
/// Whether a node is ready.
const NODE_READY: &str = "atoll_node_ready";
/// How a node's breaker for starts stands.
const NODE_BREAKER: &str = "atoll_node_breaker";
/// What a node has and gave away.
const NODE_RESOURCE: &str = "atoll_node_resource";
/// The same of all nodes together.
const FLEET_RESOURCE: &str = "atoll_fleet_resource";
/// Repairs and events of nodes for which there was no place while the store took nothing.
const UNRECORDED: &str = "atoll_unrecorded_total";
/// Whether this server does what only one may do.
const ON_DUTY: &str = "atoll_server_on_duty";
/// Sandboxes whose registration waits.
const DISCOVERY_WAITING: &str = "atoll_discovery_waiting";
/// Attempts to write the directory that failed.
const DISCOVERY_FAILURES: &str = "atoll_discovery_failures_total";
/// Repairs of the directory.
const DISCOVERY_REPAIRS: &str = "atoll_discovery_repairs_total";
/// Sandboxes that are placed.
const SANDBOXES: &str = "atoll_sandboxes";

/// Every name, with what it says.
pub const ALL: [(&str, &str); 20] = [
    (
        CREATES,
        "Creates, by outcome: `ok` or the kind of the error",
    ),
    (
        CREATE_SECONDS,
        "Seconds from a create's acceptance to its answer",
    ),
    (
        PHASE_SECONDS,
        "Seconds of a create's phases: `admit` (placement and commit), `start` (until it serves)",
    ),
    (DECISIONS, "Placements, by outcome: `placed` or `rejected`"),
    (
        DECISION_SECONDS,
        "Seconds that the scheduler took to decide",
    ),
    (
        REFUSALS,
        "Refusals of the scheduler, by constraint: one refusal counts for each that nodes fell to",
    ),
    (
        RESERVATIONS,
        "Places that are reserved for sandboxes that their nodes have not taken yet",
    ),
    (
        RETRIES,
        "Nodes that refused a sandbox before one took it: the steps to the next alternative",
    ),
    (ACTIONS, "Actions of the reconciler, by action"),
    (
        WAITS,
        "Times that a sandbox had to wait for another attempt",
    ),
    (
        NODE_READY,
        "Whether a node is ready (1) or not (0), by node",
    ),
    (
        NODE_BREAKER,
        "A node's breaker for starts: 1 for the state it is in and 0 for the others, by node and \
         state (`closed`, `open`, `half-open`)",
    ),
    (
        NODE_RESOURCE,
        "What a node has (`of`=`total`) and gave away (`allocated`), by node and resource: \
         `cpu_millis`, `memory_mib`, `disk_mib`",
    ),
    (
        FLEET_RESOURCE,
        "The same of all ready nodes together, by resource",
    ),
    (SANDBOXES, "Sandboxes that are placed on nodes"),
    (
        ON_DUTY,
        "1 while this server does what only one may do: deadlines, repairs, retention, webhooks",
    ),
    (
        UNRECORDED,
        "Repairs and events of nodes that were not recorded, for want of a store",
    ),
    (
        DISCOVERY_WAITING,
        "Sandboxes whose registration in the directory waits to be written",
    ),
    (
        DISCOVERY_FAILURES,
        "Attempts to write or compare the directory that failed",
    ),
    (DISCOVERY_REPAIRS, "Repairs of the directory, by kind"),
];

/// Tells the recorder what the names mean.
pub fn describe() {
    for (name, text) in ALL {
        if name.ends_with("_total") {
            describe_counter!(name, text);
        } else if name == RETRIES {
            describe_histogram!(name, text);
        } else if name.ends_with("_seconds") {
            describe_histogram!(name, Unit::Seconds, text);
        } else {
            describe_gauge!(name, text);
        }
    }
}

/// One create ended.
pub(crate) fn created(outcome: &'static str, took: Duration) {
    counter!(CREATES, "outcome" => outcome).increment(1);
    histogram!(CREATE_SECONDS).record(took);
}

/// One phase of a create ended.
pub(crate) fn phase(name: &'static str, took: Duration) {
    histogram!(PHASE_SECONDS, "phase" => name).record(took);
}

/// The scheduler decided, or refused.
pub(crate) fn decided(refusal: Option<&Refusal>, took: Duration) {
    let outcome = if refusal.is_none() {
        "placed"
    } else {
        "rejected"
    };
    for (constraint, _) in refusal.iter().flat_map(|refusal| refusal.counts.iter()) {
        counter!(REFUSALS, "constraint" => constraint.name()).increment(1);
    }
    counter!(DECISIONS, "outcome" => outcome).increment(1);
    histogram!(DECISION_SECONDS).record(took);
}

/// A node took a sandbox that so many refused before.
pub(crate) fn retried(refusals: usize) {
    let refusals = u32::try_from(refusals).unwrap_or(u32::MAX);
    histogram!(RETRIES).record(f64::from(refusals));
}

/// So many places are reserved.
pub(crate) fn reserved(places: usize) {
    let places = u32::try_from(places).unwrap_or(u32::MAX);
    gauge!(RESERVATIONS).set(f64::from(places));
}

/// The reconciler carried out an action.
pub(crate) fn acted(action: &'static str) {
    counter!(ACTIONS, "action" => action).increment(1);
}

/// A sandbox waits for another attempt.
pub(crate) fn waited() {
    counter!(WAITS).increment(1);
}

/// Something could not be recorded.
pub(crate) fn unrecorded() {
    counter!(UNRECORDED).increment(1);
}

/// So many sandboxes wait to be registered.
pub(crate) fn discovery_waiting(sandboxes: usize) {
    let sandboxes = u32::try_from(sandboxes).unwrap_or(u32::MAX);
    gauge!(DISCOVERY_WAITING).set(f64::from(sandboxes));
}

/// The directory was not written or compared.
pub(crate) fn discovery_failed() {
    counter!(DISCOVERY_FAILURES).increment(1);
}

/// The directory was repaired.
pub(crate) fn discovery_repaired(kind: &'static str) {
    counter!(DISCOVERY_REPAIRS, "kind" => kind).increment(1);
}

/// How a node's breaker for starts stands.
pub(crate) fn breaker(node: &str, stands: State) {
    for state in [State::Closed, State::Open, State::HalfOpen] {
        let is_it = if state == stands { 1.0 } else { 0.0 };
        gauge!(NODE_BREAKER, "node" => node.to_owned(), "state" => state.as_str()).set(is_it);
    }
}

/// How a node does.
pub(crate) fn node(name: &str, is_ready: bool, total: Resources, allocated: Resources) {
    gauge!(NODE_READY, "node" => name.to_owned()).set(if is_ready { 1.0 } else { 0.0 });
    for (of, resources) in [("total", total), ("allocated", allocated)] {
        for (resource, amount) in amounts(resources) {
            gauge!(NODE_RESOURCE, "node" => name.to_owned(), "resource" => resource, "of" => of)
                .set(amount);
        }
    }
}

/// How all nodes together do.
pub(crate) fn fleet(total: [f64; 3], allocated: [f64; 3], sandboxes: u32) {
    gauge!(SANDBOXES).set(sandboxes);
    for (of, amounts) in [("total", total), ("allocated", allocated)] {
        for (resource, amount) in RESOURCES.into_iter().zip(amounts) {
            gauge!(FLEET_RESOURCE, "resource" => resource, "of" => of).set(amount);
        }
    }
}

/// Whether this server is on duty.
pub(crate) fn on_duty(is_on_duty: bool) {
    gauge!(ON_DUTY).set(f64::from(u8::from(is_on_duty)));
}

/// The resources, in the order of [`amounts`].
const RESOURCES: [&str; 3] = ["cpu_millis", "memory_mib", "disk_mib"];

/// The amounts, named.
pub(crate) fn amounts(resources: Resources) -> [(&'static str, f64); 3] {
    let [cpu, memory, disk] = RESOURCES;
    [
        (cpu, f64::from(resources.cpu_millis)),
        (memory, f64::from(resources.memory_mib)),
        (disk, f64::from(resources.disk_mib)),
    ]
}
