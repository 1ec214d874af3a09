//! Pausing, resuming, connecting and restarting over HTTP.

use http::{Method, StatusCode};
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn a_sandbox_is_paused_listed_connected_and_restarted() {
    let world = World::new().await;
    let id = world.create_base().await;
    let of = |what: &str| format!("/sandboxes/{id}/{what}");
    let detail = format!("/sandboxes/{id}");
    let running = world.ask(Method::GET, &detail, "").await.json;
    assert!(running.get("pauseMode").is_none());

    let paused = world.ask(Method::POST, &of("pause"), "").await;
    assert_eq!(paused.status, StatusCode::NO_CONTENT);
    let again = world.ask(Method::POST, &of("pause"), "{}").await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    assert_eq!(again.json["code"], 409);
    let shown = world.ask(Method::GET, &detail, "").await.json;
    assert_eq!(
        (&shown["state"], &shown["pauseMode"]),
        (&json!("paused"), &json!("full"))
    );
    assert_ne!(
        shown["endAt"], running["endAt"],
        "its time ended with the pause"
    );
    for (query, count) in [("paused", 1), ("running", 0), ("running,paused", 1)] {
        let path = format!("/v2/sandboxes?state={query}");
        let listed = world.ask(Method::GET, &path, "").await;
        assert_eq!(listed.json.as_array().map(Vec::len), Some(count), "{query}");
    }
    let timeout = world
        .ask(Method::POST, &of("timeout"), r#"{"timeout":60}"#)
        .await;
    assert_eq!(timeout.status, StatusCode::CONFLICT);

    let path = format!("/v2/sandboxes/{id}/connect");
    let connected = world.ask(Method::POST, &path, "").await;
    assert_eq!(connected.status, StatusCode::CREATED);
    assert_eq!(connected.json["sandboxID"], json!(id));
    let connected = world
        .ask(Method::POST, &of("connect"), r#"{"timeout":60}"#)
        .await;
    assert_eq!(connected.status, StatusCode::OK);
    let resumed = world.ask(Method::POST, &of("resume"), "").await;
    assert_eq!(resumed.status, StatusCode::CONFLICT, "it is running");
    let restarted = world.ask(Method::POST, &of("restart"), "").await;
    assert_eq!(restarted.status, StatusCode::OK);
    assert_eq!(restarted.json["sandboxID"], json!(id));

    let paused = world
        .ask(Method::POST, &of("pause"), r#"{"memory":false}"#)
        .await;
    assert_eq!(paused.status, StatusCode::NO_CONTENT);
    let shown = world.ask(Method::GET, &detail, "").await.json;
    assert_eq!(shown["pauseMode"], "filesystem");
    let resumed = world.ask(Method::POST, &of("resume"), "").await;
    assert_eq!(resumed.status, StatusCode::CREATED);
    world.ask(Method::POST, &of("pause"), "").await;
    let killed = world.ask(Method::DELETE, &detail, "").await;
    assert_eq!(killed.status, StatusCode::NO_CONTENT);
    let gone = world.ask(Method::POST, &of("resume"), "").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_a_deadline_does_can_be_chosen() {
    let world = World::new().await;
    let body = r#"{"templateID":"base","autoPause":true,"autoResume":{"enabled":true}}"#;
    let made = world.ask(Method::POST, "/v2/sandboxes", body).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let path = format!("/sandboxes/{}", made.json["sandboxID"].as_str().unwrap());
    let shown = world.ask(Method::GET, &path, "").await.json;
    assert_eq!(
        shown["lifecycle"],
        json!({"autoResume": true, "onTimeout": "pause"})
    );
}

#[tokio::test]
async fn what_no_resume_can_do_is_refused() {
    let world = World::new().await;
    let id = world.create_base().await;
    for (what, body, status) in [
        ("pause", r#"{"requireHealthyGuest":true}"#, 501),
        ("pause", r#"{"memory":1}"#, 400),
        ("resume", r#"{"memory":false}"#, 501),
        ("resume", r#"{"timeout":0}"#, 400),
        ("connect", r#"{"timeout":60,"memory":false}"#, 501),
        ("connect", "{}", 400),
    ] {
        let path = format!("/sandboxes/{id}/{what}");
        let answer = world.ask(Method::POST, &path, body).await;
        assert_eq!(answer.status, status, "{what} {body}");
    }
}
