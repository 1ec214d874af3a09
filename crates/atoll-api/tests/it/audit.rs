//! Whoever changes something is in the audit, whatever the route.

use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use crate::spec;
use crate::world::{ADMIN_TOKEN, World};

/// The newest rows of the audit.
async fn rows(world: &World, query: &str) -> Vec<Value> {
    let path = format!("/admin/v1/audit{query}");
    let answer = world.ask_admin(Method::GET, &path, "").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.json);
    answer.json.as_array().unwrap().clone()
}

/// Every operation of both specifications that is no reading.
fn changing() -> Vec<(Method, String, bool)> {
    let of = |spec: &'static spec::Spec, is_admin: bool| {
        let operations = spec.operations().into_iter();
        operations
            .filter(|operation| operation.method != Method::GET)
            .map(move |operation| {
                let is_admin = is_admin || operation.is_operators();
                (operation.method, operation.path, is_admin)
            })
    };
    of(spec::e2b(), false)
        .chain(of(spec::admin(), true))
        .collect()
}

#[tokio::test]
async fn every_changing_operation_leaves_one_row() {
    let world = World::new().await;
    let mut seen = 0;
    for (method, path, is_admin) in changing() {
        let sent = spec::filled(&path, "x");
        let answer = if is_admin {
            world.ask_admin(method.clone(), &sent, "{}").await
        } else {
            world.ask(method.clone(), &sent, "{}").await
        };
        let operation = format!("{method} {path}");
        let newest = &rows(&world, "?limit=1").await[0];
        assert_eq!(newest["operation"], operation, "{operation} left no row");
        assert_eq!(
            newest["traceID"],
            answer.headers["x-e2b-trace-id"].to_str().unwrap()
        );
        assert_eq!(
            newest["outcome"] == "ok",
            answer.status.is_success(),
            "{operation}"
        );
        let actor = newest["actor"].as_str().unwrap();
        let is_known = if is_admin {
            actor == "operator"
        } else {
            actor.starts_with("key:")
        };
        assert!(is_known, "{operation}: {actor}");
        assert_eq!(newest["teamID"], world.tenant.team.as_str());
        seen += 1;
    }
    let all = rows(&world, "?limit=100").await;
    assert_eq!(all.len(), seen, "one row each");
    assert!(seen > 30, "{seen}");
}

