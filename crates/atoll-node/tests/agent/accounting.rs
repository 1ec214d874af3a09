//! What a node says it allocated is the sum of what it says each sandbox holds, and no more than it
//! has, after any sequence of orders, failures, deaths and restarts of the agent.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::id::{Generation, SandboxId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{
    CallOutcome, NodeEvent, NodeInfo, NodeReport, ObservedSandbox, ObservedState, Refusal,
};
use atoll_core::resources::Resources;
use atoll_core::sandbox::SandboxSpec;
use atoll_core::time::{Clock, Timestamp};
use atoll_node::agent::{Agent, Config};
use atoll_node::image::{self, TemplateStore};
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::pretend::{Fault, Machine, PretendDriver};

/// Room for three sandboxes to run, and for some more to be paused.
const TOTAL: Resources = Resources {
    cpu_millis: 3000,
    memory_mib: 448,
    disk_mib: 600,
};
const SIZE: Resources = Resources {
    cpu_millis: 1000,
    memory_mib: 128,
    disk_mib: 100,
};
const IDS: usize = 6;
const FAULTS: [Fault; 6] = [
    Fault::Create,
    Fault::Initialise,
    Fault::Pause,
    Fault::Resume,
    Fault::Restore,
    Fault::Settle,
];

/// Longest wait for what follows an order.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
enum Step {
    Ensure(usize),
    Pause(usize, bool),
    Resume(usize),
    Remove(usize),
    /// Two orders at once.
    PauseAndResume(usize),
    ResumeAndRemove(usize),
    Fail(usize),
    Die(usize),
    RestartAgent,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..IDS;
    prop_oneof![
        4 => id.clone().prop_map(Step::Ensure),
        4 => (id.clone(), any::<bool>()).prop_map(|(id, memory)| Step::Pause(id, memory)),
        4 => id.clone().prop_map(Step::Resume),
        2 => id.clone().prop_map(Step::Remove),
        1 => id.clone().prop_map(Step::PauseAndResume),
        1 => id.clone().prop_map(Step::ResumeAndRemove),
        3 => (0..FAULTS.len()).prop_map(Step::Fail),
        2 => id.prop_map(Step::Die),
        1 => Just(Step::RestartAgent),
    ]
}

#[derive(Debug)]
pub(crate) struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_000_000)
    }
}

struct Node {
    agent: Agent,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _events: mpsc::Receiver<NodeEvent>,
}

impl Node {
    async fn start(directory: &std::path::Path, machine: &Arc<Machine>) -> Self {
        let config = Config {
            node: "n".parse().unwrap(),
            info: NodeInfo::default(),
            data_dir: directory.to_owned(),
            total: TOTAL,
            max_sandboxes: 4,
            usage_interval: Duration::from_secs(60),
            snapshots: None,
        };
        let dir = directory.join("templates");
        let templates = TemplateStore::open(image::Config { dir, sudo: None }).unwrap();
        let driver = Arc::new(PretendDriver(Arc::clone(machine)));
        let (sender, events) = mpsc::channel(64);
        let agent = Agent::start(config, driver, templates, Arc::new(StoppedClock), sender)
            .await
            .unwrap();
        let cancel = CancellationToken::new();
        let (served, token) = (agent.clone(), cancel.clone());
        let task = tokio_util::task::TaskTracker::new();
        let task = task.spawn(async move { served.run(token).await });
        Self {
            agent,
            cancel,
            task,
            _events: events,
        }
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }

