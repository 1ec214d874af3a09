//! Keys, quotas, templates, and what one team sees of another's.

use std::time::Duration;

use atoll_control::request::{ImportRequest, LogQuery, Order};
use atoll_control::view::{HealthStatus, Scope, Tenant};
use atoll_control::{ControlPlane, Error};
use atoll_core::error::ErrorKind;
use atoll_core::id::SandboxId;
use atoll_core::template::{BuildStatus, TemplateSource};
use metrics_exporter_prometheus::PrometheusBuilder;
use secrecy::ExposeSecret as _;

use crate::world::{World, all, base, request, wait_for};

pub(crate) fn stranger() -> Tenant {
    Tenant {
        team: "another-team".parse().unwrap(),
        key: "another-key".parse().unwrap(),
        scope: Scope::Full,
        receipt: None,
    }
}

/// Everything that can be asked about one sandbox, with what it is called.
async fn ask(
    control: &ControlPlane,
    tenant: &Tenant,
    id: &SandboxId,
) -> Vec<(&'static str, Error)> {
    let hour = Duration::from_secs(3_600);
    let logs = LogQuery {
        start: None,
        limit: 10,
        order: Order::Ascending,
        level: None,
        search: None,
    };
    let none = (None, None);
    let answers = [
        ("get", control.sandbox_get(tenant, id).await.err()),
        ("kill", control.sandbox_kill(tenant, id).await.err()),
        (
            "connect",
            control.sandbox_connect(tenant, id, hour).await.err(),
        ),
        ("pause", control.sandbox_pause(tenant, id, true).await.err()),
        (
            "resume",
            control.sandbox_resume(tenant, id, hour).await.err(),
        ),
        ("restart", control.sandbox_restart(tenant, id).await.err()),
        (
            "time-out",
            control.sandbox_set_timeout(tenant, id, hour).await.err(),
        ),
        (
            "refresh",
            control.sandbox_refresh(tenant, id, hour).await.err(),
        ),
        (
            "metrics",
            control
                .sandbox_metrics(tenant, id, none.0, none.1)
                .await
                .err(),
        ),
        ("logs", control.sandbox_logs(tenant, id, &logs).await.err()),
    ];
    let refused = |(name, answer): (_, Option<Error>)| (name, answer.expect(name));
    answers.into_iter().map(refused).collect()
}

#[tokio::test]
async fn another_team_sees_and_touches_nothing() {
    let world = World::new();
    let running = world.start().await;
    let id = running.create().await.sandbox.id;
    let (control, other) = (&running.control, stranger());
    for (name, error) in ask(control, &other, &id).await {
        assert_eq!(error.kind, ErrorKind::NotFound, "{name}");
        assert_eq!(
            error.message,
            format!("Sandbox \"{id}\" doesn't exist or you don't have access to it")
        );
    }
    let page = control.sandbox_list(&other, &all()).await.unwrap();
    assert_eq!((page.items.len(), page.total_running), (0, 0));
    assert!(running.is_visible(&id).await);
    running.stop().await;
}

/// How often each thing was read from the store and how often it was written, in Prometheus' text.
fn store_work(text: &str) -> Vec<&str> {
    let counts = [
        "atoll_store_read_seconds_count",
        "atoll_store_commit_seconds_count",
    ];
    let lines = text.lines();
    let mut work: Vec<_> = lines
        .filter(|line| counts.iter().any(|count| line.starts_with(count)))
        .collect();
    work.sort_unstable();
    work
}

/// An answer's time cannot tell what is another's from what is not there, because the same is done
/// for both: the same reads, and no write.
#[tokio::test]
async fn what_is_anothers_takes_the_work_of_what_is_not_there() {
    let recorder = || PrometheusBuilder::new().build_recorder();
    let world = World::new();
    let running = world.start().await;
    let foreign = running.create().await.sandbox.id;
    let missing: SandboxId = "i00000000000000000000".parse().unwrap();
    let (control, other) = (&running.control, stranger());
    let mut done = Vec::new();
    for id in [&foreign, &missing] {
        let recorder = recorder();
        let counting = metrics::set_default_local_recorder(&recorder);
        ask(control, &other, id).await;
        drop(counting);
        done.push(recorder.handle().render());
    }
    let [foreign, missing] = [store_work(&done[0]), store_work(&done[1])];
    assert!(!missing.is_empty(), "nothing was counted");
    assert_eq!(foreign, missing);
    running.stop().await;
}

#[tokio::test]
async fn the_quota_holds_under_concurrent_creates_and_is_given_back() {
    let mut world = World::new();
    world.config.team_limits.concurrent_sandboxes = 5;
    let running = world.start().await;
    let (control, tenant) = (&running.control, &running.tenant);
    let outcomes =
        futures::future::join_all((0..12).map(|_| control.sandbox_create(tenant, request()))).await;
    let (made, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 5);
    for error in refused {
        let error = error.unwrap_err();
        assert_eq!(error.kind, ErrorKind::QuotaExceeded);
        assert!(
            error
                .message
                .starts_with("you have reached the maximum number of concurrent E2B sandboxes (5)"),
            "{}",
            error.message
        );
    }
    for view in made {
        control
            .sandbox_kill(tenant, &view.unwrap().sandbox.id)
            .await
            .unwrap();
    }
    for _ in 0..5 {
        running.create().await;
    }
    running.stop().await;
}