#[tokio::test]
async fn a_row_tells_who_what_when_and_from_where() {
    let world = World::new().await;
    let create = Request::builder()
        .method(Method::POST)
        .uri("/v2/sandboxes")
        .header("x-api-key", &world.other_key)
        .header("user-agent", format!("agent/1 {}", world.other_key))
        .extension(atoll_api::audit::Client([192, 0, 2, 7].into()))
        .body(Body::from(r#"{"templateID":"base"}"#))
        .unwrap();
    let made = world.send(create).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let id = made.json["sandboxID"].as_str().unwrap();
    let found = rows(&world, &format!("?object={id}")).await;
    assert_eq!(found.len(), 1);
    let row = &found[0];
    assert_eq!(row["operation"], "POST /v2/sandboxes");
    assert_eq!(row["outcome"], "ok");
    assert_eq!(row["address"], "192.0.2.7");
    assert_eq!(row["agent"], "agent/1 e2b_…");
    assert!(row["actor"].as_str().unwrap().starts_with("key:"));

    // What others do to it is told as well.
    let path = format!("/sandboxes/{id}");
    world.ask(Method::DELETE, &path, "").await;
    let foreign = [("X-API-Key", world.other_key.as_str())];
    world.ask_as(&foreign, Method::DELETE, &path, "").await;
    let found = rows(&world, &format!("?object={id}")).await;
    let told: Vec<_> = found
        .iter()
        .map(|row| {
            (
                row["operation"].as_str().unwrap(),
                row["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("DELETE /sandboxes/{sandboxID}", "ok"),
            ("DELETE /sandboxes/{sandboxID}", "not_found"),
            ("POST /v2/sandboxes", "ok"),
        ]
    );
}

#[tokio::test]
async fn strangers_are_told_of_and_no_key_ever_is() {
    let world = World::new().await;
    let key = "e2b_ffffffffffffffffffffffffffffffffffffffff";
    let stranger = [("X-API-Key", key)];
    let path = format!("/api-keys/{key}");
    world.ask_as(&stranger, Method::DELETE, &path, "").await;
    let row = &rows(&world, "?actor=anonymous").await[0];
    assert_eq!(row["outcome"], "unauthenticated");
    assert_eq!(row["teamID"], Value::Null);
    let made = world
        .ask(Method::POST, "/api-keys", r#"{"name":"k"}"#)
        .await
        .json;
    let all = rows(&world, "").await;
    let text = Value::from(all).to_string();
    assert!(!text.contains("ffffffff"), "{text}");
    assert!(!text.contains(made["key"].as_str().unwrap()));
    assert!(text.contains(made["id"].as_str().unwrap()));
}

#[tokio::test]
async fn a_flood_of_refusals_does_not_fill_the_audit() {
    let world = World::new().await;
    let rate = atoll_control::limit::STRANGER_REFUSALS;
    let burst = rate.burst.get();
    let began = Instant::now();
    for _ in 0..burst + 50 {
        world.ask_as(&[], Method::POST, "/sandboxes", "{").await;
    }
    // A machine may be so busy that the rate gives much back meanwhile.
    let given_back = u32::try_from(began.elapsed().as_millis()).unwrap() * rate.per_second.get();
    let most = burst + given_back / 1_000 + 1;
    // Pages of the audit go on from one another, without gap or repetition.
    let mut seen = Vec::new();
    let mut query = "?limit=37&actor=anonymous".to_owned();
    loop {
        let path = format!("/admin/v1/audit{query}");
        let answer = world.ask_admin(Method::GET, &path, "").await;
        seen.extend(answer.json.as_array().unwrap().clone());
        match answer.headers.get("x-next-token") {
            Some(token) => {
                let token = token.to_str().unwrap();
                query = format!("?limit=37&actor=anonymous&nextToken={token}");
            }
            None => break,
        }
    }
    let recorded = u32::try_from(seen.len()).unwrap();
    assert!(recorded >= burst, "{recorded}");
    assert!(recorded <= most, "{recorded} of at most {most}");
    // Deeds are never left out, and a team's refusals are counted apart.
    world.create_base().await;
    assert_eq!(rows(&world, "?outcome=ok").await.len(), 1);
    world.ask(Method::POST, "/sandboxes", "{").await;
    assert_eq!(rows(&world, "?outcome=invalid_argument").await.len(), 1);
}

#[tokio::test]
async fn who_hangs_up_is_told_of_all_the_same() {
    let world = World::new().await;
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v2/sandboxes")
        .header("x-api-key", &world.other_key)
        .body(Body::from(r#"{"templateID":"base"}"#))
        .unwrap();
    let send = tower::ServiceExt::oneshot(world.router.clone(), request);
    // Polled once and let go, as when the client's connection ends.
    assert!(futures::FutureExt::now_or_never(send).is_none());
    let told = async {
        while rows(&world, "?operation=POST%20%2Fv2%2Fsandboxes")
            .await
            .is_empty()
        {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let told = tokio::time::timeout(std::time::Duration::from_secs(10), told).await;
    told.expect("a create without a row");
    assert_eq!(world.node.running_count(), 1);
}

#[tokio::test]
async fn calls_of_the_service_are_told_of() {
    let world = World::new().await;
    let call = |method: &str, body: &str| {
        Request::builder()
            .method(Method::POST)
            .uri(format!(
                "/atoll.orchestrator.v1.OrchestratorService/{method}"
            ))
            .header("x-api-key", &world.other_key)
            .header("content-type", "application/json")
            .body(Body::from(body.to_owned()))
            .unwrap()
    };
    let ask = async |request: Request<Body>| {
        tower::ServiceExt::oneshot(world.router.clone(), request)
            .await
            .unwrap()
            .status()
    };
    let made = ask(call("CreateSandbox", r#"{"template":"base"}"#)).await;
    assert_eq!(made, StatusCode::OK);
    ask(call("ListSandboxes", "{}")).await;
    ask(call("DeleteSandbox", r#"{"sandboxId":"iabsent"}"#)).await;
    let found = rows(&world, "").await;
    let told: Vec<_> = found
        .iter()
        .map(|row| {
            (
                row["operation"].as_str().unwrap(),
                row["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("rpc DeleteSandbox", "not_found"),
            ("rpc CreateSandbox", "ok")
        ]
    );
    assert!(found[1]["object"].as_str().unwrap().starts_with('i'));
    let operator = [("X-Admin-Token", ADMIN_TOKEN)];
    let answer = world
        .ask_as(&operator, Method::GET, "/admin/v1/audit?limit=0", "")
        .await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}
