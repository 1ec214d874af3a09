//! The control plane goes and comes back on the same store; sandboxes live on.

use std::time::Duration;

use atoll_control::code;
use atoll_core::error::ErrorKind;
use atoll_core::node::Refusal;
use secrecy::SecretString;

use crate::fake_node::Script;
use crate::world::{KEY, World, request, wait_for};

#[tokio::test]
async fn what_runs_is_adopted_what_is_missing_fails_what_is_strange_goes() {
    let world = World::new();
    let running = world.start().await;
    let kept = running.create().await;
    let lost = running.create().await.sandbox.id;
    running.stop().await;
    let id = kept.sandbox.id.clone();
    world.node().lose(&lost);
    world.node().plant("iorphan");
    let before = world.node().ensures();

    let running = world.start().await;
    wait_for("adoption", async || {
        running.listed().await == [id.clone()] && running.edge.has(&id)
    })
    .await;
    let again = running
        .control
        .sandbox_get(&running.tenant, &id)
        .await
        .unwrap();
    assert_eq!(again, kept, "the same tokens, deadline and start");
    assert_eq!(world.node().running(), std::slice::from_ref(&id));
    assert_eq!(
        world.node().ensures(),
        before,
        "an adopted sandbox is not made again"
    );
    wait_for("the accounts to be settled", async || {
        running.control.node_list()[0].sandboxes == 1
    })
    .await;
    running
        .control
        .sandbox_kill(&running.tenant, &id)
        .await
        .unwrap();
    assert_eq!(world.node().running(), []);
    running.stop().await;
}

#[tokio::test]
async fn a_deadline_that_passed_meanwhile_is_carried_out() {
    let world = World::new();
    let running = world.start().await;
    let mut short = request();
    short.timeout = Duration::from_millis(300);
    let id = running
        .control
        .sandbox_create(&running.tenant, short)
        .await
        .unwrap()
        .sandbox
        .id;
    running.stop().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(world.node().running(), [id]);
    let running = world.start().await;
    wait_for("the end", async || world.node().running().is_empty()).await;
    assert_eq!(running.listed().await, []);
    running.stop().await;
}

/// Defends: no create in flight is lost or done twice.
#[tokio::test]
async fn a_create_that_was_cut_off_is_carried_on() {
    let world = World::new();
    let running = world.start().await;
    world.node().set_silent(true);
    let mut wanted = request();
    wanted.idempotency_key = Some("once".to_owned());
    let create = running
        .control
        .sandbox_create(&running.tenant, wanted.clone());
    let cut_off = tokio::time::timeout(Duration::from_millis(200), create).await;
    assert!(cut_off.is_err());
    running.stop().await;
    world.node().set_silent(false);

    let running = world.start().await;
    let view = running
        .control
        .sandbox_create(&running.tenant, wanted)
        .await
        .unwrap();
    assert_eq!(
        running.listed().await,
        std::slice::from_ref(&view.sandbox.id)
    );
    assert_eq!(world.node().running(), [view.sandbox.id]);
    running.stop().await;
}

#[tokio::test]
async fn a_repeated_request_finds_what_the_first_one_made() {
    let world = World::new();
    let running = world.start().await;
    let mut wanted = request();
    wanted.idempotency_key = Some("key-1".to_owned());
    wanted.fingerprint = "a".to_owned();
    let (control, tenant) = (&running.control, &running.tenant);
    let (first, second) = tokio::join!(
        control.sandbox_create(tenant, wanted.clone()),
        control.sandbox_create(tenant, wanted.clone()),
    );
    let id = first.unwrap().sandbox.id;
    assert_eq!(second.unwrap().sandbox.id, id);
    assert_eq!(world.node().running(), std::slice::from_ref(&id));

    let mut other = wanted.clone();
    other.fingerprint = "b".to_owned();
    let error = control.sandbox_create(tenant, other).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(error.code, Some(code::IDEMPOTENCY_MISMATCH));

    control.sandbox_kill(tenant, &id).await.unwrap();
    let error = control.sandbox_create(tenant, wanted).await.unwrap_err();
    assert_eq!(error.code, Some(code::IDEMPOTENCY_OUTCOME_UNKNOWN));
    running.stop().await;
}

