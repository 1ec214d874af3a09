//! What stands between control and a node: every call has a deadline, and a node that keeps failing
//! is left alone for a while.
//!
//! A node has two breakers. The one for starts (create and resume) also decides whether it gets
//! placements: a node may answer everything else and still fail every start. The one for the other
//! orders spares those that wait for a node that is gone. Reports pass always: they are how a node
//! is found to be back.
//!
//! While a breaker is open after silence, a call answers "unknown" at once, which it would after
//! its deadline as well. After refusals that say "failed", calls go on: they cost nothing, and only
//! the scheduler looks elsewhere, as long as there is an elsewhere.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::breaker::{Breaker, Policy, State};
use atoll_core::id::{BuildId, Generation, NodeId, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{CallOutcome, NodeInfo, NodeReport, ObservedSandbox, Refusal};
use atoll_core::sandbox::SandboxSpec;
use atoll_core::snapshot::{Stored, Unneeded};
use atoll_core::template::TemplateSource;
use tokio::time::{Instant, timeout};

use crate::lock::lock;
use crate::node_client::NodeClient;

/// When a node is left alone. Five failures in a row are no accident of one sandbox's; the first
/// pause is short because most faults are; a minute is the longest that a node which was mended
/// waits for work. A probe is a start, which may take [`START_TIMEOUT`].
const POLICY: Policy = Policy {
    failures: 5,
    cool_off: Duration::from_secs(5),
    cool_off_max: Duration::from_secs(60),
    probe: START_TIMEOUT,
};

/// How long a node may take to start a sandbox before the outcome counts as unknown.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A start that takes so long counts as failed for the breaker already: the creates that wait for
/// it will time out, and no more of them should come.
const START_SLOW: Duration = Duration::from_secs(10);

/// How long after the placement that will be the probe no other one is let through: until its
/// start was ordered, which is what the breaker counts.
const PLACED_PAUSE: Duration = Duration::from_secs(2);

/// How long other orders may take.
const ORDER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a node may take for what is about its shared storage: hundreds of requests there.
const STORAGE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a node may take to report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long making a template may take: images of gigabytes come over slow lines.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Nodes of which a start failed since they were last looked at: for whoever chooses nodes, so that
/// not all have to be asked how their breakers stand.
#[derive(Debug, Default)]
pub(crate) struct Troubled(Mutex<Trouble>);

/// Nodes that are looked at only because time passed, at a time: with each placement, so that many
/// that fail are looked at in turns instead of by everybody who asks.
const LOOKS_MAX: usize = 32;

#[derive(Debug, Default)]
struct Trouble {
    /// Those of which something is new.
    news: BTreeSet<NodeId>,
    /// The others, in turn.
    turn: VecDeque<NodeId>,
    /// What is in `turn`.
    known: BTreeSet<NodeId>,
}

impl Troubled {
    /// Takes out those of which something is new, and some of the others.
    pub(crate) fn take(&self) -> Vec<NodeId> {
        let mut guard = lock(&self.0);
        let trouble = &mut *guard;
        let mut due: Vec<_> = std::mem::take(&mut trouble.news).into_iter().collect();
        let count = trouble.turn.len().min(LOOKS_MAX);
        for node in trouble.turn.drain(..count) {
            trouble.known.remove(&node);
            due.push(node);
        }
        due
    }

    /// Puts one in of which something is new.
    pub(crate) fn put(&self, node: &NodeId) {
        lock(&self.0).news.insert(node.clone());
    }

    /// Puts one back, to be looked at again by and by.
    pub(crate) fn keep(&self, node: NodeId) {
        let mut guard = lock(&self.0);
        let trouble = &mut *guard;
        if trouble.known.insert(node.clone()) {
            trouble.turn.push_back(node);
        }
    }
}

/// The breakers of one node. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Breakers {
    inner: Arc<Mutex<Pair>>,
    begun: Instant,
    /// Where a failed start is told of.
    watched: Option<(NodeId, Arc<Troubled>)>,
}

#[derive(Debug)]
struct Pair {
    starts: Guarded,
    orders: Guarded,
    /// When a placement was let through to be the probe.
    placed_at: Option<Duration>,
}

#[derive(Debug)]
struct Guarded {
    breaker: Breaker,
    /// What failed last; none after a success.
    last: Option<Failure>,
}

#[derive(Debug, Clone)]
struct Failure {
    is_silence: bool,
    detail: String,
}

