//! Pausing, resuming, restarting: what callers get, and what faults and crashes leave.

use std::time::Duration;

use atoll_control::view::{Connected, SandboxView};
use atoll_control::{TrafficAccess, code};
use atoll_core::error::ErrorKind;
use atoll_core::id::SandboxId;
use atoll_core::node::{ObservedState, Refusal};
use atoll_core::resources::Resources;
use atoll_core::sandbox::{OnTimeout, State};
use atoll_core::time::Timestamp;

use crate::fake_node::Script;
use crate::world::{Running, World, request, wait_for};

const TIMEOUT: Duration = Duration::from_secs(300);

async fn pause(running: &Running, id: &SandboxId) -> atoll_control::Result<SandboxView> {
    running
        .control
        .sandbox_pause(&running.tenant, id, true)
        .await
}

async fn resume(running: &Running, id: &SandboxId) -> atoll_control::Result<SandboxView> {
    running
        .control
        .sandbox_resume(&running.tenant, id, TIMEOUT)
        .await
}

async fn connect(
    running: &Running,
    id: &SandboxId,
) -> atoll_control::Result<(SandboxView, Connected)> {
    running
        .control
        .sandbox_connect(&running.tenant, id, TIMEOUT)
        .await
}

async fn state(running: &Running, id: &SandboxId) -> State {
    let view = running.control.sandbox_get(&running.tenant, id).await;
    view.unwrap().sandbox.state
}

fn allocated(running: &Running) -> Resources {
    running.control.node_list()[0].allocated
}