#[tokio::test]
async fn keys_are_made_listed_scoped_and_revoked() {
    let world = World::new();
    let running = world.start().await;
    let (control, tenant) = (&running.control, &running.tenant);
    let made = control
        .key_create(tenant, "ci", Scope::ReadOnly)
        .await
        .unwrap();
    let text = made.text.expose_secret();
    assert!(text.starts_with("e2b_") && text.len() == 44);
    let reader = control.authenticate(text).await.unwrap();
    assert_eq!(
        (&reader.team, reader.scope),
        (&tenant.team, Scope::ReadOnly)
    );
    control.sandbox_list(&reader, &all()).await.unwrap();
    let error = control
        .sandbox_create(&reader, request())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);

    let listed = control.key_list(tenant).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1], made.view);
    assert_eq!(listed[1].masked_start, &text[4..6]);

    control.key_revoke(tenant, &made.view.id).await.unwrap();
    let error = control.authenticate(text).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated);
    let error = control.key_revoke(tenant, &made.view.id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    for wrong in [
        "",
        "e2b_",
        "e2b_ffffffffffffffffffffffffffffffffffffffff",
        "nonsense",
    ] {
        let error = control.authenticate(wrong).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{wrong}");
    }
    for wrong in ["", "a\nb", &"x".repeat(129)] {
        let error = control
            .key_create(tenant, wrong, Scope::Full)
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
    }
    running.stop().await;
}

fn import(name: &str, path: &str) -> ImportRequest {
    ImportRequest {
        name: name.to_owned(),
        source: TemplateSource::Directory(path.into()),
        is_public: false,
        ..base()
    }
}

#[tokio::test]
async fn templates_are_imported_found_and_removed() {
    let world = World::new();
    let running = world.start().await;
    let (control, tenant) = (&running.control, &running.tenant);
    let made = control
        .template_import(tenant, import("mine", "/srv/fs"))
        .await
        .unwrap();
    assert_eq!(made.template.status, BuildStatus::Ready);
    let names: Vec<_> = control
        .template_list(tenant)
        .await
        .unwrap()
        .into_iter()
        .flat_map(|view| view.template.names)
        .collect();
    assert_eq!(names, ["base", "mine"]);
    for reference in ["mine", "MINE:default", made.template.id.as_str()] {
        let found = control.template_resolve(tenant, reference).await.unwrap();
        assert_eq!(found.id, made.template.id);
    }
    let kind = async |reference: &str, tenant: &Tenant| {
        control
            .template_resolve(tenant, reference)
            .await
            .unwrap_err()
            .kind
    };
    assert_eq!(kind("mine:v2", tenant).await, ErrorKind::NotFound);
    assert_eq!(kind("absent", tenant).await, ErrorKind::NotFound);
    assert_eq!(kind("a b", tenant).await, ErrorKind::InvalidArgument);
    assert_eq!(kind("mine", &stranger()).await, ErrorKind::NotFound);
    assert_eq!(
        kind(made.template.id.as_str(), &stranger()).await,
        ErrorKind::NotFound
    );

    let error = control
        .template_import(tenant, import("mine", "/srv/fs"))
        .await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::AlreadyExists);
    let error = control
        .template_import(tenant, import("Bad Name", "/srv/fs"))
        .await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::InvalidArgument);

    let mut wanted = request();
    wanted.template = "mine".to_owned();
    let id = control
        .sandbox_create(tenant, wanted)
        .await
        .unwrap()
        .sandbox
        .id;
    assert_eq!(
        control.template_list(tenant).await.unwrap()[1].spawn_count,
        1
    );
    let error = control.template_remove(tenant, "mine").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    let error = control.template_remove(tenant, "base").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    control.sandbox_kill(tenant, &id).await.unwrap();
    control.template_remove(tenant, "mine").await.unwrap();
    assert_eq!(kind("mine", tenant).await, ErrorKind::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn an_import_that_failed_can_be_tried_again() {
    let world = World::new();
    let running = world.start().await;
    let (control, tenant) = (&running.control, &running.tenant);
    let error = control
        .template_import(tenant, import("mine", "/missing"))
        .await;
    let error = error.unwrap_err();
    assert!(
        error.message.contains("no such directory"),
        "{}",
        error.message
    );
    let error = control.template_resolve(tenant, "mine").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    control
        .template_import(tenant, import("mine", "/srv/fs"))
        .await
        .unwrap();
    control.template_resolve(tenant, "mine").await.unwrap();
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn health_tells_of_the_store_and_each_node() {
    let mut world = World::in_memory(&["node-1"]);
    world.config.full_sync_interval = Duration::from_millis(50);
    let running = world.start().await;
    let health = running.control.health().await;
    assert_eq!(health.status, HealthStatus::Healthy);
    let names: Vec<_> = health
        .components
        .iter()
        .map(|part| part.name.as_str())
        .collect();
    assert_eq!(names, ["store", "cache", "discovery", "node node-1"]);
    world.node().set_silent(true);
    wait_for("the node to be suspect", async || {
        running.control.health().await.components[3].status == HealthStatus::Degraded
    })
    .await;
    world.node().set_silent(false);
    wait_for("the node to be back", async || {
        running.control.health().await.status == HealthStatus::Healthy
    })
    .await;
    running.stop().await;
}