/// Which breaker.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Start,
    Order,
}

impl Default for Breakers {
    fn default() -> Self {
        let closed = || Guarded {
            breaker: Breaker::new(POLICY),
            last: None,
        };
        Self {
            inner: Arc::new(Mutex::new(Pair {
                starts: closed(),
                orders: closed(),
                placed_at: None,
            })),
            begun: Instant::now(),
            watched: None,
        }
    }
}

impl Pair {
    const fn of(&mut self, kind: Kind) -> &mut Guarded {
        match kind {
            Kind::Start => &mut self.starts,
            Kind::Order => &mut self.orders,
        }
    }
}

impl Breakers {
    /// Closed ones of a node, whose failed starts are told of.
    pub(crate) fn watched(node: NodeId, troubled: Arc<Troubled>) -> Self {
        Self {
            watched: Some((node, troubled)),
            ..Self::default()
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How the breaker for starts stands, and why it is not closed.
    pub(crate) fn starts(&self) -> (State, Option<String>) {
        let pair = lock(&self.inner);
        let state = pair.starts.breaker.state(self.now());
        let why = pair.starts.last.as_ref().map(|last| last.detail.clone());
        (state, why.filter(|_| state != State::Closed))
    }

    /// Whether nothing is held against the node's starts.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.inner).starts.breaker.state(self.now()) == State::Closed
    }

    /// Whether the node should get a placement.
    pub(crate) fn allows_placement(&self) -> bool {
        let now = self.now();
        let pair = lock(&self.inner);
        let breaker = &pair.starts.breaker;
        let is_probed = breaker.state(now) == State::HalfOpen
            && pair
                .placed_at
                .is_some_and(|at| now.saturating_sub(at) < PLACED_PAUSE);
        breaker.allows(now) && !is_probed
    }

    /// Notes that the node got a placement: where it is the probe, no other one follows it.
    pub(crate) fn placed(&self) {
        let now = self.now();
        lock(&self.inner).placed_at = Some(now);
    }

    /// Why a call must not be made now, if so.
    fn refuse(&self, kind: Kind) -> Option<String> {
        let now = self.now();
        let mut pair = lock(&self.inner);
        let guarded = pair.of(kind);
        let is_admitted = guarded.breaker.admit(now);
        let last = guarded.last.as_ref().filter(|last| last.is_silence)?;
        (!is_admitted).then(|| {
            format!(
                "it is left alone for a while after {} failures in a row: {}",
                guarded.breaker.failures(),
                last.detail
            )
        })
    }

    fn failed(&self, kind: Kind, is_silence: bool, detail: &str) {
        let now = self.now();
        let mut pair = lock(&self.inner);
        let guarded = pair.of(kind);
        guarded.breaker.failed(now);
        guarded.last = Some(Failure {
            is_silence,
            detail: detail.to_owned(),
        });
        drop(pair);
        if let (Kind::Start, Some((node, troubled))) = (kind, &self.watched) {
            troubled.put(node);
        }
    }

    fn succeeded(&self, kind: Kind) {
        let mut pair = lock(&self.inner);
        let guarded = pair.of(kind);
        guarded.breaker.succeeded();
        guarded.last = None;
    }

    /// Learns from how a call ended. Refusals that are the caller's fault say nothing.
    fn learn<T>(&self, kind: Kind, outcome: &CallOutcome<T>) {
        match outcome {
            CallOutcome::Done(_) => self.succeeded(kind),
            CallOutcome::Unknown(detail) => self.failed(kind, true, detail),
            CallOutcome::Refused(refusal @ Refusal::Failed(_)) => {
                self.failed(kind, false, &refusal.to_string());
            }
            CallOutcome::Refused(
                Refusal::NoRoom(_)
                | Refusal::StaleGeneration { .. }
                | Refusal::UnknownSandbox
                | Refusal::UnknownTemplate
                | Refusal::BadSource(_)
                | Refusal::BadSnapshot(_)
                | Refusal::Unsupported(_),
            ) => {}
        }
    }
}

/// A node behind its breakers and deadlines.
#[derive(Debug)]
pub(crate) struct GuardedNode {
    node: Arc<dyn NodeClient>,
    breakers: Breakers,
}

impl GuardedNode {
    pub(crate) const fn new(node: Arc<dyn NodeClient>, breakers: Breakers) -> Self {
        Self { node, breakers }
    }