#[tokio::test]
async fn a_paused_sandbox_is_kept_unrouted_and_serves_again() {
    let world = World::new();
    let running = world.start().await;
    let made = running.create().await;
    let id = made.sandbox.id.clone();
    let full = made.sandbox.config.resources;

    let paused = pause(&running, &id).await.unwrap();
    assert_eq!(paused.sandbox.state, State::Paused);
    assert!(!running.edge.has(&id));
    assert_eq!(world.node().seen(&id).unwrap().state, ObservedState::Paused);
    assert_eq!(running.listed().await, std::slice::from_ref(&id));
    assert_eq!(allocated(&running), full.held_when_paused(true));
    let error = pause(&running, &id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    let moved = running
        .control
        .sandbox_set_timeout(&running.tenant, &id, TIMEOUT)
        .await;
    assert_eq!(moved.unwrap_err().kind, ErrorKind::Conflict);

    let (view, connected) = connect(&running, &id).await.unwrap();
    assert_eq!(connected, Connected::Resumed);
    assert_eq!(view.sandbox.state, State::Running);
    assert_eq!(view.envd_access_token, made.envd_access_token);
    let route = running.edge.route(&id).unwrap();
    assert_eq!(route.generation, view.sandbox.generation);
    assert!(route.generation > made.sandbox.generation);
    assert_eq!(allocated(&running), full);
    let started = view.sandbox.started_at.unwrap();
    assert_eq!(view.sandbox.deadline, started.saturating_add(TIMEOUT));

    let (_, connected) = connect(&running, &id).await.unwrap();
    assert_eq!(connected, Connected::WasRunning);
    let error = resume(&running, &id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(world.node().ensures(), 1, "it was never made anew");
    running.stop().await;
}

/// Defends: a pause that failed leaves the sandbox as it was.
#[tokio::test]
async fn a_pause_that_is_refused_leaves_it_running() {
    let world = World::new();
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    let refusal = Refusal::Failed("the freezer is stuck".to_owned());
    world.node().script(Script::Refuse(refusal));
    let error = pause(&running, &id).await.unwrap_err();
    assert!(error.message.contains("freezer is stuck"), "{error}");
    assert_eq!(state(&running, &id).await, State::Running);
    assert!(running.edge.has(&id));

    let unsupported = Refusal::Unsupported("pause".to_owned());
    world.node().script(Script::Refuse(unsupported));
    let error = pause(&running, &id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    pause(&running, &id).await.unwrap();
    running.stop().await;
}

/// Defends: a committed pause can always be resumed; a refusal changes nothing.
#[tokio::test]
async fn a_resume_that_is_refused_leaves_it_paused_and_says_why() {
    let mut world = World::new();
    world.config.full_sync_interval = Duration::from_millis(50);
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    pause(&running, &id).await.unwrap();
    let held = allocated(&running);
    let refusal = Refusal::NoRoom("memory".to_owned());
    world.node().script(Script::Refuse(refusal));
    let error = resume(&running, &id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoCapacity);
    assert_eq!(error.code, Some(code::CAPACITY_UNAVAILABLE));
    assert!(error.retry_after.is_some());
    assert_eq!(state(&running, &id).await, State::Paused);
    assert_eq!(allocated(&running), held);
    // The node keeps it under the older placement, which is no orphan.
    let removes = world.node().removes();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.node().removes(), removes);
    assert_eq!(state(&running, &id).await, State::Paused);
    resume(&running, &id).await.unwrap();
    running.stop().await;
}

/// Defends: an unknown outcome is never taken for a refusal; the same node is asked again.
#[tokio::test]
async fn lost_answers_to_pause_and_resume_are_asked_for_again() {
    let world = World::new();
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    world.node().script(Script::LoseAnswer);
    pause(&running, &id).await.unwrap();
    assert_eq!(world.node().pauses(), 2);
    world.node().script(Script::LoseAnswer);
    let view = resume(&running, &id).await.unwrap();
    assert_eq!(world.node().resumes(), 2);
    let seen = world.node().seen(&id).unwrap();
    assert_eq!(seen.generation, view.sandbox.generation);
    running.stop().await;
}

#[tokio::test]
async fn a_resume_needs_room_on_the_node_and_a_place_of_the_quota() {
    let mut world = World::new();
    world.config.team_limits.concurrent_sandboxes = 1;
    world.config.full_sync_interval = Duration::from_millis(50);
    let running = world.start().await;
    let first = running.create().await.sandbox;
    pause(&running, &first.id).await.unwrap();
    let second = running.create().await.sandbox.id;
    let error = resume(&running, &first.id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::QuotaExceeded);
    assert_eq!(state(&running, &first.id).await, State::Paused);
    assert_eq!(world.node().resumes(), 0, "no node was asked");
    running
        .control
        .sandbox_kill(&running.tenant, &second)
        .await
        .unwrap();

    let mut small = first.config.resources;
    small.cpu_millis -= 1;
    world.node().set_total(small);
    wait_for("the report", async || {
        running.control.node_list()[0].total == small
    })
    .await;
    let error = resume(&running, &first.id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoCapacity);
    assert_eq!(error.code, Some(code::CAPACITY_UNAVAILABLE));
    assert!(error.message.contains("cpu"), "{error}");
    assert_eq!(state(&running, &first.id).await, State::Paused);
    world.node().set_total(first.config.resources);
    wait_for("the report", async || {
        running.control.node_list()[0].total == first.config.resources
    })
    .await;
    resume(&running, &first.id).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_deadline_pauses_and_paused_time_does_not_count() {
    let world = World::new();
    let running = world.start().await;
    let mut wanted = request();
    wanted.timeout = Duration::from_millis(200);
    wanted.on_timeout = OnTimeout::Pause { keep_memory: true };
    let view = running
        .control
        .sandbox_create(&running.tenant, wanted)
        .await
        .unwrap();
    let id = view.sandbox.id;
    wait_for("the pause", async || {
        state(&running, &id).await == State::Paused
    })
    .await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(state(&running, &id).await, State::Paused);
    let before = now();
    let view = resume(&running, &id).await.unwrap();
    assert!(view.sandbox.deadline >= before.saturating_add(TIMEOUT));
    running.stop().await;
}

fn now() -> Timestamp {
    use atoll_core::time::Clock as _;
    atoll_control::clock::SystemClock.now()
}

#[tokio::test]
async fn a_pause_at_the_deadline_that_fails_neither_ends_it_nor_spins() {
    let world = World::new();
    let running = world.start().await;
    let mut wanted = request();
    wanted.timeout = Duration::from_millis(100);
    wanted.on_timeout = OnTimeout::Pause { keep_memory: true };
    let refusal = Refusal::Failed("the freezer is stuck".to_owned());
    let view = running
        .control
        .sandbox_create(&running.tenant, wanted)
        .await
        .unwrap();
    world.node().script(Script::Refuse(refusal));
    let id = view.sandbox.id;
    wait_for("the attempt", async || world.node().pauses() == 1).await;
    wait_for("the return", async || {
        state(&running, &id).await == State::Running && running.edge.has(&id)
    })
    .await;
    let view = running.control.sandbox_get(&running.tenant, &id).await;
    assert!(view.unwrap().sandbox.deadline > now());
    running.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_identity_and_begins_anew() {
    let world = World::new();
    let running = world.start().await;
    let made = running.create().await;
    let id = made.sandbox.id.clone();
    let view = running
        .control
        .sandbox_restart(&running.tenant, &id)
        .await
        .unwrap();
    assert_eq!(view.sandbox.config, made.sandbox.config);
    assert_eq!(view.sandbox.created_at, made.sandbox.created_at);
    assert!(view.sandbox.generation > made.sandbox.generation);
    assert!(!view.sandbox.is_restarting);
    assert_eq!((world.node().ensures(), world.node().removes()), (2, 1));
    assert_eq!(
        running.edge.route(&id).unwrap().generation,
        view.sandbox.generation
    );
    assert_eq!(allocated(&running), made.sandbox.config.resources);
    assert_eq!(running.listed().await, std::slice::from_ref(&id));
    let lines = running
        .control
        .sandbox_logs(&running.tenant, &id, &crate::world::log_query())
        .await
        .unwrap();
    let deleted = lines.iter().any(|line| {
        line.fields
            .get("event")
            .is_some_and(|kind| kind == "sandbox.deleted")
    });
    assert!(!deleted, "a restart is no end");

    pause(&running, &id).await.unwrap();
    let error = running.control.sandbox_restart(&running.tenant, &id).await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::Conflict);
    running.stop().await;
}

/// A restart is seen as running all the while, and a delete ends it wherever it is.
#[tokio::test]
async fn a_restart_under_way_is_visible_and_can_be_ended() {
    let world = World::new();
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    world.node().script(Script::Delay(Duration::from_secs(2)));
    let restart = running.control.sandbox_restart(&running.tenant, &id);
    let end = async {
        wait_for("the order", async || world.node().ensures() == 2).await;
        assert!(running.is_visible(&id).await);
        running.control.sandbox_kill(&running.tenant, &id).await
    };
    let (restarted, ended) = tokio::join!(restart, end);
    ended.unwrap();
    assert_eq!(restarted.unwrap_err().kind, ErrorKind::Conflict);
    assert!(!running.is_visible(&id).await);
    running.stop().await;
}

/// Whatever is asked at once, the sandbox ends in one of the states asked for, and no call hangs.
#[tokio::test]
async fn pauses_resumes_and_deletes_at_once_serialise() {
    let world = World::new();
    let running = world.start().await;
    for _ in 0..10 {
        let id = running.create().await.sandbox.id;
        pause(&running, &id).await.unwrap();
        let (one, two, three, four) = tokio::join!(
            connect(&running, &id),
            connect(&running, &id),
            pause(&running, &id),
            connect(&running, &id),
        );
        for connected in [one, two, four] {
            let (view, _) = connected.unwrap();
            assert_eq!(view.sandbox.state, State::Running);
        }
        if let Err(error) = three {
            assert_eq!(error.kind, ErrorKind::Conflict);
        }
        let (_, _, killed) = tokio::join!(
            pause(&running, &id),
            connect(&running, &id),
            running.control.sandbox_kill(&running.tenant, &id),
        );
        killed.unwrap();
        wait_for("the end", async || world.node().seen(&id).is_none()).await;
        assert!(!running.edge.has(&id));
        assert_eq!(
            connect(&running, &id).await.unwrap_err().kind,
            ErrorKind::NotFound
        );
    }
    wait_for("the accounts to be settled", async || {
        allocated(&running) == Resources::default()
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_connect_waits_for_a_pause_under_way() {
    let world = World::new();
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    world
        .node()
        .script(Script::Delay(Duration::from_millis(300)));
    let wake = async {
        wait_for("the order", async || world.node().pauses() == 1).await;
        connect(&running, &id).await
    };
    let (paused, connected) = tokio::join!(pause(&running, &id), wake);
    paused.unwrap();
    let (view, connected) = connected.unwrap();
    assert_eq!(connected, Connected::Resumed);
    assert_eq!(view.sandbox.state, State::Running);
    running.stop().await;
}

/// Defends: what is paused on a silent node is kept, and goes nowhere else.
#[tokio::test]
async fn a_paused_sandbox_outlives_its_nodes_absence() {
    let mut world = World::new();
    world.config.transition_timeout = Duration::from_secs(2);
    world.config.full_sync_interval = Duration::from_millis(50);
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    pause(&running, &id).await.unwrap();
    world.node().set_silent(true);
    wait_for("the silence to be noticed", async || {
        !running.control.node_list()[0].is_reachable
    })
    .await;
    let error = resume(&running, &id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
    world.node().set_silent(false);
    wait_for("the resume that goes on", async || {
        state(&running, &id).await == State::Running
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn what_a_node_no_longer_keeps_fails() {
    let mut world = World::new();
    world.config.full_sync_interval = Duration::from_millis(50);
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    pause(&running, &id).await.unwrap();
    world.node().lose(&id);
    wait_for("the end", async || !running.is_visible(&id).await).await;
    let lines = running
        .control
        .sandbox_logs(&running.tenant, &id, &crate::world::log_query())
        .await
        .unwrap();
    let told = lines
        .iter()
        .any(|line| line.message.contains("does not keep it any more"));
    assert!(told, "{lines:?}");
    running.stop().await;
}

/// Defends: no pause, resume or restart in flight is lost or done twice.
#[tokio::test]
async fn what_was_cut_off_is_carried_on() {
    let mut world = World::new();
    world.config.transition_timeout = Duration::from_secs(2);
    let running = world.start().await;
    let pausing = running.create().await.sandbox.id;
    let resuming = running.create().await.sandbox.id;
    let restarting = running.create().await.sandbox;
    pause(&running, &resuming).await.unwrap();
    world.node().set_silent(true);
    let (control, tenant) = (&running.control, &running.tenant);
    let (one, two, three) = tokio::join!(
        pause(&running, &pausing),
        resume(&running, &resuming),
        control.sandbox_restart(tenant, &restarting.id),
    );
    for error in [one.unwrap_err(), two.unwrap_err(), three.unwrap_err()] {
        assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
    }
    running.stop().await;
    world.node().set_silent(false);

    let running = world.start().await;
    wait_for("the ends", async || {
        state(&running, &pausing).await == State::Paused
            && state(&running, &resuming).await == State::Running
            && state(&running, &restarting.id).await == State::Running
    })
    .await;
    assert_eq!(
        world.node().seen(&pausing).unwrap().state,
        ObservedState::Paused
    );
    let view = running.control.sandbox_get(&running.tenant, &restarting.id);
    let view = view.await.unwrap();
    assert_eq!(view.sandbox.generation, restarting.generation.next());
    let seen = world.node().seen(&restarting.id).unwrap();
    assert_eq!(seen.generation, view.sandbox.generation);
    running.stop().await;
}

#[tokio::test]
async fn a_paused_sandbox_is_adopted_as_it_is_and_can_be_killed() {
    let world = World::new();
    let running = world.start().await;
    let made = running.create().await.sandbox;
    pause(&running, &made.id).await.unwrap();
    running.stop().await;

    let running = world.start().await;
    assert_eq!(state(&running, &made.id).await, State::Paused);
    let held = made.config.resources.held_when_paused(true);
    assert_eq!(allocated(&running), held);
    assert_eq!((world.node().pauses(), world.node().resumes()), (1, 0));
    let killed = running.control.sandbox_kill(&running.tenant, &made.id);
    killed.await.unwrap();
    assert_eq!(world.node().running(), []);
    assert_eq!(allocated(&running), Resources::default());
    running.stop().await;
}

#[tokio::test]
async fn traffic_resumes_only_what_was_made_so_and_with_its_token() {
    let world = World::new();
    let running = world.start().await;
    let (control, tenant) = (&running.control, &running.tenant);
    let mut wanted = request();
    wanted.auto_resume = true;
    wanted.network.public_traffic = false;
    let made = control.sandbox_create(tenant, wanted).await.unwrap();
    let id = made.sandbox.id.clone();
    let asleep = running.create().await.sandbox.id;
    for id in [&id, &asleep] {
        pause(&running, id).await.unwrap();
    }
    for (id, access, kind) in [
        (&asleep, TrafficAccess::GuestAgent, ErrorKind::NotFound),
        (&id, TrafficAccess::Port(None), ErrorKind::PermissionDenied),
        (
            &id,
            TrafficAccess::Port(Some("wrong".to_owned())),
            ErrorKind::PermissionDenied,
        ),
        (
            &"iunknown".parse().unwrap(),
            TrafficAccess::GuestAgent,
            ErrorKind::NotFound,
        ),
    ] {
        let refused = control.sandbox_resume_for_traffic(id, access).await;
        assert_eq!(refused.unwrap_err().kind, kind);
    }
    assert_eq!(world.node().resumes(), 0);

    let token = made.traffic_token.unwrap().expose().to_owned();
    let access = || TrafficAccess::Port(Some(token.clone()));
    let (one, two) = tokio::join!(
        control.sandbox_resume_for_traffic(&id, access()),
        control.sandbox_resume_for_traffic(&id, access()),
    );
    one.unwrap();
    two.unwrap();
    assert!(running.edge.has(&id));
    assert_eq!(world.node().resumes(), 1);
    let view = control.sandbox_get(tenant, &id).await.unwrap();
    let started = view.sandbox.started_at.unwrap();
    assert_eq!(
        view.sandbox.deadline,
        started.saturating_add(made.sandbox.timeout),
        "for as long as it was last asked to serve"
    );
    running.stop().await;
}
