//! What is paused goes on on another node, from what shared storage has: when its node is lost,
//! full, draining, or refuses. It is never lost on the way, never there twice, and never begun from
//! something else.

use std::sync::Arc;
use std::time::Duration;

use atoll_control::node_client::NodeClient as _;
use atoll_core::error::ErrorKind;
use atoll_core::id::SandboxId;
use atoll_core::node::{DrainMode, NodeState, ObservedState, Refusal};
use atoll_core::resources::Resources;
use atoll_core::sandbox::{Sandbox, State};
use atoll_core::snapshot::Snapshot;

use crate::fake_node::{FakeNode, Script, Storage, TOTAL};
use crate::world::{Running, World, wait_for};

const TIMEOUT: Duration = Duration::from_secs(300);

/// Two nodes with a storage, and one without, on which nothing can go on.
fn world() -> (World, Arc<Storage>) {
    let mut world = World::in_memory(&["node-1", "node-2", "node-3"]);
    world.config.full_sync_interval = Duration::from_secs(2);
    let storage = Arc::new(Storage::default());
    for node in &world.nodes[..2] {
        node.share(&storage);
    }
    (world, storage)
}

async fn row(world: &World, id: &SandboxId) -> Sandbox {
    let row = world.store().await.sandbox_get(id).await;
    row.unwrap().unwrap()
}

/// A sandbox that a node with the storage keeps: that node, and the other one.
async fn keep(world: &World, running: &Running) -> (SandboxId, Arc<FakeNode>, Arc<FakeNode>) {
    // The third goes, so that it comes to one that has the storage.
    let third = "node-3".parse().unwrap();
    let control = &running.control;
    control.node_drain(&third, DrainMode::Wait).await.unwrap();
    let id = running.create().await.sandbox.id;
    control.node_undrain(&third).await.unwrap();
    let paused = control.sandbox_pause(&running.tenant, &id, false).await;
    assert_eq!(paused.unwrap().sandbox.state, State::Paused);
    let is_home = |node: &&Arc<FakeNode>| node.seen(&id).is_some();
    let home = world.nodes.iter().find(is_home).unwrap();
    let other = world.nodes[..2].iter().find(|node| !is_home(node)).unwrap();
    (id, Arc::clone(home), Arc::clone(other))
}

/// The same, with its files in the storage.
async fn store(world: &World, running: &Running) -> (SandboxId, Arc<FakeNode>, Arc<FakeNode>) {
    let (id, home, other) = keep(world, running).await;
    let snapshot = home.store(&id).await;
    noted(world, &id, &snapshot).await;
    (id, home, other)
}

async fn noted(world: &World, id: &SandboxId, snapshot: &Snapshot) {
    wait_for("the snapshot is noted", async || {
        row(world, id).await.snapshot.as_ref() == Some(snapshot)
    })
    .await;
}

async fn resume(running: &Running, id: &SandboxId) -> atoll_control::Result<Sandbox> {
    let resumed = running
        .control
        .sandbox_resume(&running.tenant, id, TIMEOUT)
        .await;
    resumed.map(|view| view.sandbox)
}

/// Waits until the node counts as lost.
async fn lose(running: &Running, world: &World, node: &FakeNode) {
    node.set_silent(true);
    running.beat(world, Duration::from_secs(34)).await;
    let list = running.control.node_list();
    let view = list.iter().find(|view| view.id == *node.node()).unwrap();
    assert_eq!(view.state, NodeState::Lost);
}

async fn returns(running: &Running, world: &World, node: &FakeNode) {
    node.set_silent(false);
    running.beat(world, Duration::from_secs(6)).await;
}

/// Checks that it serves on this node, from the snapshot, and is routed there.
async fn check_moved(world: &World, running: &Running, id: &SandboxId, to: &FakeNode) {
    let row = row(world, id).await;
    assert_eq!(row.state, State::Running);
    assert_eq!(
        (&row.snapshot, &row.kept, &row.kept_on),
        (&None, &None, &None)
    );
    let seen = to.seen(id).unwrap_or_else(|| panic!("{row:?}"));
    assert_eq!(
        (seen.generation, seen.state),
        (row.generation, ObservedState::Running)
    );
    assert!(to.spec(id).unwrap().snapshot.is_some(), "it has its files");
    let route = running.edge.route(id).unwrap();
    assert_eq!(route.generation, row.generation);
    assert_eq!(Some(&route.node), row.node.as_ref());
}

