//! The accounts are exact after any sequence of what can happen.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_core::heartbeat::{MachineUsage, StateDigest};
use atoll_core::id::{BuildId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{CallOutcome, ObservedState, Refusal};
use atoll_core::resources::Resources;
use atoll_core::sandbox::{Desired, OnTimeout, SandboxConfig, SandboxSpec, State};
use atoll_core::scheduler::request::Request;
use atoll_core::template::TemplateSource;
use proptest::prelude::*;

use super::fairness::NotForIt;
use super::placing::Wanted;
use super::*;
use crate::placement::default_policy;

const NODES: [&str; 3] = ["node-0", "node-1", "node-2"];
const SANDBOXES: usize = 8;

/// What each node has: room for a few sandboxes only, so that some are refused.
const TOTAL: Resources = Resources {
    cpu_millis: 8_000,
    memory_mib: 4_096,
    disk_mib: 10_000,
};

#[derive(Debug)]
struct NoNode(NodeId);

#[async_trait::async_trait]
impl NodeClient for NoNode {
    fn node(&self) -> &NodeId {
        &self.0
    }
    async fn ensure(&self, _: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        CallOutcome::Refused(Refusal::UnknownSandbox)
    }
    async fn remove(&self, _: &SandboxId, _: Generation) -> CallOutcome<()> {
        CallOutcome::Done(())
    }
    async fn update_network(
        &self,
        _: &SandboxId,
        _: Generation,
        _: &NetworkPolicy,
    ) -> CallOutcome<()> {
        CallOutcome::Done(())
    }
    async fn resume(&self, _: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        CallOutcome::Refused(Refusal::Failed("it always does".to_owned()))
    }
    async fn report(&self) -> CallOutcome<NodeReport> {
        CallOutcome::Unknown("it is not asked here".to_owned())
    }
    async fn import_template(
        &self,
        _: &TemplateId,
        _: &BuildId,
        _: &TemplateSource,
    ) -> CallOutcome<()> {
        CallOutcome::Done(())
    }
    async fn remove_template(&self, _: &TemplateId, _: &BuildId) -> CallOutcome<()> {
        CallOutcome::Done(())
    }
}

/// One thing that happens. Numbers choose a sandbox, a node, a state.
#[derive(Debug, Clone)]
enum Step {
    Place(usize),
    /// The chosen node refused: it goes elsewhere under the next generation.
    Replace(usize),
    Adopt(usize, usize),
    /// Its node took it; a stale generation if so.
    Accept(usize, bool),
    /// Its row is in the store, as it is accounted for.
    Write(usize),
    /// A start on a node failed: so that its breaker notices if so.
    Fail(usize, bool),
    Forget(usize),
    /// What a node said of its placement; a stale generation if so.
    Observe(usize, u8, bool),
    /// It holds only what a paused one does.
    Hold(usize, bool),
    /// It is to take its whole room again.
    Readmit(usize),
    /// The node reports a part of what is placed there, as something.
    Report(usize, u8, u8),
    Beat(usize),
    Silence(u64),
    Join(usize),
    Drain(usize, bool),
    Leave(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let (one, node) = (0..SANDBOXES, 0..NODES.len());
    prop_oneof![
        4 => one.clone().prop_map(Step::Place),
        2 => one.clone().prop_map(Step::Replace),
        1 => (one.clone(), node.clone()).prop_map(|(one, node)| Step::Adopt(one, node)),
        2 => one.clone().prop_map(Step::Forget),
        3 => (one.clone(), any::<bool>()).prop_map(|(one, stale)| Step::Accept(one, stale)),
        2 => one.clone().prop_map(Step::Write),
        2 => (node.clone(), any::<bool>()).prop_map(|(node, heard)| Step::Fail(node, heard)),
        3 => (one.clone(), any::<u8>(), any::<bool>())
            .prop_map(|(one, state, stale)| Step::Observe(one, state, stale)),
        2 => one.clone().prop_map(Step::Readmit),
        2 => (one, any::<bool>()).prop_map(|(one, memory)| Step::Hold(one, memory)),
        2 => (node.clone(), any::<u8>(), any::<u8>())
            .prop_map(|(node, mask, state)| Step::Report(node, mask, state)),
        1 => node.clone().prop_map(Step::Beat),
        1 => prop_oneof![0_u64..40, 100_u64..130].prop_map(Step::Silence),
        1 => node.clone().prop_map(Step::Join),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, on)| Step::Drain(node, on)),
        1 => node.prop_map(Step::Leave),
    ]
}

