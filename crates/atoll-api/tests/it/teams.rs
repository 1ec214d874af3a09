//! Teams as operators and their members meet them.

use http::{Method, StatusCode};
use serde_json::json;

use crate::world::{ADMIN_TOKEN, World};

#[tokio::test]
async fn an_operator_makes_and_limits_teams_that_work_side_by_side() {
    let world = World::new().await;
    let body = r#"{"name":"red","quota":{"concurrentSandboxes":1,"memoryMiB":4096}}"#;
    let red = world.ask_admin(Method::POST, "/admin/v1/teams", body).await;
    assert_eq!(red.status, StatusCode::CREATED, "{}", red.json);
    assert_eq!(red.json["limits"]["concurrentSandboxes"], 1);
    assert_eq!(red.json["quota"]["cpuMillis"], json!(null));
    let id = red.json["id"].as_str().unwrap().to_owned();
    let operator = [("X-Admin-Token", ADMIN_TOKEN), ("X-Team-ID", id.as_str())];
    let key = world
        .ask_as(&operator, Method::POST, "/admin/v1/keys", r#"{"name":"k"}"#)
        .await;
    let key = key.json["key"].as_str().unwrap().to_owned();
    let red_key = [("X-API-Key", key.as_str())];

    let create = r#"{"templateID":"base"}"#;
    let made = world
        .ask_as(&red_key, Method::POST, "/v2/sandboxes", create)
        .await;
    assert_eq!(made.status, StatusCode::CREATED);
    let more = world
        .ask_as(&red_key, Method::POST, "/v2/sandboxes", create)
        .await;
    assert_eq!(more.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(more.json["error_code"], "team_quota_exceeded");
    assert!(more.message().contains("1 of 1"), "{}", more.message());
    assert!(more.headers.contains_key("retry-after"));
    world.create_base().await;

    let path = format!("/admin/v1/teams/{id}");
    let shown = world.ask_admin(Method::GET, &path, "").await.json;
    assert_eq!(shown["usage"]["concurrentSandboxes"], 1);
    assert_eq!(shown["usage"]["memoryMiB"], 512);
    let change = r#"{"quota":{"concurrentSandboxes":2}}"#;
    let shown = world.ask_admin(Method::PATCH, &path, change).await.json;
    assert_eq!(
        shown["quota"]["memoryMiB"],
        json!(null),
        "replaced as a whole"
    );
    let more = world
        .ask_as(&red_key, Method::POST, "/v2/sandboxes", create)
        .await;
    assert_eq!(more.status, StatusCode::CREATED, "no restart is needed");

    let listed = world.ask_admin(Method::GET, "/admin/v1/teams", "").await;
    let teams = listed.json.as_array().unwrap().iter();
    let names: Vec<_> = teams.map(|team| team["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 3);
    assert!(names.contains(&"red"));

    let own = world.ask_as(&red_key, Method::GET, "/teams", "").await;
    assert_eq!(
        own.json,
        json!([{"teamID": id, "name": "red", "apiKey": key, "isDefault": true}])
    );
    world
        .ask_admin(Method::PATCH, &path, r#"{"disabled":true}"#)
        .await;
    let refused = world
        .ask_as(&red_key, Method::GET, "/v2/sandboxes", "")
        .await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_rate_is_told_with_when_to_retry() {
    let world = World::new().await;
    let team = world.tenant.team.to_string();
    let path = format!("/admin/v1/teams/{team}");
    let change = r#"{"quota":{"requestsPerSecond":1,"requestsBurst":1}}"#;
    world.ask_admin(Method::PATCH, &path, change).await;
    let first = world.ask(Method::GET, "/v2/sandboxes", "").await;
    assert_eq!(first.status, StatusCode::OK);
    let second = world.ask(Method::GET, "/v2/sandboxes", "").await;
    assert_eq!(second.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(second.json["error_code"], "team_rate_limited");
    assert_eq!(second.headers["retry-after"], "1");
    assert!(second.message().contains("rate of requests"));
}

#[tokio::test]
async fn what_is_no_quota_is_refused() {
    let world = World::new().await;
    for body in [
        r#"{"name":"a","quota":{"createsPerSecond":1}}"#,
        r#"{"name":"a","quota":{"createsPerSecond":0,"createsBurst":1}}"#,
        r#"{"name":"a","quota":{"concurrentSandboxes":-1}}"#,
        r#"{"name":"a","quota":{"memoryMiB":18446744073709551615}}"#,
        r#"{"name":"a","quota":{"memory":1}}"#,
        r#"{"name":""}"#,
        "{}",
    ] {
        let answer = world.ask_admin(Method::POST, "/admin/v1/teams", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
    }
    let same = r#"{"name":"default"}"#;
    let answer = world.ask_admin(Method::POST, "/admin/v1/teams", same).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    for path in ["/admin/v1/teams/absent", "/admin/v1/teams/NO!"] {
        let answer = world.ask_admin(Method::GET, path, "").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
}
