//! Create, use, end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atoll_control::view::Connected;
use atoll_core::error::ErrorKind;
use atoll_core::network::NetworkPolicy;
use atoll_core::node::NodeEvent;
use atoll_core::sandbox::{State, UsageSample};
use atoll_core::time::Timestamp;

use crate::world::{World, log_query, request, wait_for};

#[tokio::test]
async fn a_created_sandbox_runs_is_routed_and_is_listed() {
    let world = World::new();
    let running = world.start().await;
    let mut wanted = request();
    wanted.metadata = BTreeMap::from([("user".to_owned(), "ann".to_owned())]);
    wanted.env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
    wanted.network.public_traffic = false;
    let view = running
        .control
        .sandbox_create(&running.tenant, wanted)
        .await
        .unwrap();
    let id = view.sandbox.id.clone();
    assert_eq!(view.sandbox.state, State::Running);
    assert_eq!(view.template_names, ["base"]);
    assert_eq!(
        (view.cpu_count(), view.memory_mib(), view.disk_mib()),
        (2, 512, 1_024)
    );
    let token = view.envd_access_token.clone().unwrap();
    assert_eq!(token.expose().len(), 64);
    let traffic = view.traffic_token.clone().unwrap();
    assert_ne!(traffic, token);

    let spec = world.node().spec(&id).unwrap();
    assert_eq!(spec.access_token, Some(token));
    assert_eq!(spec.env["A"], "1");
    assert_eq!(
        running.edge.route(&id).unwrap().traffic_token,
        Some(traffic)
    );
    let got = running
        .control
        .sandbox_get(&running.tenant, &id)
        .await
        .unwrap();
    assert_eq!(got, view);
    assert_eq!(running.listed().await, std::slice::from_ref(&id));

    running
        .control
        .sandbox_kill(&running.tenant, &id)
        .await
        .unwrap();
    assert!(!running.edge.has(&id));
    assert!(!running.is_visible(&id).await);
    assert_eq!(running.listed().await, []);
    assert_eq!(world.node().running(), []);
    let error = running
        .control
        .sandbox_kill(&running.tenant, &id)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn the_history_tells_the_whole_life_also_after_the_end() {
    let world = World::new();
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    let line = NodeEvent::Log {
        id: id.clone(),
        at: Timestamp::from_micros(i64::MAX / 2),
        level: "warn",
        message: "guest memory 100% used".to_owned(),
    };
    world.node().send(line).await;
    let query = log_query();
    wait_for("the log line", async || {
        let lines = running
            .control
            .sandbox_logs(&running.tenant, &id, &query)
            .await
            .unwrap();
        lines.iter().any(|line| line.message.contains("memory"))
    })
    .await;
    running
        .control
        .sandbox_kill(&running.tenant, &id)
        .await
        .unwrap();

    let lines = running
        .control
        .sandbox_logs(&running.tenant, &id, &log_query())
        .await
        .unwrap();
    let kinds: Vec<_> = lines
        .iter()
        .map(|line| line.fields.get("event").map_or("log", String::as_str))
        .collect();
    assert_eq!(
        kinds,
        [
            "sandbox.created",
            "sandbox.placed",
            "sandbox.running",
            "sandbox.deleted",
            "log"
        ]
    );
    assert_eq!(lines[1].fields["node"], "node-1");
    assert!(lines[3].message.contains("killed"), "{lines:?}");

    // The text is searched for as it is, not as a pattern.
    let mut search = log_query();
    search.search = Some("100%".to_owned());
    let found = running
        .control
        .sandbox_logs(&running.tenant, &id, &search)
        .await;
    assert_eq!(found.unwrap().len(), 1);
    search.search = Some("1%0".to_owned());
    let found = running
        .control
        .sandbox_logs(&running.tenant, &id, &search)
        .await;
    assert_eq!(found.unwrap(), []);
    running.stop().await;
}

#[tokio::test]
async fn a_deadline_ends_the_sandbox_within_a_second() {
    let world = World::new();
    let running = world.start().await;
    let mut short = request();
    short.timeout = Duration::from_secs(1);
    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    let began = Instant::now();
    let id = running
        .control
        .sandbox_create(&running.tenant, short)
        .await
        .unwrap()
        .sandbox
        .id;
    wait_for("the end", async || !running.is_visible(&id).await).await;
    let lived = began.elapsed();
    assert!(lived >= Duration::from_secs(1), "{lived:?}");
    assert!(lived < Duration::from_secs(2), "{lived:?}");
    wait_for("the removal", async || world.node().running().is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn timeouts_move_the_deadline_as_documented() {
    let world = World::new();
    let running = world.start().await;
    let view = running.create().await;
    let id = view.sandbox.id.clone();
    let (control, tenant) = (&running.control, &running.tenant);

    // Connect never shortens.
    let (same, how) = control
        .sandbox_connect(tenant, &id, Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!(how, Connected::WasRunning);
    assert_eq!(same.sandbox.deadline, view.sandbox.deadline);
    let (longer, _) = control
        .sandbox_connect(tenant, &id, Duration::from_secs(300))
        .await
        .unwrap();
    assert!(longer.sandbox.deadline > view.sandbox.deadline);
    control
        .sandbox_refresh(tenant, &id, Duration::from_secs(1))
        .await
        .unwrap();
    let got = control.sandbox_get(tenant, &id).await.unwrap();
    assert_eq!(got.sandbox.deadline, longer.sandbox.deadline);

    let endless = Duration::from_secs(u64::MAX / 2);
    let error = control.sandbox_set_timeout(tenant, &id, endless).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    assert_eq!(error.message, "Timeout cannot be greater than 24 hours");
    for wrong in [Duration::ZERO, endless] {
        let error = control.sandbox_refresh(tenant, &id, wrong).await;
        assert_eq!(error.unwrap_err().kind, ErrorKind::InvalidArgument);
        let mut request = request();
        request.timeout = wrong;
        let error = control.sandbox_create(tenant, request).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
    }

    // Setting may shorten, and the shorter deadline is kept.
    control
        .sandbox_set_timeout(tenant, &id, Duration::from_millis(200))
        .await
        .unwrap();
    wait_for("the end", async || !running.is_visible(&id).await).await;
    running.stop().await;
}

#[tokio::test]
async fn a_sandbox_whose_process_died_is_gone_for_clients() {
    let world = World::new();
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    world.node().exit(&id).await;
    wait_for("the end", async || !running.is_visible(&id).await).await;
    assert_eq!(running.listed().await, []);
    assert!(!running.edge.has(&id));
    wait_for("the removal", async || world.node().running().is_empty()).await;
    let lines = running
        .control
        .sandbox_logs(&running.tenant, &id, &log_query())
        .await
        .unwrap();
    assert!(
        lines
            .iter()
            .any(|line| line.message.contains("killed by signal 9")),
        "{lines:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn usage_is_kept_for_live_sandboxes_only() {
    let world = World::new();
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    for second in 1..=3 {
        let sample = UsageSample {
            at: Timestamp::from_micros(second * 1_000_000),
            cpu_used_pct: 1.0,
            cpu_count: 2,
            memory_used_bytes: 1,
            memory_total_bytes: 2,
            memory_cache_bytes: 0,
            disk_used_bytes: 0,
            disk_total_bytes: 0,
        };
        world
            .node()
            .send(NodeEvent::Usage(id.clone(), sample))
            .await;
        let stranger = "istranger".parse().unwrap();
        world.node().send(NodeEvent::Usage(stranger, sample)).await;
    }
    let (control, tenant) = (&running.control, &running.tenant);
    wait_for("three samples", async || {
        control
            .sandbox_metrics(tenant, &id, None, None)
            .await
            .unwrap()
            .len()
            == 3
    })
    .await;
    let at = Timestamp::from_micros;
    let range = control
        .sandbox_metrics(tenant, &id, Some(at(1_500_000)), Some(at(2_000_000)))
        .await
        .unwrap();
    assert_eq!(range.len(), 1);
    let latest = control
        .sandbox_metrics_latest(tenant, &[id.clone(), "istranger".parse().unwrap()])
        .await
        .unwrap();
    assert_eq!(latest.len(), 1);
    assert_eq!(latest[&id].at, at(3_000_000));
    running.stop().await;
}

#[tokio::test]
async fn the_network_policy_is_replaced_but_not_its_ingress() {
    let world = World::new();
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    let policy = NetworkPolicy {
        internet_access: false,
        allow_out: vec!["1.1.1.1".to_owned()],
        public_traffic: false,
        ..NetworkPolicy::default()
    };
    running
        .control
        .sandbox_update_network(&running.tenant, &id, policy)
        .await
        .unwrap();
    let view = running
        .control
        .sandbox_get(&running.tenant, &id)
        .await
        .unwrap();
    assert!(!view.sandbox.config.network.internet_access);
    assert!(view.sandbox.config.network.public_traffic);
    assert_eq!(
        world.node().spec(&id).unwrap().network.allow_out,
        ["1.1.1.1"]
    );
    running.stop().await;
}

#[tokio::test]
async fn a_shutdown_ends_every_sandbox() {
    let world = World::new();
    let running = world.start().await;
    for _ in 0..5 {
        running.create().await;
    }
    let left = running
        .control
        .sandboxes_end_all(Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(left, 0);
    assert_eq!(world.node().running(), []);
    assert_eq!(running.listed().await, []);
    running.stop().await;
}
