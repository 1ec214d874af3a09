//! Several servers on one store, with the same nodes. The clock is paused: bounds are measured in
//! its time.

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_control::TrafficAccess;
use atoll_control::request::{CreateRequest, TeamUpdate};
use atoll_control::view::Scope;
use atoll_core::error::ErrorKind;
use atoll_core::id::SandboxId;
use atoll_core::sandbox::{OnTimeout, State};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use crate::fake_node::Script;
use crate::world::{Running, World, request, wait_for};

/// How long the work of a server that was killed may rest.
const MOVES_WITHIN: Duration = Duration::from_secs(10);

/// Within which a route is right everywhere.
const ROUTES_WITHIN: Duration = Duration::from_secs(1);

/// A sandbox that outlives the test unless it is ended.
fn lasting() -> CreateRequest {
    CreateRequest {
        timeout: Duration::from_secs(3_600),
        ..request()
    }
}

async fn three(world: &World) -> [Running; 3] {
    [
        world.start_server("a").await,
        world.start_server("b").await,
        world.start_server("c").await,
    ]
}

/// Waits for a condition, and fails if it took longer than `limit`.
async fn within(limit: Duration, what: &str, condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    wait_for(what, condition).await;
    assert!(begun.elapsed() <= limit, "{what}: {:?}", begun.elapsed());
}

async fn on_duty(servers: &[Running]) -> usize {
    let mut found = Vec::new();
    wait_for("somebody on duty", async || {
        let servers = servers.iter().enumerate();
        let duty = servers.filter(|(_, server)| server.control.is_on_duty());
        found = duty.map(|(index, _)| index).collect();
        !found.is_empty()
    })
    .await;
    assert_eq!(found.len(), 1, "only one may be");
    found[0]
}

