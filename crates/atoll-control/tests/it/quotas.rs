//! Teams, what each may have, and how fast each may ask.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use atoll_control::code;
use atoll_control::limit::EXHAUSTED_INTERVAL;
use atoll_control::request::{EventSelection, StartAt, TeamUpdate};
use atoll_control::view::{EventView, Scope, Tenant};
use atoll_core::error::ErrorKind;
use atoll_core::event::EventKind;
use atoll_core::id::SandboxId;
use atoll_core::quota::{Overrides, Rate};
use atoll_core::resources::Resources;
use secrecy::ExposeSecret as _;
use tokio::task::JoinSet;

use crate::fake_node::Script;
use crate::world::{KEY, Running, World, base, request, wait_for};

fn rate(per_second: u32, burst: u32) -> Rate {
    Rate {
        per_second: NonZeroU32::new(per_second).unwrap(),
        burst: NonZeroU32::new(burst).unwrap(),
    }
}

fn quota(change: impl FnOnce(&mut Overrides)) -> TeamUpdate {
    let mut overrides = Overrides::default();
    change(&mut overrides);
    TeamUpdate {
        overrides: Some(overrides),
        ..TeamUpdate::default()
    }
}

async fn second_team(running: &Running) -> Tenant {
    let team = running
        .control
        .team_create("second", Overrides::default())
        .await
        .unwrap();
    Tenant {
        team: team.id,
        key: "operator".parse().unwrap(),
        scope: Scope::Full,
        receipt: None,
    }
}

/// One node with room for four. The first team takes all of it; the second finds no room and waits.
/// What ends is then for the second, and where nobody waits any more, for whoever comes.
#[tokio::test]
async fn a_team_at_its_share_makes_way_for_one_that_waits() {
    let world = World::new();
    let running = world.start().await;
    let (control, first) = (&running.control, &running.tenant);
    let second = second_team(&running).await;
    let size = base().resources;
    let total = Resources {
        cpu_millis: 8 * size.cpu_millis,
        memory_mib: 4 * size.memory_mib,
        disk_mib: 4 * size.disk_mib,
    };
    world.node().set_total(total);
    wait_for("the report", async || control.node_list()[0].total == total).await;
    let kill = async |tenant: &Tenant, id: &SandboxId, left: u32| {
        control.sandbox_kill(tenant, id).await.unwrap();
        wait_for("the room", async || {
            control.node_list()[0].allocated.memory_mib == left * size.memory_mib
        })
        .await;
    };
    let mut made = Vec::new();
    for _ in 0..4 {
        let view = control.sandbox_create(first, request()).await.unwrap();
        made.push(view.sandbox.id);
    }
    let error = control
        .sandbox_create(&second, request())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoCapacity);
    kill(first, &made[0], 3).await;
    let mut keyed = request();
    keyed.idempotency_key = Some("again".to_owned());
    for wanted in [request(), keyed.clone()] {
        let error = control.sandbox_create(first, wanted).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoCapacity);
        assert_eq!(error.code, Some(code::CAPACITY_UNAVAILABLE));
        assert!(error.retry_after.is_some());
        let share = "holds 75 % of the fleet's memory, its share is 50 % while 1 other team waits";
        assert!(error.message.contains(share), "{error}");
    }
    let view = control.sandbox_create(&second, request()).await.unwrap();
    kill(&second, &view.sandbox.id, 3).await;
    control.sandbox_create(first, keyed).await.unwrap();
    running.stop().await;
}