    /// Waits until the account is right; returns what it says then.
    async fn settled(&self) -> NodeReport {
        let start = tokio::time::Instant::now();
        loop {
            let report = self.agent.report();
            let is_settled = report.sandboxes.iter().all(|found| match found.state {
                ObservedState::Starting => false,
                ObservedState::Running => found.resources == SIZE,
                ObservedState::Paused => found.resources.cpu_millis == 0,
                ObservedState::Exited => found.resources == Resources::default(),
            });
            if is_settled {
                return report;
            }
            assert!(start.elapsed() < LIMIT, "{report:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn id(number: usize) -> SandboxId {
    format!("i{number}").parse().unwrap()
}

fn spec(number: usize, generation: u64) -> SandboxSpec {
    SandboxSpec {
        id: id(number),
        generation: Generation::new(generation),
        team: "t".parse().unwrap(),
        template: "base".parse().unwrap(),
        build: "b".parse().unwrap(),
        resources: SIZE,
        env: std::collections::BTreeMap::new(),
        network: NetworkPolicy::default(),
        access_token: None,
        snapshot: None,
    }
}

/// The sum holds at any instant, settled or not.
fn check(report: &NodeReport) {
    let held = report.sandboxes.iter().map(|found| found.resources);
    let sum = held.fold(Resources::default(), |sum, next| {
        sum.checked_add(next).unwrap()
    });
    assert_eq!(report.allocated, sum, "{report:?}");
    assert!(sum.fits_in(TOTAL), "{report:?}");
}

/// Gives an order. Each is newer than all before, but for pauses, which go to what is there.
async fn order(agent: &Agent, step: &Step, generation: u64) {
    let found = |number: usize| {
        let report = agent.report();
        let mut found = report.sandboxes.into_iter();
        found.find(|found| found.id == id(number))
    };
    let known = |number| found(number).map_or(Generation::FIRST, |found| found.generation);
    match *step {
        // Not if it is there: it would be replaced.
        Step::Ensure(number) if found(number).is_none() => {
            agent.ensure(&spec(number, generation)).await;
        }
        Step::Pause(number, keep_memory) => {
            agent.pause(&id(number), known(number), keep_memory).await;
        }
        Step::Resume(number) => {
            let before = agent.report();
            let outcome = agent.resume(&spec(number, generation)).await;
            if let CallOutcome::Refused(Refusal::NoRoom(why)) = outcome
                && !why.contains("was to fail")
            {
                assert_eq!(agent.report(), before, "{why}");
            }
        }
        Step::Remove(number) => {
            agent.remove(&id(number), Generation::new(generation)).await;
        }
        Step::PauseAndResume(number) => {
            let (id, known, spec) = (id(number), known(number), spec(number, generation));
            tokio::join!(agent.pause(&id, known, true), agent.resume(&spec));
        }
        Step::ResumeAndRemove(number) => {
            let (id, spec) = (id(number), spec(number, generation));
            tokio::join!(agent.resume(&spec), agent.remove(&id, spec.generation));
        }
        Step::Ensure(_) | Step::Fail(_) | Step::Die(_) | Step::RestartAgent => {}
    }
}

async fn carry_out(steps: Vec<Step>) {
    let directory = tempfile::tempdir().unwrap();
    let machine = Arc::new(Machine::default());
    let mut node = Node::start(directory.path(), &machine).await;
    let last = steps.len() as u64 + 1;
    for (generation, step) in (1..).zip(steps) {
        match step {
            Step::Fail(number) => machine.fail_next(FAULTS[number]),
            Step::Die(number) => machine.kill(id(number).as_str()),
            Step::RestartAgent => {
                node.stop().await;
                node = Node::start(directory.path(), &machine).await;
            }
            order_of => order(&node.agent, &order_of, generation).await,
        }
        check(&node.agent.report());
        let report = node.settled().await;
        check(&report);
        let is_running = |found: &&ObservedSandbox| found.state == ObservedState::Running;
        let running = report.sandboxes.iter().filter(is_running).count();
        assert!(running <= machine.count_living(), "{report:?}");
    }
    machine.mend();
    for number in 0..IDS {
        let removed = node.agent.remove(&id(number), Generation::new(last)).await;
        assert_eq!(removed, CallOutcome::Done(()));
    }
    let report = node.agent.report();
    assert_eq!(report.allocated, Resources::default());
    assert!(report.sandboxes.is_empty(), "{report:?}");
    assert_eq!(machine.count_living(), 0);
    node.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        // A failure waits for what does not come, so that looking for a shorter one takes long.
        max_shrink_iters: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn what_is_allocated_is_the_sum_of_what_is_held(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(carry_out(steps));
    }
}