/// Defends: a committed pause can always be resumed, its node's loss included. When the node comes
/// back with its copy, that copy goes.
#[tokio::test(start_paused = true)]
async fn what_a_lost_node_kept_goes_on_elsewhere() {
    let (world, storage) = world();
    let running = world.start().await;
    let (id, home, other) = store(&world, &running).await;
    lose(&running, &world, &home).await;
    resume(&running, &id).await.unwrap();
    check_moved(&world, &running, &id, &other).await;
    wait_for("nothing is left in the storage", async || {
        storage.generations(&id).is_empty()
    })
    .await;
    assert!(home.seen(&id).is_some(), "nobody could tell it yet");
    returns(&running, &world, &home).await;
    wait_for("the copy goes", async || home.seen(&id).is_none()).await;
    check_moved(&world, &running, &id, &other).await;
    running.stop().await;
}

/// Before the storage has it, a lost node's sandbox waits for it, as always.
#[tokio::test(start_paused = true)]
async fn what_is_not_in_the_storage_waits_for_its_node() {
    let (world, _) = world();
    let running = world.start().await;
    let (id, home, other) = keep(&world, &running).await;
    lose(&running, &world, &home).await;
    let error = resume(&running, &id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(row(&world, &id).await.state, State::Paused);
    assert!(other.seen(&id).is_none());
    returns(&running, &world, &home).await;
    let snapshot = home.store(&id).await;
    noted(&world, &id, &snapshot).await;
    resume(&running, &id).await.unwrap();
    assert_eq!(home.seen(&id).unwrap().state, ObservedState::Running);
    running.stop().await;
}

/// While its node works, what is there is taken; one that is full, draining, or refuses is gone
/// around, and its copy goes.
#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_is_gone_around() {
    let (world, _) = world();
    let running = world.start().await;
    let (id, home, _) = store(&world, &running).await;
    resume(&running, &id).await.unwrap();
    assert_eq!(home.resumes(), 1, "its own copy is the fast way");
    assert_eq!(row(&world, &id).await.snapshot, None, "it is of the past");

    for case in ["full", "draining", "refuses"] {
        let (id, home, other) = store(&world, &running).await;
        match case {
            "full" => {
                home.set_total(Resources::default());
                running.beat(&world, Duration::from_secs(4)).await;
            }
            "draining" => {
                let drained = running.control.node_drain(home.node(), DrainMode::Wait);
                drained.await.unwrap();
            }
            _ => {
                let refusal = Refusal::Failed("no loop device".to_owned());
                home.script(Script::Refuse(refusal));
            }
        }
        resume(&running, &id).await.expect(case);
        check_moved(&world, &running, &id, &other).await;
        wait_for("the copy goes", async || home.seen(&id).is_none()).await;
        running.control.node_undrain(home.node()).await.unwrap();
        home.set_total(TOTAL);
        running.beat(&world, Duration::from_secs(4)).await;
        let killed = running.control.sandbox_kill(&running.tenant, &id).await;
        killed.unwrap();
    }
    running.stop().await;
}

/// Defends: nothing but its own files is ever started. What is damaged in the storage leaves it
/// paused, tells which part, and its node's copy is what it goes on with.
#[tokio::test(start_paused = true)]
async fn damage_in_the_storage_leaves_it_paused() {
    let (world, _) = world();
    let running = world.start().await;
    let (id, home, other) = store(&world, &running).await;
    lose(&running, &world, &home).await;
    let damage = Refusal::BadSnapshot("part 77aa of the snapshot is damaged".to_owned());
    other.script(Script::Refuse(damage));
    let error = resume(&running, &id).await.unwrap_err();
    assert!(error.message.contains("part 77aa"), "{error}");
    let kept = row(&world, &id).await;
    assert_eq!(kept.state, State::Paused);
    assert_eq!(kept.node, kept.kept_on, "it is where it is kept");
    assert!(other.seen(&id).is_none());
    returns(&running, &world, &home).await;
    assert!(home.seen(&id).is_some(), "the copy was not given up");
    resume(&running, &id).await.unwrap();
    assert_eq!(home.seen(&id).unwrap().state, ObservedState::Running);
    running.stop().await;
}