#[tokio::test]
async fn a_refused_create_is_tried_anew_under_its_key() {
    let world = World::new();
    let running = world.start().await;
    let mut wanted = request();
    wanted.idempotency_key = Some("key-1".to_owned());
    let (control, tenant) = (&running.control, &running.tenant);
    for expected in [ErrorKind::NoCapacity, ErrorKind::NoCapacity] {
        let full = Refusal::NoRoom("full".to_owned());
        world.node().script(Script::Refuse(full));
        let refused = control.sandbox_create(tenant, wanted.clone()).await;
        assert_eq!(refused.unwrap_err().kind, expected);
    }
    // Repetitions at the same time make one sandbox, and so do later ones.
    let (one, other) = tokio::join!(
        control.sandbox_create(tenant, wanted.clone()),
        control.sandbox_create(tenant, wanted.clone()),
    );
    let id = one.unwrap().sandbox.id;
    assert_eq!(other.unwrap().sandbox.id, id);
    let again = control.sandbox_create(tenant, wanted.clone()).await;
    assert_eq!(again.unwrap().sandbox.id, id);
    assert_eq!(world.node().running(), std::slice::from_ref(&id));
    // What served is never made again, however it ended.
    control.sandbox_kill(tenant, &id).await.unwrap();
    let error = control.sandbox_create(tenant, wanted).await.unwrap_err();
    assert_eq!(error.code, Some(code::IDEMPOTENCY_OUTCOME_UNKNOWN));
    running.stop().await;
}

#[tokio::test]
async fn a_kill_that_was_cut_off_is_carried_on() {
    let mut world = World::new();
    world.config.delete_timeout = Duration::from_millis(50);
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    world.node().set_silent(true);
    running
        .control
        .sandbox_kill(&running.tenant, &id)
        .await
        .unwrap();
    running.stop().await;
    assert_eq!(world.node().running(), [id]);
    world.node().set_silent(false);
    let running = world.start().await;
    wait_for("the end", async || world.node().running().is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn a_sandbox_can_be_deleted_although_its_node_never_comes_back() {
    let mut world = World::new();
    world.config.delete_timeout = Duration::from_millis(50);
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    running.stop().await;
    world.nodes.clear();
    let (control, edge) = world.open().await;
    control
        .bootstrap(Some(SecretString::from(KEY)))
        .await
        .unwrap();
    let tenant = control.authenticate(KEY).await.unwrap();
    control.sandbox_kill(&tenant, &id).await.unwrap();
    let error = control.sandbox_get(&tenant, &id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(!edge.has(&id));
}

#[tokio::test]
async fn a_delete_overtakes_a_start_under_way() {
    let world = World::new();
    let running = world.start().await;
    world.node().script(Script::Delay(Duration::from_secs(3)));
    let create = running.control.sandbox_create(&running.tenant, request());
    let end = async {
        wait_for("the order", async || world.node().ensures() == 1).await;
        running
            .control
            .sandboxes_end_all(Duration::from_secs(1))
            .await
            .unwrap()
    };
    let (created, left) = tokio::join!(create, end);
    assert_eq!(left, 0, "the delete did not wait for the start");
    assert_eq!(created.unwrap_err().kind, ErrorKind::Conflict);
    running.stop().await;
}

#[tokio::test]
async fn bootstrap_makes_one_team_and_shows_a_made_key_once() {
    let world = World::new();
    let (control, _) = world.open().await;
    let first = control.bootstrap(None).await.unwrap();
    let second = control.bootstrap(None).await.unwrap();
    assert_eq!(first.team, second.team);
    assert!(first.key.is_some());
    assert!(second.key.is_none());
    for wrong in ["", "e2b_xyz", "sk_0123456789abcdef0123456789abcdef01234567"] {
        let error = control.bootstrap(Some(SecretString::from(wrong))).await;
        assert_eq!(error.unwrap_err().kind, ErrorKind::InvalidArgument);
    }
}
