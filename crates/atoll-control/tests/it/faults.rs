//! Nodes that refuse, go silent, lose answers, or run what nobody wants.

use std::time::Duration;

use atoll_control::code;
use atoll_core::error::ErrorKind;
use atoll_core::node::Refusal;

use crate::fake_node::Script;
use crate::world::{World, request, wait_for};

#[tokio::test]
async fn a_refusal_goes_to_the_next_node_under_a_new_generation() {
    let world = World::with_nodes(&["node-1", "node-2"]);
    let running = world.start().await;
    for node in &world.nodes {
        node.script(Script::Refuse(Refusal::NoRoom("full".to_owned())));
    }
    // Whichever is asked first refuses, and so does the second: each once, then both would accept.
    let error = running
        .control
        .sandbox_create(&running.tenant, request())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoCapacity);
    assert_eq!(error.code, Some(code::CAPACITY_UNAVAILABLE));
    assert!(error.retry_after.is_some());
    assert!(
        error.message.contains("already refused it: 2 node(s)"),
        "{}",
        error.message
    );

    for node in &world.nodes {
        assert_eq!(node.ensures(), 1);
    }
    world.nodes[0].script(Script::Refuse(Refusal::NoRoom("full".to_owned())));
    for _ in 0..8 {
        running.create().await;
    }
    assert_eq!(
        world.nodes[0].running().len() + world.nodes[1].running().len(),
        8
    );
    running.stop().await;
}

#[tokio::test]
async fn a_definite_failure_is_told_and_leaves_nothing() {
    let world = World::new();
    let running = world.start().await;
    world
        .node()
        .script(Script::Refuse(Refusal::Failed("no loop device".to_owned())));
    let error = running
        .control
        .sandbox_create(&running.tenant, request())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert_eq!(error.code, Some(code::CREATE_FAILED));
    assert!(
        error.message.contains("no loop device"),
        "{}",
        error.message
    );
    assert_eq!(running.listed().await, []);
    wait_for("the accounts to be settled", async || {
        running.control.node_list()[0].sandboxes == 0
    })
    .await;
    running.stop().await;
}

/// Defends: an unknown outcome is never taken for a refusal; the same node is asked again.
#[tokio::test]
async fn a_lost_answer_makes_one_sandbox() {
    let world = World::with_nodes(&["node-1", "node-2"]);
    let running = world.start().await;
    for node in &world.nodes {
        node.script(Script::LoseAnswer);
    }
    let id = running.create().await.sandbox.id;
    let on: Vec<_> = world
        .nodes
        .iter()
        .filter(|node| node.running().contains(&id))
        .collect();
    assert_eq!(on.len(), 1);
    assert_eq!(on[0].ensures(), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_lost_answer_to_a_removal_is_asked_for_again() {
    let world = World::new();
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    world.node().lose_removals(2);
    running
        .control
        .sandbox_kill(&running.tenant, &id)
        .await
        .unwrap();
    assert_eq!(world.node().removes(), 3);
    assert_eq!(running.control.node_list()[0].sandboxes, 0);
    running.stop().await;
}

/// Defends: delete ends in bounded time, whatever its node does.
#[tokio::test]
async fn a_delete_answers_although_the_node_is_silent() {
    let mut world = World::new();
    world.config.delete_timeout = Duration::from_millis(200);
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    world.node().set_silent(true);
    running
        .control
        .sandbox_kill(&running.tenant, &id)
        .await
        .unwrap();
    assert!(!running.edge.has(&id));
    assert!(!running.is_visible(&id).await);
    assert_eq!(world.node().running(), [id]);
    world.node().set_silent(false);
    wait_for("the removal", async || world.node().running().is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn a_start_that_takes_too_long_is_given_up_and_removed() {
    let mut world = World::new();
    world.config.create_timeout = Duration::from_millis(100);
    let running = world.start().await;
    world
        .node()
        .script(Script::Delay(Duration::from_millis(600)));
    let error = running
        .control
        .sandbox_create(&running.tenant, request())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
    assert_eq!(error.code, Some(code::PLACEMENT_TIMEOUT));
    assert_eq!(running.listed().await, []);
    wait_for("the accounts to be settled", async || {
        running.control.node_list()[0].sandboxes == 0
    })
    .await;
    running.stop().await;
}

/// Defends: no sandbox without intent stays, and none that is missing counts as running.
#[tokio::test]
async fn the_full_pass_removes_orphans_and_notices_what_is_missing() {
    let mut world = World::new();
    world.config.full_sync_interval = Duration::from_millis(50);
    let running = world.start().await;
    let kept = running.create().await.sandbox.id;
    let lost = running.create().await.sandbox.id;
    world.node().plant("iorphan");
    world.node().lose(&lost);
    wait_for("the pass", async || {
        world.node().running() == [kept.clone()] && running.listed().await == [kept.clone()]
    })
    .await;
    assert!(running.edge.has(&kept));
    running.stop().await;
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_a_whole_sandbox() {
    let world = World::new();
    let running = world.start().await;
    world
        .node()
        .script(Script::Delay(Duration::from_millis(50)));
    let create = running.control.sandbox_create(&running.tenant, request());
    let hung_up = tokio::time::timeout(Duration::from_millis(10), create).await;
    assert!(hung_up.is_err());
    wait_for("the sandbox", async || running.listed().await.len() == 1).await;
    running.stop().await;
}