/// Two hundred creates from eight tasks, ends among them: never more than the quota at once, and
/// all of it can be used.
#[tokio::test]
async fn a_quota_is_exact_under_many_creates_at_a_time() {
    const PLACES: u32 = 30;
    let mut world = World::new();
    world.config.team_limits.concurrent_sandboxes = PLACES;
    let running = Arc::new(world.start().await);
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let running = Arc::clone(&running);
        tasks.spawn(async move {
            let (control, tenant) = (&running.control, &running.tenant);
            let (mut made, mut refused) = (0, 0);
            for turn in 0..25 {
                match control.sandbox_create(tenant, request()).await {
                    Ok(view) if turn % 5 == 0 => {
                        control
                            .sandbox_kill(tenant, &view.sandbox.id)
                            .await
                            .unwrap();
                    }
                    Ok(_) => made += 1,
                    Err(error) => {
                        assert_eq!(error.kind, ErrorKind::QuotaExceeded);
                        assert_eq!(error.code, Some(code::QUOTA_EXCEEDED));
                        let said = format!("{PLACES} of {PLACES} are in use");
                        assert!(error.message.contains(&said), "{}", error.message);
                        assert!(error.retry_after.is_some());
                        refused += 1;
                    }
                }
                let team = control.team_get(&tenant.team).await.unwrap();
                assert!(team.usage.places <= u64::from(PLACES), "{:?}", team.usage);
            }
            (made, refused)
        });
    }
    let outcomes = tasks.join_all().await;
    let made: usize = outcomes.iter().map(|(made, _)| made).sum();
    let refused: usize = outcomes.iter().map(|(_, refused)| refused).sum();
    assert_eq!(made, usize::try_from(PLACES).unwrap());
    assert!(refused > 0);
    let listed = running.listed().await;
    assert_eq!(listed.len(), made);
    let team = running.control.team_get(&running.tenant.team).await;
    let usage = team.unwrap().usage;
    assert_eq!(usage.places, u64::from(PLACES));
    let id = &listed[0];
    let one = running
        .control
        .sandbox_get(&running.tenant, id)
        .await
        .unwrap()
        .sandbox;
    assert_eq!(one.created_by.as_ref(), Some(&running.tenant.key));
    let memory = u64::from(one.config.resources.memory_mib);
    assert_eq!(usage.memory_mib, memory * u64::from(PLACES));
    Arc::into_inner(running).unwrap().stop().await;
}

#[tokio::test]
async fn a_quota_of_one_team_is_its_own_and_holds_at_once() {
    let world = World::new();
    let running = world.start().await;
    let (control, first) = (&running.control, &running.tenant);
    let second = second_team(&running).await;
    let size = running.create().await.sandbox.config.resources;
    let (memory, disk) = (u64::from(size.memory_mib), u64::from(size.disk_mib));
    let two = quota(|own| own.memory_mib = Some(memory * 2));
    control.team_update(&second.team, two).await.unwrap();
    for _ in 0..2 {
        control.sandbox_create(&second, request()).await.unwrap();
    }
    let error = control
        .sandbox_create(&second, request())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::QuotaExceeded);
    assert!(error.message.contains("memory quota"), "{}", error.message);
    control.sandbox_create(first, request()).await.unwrap();

    let three = quota(|own| own.disk_mib = Some(disk * 3));
    let team = control.team_update(&second.team, three).await.unwrap();
    assert_eq!(team.limits.memory_mib, world.config.team_limits.memory_mib);
    control.sandbox_create(&second, request()).await.unwrap();
    let error = control
        .sandbox_create(&second, request())
        .await
        .unwrap_err();
    assert!(error.message.contains("disk quota"), "{}", error.message);
    // Lowered below what it has: it keeps that, and gets no more.
    let none = quota(|own| own.concurrent_sandboxes = Some(0));
    let team = control.team_update(&second.team, none).await.unwrap();
    assert_eq!((team.usage.places, team.running), (3, 3));
    let error = control
        .sandbox_create(&second, request())
        .await
        .unwrap_err();
    assert!(error.message.contains("3 of 0"), "{}", error.message);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn creates_come_at_their_rate_with_a_burst() {
    let mut world = World::in_memory(&["node-1"]);
    world.config.team_limits.creates = rate(2, 3);
    let running = world.start().await;
    let (control, tenant) = (&running.control, &running.tenant);
    // The fake node takes no time, so the clock stands still while nobody sleeps.
    for _ in 0..3 {
        running.create().await;
    }
    let error = control.sandbox_create(tenant, request()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::RateLimited);
    assert_eq!(error.code, Some(code::RATE_LIMITED));
    assert!(error.message.contains("2 a second, 3 at once"));
    let wait = error.retry_after.unwrap();
    assert!(wait <= Duration::from_millis(500), "{wait:?}");
    tokio::time::sleep(wait).await;
    running.create().await;
    assert!(control.sandbox_create(tenant, request()).await.is_err());
    // The other team has a rate of its own.
    let second = second_team(&running).await;
    control.sandbox_create(&second, request()).await.unwrap();
    // After a pause there is the whole burst again, and no more.
    tokio::time::sleep(Duration::from_secs(60)).await;
    for _ in 0..3 {
        running.create().await;
    }
    assert!(control.sandbox_create(tenant, request()).await.is_err());
    // Another rate holds at once; a change of something else gives no new burst.
    let other = quota(|own| own.memory_mib = Some(1 << 40));
    control.team_update(&tenant.team, other).await.unwrap();
    assert!(control.sandbox_create(tenant, request()).await.is_err());
    let more = quota(|own| own.creates = Some(rate(1, 1)));
    control.team_update(&tenant.team, more).await.unwrap();
    running.create().await;
    assert!(control.sandbox_create(tenant, request()).await.is_err());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn requests_come_at_their_rate_with_a_burst() {
    let mut world = World::in_memory(&["node-1"]);
    world.config.team_limits.requests = rate(1, 5);
    let running = world.start().await;
    let control = &running.control;
    // One was the start's own.
    for _ in 0..4 {
        control.authenticate(KEY).await.unwrap();
    }
    let error = control.authenticate(KEY).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::RateLimited);
    assert!(error.message.contains("rate of requests"));
    tokio::time::sleep(error.retry_after.unwrap()).await;
    control.authenticate(KEY).await.unwrap();
    assert!(control.authenticate(KEY).await.is_err());
    running.stop().await;
}

