//! The operators' surface.

use http::{Method, StatusCode};
use serde_json::json;

use crate::templates::import;
use crate::world::{ADMIN_TOKEN, World};

#[tokio::test]
async fn keys_are_made_listed_and_revoked() {
    let world = World::new().await;
    let made = world
        .ask_admin(Method::POST, "/admin/v1/keys", r#"{"name":"ci"}"#)
        .await;
    assert_eq!(made.status, StatusCode::CREATED);
    let text = made.json["key"].as_str().unwrap();
    assert!(text.starts_with("e2b_") && text.len() == 44, "{text}");
    let mask = &made.json["mask"];
    assert!(text[4..].starts_with(mask["maskedValuePrefix"].as_str().unwrap()));
    assert!(text.ends_with(mask["maskedValueSuffix"].as_str().unwrap()));

    let listed = world.ask_admin(Method::GET, "/admin/v1/keys", "").await;
    assert!(
        !listed.json.to_string().contains(text),
        "a key is shown once"
    );
    let names: Vec<_> = listed
        .json
        .as_array()
        .unwrap()
        .iter()
        .map(|key| &key["name"])
        .collect();
    assert!(names.contains(&&json!("ci")));

    let headers = [("x-api-key", text)];
    let works = world
        .ask_as(&headers, Method::GET, "/v2/sandboxes", "")
        .await;
    assert_eq!(works.status, StatusCode::OK);
    let path = format!("/admin/v1/keys/{}", made.json["id"].as_str().unwrap());
    assert_eq!(
        world.ask_admin(Method::DELETE, &path, "").await.status,
        StatusCode::NO_CONTENT
    );
    let works = world
        .ask_as(&headers, Method::GET, "/v2/sandboxes", "")
        .await;
    assert_eq!(works.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        world.ask_admin(Method::DELETE, &path, "").await.status,
        StatusCode::NOT_FOUND
    );
    for id in ["x", "%00", "A%20B"] {
        let path = format!("/admin/v1/keys/{id}");
        let answer = world.ask_admin(Method::DELETE, &path, "").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{id}");
    }
}

#[tokio::test]
async fn templates_are_imported_in_the_background() {
    let world = World::new().await;
    let body = r#"{"name":"py","source":{"kind":"debian","suite":"bookworm",
        "packages":["python3"]},"cpuCount":4,"memoryMB":2048,"diskSizeMB":100}"#;
    let done = import(&world, body).await;
    assert_eq!(done["status"], "ready");
    let listed = world
        .ask_admin(Method::GET, "/admin/v1/templates", "")
        .await;
    let template = listed
        .json
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["aliases"] == json!(["py"]));
    let template = template.expect("the template is listed");
    assert_eq!(template["templateID"], done["templateID"]);
    assert_eq!(
        (&template["cpuCount"], &template["memoryMB"]),
        (&json!(4), &json!(2048))
    );

    let again = import(&world, body).await;
    assert_eq!(again["status"], "error", "the name is taken");
    let failed = r#"{"name":"bad","source":{"kind":"dir","path":"/missing"}}"#;
    let failed = import(&world, failed).await;
    assert_eq!(failed["status"], "error");
    assert!(
        failed["message"]
            .as_str()
            .unwrap()
            .contains("no such directory"),
        "{failed}"
    );
    let all = world.ask_admin(Method::GET, "/admin/v1/imports", "").await;
    assert_eq!(all.json.as_array().unwrap().len(), 3);
    let other = [("x-admin-token", ADMIN_TOKEN), ("x-team-id", "another")];
    let theirs = world
        .ask_as(&other, Method::GET, "/admin/v1/imports", "")
        .await;
    assert_eq!(theirs.json, json!([]));

    let removed = world
        .ask_admin(Method::DELETE, "/admin/v1/templates/py", "")
        .await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn wrong_imports_are_refused_at_once() {
    let world = World::new().await;
    for body in [
        r#"{"name":"","source":{"kind":"host"}}"#,
        r#"{"name":"Upper","source":{"kind":"host"}}"#,
        r#"{"name":"a/b","source":{"kind":"host"}}"#,
        r#"{"name":"a"}"#,
        r#"{"name":"a","source":{"kind":"floppy"}}"#,
        r#"{"name":"a","source":{"kind":"dir"}}"#,
        r#"{"name":"a","source":{"kind":"dir","path":"relative"}}"#,
        r#"{"name":"a","source":{"kind":"tar","path":"/x\u0000y"}}"#,
        r#"{"name":"a","source":{"kind":"image","reference":"--help"}}"#,
        r#"{"name":"a","source":{"kind":"image","reference":"a b"}}"#,
        r#"{"name":"a","source":{"kind":"debian","suite":"x","packages":["-o"]}}"#,
        r#"{"name":"a","source":{"kind":"host"},"cpuCount":0}"#,
        r#"{"name":"a","source":{"kind":"host"},"cpuCount":-1}"#,
        r#"{"name":"a","source":{"kind":"host"},"memoryMB":1}"#,
        r#"{"name":"a","source":{"kind":"host"},"diskSizeMB":0}"#,
    ] {
        let answer = world
            .ask_admin(Method::POST, "/admin/v1/imports", body)
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(
            answer.message().starts_with("validation error: "),
            "{}",
            answer.message()
        );
    }
    let all = world.ask_admin(Method::GET, "/admin/v1/imports", "").await;
    assert_eq!(all.json, json!([]));
    let unknown = world
        .ask_admin(Method::GET, "/admin/v1/imports/x", "")
        .await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn nodes_and_health_are_shown() {
    let world = World::new().await;
    world.create_base().await;
    let nodes = world.ask_admin(Method::GET, "/admin/v1/nodes", "").await;
    assert_eq!(nodes.json[0]["id"], "node-1");
    assert_eq!(nodes.json[0]["reachable"], true);
    let health = world.ask_admin(Method::GET, "/admin/v1/health", "").await;
    assert_eq!(health.json["status"], "healthy", "{}", health.json);
    assert!(!world.control.node_list().is_empty());
}