fn sandbox(number: usize) -> Sandbox {
    let size = u32::try_from(number).unwrap() + 1;
    Sandbox {
        id: format!("i{number}").parse().unwrap(),
        revision: 1,
        team: "team".parse().unwrap(),
        config: SandboxConfig {
            template: "template".parse().unwrap(),
            build: "build-1".parse().unwrap(),
            alias: None,
            resources: Resources {
                cpu_millis: 500 * size,
                memory_mib: 256 * size,
                disk_mib: 512 * size,
            },
            metadata: BTreeMap::new(),
            env: BTreeMap::new(),
            network: NetworkPolicy::default(),
            is_secured: false,
            on_timeout: OnTimeout::Kill,
            auto_resume: false,
            scheduling: None,
        },
        state: State::Pending,
        desired: Desired::Running,
        stop_reason: None,
        generation: Generation::FIRST,
        node: None,
        created_at: Timestamp::from_micros(0),
        started_at: None,
        timeout: Duration::from_secs(60),
        deadline: Timestamp::from_micros(0),
        keep_memory: false,
        kept: None,
        kept_on: None,
        snapshot: None,
        is_restarting: false,
        claimed_by: None,
        updated_at: Timestamp::from_micros(0),
        ended: None,
        last_error: None,
        created_by: None,
    }
}

fn spec() -> SandboxSpec {
    let row = sandbox(0);
    SandboxSpec {
        id: row.id,
        generation: row.generation,
        team: row.team,
        template: row.config.template,
        build: row.config.build,
        resources: row.config.resources,
        env: BTreeMap::new(),
        network: NetworkPolicy::default(),
        access_token: None,
        snapshot: None,
    }
}

fn node(number: usize) -> NodeId {
    NODES[number].parse().unwrap()
}

fn seen(id: &SandboxId, generation: Generation, state: u8) -> ObservedSandbox {
    let states = [
        ObservedState::Starting,
        ObservedState::Running,
        ObservedState::Paused,
        ObservedState::Exited,
    ];
    ObservedSandbox {
        id: id.clone(),
        generation,
        state: states[usize::from(state) % states.len()],
        resources: Resources::default(),
        started_at: None,
        detail: None,
        snapshot: None,
    }
}

fn generation(registry: &Registry, id: &SandboxId) -> Generation {
    let inner = lock(&registry.inner);
    let entry = inner.sandboxes.get(id);
    entry.map_or(Generation::FIRST, |entry| *entry.generations.end())
}

fn placed_on(registry: &Registry, id: &SandboxId) -> Option<NodeId> {
    let inner = lock(&registry.inner);
    inner.sandboxes.get(id)?.node.clone()
}

async fn carry_out(registry: &Registry, step: Step) {
    match step {
        Step::Place(number) | Step::Replace(number) => {
            let row = sandbox(number);
            let excluded = match step {
                Step::Replace(_) => placed_on(registry, &row.id),
                _ => None,
            };
            let wanted = Wanted {
                sandbox: &row,
                generation: generation(registry, &row.id).next(),
                request: Request {
                    amount: row.config.resources.into(),
                    groups: placing::groups(&row),
                    excluded: excluded.into_iter().collect(),
                    ..Request::default()
                },
                policy: &default_policy(),
                seed: 0,
            };
            drop(registry.place(&wanted));
        }
        Step::Adopt(number, on) => {
            let mut row = sandbox(number);
            row.node = Some(node(on));
            registry.adopt(&row);
        }
        Step::Accept(number, is_stale) => {
            let id = sandbox(number).id;
            let of = generation(registry, &id);
            registry.accepted(&id, if is_stale { of.next() } else { of });
        }
        Step::Write(number) => {
            let mut row = sandbox(number);
            row.generation = generation(registry, &row.id);
            row.node = placed_on(registry, &row.id);
            registry.follow(&row);
        }
        Step::Forget(number) => registry.forget(&sandbox(number).id),
        Step::Observe(number, state, is_stale) => {
            let id = sandbox(number).id;
            let mut of = generation(registry, &id);
            if is_stale {
                of = of.next();
            }
            let what = match state % 3 {
                0 => Observed::Unknown,
                1 => Observed::Absent,
                _ => Observed::Known(seen(&id, of, state / 3)),
            };
            registry.observe(&id, of, what);
        }
        Step::Hold(number, keep_memory) => hold(registry, number, keep_memory),
        Step::Readmit(number) => {
            let row = sandbox(number);
            let next = generation(registry, &row.id).next();
            let _ = registry.readmit(&row, next);
        }
        step => happen(registry, step).await,
    }
}