#[tokio::test]
async fn creates_under_way_are_bounded_for_a_team_and_for_all() {
    let mut world = World::new();
    world.config.team_creates_in_flight_max = 2;
    world.config.creates_in_flight_max = 3;
    let running = Arc::new(world.start().await);
    let second = second_team(&running).await;
    for _ in 0..3 {
        world.node().script(Script::Delay(Duration::from_secs(2)));
    }
    let mut tasks = JoinSet::new();
    let begin = |tasks: &mut JoinSet<_>, tenant: &Tenant| {
        let (running, tenant) = (Arc::clone(&running), tenant.clone());
        tasks.spawn(async move { running.control.sandbox_create(&tenant, request()).await });
    };
    for _ in 0..2 {
        begin(&mut tasks, &running.tenant);
    }
    wait_for("two creates at the node", async || {
        world.node().ensures() == 2
    })
    .await;
    let of_team = running
        .control
        .sandbox_create(&running.tenant, request())
        .await
        .unwrap_err();
    assert_eq!(of_team.kind, ErrorKind::RateLimited);
    assert_eq!(of_team.code, Some(code::OVERLOADED));
    begin(&mut tasks, &second);
    wait_for("three creates at the node", async || {
        world.node().ensures() == 3
    })
    .await;
    let of_all = running
        .control
        .sandbox_create(&second, request())
        .await
        .unwrap_err();
    assert_eq!(of_all.kind, ErrorKind::Unavailable);
    assert!(of_all.retry_after.is_some());
    for made in tasks.join_all().await {
        made.unwrap();
    }
    running.create().await;
    Arc::into_inner(running).unwrap().stop().await;
}