    async fn start(
        &self,
        call: impl Future<Output = CallOutcome<ObservedSandbox>> + Send,
    ) -> CallOutcome<ObservedSandbox> {
        if let Some(why) = self.breakers.refuse(Kind::Start) {
            return CallOutcome::Unknown(why);
        }
        let call = within(START_TIMEOUT, call);
        tokio::pin!(call);
        match timeout(START_SLOW, &mut call).await {
            Ok(outcome) => {
                self.breakers.learn(Kind::Start, &outcome);
                outcome
            }
            Err(_) => {
                self.breakers
                    .failed(Kind::Start, true, "a start takes long");
                let outcome = call.await;
                // Counted once already.
                if !matches!(outcome, CallOutcome::Unknown(_)) {
                    self.breakers.learn(Kind::Start, &outcome);
                }
                outcome
            }
        }
    }

    async fn order<T>(&self, call: impl Future<Output = CallOutcome<T>> + Send) -> CallOutcome<T> {
        if let Some(why) = self.breakers.refuse(Kind::Order) {
            return CallOutcome::Unknown(why);
        }
        let outcome = within(ORDER_TIMEOUT, call).await;
        self.breakers.learn(Kind::Order, &outcome);
        outcome
    }
}

/// The outcome of a call, or that it is unknown after so long.
async fn within<T>(limit: Duration, call: impl Future<Output = CallOutcome<T>>) -> CallOutcome<T> {
    timeout(limit, call).await.unwrap_or_else(|_| {
        CallOutcome::Unknown(format!("it did not answer within {} s", limit.as_secs()))
    })
}

#[async_trait]
impl NodeClient for GuardedNode {
    fn node(&self) -> &NodeId {
        self.node.node()
    }

    fn info(&self) -> NodeInfo {
        self.node.info()
    }

    async fn ensure(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        self.start(self.node.ensure(spec)).await
    }

    async fn remove(&self, id: &SandboxId, generation: Generation) -> CallOutcome<()> {
        self.order(self.node.remove(id, generation)).await
    }

    async fn update_network(
        &self,
        id: &SandboxId,
        generation: Generation,
        policy: &NetworkPolicy,
    ) -> CallOutcome<()> {
        self.order(self.node.update_network(id, generation, policy))
            .await
    }

    async fn pause(
        &self,
        id: &SandboxId,
        generation: Generation,
        keep_memory: bool,
    ) -> CallOutcome<ObservedSandbox> {
        self.order(self.node.pause(id, generation, keep_memory))
            .await
    }

    async fn resume(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        self.start(self.node.resume(spec)).await
    }

    async fn list_snapshots(
        &self,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> CallOutcome<Vec<Stored>> {
        within(STORAGE_TIMEOUT, self.node.list_snapshots(after, limit)).await
    }

    async fn drop_snapshots(&self, unneeded: &Unneeded) -> CallOutcome<()> {
        within(STORAGE_TIMEOUT, self.node.drop_snapshots(unneeded)).await
    }

    async fn report(&self) -> CallOutcome<NodeReport> {
        within(REPORT_TIMEOUT, self.node.report()).await
    }

    async fn import_template(
        &self,
        template: &TemplateId,
        build: &BuildId,
        source: &TemplateSource,
    ) -> CallOutcome<()> {
        let call = self.node.import_template(template, build, source);
        within(IMPORT_TIMEOUT, call).await
    }

    async fn remove_template(&self, template: &TemplateId, build: &BuildId) -> CallOutcome<()> {
        within(ORDER_TIMEOUT, self.node.remove_template(template, build)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        format!("n{number}").parse().unwrap()
    }

    /// However many nodes fail, a placement looks at those of which something is new and at a few
    /// of the others, and at each of them in its turn.
    #[test]
    fn those_in_trouble_are_looked_at_in_turns() {
        let troubled = Troubled::default();
        for number in 0..100 {
            troubled.keep(node(number));
        }
        troubled.put(&node(7));
        let mut seen = BTreeSet::new();
        for turn in 0..4 {
            let due = troubled.take();
            let news = usize::from(turn == 0);
            assert!(due.len() <= LOOKS_MAX + news, "{turn}: {}", due.len());
            assert_eq!(due.first() == Some(&node(7)), turn == 0);
            for node in due {
                seen.insert(node.clone());
                troubled.keep(node);
            }
        }
        assert_eq!(seen.len(), 100);
    }
}
