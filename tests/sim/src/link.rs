//! The network between the server and one node.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atoll_control::node_client::NodeClient;
use atoll_core::id::{BuildId, Generation, NodeId, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{CallOutcome, NodeReport, ObservedSandbox, Refusal};
use atoll_core::sandbox::SandboxSpec;
use atoll_core::template::TemplateSource;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::incarnation::Incarnation;
use crate::machine::{Delivery, Machine};
use crate::options::Sabotage;
use crate::world::{Part, World, lock};

/// After so long without an answer the transport gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The shortest silence after which a node may be given up: the design's bound, less what passes
/// between a message's arrival and its being noted.
const LOST_AFTER: Duration = Duration::from_millis(29_900);

/// The same with several servers: a heartbeat or two may have been heard by one that is dead since.
const LOST_AFTER_TO_SEVERAL: Duration = Duration::from_secs(25);

/// How long a node that returns may take to prove itself by a report; until then it is lost.
const PROVES_WITHIN: Duration = Duration::from_secs(10);

/// Chance in a thousand that a message is lost, for each direction.
const LOSS_PER_MILLE: u32 = 15;

/// Chance in a thousand that a request arrives twice.
const DOUBLE_PER_MILLE: u32 = 25;

/// The same where doubled requests are what a defect needs to show.
const DOUBLE_OFTEN_PER_MILLE: u32 = 500;

/// Usual delay of a message, in milliseconds.
const DELAY_MS: u64 = 5;

/// Chance in a thousand that a message is overtaken by others, and by how many milliseconds.
const LATE_PER_MILLE: u32 = 30;
const LATE_MS: u64 = 3_000;

/// How late a doubled request may come, in milliseconds.
const DOUBLE_LATE_MS: u64 = 20_000;

/// The cable to one machine; it outlives servers.
#[derive(Debug)]
pub(crate) struct Cable {
    pub(crate) world: Arc<World>,
    pub(crate) machine: Arc<Machine>,
    loses_requests: AtomicBool,
    loses_answers: AtomicBool,
    heard_at: Mutex<Instant>,
    returned_at: Mutex<Option<Instant>>,
}

impl Cable {
    pub(crate) fn new(world: Arc<World>, machine: Arc<Machine>) -> Self {
        Self {
            world,
            machine,
            loses_requests: AtomicBool::new(false),
            loses_answers: AtomicBool::new(false),
            heard_at: Mutex::new(Instant::now()),
            returned_at: Mutex::new(None),
        }
    }

    /// Notes that the server heard of the node, or began to wait for it.
    pub(crate) fn hear(&self) {
        let now = Instant::now();
        let before = std::mem::replace(&mut *lock(&self.heard_at), now);
        if now - before >= self.lost_after() {
            *lock(&self.returned_at) = Some(now);
        }
    }

    /// Whether the node is silent for long enough to be given up, or was until just now.
    pub(crate) fn may_be_given_up(&self) -> bool {
        let now = Instant::now();
        let returned = *lock(&self.returned_at);
        now - *lock(&self.heard_at) >= self.lost_after()
            || returned.is_some_and(|returned| now - returned < PROVES_WITHIN)
    }

    fn lost_after(&self) -> Duration {
        match self.world.options.servers {
            1 => LOST_AFTER,
            _ => LOST_AFTER_TO_SEVERAL,
        }
    }

    /// Cuts or mends each direction.
    pub(crate) fn set(&self, loses_requests: bool, loses_answers: bool) {
        self.loses_requests.store(loses_requests, Ordering::Relaxed);
        self.loses_answers.store(loses_answers, Ordering::Relaxed);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.loses_requests.load(Ordering::Relaxed) || self.loses_answers.load(Ordering::Relaxed)
    }

    /// Whether a fault on the node or on the way to it goes on now.
    pub(crate) fn is_troubled(&self) -> bool {
        self.is_cut() || !self.machine.is_up() || self.machine.is_slow()
    }

    pub(crate) fn disturb(&self) {
        self.world.disturb(Part::Node(self.machine.id().clone()));
    }

    /// Carries a message from the node to the server; none if it is lost.
    pub(crate) async fn carry_up<T>(&self, message: T) -> Option<T> {
        if self.is_lost(&self.loses_answers) {
            self.disturb();
            return None;
        }
        sleep(self.delay()).await;
        Some(message)
    }

    fn delay(&self) -> Duration {
        if self.world.goes_wrong(LATE_PER_MILLE) {
            self.disturb();
            return self.world.millis(DELAY_MS, LATE_MS);
        }
        self.world.millis(0, DELAY_MS)
    }

    fn is_lost(&self, direction: &AtomicBool) -> bool {
        direction.load(Ordering::Relaxed) || self.world.goes_wrong(LOSS_PER_MILLE)
    }
}

/// One server's way to one node.
#[derive(Debug)]
pub(crate) struct Link {
    cable: Arc<Cable>,
    incarnation: Arc<Incarnation>,
}

impl Link {
    pub(crate) const fn new(cable: Arc<Cable>, incarnation: Arc<Incarnation>) -> Self {
        Self { cable, incarnation }
    }

    /// Carries a request to the machine and its answer back. The work goes on there if the caller
    /// goes away.
    async fn call<T, F>(&self, what: String, work: impl Fn(Delivery) -> F) -> CallOutcome<T>
    where
        T: Send + 'static,
        F: Future<Output = Option<CallOutcome<T>>> + Send + 'static,
    {
        self.incarnation.live_on().await;
        let (cable, world) = (&self.cable, &self.cable.world);
        let give_up = Instant::now() + ANSWER_TIMEOUT;
        let node = cable.machine.id();
        world.note(format_args!("{node} ← {what}"));
        let double_per_mille = if world.has(Sabotage::IgnoreGenerations) {
            DOUBLE_OFTEN_PER_MILLE
        } else {
            DOUBLE_PER_MILLE
        };
        if world.goes_wrong(double_per_mille) {
            let late = world.millis(0, DOUBLE_LATE_MS);
            let doubled = work(Delivery::Doubled);
            let cable = Arc::clone(cable);
            let what = what.clone();
            world.tasks.spawn(async move {
                sleep(late).await;
                if !cable.loses_requests.load(Ordering::Relaxed) {
                    let node = cable.machine.id();
                    cable.world.note(format_args!("{node} ← {what}, again"));
                    cable.disturb();
                    drop(doubled.await);
                    cable.disturb();
                }
            });
        }
        let outcome = if cable.is_lost(&cable.loses_requests) {
            None
        } else {
            sleep(cable.delay()).await;
            let (sender, answer) = oneshot::channel();
            let work = work(Delivery::First);
            world.tasks.spawn(async move {
                // Nobody may be waiting any more.
                let _ = sender.send(work.await);
            });
            let left = give_up.saturating_duration_since(Instant::now());
            let answered = timeout(left, answer).await;
            answered.ok().and_then(Result::ok).flatten()
        };
        let outcome = match outcome {
            Some(outcome) if !cable.is_lost(&cable.loses_answers) => {
                sleep(cable.delay()).await;
                outcome
            }
            Some(_) | None => {
                sleep_until(give_up).await;
                cable.disturb();
                if world.has(Sabotage::TakeUnknownForRefused) {
                    CallOutcome::Refused(Refusal::Failed("no answer".to_owned()))
                } else {
                    CallOutcome::Unknown("no answer".to_owned())
                }
            }
        };
        self.incarnation.live_on().await;
        let ended = match &outcome {
            CallOutcome::Done(_) => "done".to_owned(),
            CallOutcome::Refused(refusal) => format!("refused: {refusal}"),
            CallOutcome::Unknown(why) => format!("unknown: {why}"),
        };
        world.note(format_args!("{node} → {what}: {ended}"));
        outcome
    }
}

#[async_trait]
impl NodeClient for Link {
    fn node(&self) -> &NodeId {
        self.cable.machine.id()
    }

    async fn ensure(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        let what = format!("ensure {} g{}", spec.id, spec.generation);
        let work = |delivery| {
            let (machine, spec) = (Arc::clone(&self.cable.machine), spec.clone());
            async move { machine.ensure(spec, delivery).await }
        };
        self.call(what, work).await
    }

    async fn remove(&self, id: &SandboxId, generation: Generation) -> CallOutcome<()> {
        let what = format!("remove {id} g{generation}");
        let work = |_| {
            let (machine, id) = (Arc::clone(&self.cable.machine), id.clone());
            async move { machine.remove(id, generation).await }
        };
        self.call(what, work).await
    }

    async fn update_network(
        &self,
        id: &SandboxId,
        generation: Generation,
        _: &NetworkPolicy,
    ) -> CallOutcome<()> {
        let what = format!("update network of {id} g{generation}");
        let work = |_| {
            let (machine, id) = (Arc::clone(&self.cable.machine), id.clone());
            async move { machine.update_network(id, generation).await }
        };
        self.call(what, work).await
    }

    async fn pause(
        &self,
        id: &SandboxId,
        generation: Generation,
        keep_memory: bool,
    ) -> CallOutcome<ObservedSandbox> {
        let what = format!("pause {id} g{generation}");
        let work = |_| {
            let (machine, id) = (Arc::clone(&self.cable.machine), id.clone());
            async move { machine.pause(id, generation, keep_memory).await }
        };
        self.call(what, work).await
    }

    async fn resume(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        let what = format!("resume {} g{}", spec.id, spec.generation);
        let work = |_| {
            let (machine, spec) = (Arc::clone(&self.cable.machine), spec.clone());
            async move { machine.resume(spec).await }
        };
        self.call(what, work).await
    }

    async fn report(&self) -> CallOutcome<NodeReport> {
        let work = |_| {
            let machine = Arc::clone(&self.cable.machine);
            async move { machine.report().await }
        };
        let outcome = self.call("report".to_owned(), work).await;
        if matches!(outcome, CallOutcome::Done(_)) {
            self.cable.hear();
        }
        outcome
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