#[tokio::test]
async fn a_revoked_key_and_a_disabled_team_are_refused_at_once() {
    let world = World::new();
    let running = world.start().await;
    let control = &running.control;
    let second = second_team(&running).await;
    let made = control.key_create(&second, "ci", Scope::Full).await;
    let made = made.unwrap();
    let text = made.text.expose_secret();
    let tenant = control.authenticate(text).await.unwrap();
    assert_eq!(tenant.team, second.team);

    let switch = |is_disabled| TeamUpdate {
        is_disabled: Some(is_disabled),
        ..TeamUpdate::default()
    };
    let id = control
        .sandbox_create(&tenant, request())
        .await
        .unwrap()
        .sandbox
        .id;
    control
        .team_update(&second.team, switch(true))
        .await
        .unwrap();
    let error = control.authenticate(text).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    // Also for a request that was let in just before.
    let error = control
        .sandbox_create(&tenant, request())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    assert!(running.edge.has(&id), "what runs goes on");
    control
        .team_update(&second.team, switch(false))
        .await
        .unwrap();
    control.authenticate(text).await.unwrap();

    control.key_revoke(&second, &made.view.id).await.unwrap();
    let error = control.authenticate(text).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated);
    running.stop().await;
}

#[tokio::test]
async fn the_last_use_of_a_key_is_written_now_and_then() {
    let world = World::new();
    let running = world.start().await;
    let tenant = running.tenant.clone();
    running.stop().await;
    let running = world.start().await;
    let keys = running.control.key_list(&tenant).await.unwrap();
    assert!(keys[0].last_used_at.is_some());
    running.stop().await;
}

#[tokio::test]
async fn names_of_teams_are_unique_and_printable() {
    let world = World::new();
    let running = world.start().await;
    let control = &running.control;
    for name in ["", "a\nb", &"x".repeat(65)] {
        let error = control.team_create(name, Overrides::default()).await;
        assert_eq!(error.unwrap_err().kind, ErrorKind::InvalidArgument);
    }
    let second = second_team(&running).await;
    let again = control.team_create("second", Overrides::default()).await;
    assert_eq!(again.unwrap_err().kind, ErrorKind::AlreadyExists);
    let rename = TeamUpdate {
        name: Some("default".to_owned()),
        ..TeamUpdate::default()
    };
    let taken = control.team_update(&second.team, rename).await;
    assert_eq!(taken.unwrap_err().kind, ErrorKind::AlreadyExists);
    let names: Vec<_> = control.team_list().await.unwrap();
    let names: Vec<_> = names.into_iter().map(|team| team.name).collect();
    assert_eq!(names, ["default", "second"]);
    let absent = Tenant {
        team: "absent".parse().unwrap(),
        ..second
    };
    let error = control.key_create(&absent, "k", Scope::Full).await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::NotFound);
    running.stop().await;
}

/// However many creates a used up quota refuses, its team hears of it once in a while, with how
/// many there were; nobody else does.
#[tokio::test(start_paused = true)]
async fn a_storm_of_refusals_is_told_of_once_and_only_to_its_team() {
    let mut world = World::in_memory(&["node-1"]);
    world.config.team_limits.concurrent_sandboxes = 1;
    let running = world.start().await;
    let (control, first) = (&running.control, &running.tenant);
    let second = second_team(&running).await;
    running.create().await;
    let exhausted = EventSelection {
        kinds: vec![EventKind::ResourceExhausted],
        ..EventSelection::default()
    };
    let told = async |tenant| {
        let all = StartAt::Beginning;
        let page = control.events_list(tenant, &exhausted, all, 100).await;
        page.unwrap().events
    };
    let storm = || async {
        for _ in 0..200 {
            let error = control.sandbox_create(first, request()).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::QuotaExceeded);
        }
    };
    storm().await;
    let events = told(first).await;
    assert_eq!(events.len(), 1, "{events:?}");
    let field = |event: &EventView, name: &str| event.fields[name].clone();
    let names = ["scope", "resource", "used", "wanted", "limit", "refusals"];
    let fields: Vec<_> = names.map(|name| field(&events[0], name)).into();
    assert_eq!(fields, ["team", "concurrent_sandboxes", "1", "1", "1", "1"]);
    tokio::time::sleep(EXHAUSTED_INTERVAL).await;
    storm().await;
    let events = told(first).await;
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(field(&events[1], "refusals"), "200");
    assert_eq!(told(&second).await, []);
    running.stop().await;
}