#[tokio::test(start_paused = true)]
async fn any_server_serves_any_request() {
    let world = World::in_memory(&["node-1"]);
    let servers = three(&world).await;
    let [a, b, c] = &servers;
    let made = a.control.sandbox_create(&a.tenant, lasting()).await;
    let id = made.unwrap().sandbox.id;
    // At once, through an edge that was not told yet.
    let access = TrafficAccess::GuestAgent;
    let found = b.control.sandbox_resume_for_traffic(&id, access).await;
    found.unwrap();
    assert!(b.edge.has(&id));
    within(ROUTES_WITHIN, "the route at every edge", async || {
        servers.iter().all(|server| server.edge.has(&id))
    })
    .await;
    assert!(b.is_visible(&id).await);
    let paused = b.control.sandbox_pause(&b.tenant, &id, true).await;
    assert_eq!(paused.unwrap().sandbox.state, State::Paused);
    within(ROUTES_WITHIN, "the route at no edge", async || {
        !servers.iter().any(|server| server.edge.has(&id))
    })
    .await;
    let timeout = Duration::from_secs(3_600);
    let resumed = c.control.sandbox_resume(&c.tenant, &id, timeout).await;
    assert_eq!(resumed.unwrap().sandbox.state, State::Running);
    within(ROUTES_WITHIN, "the new route at every edge", async || {
        servers.iter().all(|server| {
            let route = server.edge.route(&id);
            route.is_some_and(|route| route.generation.get() == 2)
        })
    })
    .await;
    let restarted = a.control.sandbox_restart(&a.tenant, &id).await;
    assert_eq!(restarted.unwrap().sandbox.generation.get(), 3);
    c.control.sandbox_kill(&c.tenant, &id).await.unwrap();
    assert_eq!(world.node().running(), []);
    within(ROUTES_WITHIN, "the end everywhere", async || {
        servers.iter().all(|server| {
            let nodes = server.control.node_list();
            !server.edge.has(&id) && nodes.iter().all(|node| node.sandboxes == 0)
        })
    })
    .await;
    assert_eq!(world.node().ensures(), 2, "each placement was ordered once");
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_key_at_two_servers_makes_one_sandbox() {
    let world = World::in_memory(&["node-1", "node-2"]);
    let servers = three(&world).await;
    let [a, b, c] = &servers;
    let mut wanted = lasting();
    wanted.idempotency_key = Some("once".to_owned());
    for node in &world.nodes {
        node.script(Script::Delay(Duration::from_secs(2)));
    }
    let (one, two) = tokio::join!(
        a.control.sandbox_create(&a.tenant, wanted.clone()),
        b.control.sandbox_create(&b.tenant, wanted.clone()),
    );
    let id = one.unwrap().sandbox.id;
    assert_eq!(two.unwrap().sandbox.id, id);
    let again = c.control.sandbox_create(&c.tenant, wanted).await;
    assert_eq!(again.unwrap().sandbox.id, id);
    let ensures: u32 = world.nodes.iter().map(|node| node.ensures()).sum();
    assert_eq!(ensures, 1);
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_and_a_delete_at_two_servers_end_it() {
    let world = World::in_memory(&["node-1"]);
    let servers = three(&world).await;
    let [a, b, c] = &servers;
    for delay in [0, 1, 40, 400] {
        let made = c.control.sandbox_create(&c.tenant, lasting()).await;
        let id = made.unwrap().sandbox.id;
        world
            .node()
            .script(Script::Delay(Duration::from_millis(200)));
        let kill = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            b.control.sandbox_kill(&b.tenant, &id).await
        };
        let (paused, killed) = tokio::join!(a.control.sandbox_pause(&a.tenant, &id, true), kill);
        killed.unwrap();
        if let Err(error) = paused {
            let kinds = [ErrorKind::NotFound, ErrorKind::Conflict];
            assert!(kinds.contains(&error.kind), "{error}");
        }
        within(ROUTES_WITHIN, "the end", async || {
            world.node().running().is_empty() && !servers.iter().any(|server| server.edge.has(&id))
        })
        .await;
        assert!(!c.is_visible(&id).await);
    }
    for server in servers {
        server.stop().await;
    }
}

/// Defends: what a server was at is finished by another within the bound, and there is one copy.
#[tokio::test(start_paused = true)]
async fn the_work_of_a_killed_server_moves() {
    let world = World::in_memory(&["node-1", "node-2"]);
    let servers = three(&world).await;
    let first = on_duty(&servers).await;
    // Of the one on duty, and of another.
    for killed in [(first + 1) % 3, first] {
        let server = &servers[killed];
        for node in &world.nodes {
            node.set_silent(true);
        }
        let mut wanted = lasting();
        wanted.idempotency_key = Some(format!("key-{killed}"));
        let create = server
            .control
            .sandbox_create(&server.tenant, wanted.clone());
        let cut_off = tokio::time::timeout(Duration::from_secs(1), create).await;
        assert!(cut_off.is_err());
        server.kill();
        for node in &world.nodes {
            node.set_silent(false);
        }
        let other = &servers[(first + 2) % 3];
        within(MOVES_WITHIN, "it serves", async || {
            let listed = other.listed().await;
            listed.iter().any(|id| other.edge.has(id)) && listed.len() == 1
        })
        .await;
        let id = other.listed().await[0].clone();
        let again = other.control.sandbox_create(&other.tenant, wanted).await;
        assert_eq!(again.unwrap().sandbox.id, id);
        let copies: usize = world.nodes.iter().map(|node| node.running().len()).sum();
        assert_eq!(copies, 1);
        other
            .control
            .sandbox_kill(&other.tenant, &id)
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn deadlines_go_on_when_the_one_on_duty_is_killed() {
    let world = World::in_memory(&["node-1"]);
    let servers = three(&world).await;
    let first = on_duty(&servers).await;
    let other = &servers[(first + 1) % 3];
    let mut kept = Vec::new();
    for how in [OnTimeout::Kill, OnTimeout::Pause { keep_memory: true }] {
        let mut wanted = request();
        wanted.timeout = Duration::from_secs(30);
        wanted.on_timeout = how;
        let made = servers[first].control.sandbox_create(&other.tenant, wanted);
        kept.push(made.await.unwrap().sandbox.id);
    }
    // Moved at a server that is not on duty.
    let sooner = Duration::from_secs(5);
    for id in &kept {
        let set = other.control.sandbox_set_timeout(&other.tenant, id, sooner);
        set.await.unwrap();
    }
    servers[first].kill();
    within(MOVES_WITHIN, "both deadlines", async || {
        other.edge.route(&kept[0]).is_none()
            && world.node().pauses() == 1
            && world.node().running() == kept[1..]
    })
    .await;
    // Who goes in order says so: nobody waits until it counts as dead.
    let [x, y] = [(first + 1) % 3, (first + 2) % 3];
    let mut left: Vec<_> = servers.into_iter().map(Some).collect();
    let second = if left[x].as_ref().unwrap().control.is_on_duty() {
        x
    } else {
        y
    };
    let last = left[x + y - second].take().unwrap();
    left[second].take().unwrap().stop().await;
    within(Duration::from_secs(3), "the last one on duty", async || {
        last.control.is_on_duty()
    })
    .await;
    last.stop().await;
}

/// What a server has to do and cannot, because it does not hear the node, is done by one that does.
#[tokio::test(start_paused = true)]
async fn what_a_server_does_not_reach_is_passed_on() {
    let world = World::in_memory(&["node-1"]);
    // Nothing joins it, and it is on duty.
    let deaf = world.without_nodes().start_server("deaf").await;
    assert!(deaf.control.is_on_duty());
    let hearing = world.start_server("hearing").await;
    let (control, tenant) = (&hearing.control, &hearing.tenant);
    let mut ids = Vec::new();
    for timeout in [5, 3_600] {
        let mut wanted = request();
        wanted.timeout = Duration::from_secs(timeout);
        let made = control.sandbox_create(tenant, wanted).await;
        ids.push(made.unwrap().sandbox.id);
    }
    within(ROUTES_WITHIN, "the routes at both", async || {
        ids.iter().all(|id| deaf.edge.has(id))
    })
    .await;
    let paused = deaf
        .control
        .sandbox_pause(&deaf.tenant, &ids[1], true)
        .await;
    assert_eq!(paused.unwrap().sandbox.state, State::Paused);
    // The deadline is kept by the one on duty.
    within(MOVES_WITHIN, "the deadline", async || {
        world.node().running() == ids[1..]
    })
    .await;
    assert!(deaf.control.is_on_duty());
    deaf.control
        .sandbox_kill(&deaf.tenant, &ids[1])
        .await
        .unwrap();
    within(ROUTES_WITHIN, "the end", async || {
        world.node().running().is_empty()
    })
    .await;
    deaf.stop().await;
    hearing.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_and_a_disabled_team_are_refused_at_every_server_at_once() {
    let world = World::in_memory(&["node-1"]);
    let servers = three(&world).await;
    let [a, b, c] = &servers;
    let made = a.control.key_create(&a.tenant, "second", Scope::Full).await;
    let made = made.unwrap();
    let text = made.text.expose_secret();
    for server in &servers {
        server.control.authenticate(text).await.unwrap();
    }
    b.control
        .key_revoke(&b.tenant, &made.view.id)
        .await
        .unwrap();
    for server in &servers {
        let refused = server.control.authenticate(text).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unauthenticated);
    }
    let disabled = TeamUpdate {
        is_disabled: Some(true),
        ..TeamUpdate::default()
    };
    c.control
        .team_update(&c.tenant.team, disabled)
        .await
        .unwrap();
    for server in &servers {
        let refused = server.control.authenticate(crate::world::KEY).await;
        assert_eq!(refused.unwrap_err().kind, ErrorKind::PermissionDenied);
    }
    for server in servers {
        server.stop().await;
    }
}

/// After a random run every server accounts for the same.
#[tokio::test(start_paused = true)]
async fn accounts_are_the_same_at_every_server() {
    for seed in 0..4 {
        let world = World::in_memory(&["node-1", "node-2", "node-3"]);
        let servers = three(&world).await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut live: Vec<SandboxId> = Vec::new();
        for _ in 0..60 {
            let server = &servers[random.random_range(0..servers.len())];
            let (control, tenant) = (&server.control, &server.tenant);
            let chosen = (!live.is_empty()).then(|| random.random_range(0..live.len()));
            match (random.random_range(0..6), chosen) {
                (0, Some(index)) => {
                    let id = live.swap_remove(index);
                    control.sandbox_kill(tenant, &id).await.unwrap();
                }
                (1, Some(index)) => {
                    // Another may have paused it before.
                    let _ = control.sandbox_pause(tenant, &live[index], true).await;
                }
                (2, Some(index)) => {
                    let hour = Duration::from_secs(3_600);
                    let connected = control.sandbox_connect(tenant, &live[index], hour).await;
                    connected.unwrap();
                }
                (3, Some(index)) => {
                    let _ = control.sandbox_restart(tenant, &live[index]).await;
                }
                _ => {
                    let made = control.sandbox_create(tenant, lasting()).await;
                    live.push(made.unwrap().sandbox.id);
                }
            }
        }
        let accounts = |server: &Running| -> Vec<_> {
            let nodes = server.control.node_list().into_iter();
            nodes.map(|node| (node.allocated, node.sandboxes)).collect()
        };
        within(ROUTES_WITHIN, "the same accounts and routes", async || {
            let routes = |server: &Running| -> BTreeSet<_> {
                live.iter()
                    .filter(|id| server.edge.has(id))
                    .cloned()
                    .collect()
            };
            let first = (accounts(&servers[0]), routes(&servers[0]));
            servers
                .iter()
                .all(|server| (accounts(server), routes(server)) == first)
        })
        .await;
        let total: u32 = accounts(&servers[0]).iter().map(|(_, count)| count).sum();
        assert_eq!(total as usize, live.len());
        let ran: usize = world.nodes.iter().map(|node| node.running().len()).sum();
        assert_eq!(ran, live.len());
        for server in servers {
            server.stop().await;
        }
    }
}
