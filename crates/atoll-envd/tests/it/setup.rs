//! `/health`, `/init`, `/envs`, `/metrics`, and who may ask what.

use serde_json::json;

use crate::http;
use crate::world::World;

#[test]
fn health_needs_no_token_and_all_else_does() {
    let world = World::new();
    let set = world.init(&json!({"accessToken": "secret", "defaultUser": "root"}));
    assert_eq!(
        (set.status, set.header("x-envd-version")),
        (204, Some(atoll_envd::VERSION))
    );
    assert_eq!(world.get("/health", &[]).status, 204);
    let refused = world.get("/envs", &[]);
    let message =
        "unauthorized access, please provide a valid access token or method signing if supported";
    assert_eq!(
        (refused.status, refused.json()),
        (401, json!({"code": 401, "message": message}))
    );
    assert_eq!(
        world.get("/envs", &[("X-Access-Token", "secret")]).json(),
        json!({"E2B_SANDBOX": "true"})
    );
    assert_eq!(
        world
            .post(
                "/process.Process/List",
                &[("X-Access-Token", "wrong")],
                &json!({})
            )
            .status,
        401
    );
    assert_eq!(
        world
            .post(
                "/process.Process/List",
                &[("X-Access-Token", "secret")],
                &json!({})
            )
            .status,
        200
    );
    let wrong = world.init(&json!({"accessToken": "other"}));
    assert_eq!(
        (wrong.status, wrong.text()),
        (401, "access token validation failed".to_owned())
    );
    assert_eq!(world.init(&json!({})).status, 401);
}

#[test]
fn what_is_not_done_is_refused() {
    let world = World::new();
    assert_eq!(
        world
            .init(&json!({"volumeMounts": [{"nfs_target": "x", "path": "/x"}]}))
            .status,
        400
    );
    assert_eq!(world.init(&json!({"timestamp": "soon"})).status, 400);
    assert_eq!(
        http::send(world.address, "POST", "/init", &[], b"{nonsense").status,
        400
    );
    assert_eq!(world.post("/freeze", &[], &json!({})).status, 501);
    assert_eq!(world.get("/nothing", &[]).status, 404);
    assert_eq!(world.post("/health", &[], &json!({})).status, 405);
}

#[test]
fn pages_of_any_origin_may_ask() {
    let world = World::new();
    let asked = [
        ("Origin", "http://page"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-a"),
    ];
    let answer = http::send(world.address, "OPTIONS", "/files", &asked, b"");
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (204, Some("*"))
    );
    assert_eq!(answer.header("access-control-allow-headers"), Some("x-a"));
    assert_eq!(
        world
            .get("/health", &[("Origin", "http://page")])
            .header("access-control-allow-origin"),
        Some("*")
    );
}

#[test]
fn metrics_are_numbers() {
    let world = World::new();
    let metrics = world.get("/metrics", &[]).json();
    for name in [
        "ts",
        "cpu_count",
        "mem_total",
        "mem_used",
        "disk_total",
        "disk_used",
        "mem_total_mib",
    ] {
        assert!(
            metrics[name].as_u64().is_some_and(|value| value > 0),
            "{name}: {metrics}"
        );
    }
    assert!(
        metrics["cpu_used_pct"]
            .as_f64()
            .is_some_and(|value| (0.0..=100.0).contains(&value))
    );
}