/// A node that returns while its sandbox is on its way elsewhere keeps its copy until it serves
/// there.
#[tokio::test(start_paused = true)]
async fn a_copy_is_not_given_up_before_it_serves_elsewhere() {
    let (world, _) = world();
    let running = world.start().await;
    let (id, home, other) = store(&world, &running).await;
    lose(&running, &world, &home).await;
    other.script(Script::Delay(Duration::from_secs(20)));
    let is_back = async {
        wait_for("it is on its way", async || {
            row(&world, &id).await.state == State::Resuming
        })
        .await;
        returns(&running, &world, &home).await;
        assert!(home.seen(&id).is_some());
        running.beat(&world, Duration::from_secs(20)).await;
    };
    let (resumed, ()) = tokio::join!(resume(&running, &id), is_back);
    resumed.unwrap();
    check_moved(&world, &running, &id, &other).await;
    wait_for("the copy goes", async || home.seen(&id).is_none()).await;
    running.stop().await;
}

/// A resume elsewhere that was cut off is carried on by the next control plane, on the same node.
#[tokio::test(start_paused = true)]
async fn a_move_that_was_cut_off_is_carried_on() {
    let (world, _) = world();
    let running = world.start().await;
    let (id, home, other) = store(&world, &running).await;
    lose(&running, &world, &home).await;
    other.script(Script::Delay(Duration::from_secs(5)));
    let asked = tokio::time::timeout(Duration::from_secs(1), resume(&running, &id));
    assert!(asked.await.is_err());
    assert_eq!(row(&world, &id).await.state, State::Resuming);
    running.stop().await;
    home.set_silent(false);
    let running = world.start().await;
    wait_for("it serves", async || {
        row(&world, &id).await.state == State::Running
    })
    .await;
    check_moved(&world, &running, &id, &other).await;
    running.stop().await;
}

/// What its node lost is no loss where the storage has it.
#[tokio::test(start_paused = true)]
async fn a_node_that_lost_its_copy_does_not_fail_the_sandbox() {
    let (world, _) = world();
    let running = world.start().await;
    let (id, home, _) = store(&world, &running).await;
    home.lose(&id);
    wait_for("no node has it", async || {
        row(&world, &id).await.node.is_none()
    })
    .await;
    let kept = row(&world, &id).await;
    assert_eq!((kept.state, kept.snapshot.is_some()), (State::Paused, true));
    assert!(running.is_visible(&id).await);
    let node = resume(&running, &id).await.unwrap().node.unwrap();
    let node = world.nodes.iter().find(|found| *found.node() == node);
    check_moved(&world, &running, &id, node.unwrap()).await;
    running.stop().await;
}

/// What is deleted leaves nothing in the storage; what somebody else left there is found by the
/// sweep, and what is needed stays.
#[tokio::test(start_paused = true)]
async fn the_storage_keeps_only_what_is_needed() {
    let (mut world, storage) = world();
    world.config.snapshot_sweep_interval = Duration::from_secs(60);
    let running = world.start().await;
    let (id, home, _) = store(&world, &running).await;
    let (gone, _, _) = store(&world, &running).await;
    let killed = running.control.sandbox_kill(&running.tenant, &gone).await;
    killed.unwrap();
    wait_for("the storage forgets it", async || {
        storage.generations(&gone).is_empty()
    })
    .await;

    let generation = home.seen(&id).unwrap().generation;
    storage.put(&id, generation.before());
    storage.put(&gone, generation);
    let stranger: SandboxId = "istranger".parse().unwrap();
    storage.put(&stranger, generation);
    running.beat(&world, Duration::from_secs(70)).await;
    assert_eq!(storage.generations(&id), [generation.get()]);
    assert!(storage.generations(&gone).is_empty());
    // It may be of a store that was put back to an older state.
    assert_eq!(storage.generations(&stranger), [generation.get()]);
    running.stop().await;
}
