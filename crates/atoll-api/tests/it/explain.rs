//! What operators are told about a sandbox and a node.

use http::{Method, StatusCode};

use crate::world::{ADMIN_TOKEN, World};

#[tokio::test]
async fn a_sandbox_is_explained_while_it_runs_and_after_its_end() {
    let world = World::new().await;
    let id = world.create_base().await;
    let path = format!("/admin/v1/explain/sandboxes/{id}");
    let running = world.ask_admin(Method::GET, &path, "").await;
    assert_eq!(running.status, StatusCode::OK);
    assert_eq!(running.json["intent"]["state"], "running");
    assert_eq!(running.json["intent"]["nodeHealth"], "ready");
    assert_eq!(running.json["observed"]["state"], "running");
    assert_eq!(running.json["plan"], serde_json::json!([]));
    let decision = &running.json["decisions"][0];
    assert_eq!(decision["fields"]["node"], running.json["intent"]["nodeID"]);
    assert!(decision["fields"]["score"].is_string(), "{decision}");

    let kill = format!("/sandboxes/{id}");
    let killed = world.ask(Method::DELETE, &kill, "").await;
    assert_eq!(killed.status, StatusCode::NO_CONTENT);
    let ended = world.ask_admin(Method::GET, &path, "").await;
    assert_eq!(ended.json["intent"]["state"], "stopped");
    let kinds: Vec<_> = ended.json["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert!(kinds.contains(&"sandbox.created"), "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"sandbox.deleted"));
}

#[tokio::test]
async fn a_node_is_explained_with_what_is_placed_on_it() {
    let world = World::new().await;
    let id = world.create_base().await;
    let nodes = world.ask_admin(Method::GET, "/admin/v1/nodes", "").await;
    let node = nodes.json[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/admin/v1/explain/nodes/{node}");
    let explained = world.ask_admin(Method::GET, &path, "").await;
    assert_eq!(explained.status, StatusCode::OK);
    assert_eq!(explained.json["sandboxes"][0]["sandboxID"], *id);
    assert_eq!(
        explained.json["sandboxes"][0]["observed"]["state"],
        "running"
    );
}

#[tokio::test]
async fn what_is_not_known_is_not_found() {
    let world = World::new().await;
    for path in [
        "/admin/v1/explain/sandboxes/iabcdefghijklmnopqrst",
        "/admin/v1/explain/nodes/nowhere",
    ] {
        let answer = world.ask_admin(Method::GET, path, "").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    let malformed = world
        .ask_admin(Method::GET, "/admin/v1/explain/sandboxes/A%20B", "")
        .await;
    assert_eq!(malformed.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_clients_trace_names_its_request() {
    let world = World::new().await;
    let id = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{id}-b7ad6b7169203331-01");
    let answer = world
        .ask_as(
            &[("traceparent", &parent)],
            Method::GET,
            "/v2/sandboxes",
            "",
        )
        .await;
    assert_eq!(answer.headers["x-e2b-trace-id"], id);
}

#[tokio::test]
async fn metrics_are_for_operators() {
    let world = World::new().await;
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    for (headers, status) in [
        (vec![], StatusCode::UNAUTHORIZED),
        (
            vec![("authorization", "Bearer wrong")],
            StatusCode::UNAUTHORIZED,
        ),
        // Nothing counts in this process, and that is said.
        (
            vec![("authorization", bearer.as_str())],
            StatusCode::NOT_IMPLEMENTED,
        ),
        (
            vec![("x-admin-token", ADMIN_TOKEN)],
            StatusCode::NOT_IMPLEMENTED,
        ),
    ] {
        let answer = world.ask_as(&headers, Method::GET, "/metrics", "").await;
        assert_eq!(answer.status, status, "{headers:?}");
    }
}
