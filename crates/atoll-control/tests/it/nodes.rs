//! Nodes that beat, fall silent, come back, and run other things than they should. The clock is
//! paused: bounds are measured in its time.

use std::time::Duration;

use atoll_core::error::ErrorKind;
use atoll_core::heartbeat::{LOST_AFTER, SUSPECT_AFTER};
use atoll_core::id::NodeId;
use atoll_core::node::NodeState;
use tokio::time::Instant;

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
