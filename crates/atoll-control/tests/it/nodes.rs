//! Nodes that beat, fall silent, come back, and run other things than they should. The clock is
//! paused: bounds are measured in its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use atoll_control::node_client::NodeClient as _;
use atoll_control::{HealthProbe, Verdict};
use atoll_core::breaker;
use atoll_core::correction::CorrectionKind;
use atoll_core::error::ErrorKind;
use atoll_core::event::{EventKind, Subject};
use atoll_core::heartbeat::{LOST_AFTER, SUSPECT_AFTER};
use atoll_core::id::{NodeId, SandboxId};
use atoll_core::node::{DrainMode, NodeState, Refusal};
use futures::StreamExt as _;
use tokio::time::Instant;

use crate::fake_node::Script;
use crate::world::{Running, World, request, wait_for};

fn state(running: &Running, node: &str) -> NodeState {
    let node: NodeId = node.parse().unwrap();
    let nodes = running.control.node_list();
    nodes.iter().find(|view| view.id == node).unwrap().state
}

/// Waits for a condition and answers how long that took.
async fn took(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < limit, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_suspect_then_lost_and_takes_what_it_ran_along() {
    let world = World::in_memory(&["node-1"]);
    let running = world.start().await;
    let mut wanted = request();
    wanted.timeout = Duration::from_secs(3_600);
    let id = running
        .control
        .sandbox_create(&running.tenant, wanted)
        .await
        .unwrap()
        .sandbox
        .id;
    running.beat(&world, Duration::from_secs(60)).await;
    assert_eq!(state(&running, "node-1"), NodeState::Ready);
    assert!(running.is_visible(&id).await);

    let begun = Instant::now();
    world.node().set_silent(true);
    took(
        "suspect",
        SUSPECT_AFTER + Duration::from_secs(2),
        async || state(&running, "node-1") == NodeState::Suspect,
    )
    .await;
    let error = running
        .control
        .sandbox_create(&running.tenant, request())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoCapacity, "{error}");
    assert!(running.is_visible(&id).await, "suspicion ends nothing");
    took("lost", LOST_AFTER, async || {
        state(&running, "node-1") == NodeState::Lost && !running.is_visible(&id).await
    })
    .await;
    let lost_after = begun.elapsed();
    assert!(
        lost_after <= LOST_AFTER + Duration::from_secs(3),
        "{lost_after:?}"
    );
    assert!(
        lost_after >= LOST_AFTER - Duration::from_secs(3),
        "{lost_after:?}"
    );
    assert!(!running.edge.has(&id));
    assert_eq!(running.control.node_list()[0].sandboxes, 0);

    // It comes back: what it still runs is no longer its own.
    assert_eq!(world.node().running(), [id]);
    world.node().set_silent(false);
    running.beat(&world, Duration::from_secs(4)).await;
    assert_eq!(state(&running, "node-1"), NodeState::Ready);
    wait_for("the removal", async || world.node().running().is_empty()).await;
    running.create().await;
    assert_eq!(
        world
            .events_of(&Subject::Node(world.node().node().clone()))
            .await,
        [
            EventKind::NodeJoined,
            EventKind::NodeSuspect,
            EventKind::NodeLost,
            EventKind::NodeJoined,
        ]
    );
    assert_eq!(
        world.events_of(&Subject::Fleet).await,
        [EventKind::ResourceExhausted]
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_digest_that_differs_leads_to_a_synchronisation_within_seconds() {
    let mut world = World::in_memory(&["node-1"]);
    world.config.full_sync_interval = Duration::from_secs(3_600);
    let running = world.start().await;
    let kept = running.create().await.sandbox.id;
    let lost = running.create().await.sandbox.id;
    running.beat(&world, Duration::from_secs(10)).await;
    let before = world.node().reports();
    running.beat(&world, Duration::from_secs(30)).await;
    assert_eq!(world.node().reports(), before, "agreement asks for nothing");

    world.node().plant("iorphan");
    world.node().lose(&lost);
    let (_, after) = tokio::join!(
        running.beat(&world, Duration::from_secs(20)),
        took("the repair", Duration::from_secs(20), async || {
            world.node().running() == [kept.clone()] && running.listed().await == [kept.clone()]
        })
    );
    assert!(after <= Duration::from_secs(6), "{after:?}");
    assert!(world.node().reports() <= before + 2, "one report is enough");
    running.stop().await;
}

/// Defends: no sandbox without intent stays longer than 30 s, and none that is missing counts as
/// running for longer, also where no heartbeat tells of it.
#[tokio::test(start_paused = true)]
async fn orphans_go_and_missing_ones_are_noticed_within_thirty_seconds() {
    let world = World::in_memory(&["node-1"]);
    let running = world.start().await;
    let kept = running.create().await.sandbox.id;
    let lost = running.create().await.sandbox.id;
    world.node().plant("iorphan");
    world.node().lose(&lost);
    took("the repair", Duration::from_secs(31), async || {
        world.node().running() == [kept.clone()] && running.listed().await == [kept.clone()]
    })
    .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_heartbeats_are_lost_but_that_answers_stays_ready() {
    let world = World::in_memory(&["node-1"]);
    let running = world.start().await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        assert_eq!(state(&running, "node-1"), NodeState::Ready);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_of_a_node_that_did_not_join_is_refused() {
    let world = World::in_memory(&["node-1"]);
    let running = world.start().await;
    let mut heartbeat = world.node().heartbeat();
    heartbeat.node = "stranger".parse().unwrap();
    let error = running.control.node_heartbeat(heartbeat).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(running.control.node_list().len(), 1);
    running.stop().await;
}

fn kinds(running: &Running) -> Vec<CorrectionKind> {
    let corrections = running.control.corrections(100);
    corrections.iter().map(|one| one.kind).collect()
}

#[tokio::test(start_paused = true)]
async fn every_repair_is_recorded_with_its_reason() {
    let world = World::in_memory(&["node-1"]);
    let running = world.start().await;
    let ended = running.create().await.sandbox.id;
    let lost = running.create().await.sandbox.id;
    assert!(kinds(&running).is_empty());
    let (control, tenant) = (&running.control, &running.tenant);
    control.sandbox_kill(tenant, &ended).await.unwrap();
    world.node().plant("iorphan");
    world.node().plant(ended.as_str());
    world.node().lose(&lost);
    running.beat(&world, Duration::from_secs(20)).await;
    let corrections = control.corrections(100);
    for (kind, sandbox, reason) in [
        (CorrectionKind::DigestMismatch, None, "was expected"),
        (
            CorrectionKind::OrphanRemoved,
            Some("iorphan"),
            "no sandbox of this id",
        ),
        (
            CorrectionKind::OrphanRemoved,
            Some(ended.as_str()),
            "it had ended: killed",
        ),
        (
            CorrectionKind::MissingNoticed,
            Some(lost.as_str()),
            "does not have it any more",
        ),
    ] {
        let found = corrections.iter().filter(|one| {
            one.kind == kind && one.sandbox.as_ref().map(SandboxId::as_str) == sandbox
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 1, "{kind:?} {sandbox:?}: {corrections:?}");
        assert!(found[0].reason.contains(reason), "{:?}", found[0]);
        assert_eq!(found[0].node.as_ref().unwrap().as_str(), "node-1");
    }
    running.stop().await;

    let running = world.start().await;
    assert_eq!(
        running.control.corrections(100),
        corrections,
        "they are durable"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_node_gets_nothing_new_also_after_a_restart() {
    let world = World::in_memory(&["node-1", "node-2"]);
    let running = world.start().await;
    let drained: NodeId = "node-1".parse().unwrap();
    let before = running.create().await.sandbox.id;
    let view = running.control.node_drain(&drained, DrainMode::Wait).await;
    assert_eq!(view.unwrap().state, NodeState::Draining);
    assert!(running.is_visible(&before).await, "what runs goes on");
    let there = world.nodes[0].running().len();
    for _ in 0..5 {
        running.create().await;
    }
    assert_eq!(world.nodes[0].running().len(), there);
    running.stop().await;

    let running = world.start().await;
    assert_eq!(state(&running, "node-1"), NodeState::Draining);
    running.create().await;
    assert_eq!(world.nodes[0].running().len(), there);
    running.control.node_undrain(&drained).await.unwrap();
    running.control.node_undrain(&drained).await.unwrap();
    for _ in 0..5 {
        running.create().await;
    }
    assert!(world.nodes[0].running().len() > there);
    let unknown: NodeId = "node-3".parse().unwrap();
    let error = running.control.node_drain(&unknown, DrainMode::Wait).await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::NotFound);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_evicted_node_becomes_empty_and_can_be_removed() {
    let world = World::in_memory(&["node-1"]);
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    let node: NodeId = "node-1".parse().unwrap();
    let control = &running.control;
    let error = control.node_remove(&node, false).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    control.node_drain(&node, DrainMode::Evict).await.unwrap();
    wait_for("the eviction", async || {
        world.node().running().is_empty() && control.node_list()[0].sandboxes == 0
    })
    .await;
    assert!(!running.is_visible(&id).await);
    control.node_remove(&node, false).await.unwrap();
    assert!(control.node_list().is_empty());
    let error = control.node_heartbeat(world.node().heartbeat()).await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::NotFound);
    running.stop().await;

    let running = world.start().await;
    assert_eq!(
        state(&running, "node-1"),
        NodeState::Ready,
        "it begins anew"
    );
    running.create().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_removed_by_force_takes_what_it_runs_along() {
    let world = World::in_memory(&["node-1"]);
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    let node: NodeId = "node-1".parse().unwrap();
    running.control.node_remove(&node, true).await.unwrap();
    wait_for("the end", async || {
        !running.is_visible(&id).await && running.control.node_list().is_empty()
    })
    .await;
    assert!(!running.edge.has(&id));
    running.stop().await;
}

/// Defends: a bad node among several goes out of rotation until it works again (found in the field:
/// daytona#5141, where a runner that failed every start was never left alone).
#[tokio::test(start_paused = true)]
async fn a_node_that_fails_every_start_is_left_alone_until_it_recovers() {
    let world = World::in_memory(&["node-1", "node-2", "node-3"]);
    let running = world.start().await;
    let bad = &world.nodes[1];
    bad.set_habit(Some(Script::Refuse(Refusal::Failed(
        "no loop device".to_owned(),
    ))));
    for _ in 0..200 {
        running.create().await;
    }
    assert!(bad.ensures() <= 5, "{} starts were tried", bad.ensures());
    let id: NodeId = "node-2".parse().unwrap();
    let view = running.control.node_get(&id).unwrap();
    assert_eq!(view.breaker.0, breaker::State::Open);
    assert!(view.breaker.1.unwrap().contains("no loop device"));

    bad.set_habit(None);
    running.beat(&world, Duration::from_secs(10)).await;
    for _ in 0..20 {
        running.create().await;
    }
    assert!(bad.running().len() > 5, "{}", bad.running().len());
    running.stop().await;
}

/// As above, for a node that beats but never ends a start.
#[tokio::test(start_paused = true)]
async fn creates_succeed_again_soon_after_a_node_begins_to_hang() {
    let mut world = World::in_memory(&["node-1", "node-2", "node-3"]);
    world.config.create_timeout = Duration::from_secs(30);
    let running = Arc::new(world.start().await);
    let bad = &world.nodes[1];
    bad.set_habit(Some(Script::Delay(Duration::from_secs(3_600))));
    let create = async |_| {
        let (control, tenant) = (&running.control, &running.tenant);
        control.sandbox_create(tenant, request()).await.is_ok()
    };
    let results = futures::stream::iter(0..16)
        .map(create)
        .buffer_unordered(16);
    let first: Vec<bool> = results.collect().await;
    assert!(first.contains(&false), "the fault does something");
    // Some time later, while it still hangs and probes go there.
    let mut succeeded = 0;
    for number in 0..500 {
        succeeded += u32::from(create(number).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(succeeded >= 495, "{succeeded} of 500");
    Arc::into_inner(running).unwrap().stop().await;
}

/// A part that counts how often it is looked at.
#[derive(Debug, Default)]
struct Counted(AtomicU32);

#[async_trait]
impl HealthProbe for Counted {
    fn name(&self) -> String {
        "counted".to_owned()
    }

    async fn check(&self) -> Verdict {
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.0.fetch_add(1, Ordering::Relaxed);
        Verdict::healthy()
    }
}

#[tokio::test(start_paused = true)]
async fn everything_is_checked_every_thirty_seconds_and_on_demand() {
    let world = World::in_memory(&["node-1"]);
    let running = world.start().await;
    let part = Arc::new(Counted::default());
    running.control.health_watch(Arc::<Counted>::clone(&part));
    let count = || part.0.load(Ordering::Relaxed);
    let period = Duration::from_secs(31);
    took("the first check", period, async || count() >= 1).await;
    took("the next check", period, async || count() >= 2).await;
    // However many ask at once, one check answers those who do not insist.
    running.beat(&world, Duration::from_secs(2)).await;
    let before = count();
    let asked = (0..16).map(|_| running.control.health_recent());
    futures::future::join_all(asked).await;
    assert_eq!(count(), before + 1);
    running.control.health().await;
    assert_eq!(count(), before + 2);
    running.stop().await;
}

/// Defends: a change publishes at once. Neither a heartbeat nor a pass nor a report is needed.
#[tokio::test(start_paused = true)]
async fn a_change_that_a_node_tells_of_is_published_at_once() {
    let mut world = World::in_memory(&["node-1"]);
    world.config.full_sync_interval = Duration::from_secs(3_600);
    let running = world.start().await;
    let kept = running.create().await.sandbox.id;
    let gone = running.create().await.sandbox.id;
    let reports = world.node().reports();
    assert!(running.edge.has(&gone));
    world.node().exit(&gone).await;
    let after = took("it is noticed", Duration::from_secs(1), async || {
        !running.edge.has(&gone) && running.listed().await == [kept.clone()]
    });
    let after = after.await;
    assert!(after <= Duration::from_millis(200), "{after:?}");
    assert_eq!(world.node().reports(), reports, "nobody asked the node");
    running.stop().await;
}

/// Defends: what is known of a node ages. It is suspect at 10 s without a sign of life and lost at
/// 30 s, not earlier, and at most a second later. What it said last is shown with its age.
#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_node_ages_to_suspect_and_lost() {
    let world = World::in_memory(&["node-1"]);
    let running = world.start().await;
    let made = running.create().await.sandbox;
    running.beat(&world, Duration::from_secs(10)).await;
    running
        .control
        .node_heartbeat(world.node().heartbeat())
        .await
        .unwrap();
    world.node().set_silent(true);
    let begun = Instant::now();
    let late = Duration::from_secs(1);
    while begun.elapsed() < LOST_AFTER + late * 2 {
        let silence = begun.elapsed();
        let view = running.control.node_list().remove(0);
        let may_be = [
            (NodeState::Ready, Duration::ZERO..SUSPECT_AFTER + late),
            (NodeState::Suspect, SUSPECT_AFTER..LOST_AFTER + late),
            (NodeState::Lost, LOST_AFTER..Duration::MAX),
        ];
        let is_right = |(state, when): &(NodeState, std::ops::Range<Duration>)| {
            *state == view.state && when.contains(&silence)
        };
        assert!(
            may_be.iter().any(is_right),
            "{:?} at {silence:?}",
            view.state
        );
        let heartbeat = view.last_heartbeat.unwrap();
        assert!(
            heartbeat.age >= silence,
            "{:?} at {silence:?}",
            heartbeat.age
        );
        assert_eq!(heartbeat.heartbeat.node, view.id, "what it said is kept");
        if view.state != NodeState::Lost {
            assert_eq!(view.allocated, made.config.resources);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(state(&running, "node-1"), NodeState::Lost);
    running.stop().await;
}

/// Defends: a fleet without nodes is short of nodes, not of a template.
#[tokio::test]
async fn without_any_node_a_create_is_told_so_and_when_to_try_again() {
    let world = World::with_nodes(&[]);
    let running = world.start().await;
    let refused = running.control.sandbox_create(&running.tenant, request());
    let error = refused.await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoCapacity, "{error}");
    assert!(error.message.contains("no node has joined"), "{error}");
    assert!(error.retry_after.is_some());
    running.stop().await;
}