/// What happens to nodes.
async fn happen(registry: &Registry, step: Step) {
    let now = Timestamp::from_micros(0);
    match step {
        Step::Fail(on, is_noticed) => {
            registry.start_failed(&node(on));
            if is_noticed && let Some(client) = registry.client(&node(on)) {
                drop(client.resume(&spec()).await);
            }
        }
        Step::Report(on, mask, state) => report(registry, on, mask, state),
        Step::Beat(on) => {
            let heartbeat = Heartbeat {
                node: node(on),
                at: now,
                total: TOTAL,
                allocated: Resources::default(),
                sandboxes: 0,
                usage: MachineUsage::default(),
                digest: StateDigest::default(),
                driver: String::new(),
                driver_problem: None,
            };
            registry.hear(heartbeat, &[], now);
        }
        Step::Silence(seconds) => {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            registry.age(|_| true);
        }
        Step::Join(on) => {
            registry.join(Arc::new(NoNode(node(on))), now);
        }
        Step::Drain(on, is_on) => {
            registry.set_drain(&node(on), is_on.then_some(DrainMode::Wait));
        }
        Step::Leave(on) => registry.leave(&node(on)),
        step => panic!("{step:?} does not happen to nodes"),
    }
}

/// Its row says that it is paused.
fn hold(registry: &Registry, number: usize, keep_memory: bool) {
    let mut row = sandbox(number);
    row.generation = generation(registry, &row.id);
    row.node = placed_on(registry, &row.id);
    row.state = State::Paused;
    row.keep_memory = keep_memory;
    registry.follow(&row);
}

/// A report of those sandboxes whose bit is set, and of a stranger.
fn report(registry: &Registry, on: usize, mask: u8, state: u8) {
    let began = registry.begin_report();
    let mut sandboxes: Vec<_> = (0..SANDBOXES)
        .filter(|number| mask & (1 << number) != 0)
        .map(|number| {
            let id = sandbox(number).id;
            seen(&id, generation(registry, &id), state)
        })
        .collect();
    sandboxes.push(seen(
        &"istranger".parse().unwrap(),
        Generation::FIRST,
        state,
    ));
    let report = NodeReport {
        node: node(on),
        total: TOTAL,
        allocated: Resources::default(),
        sandboxes,
    };
    registry.take_report(&report, began);
}

/// What every node's sums must be, from the entries alone.
fn check(registry: &Registry) -> Result<(), TestCaseError> {
    let inner = lock(&registry.inner);
    for (id, node) in &inner.nodes {
        let mut allocated = Resources::default();
        let mut digest = StateDigest::default();
        let (mut count, mut unknown) = (0, 0);
        let here = inner.sandboxes.iter();
        for (sandbox, entry) in here.filter(|(_, entry)| entry.node.as_ref() == Some(id)) {
            count += 1;
            allocated = allocated.checked_add(entry.held).unwrap();
            match &entry.observed {
                Observed::Known(seen) => digest.add(sandbox, seen.generation, seen.state),
                Observed::Unknown => unknown += 1,
                Observed::Absent => {}
            }
        }
        prop_assert_eq!(node.allocated, allocated, "allocated on {}", id);
        prop_assert_eq!(node.sandboxes, count, "sandboxes on {}", id);
        prop_assert_eq!(node.expected(), (digest, unknown), "expected on {}", id);
        prop_assert!(!node.has_left || count > 0, "{} left and is empty", id);
        let starting = inner
            .sandboxes
            .values()
            .filter(|entry| entry.node.as_ref() == Some(id) && entry.standing.is_some());
        let starting = u16::try_from(starting.count()).unwrap();
        let total = registry.overcommit.apply(node.total);
        let account = Some((total.into(), allocated.into()));
        prop_assert_eq!(
            inner.fleet.account(id),
            account,
            "the fleet's account of {}",
            id
        );
        let counts = Some((count, starting));
        prop_assert_eq!(
            inner.fleet.sandboxes(id),
            counts,
            "the fleet's sandboxes on {}",
            id
        );
    }
    let placed = inner
        .sandboxes
        .values()
        .filter_map(|entry| entry.node.as_ref());
    for node in placed {
        prop_assert!(inner.nodes.contains_key(node), "{} is not known", node);
    }
    Ok(())
}

/// Defends: a create whose placement is not committed yet is not taken for one that its node lost.
#[tokio::test(start_paused = true)]
async fn a_report_says_nothing_of_what_no_node_was_told() {
    let registry = Registry::new(
        Overcommit {
            cpu_pct: 100,
            memory_pct: 100,
            disk_pct: 100,
        },
        None,
    );
    carry_out(&registry, Step::Join(0)).await;
    report(&registry, 0, 0, 0);
    let mut row = sandbox(0);
    carry_out(&registry, Step::Place(0)).await;
    row.generation = generation(&registry, &row.id);
    row.node = placed_on(&registry, &row.id);
    assert_eq!(row.node, Some(node(0)));
    let ask = |began| {
        let empty = NodeReport {
            node: node(0),
            total: TOTAL,
            allocated: Resources::default(),
            sandboxes: Vec::new(),
        };
        registry.take_report(&empty, began).changed
    };
    assert_eq!(ask(registry.begin_report()), []);
    // Its task has the committed row while the node is asked.
    let began = registry.begin_report();
    row.state = State::Creating;
    registry.follow(&row);
    assert_eq!(ask(began), []);
    let learnt = ask(registry.begin_report());
    assert_eq!(learnt.len(), 1);
    assert_eq!(learnt[0].now, Observed::Absent);
}

