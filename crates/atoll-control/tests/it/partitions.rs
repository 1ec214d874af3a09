//! Nodes of a fleet that come and go, are full, or have a wrong clock: what was acknowledged is
//! accounted for, nothing is there twice, and a minute after it is over nothing is left that
//! nobody wants. Nodes that are silent, or whose heartbeats alone are lost, are in `nodes`;
//! partitions both ways and one way, at random, are in the simulation. Every node here has a clock
//! that is off by decades: that moves no deadline.

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_control::node_client::NodeClient as _;
use atoll_core::event::{EventKind, Subject};
use atoll_core::id::SandboxId;
use atoll_core::node::{NodeState, Refusal};
use tokio::time::Instant;

use crate::fake_node::Script;
use crate::world::{Running, World, request};

async fn create(running: &Running) -> SandboxId {
    let mut wanted = request();
    wanted.timeout = Duration::from_secs(3_600);
    let made = running.control.sandbox_create(&running.tenant, wanted);
    made.await.unwrap().sandbox.id
}

/// Checks that these sandboxes run, each on one node and routed there, and nothing else does.
async fn check_accounted(running: &Running, world: &World, wanted: &[SandboxId]) {
    let wanted: BTreeSet<_> = wanted.iter().cloned().collect();
    let listed: BTreeSet<_> = running.listed().await.into_iter().collect();
    assert_eq!(listed, wanted);
    let mut found = BTreeSet::new();
    for node in &world.nodes {
        for id in node.running() {
            let route = running.edge.route(&id).unwrap();
            assert_eq!(route.node, *node.node(), "routed to where it runs");
            assert_eq!(route.generation, node.seen(&id).unwrap().generation);
            assert!(found.insert(id), "it runs twice");
        }
    }
    assert_eq!(found, wanted);
}

/// A node that comes and goes, each time for less than it takes to be lost, loses nothing, and says
/// no more than that it does.
#[tokio::test(start_paused = true)]
async fn a_node_that_flaps_loses_nothing_and_floods_nobody() {
    const TIMES: usize = 8;
    let world = World::in_memory(&["node-1", "node-2"]);
    let running = world.start().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(create(&running).await);
    }
    let node = &world.nodes[0];
    let reports = node.reports();
    let begun = Instant::now();
    for _ in 0..TIMES {
        node.set_silent(true);
        running.beat(&world, Duration::from_secs(14)).await;
        ids.push(create(&running).await);
        node.set_silent(false);
        running.beat(&world, Duration::from_secs(6)).await;
        ids.push(create(&running).await);
    }
    let told = world.events_of(&Subject::Node(node.node().clone())).await;
    assert!(!told.contains(&EventKind::NodeLost), "{told:?}");
    assert!(told.len() <= 2 * TIMES + 1, "{told:?}");
    // One probe each two seconds at most, beside the passes.
    let most = begun.elapsed().as_secs() / 2 + begun.elapsed().as_secs() / 30 + 2;
    assert!(u64::from(node.reports() - reports) <= most);
    running.beat(&world, Duration::from_secs(60)).await;
    check_accounted(&running, &world, &ids).await;
    running.stop().await;
}

/// A node whose disk is full says so to each create, which goes to the other one; what it runs goes
/// on, and it is used again when there is room.
#[tokio::test(start_paused = true)]
async fn a_node_with_a_full_disk_is_gone_around() {
    let world = World::in_memory(&["node-1", "node-2"]);
    let running = world.start().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(create(&running).await);
    }
    let full = &world.nodes[0];
    let before = full.running().len();
    let refusal = Refusal::NoRoom("no space left on device".to_owned());
    full.set_habit(Some(Script::Refuse(refusal)));
    for _ in 0..8 {
        ids.push(create(&running).await);
    }
    assert_eq!(full.running().len(), before);
    full.set_habit(None);
    running.beat(&world, Duration::from_secs(60)).await;
    for _ in 0..8 {
        ids.push(create(&running).await);
    }
    assert!(full.running().len() > before, "it is used again");
    let list = running.control.node_list();
    assert!(list.iter().all(|view| view.state == NodeState::Ready));
    check_accounted(&running, &world, &ids).await;
    running.stop().await;
}

/// Deadlines are the control plane's: a node's clock is not asked.
#[tokio::test(start_paused = true)]
async fn a_nodes_wrong_clock_moves_no_deadline() {
    let world = World::in_memory(&["node-1"]);
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    running.beat(&world, Duration::from_secs(58)).await;
    assert!(running.is_visible(&id).await);
    running.beat(&world, Duration::from_secs(4)).await;
    assert!(!running.is_visible(&id).await);
    check_accounted(&running, &world, &[]).await;
    running.stop().await;
}