/// One of a team that asks for a sandbox in a minute. Answers whether it got one.
fn asks(registry: &Registry, team: &str, turn: usize, minute: u64) -> Option<SandboxId> {
    let mut row = sandbox(0);
    row.id = format!("i{team}{minute}x{turn}").parse().unwrap();
    row.team = team.parse().unwrap();
    row.created_at = Timestamp::from_micros(0).saturating_add(Duration::from_secs(60 * minute));
    match registry.ask_room(&row) {
        Ok(()) => {}
        Err(NotForIt::Held(_)) => return None,
        Err(other) => panic!("{other}"),
    }
    let wanted = Wanted {
        sandbox: &row,
        generation: Generation::FIRST,
        request: Request {
            amount: row.config.resources.into(),
            ..Request::default()
        },
        policy: &default_policy(),
        seed: 0,
    };
    match registry.place(&wanted) {
        Ok(_) => registry.note_came(&row),
        Err(refusal) => {
            registry.note_no_room(&row, &refusal);
            return None;
        }
    }
    Some(row.id)
}

/// A node with room for sixteen, one team that had two a minute for an hour, and another one that
/// takes all it can get: so many.
async fn greedy_gets(forecast: Option<forecast::Config>) -> usize {
    let whole = Overcommit {
        cpu_pct: 100,
        memory_pct: 100,
        disk_pct: 100,
    };
    let registry = Registry::new(whole, forecast);
    carry_out(&registry, Step::Join(0)).await;
    report(&registry, 0, 0, 0);
    for minute in 0..60 {
        for turn in 0..2 {
            let id = asks(&registry, "steady", turn, minute).unwrap();
            registry.forget(&id);
        }
    }
    let got = (0..20).filter_map(|turn| asks(&registry, "greedy", turn, 60));
    let got = got.count();
    let is_served = asks(&registry, "steady", 0, 60).is_some();
    assert_eq!(is_served, got < 16);
    if let Some(view) = registry.forecast(10) {
        assert_eq!(view.series.len(), 2);
        let steady = view.series.iter().find(|one| one.team.as_str() == "steady");
        let steady = steady.unwrap();
        assert!(
            steady.held > 0 && steady.outlook.expected > 5.0,
            "{steady:?}"
        );
    }
    got
}

/// Defends: room is held for those who come regularly, from those who have their share already; and
/// switched off, it is not.
#[tokio::test(start_paused = true)]
async fn room_is_held_for_those_who_are_expected() {
    let half = forecast::Config {
        reserve_percent: 50,
        ..forecast::Config::default()
    };
    let got = greedy_gets(Some(half)).await;
    assert!((8..16).contains(&got), "{got}");
    assert_eq!(greedy_gets(None).await, 16);
}

proptest! {
    /// Defends: accounting is exact. What a node has given away is the sum of what is placed on it,
    /// here and in the scheduler's fleet, after any sequence of placements, acceptances, refusals,
    /// answers that never come, adoptions, ends, pauses, reports, silences, joins and removals; and
    /// no placement exceeds what the node has.
    #[test]
    fn what_is_allocated_is_the_sum_of_what_is_placed(
        steps in prop::collection::vec(any_step(), 0..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let registry = Registry::new(
Overcommit {
                cpu_pct: 100,
                memory_pct: 100,
                disk_pct: 100,
            },
None,
);
            for number in 0..NODES.len() {
                carry_out(&registry, Step::Join(number)).await;
                carry_out(&registry, Step::Report(number, 0, 0)).await;
            }
            for step in steps {
                let before: Vec<_> = registry.view();
                let is_placement = matches!(step, Step::Place(_) | Step::Replace(_));
                carry_out(&registry, step.clone()).await;
                check(&registry)?;
                for node in registry.view() {
                    let old = before.iter().find(|old| old.id == node.id);
                    if is_placement && old.is_some_and(|old| old.sandboxes < node.sandboxes) {
                        prop_assert!(
                            node.allocated.fits_in(node.allocatable),
                            "{step:?} overfilled {}", node.id
                        );
                    }
                }
            }
            Ok(())
        })?;
    }
}
