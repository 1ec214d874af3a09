//! Strangers get nothing, and one team sees nothing of another's.

use http::{Method, StatusCode};

use crate::spec;
use crate::world::{ADMIN_TOKEN, World};

const UNKNOWN_KEY: &str = "e2b_ffffffffffffffffffffffffffffffffffffffff";

#[tokio::test]
async fn every_operation_refuses_strangers() {
    let world = World::new().await;
    let (e2b, admin) = (spec::e2b(), spec::admin());
    let too_long = "x".repeat(5000);
    let strangers: [&[(&str, &str)]; 9] = [
        &[],
        &[("X-API-Key", UNKNOWN_KEY)],
        &[("X-API-Key", "")],
        &[("X-API-Key", "e2b_nothex")],
        &[("X-API-Key", &too_long)],
        &[("Authorization", "Bearer nonsense")],
        &[("Authorization", "Basic dXNlcjo=")],
        &[("X-Admin-Token", "wrong")],
        &[("X-Admin-Token", "wrong"), ("X-Team-ID", "t")],
    ];
    for operation in e2b.operations().iter().chain(&admin.operations()) {
        if operation.path == "/health" || operation.path == "/health/ready" {
            continue;
        }
        let path = operation.path_with("x");
        for headers in strangers {
            // The body is malformed: nobody looks at it before the sender is known.
            let answer = world
                .ask_as(headers, operation.method.clone(), &path, "{")
                .await;
            let at = format!("{} {path} {headers:?}", operation.method);
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{at}");
        }
    }
}

#[tokio::test]
async fn a_key_may_come_as_bearer_and_the_operator_may_act_for_a_team() {
    let world = World::new().await;
    let bearer = format!("bearer {}", world.other_key);
    let team = world.tenant.team.to_string();
    let ways: [&[(&str, &str)]; 3] = [
        &[("x-api-key", &world.other_key)],
        &[("authorization", &bearer)],
        &[("x-admin-token", ADMIN_TOKEN), ("x-team-id", &team)],
    ];
    for headers in ways {
        let answer = world
            .ask_as(headers, Method::GET, "/v2/sandboxes", "")
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{headers:?}");
    }
    let teamless = [("x-admin-token", ADMIN_TOKEN)];
    let answer = world
        .ask_as(&teamless, Method::GET, "/v2/sandboxes", "")
        .await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

/// Bodies with which each operation would succeed for the owner.
fn valid_body(path: &str) -> &'static str {
    match path {
        "/sandboxes/{sandboxID}/refreshes" => r#"{"duration":60}"#,
        "/sandboxes/{sandboxID}/network" => "{}",
        _ => r#"{"timeout":60}"#,
    }
}

#[tokio::test]
async fn nobody_reaches_a_sandbox_of_another_team() {
    let world = World::new().await;
    let id = world.create_base().await;
    let detail = format!("/sandboxes/{id}");
    let before = world.ask(Method::GET, &detail, "").await.json;
    let refused = atoll_api::rest::unsupported_operations();
    let foreign = [("X-API-Key", world.other_key.as_str())];
    let mut seen = 0;
    for operation in spec::e2b().operations() {
        if !operation.path.contains("{sandboxID}")
            || refused.contains(&(operation.method.clone(), leak(&operation.path)))
        {
            continue;
        }
        let path = operation.path_with(&id);
        let body = valid_body(&operation.path);
        let answer = world
            .ask_as(&foreign, operation.method.clone(), &path, body)
            .await;
        assert_eq!(
            answer.status,
            StatusCode::NOT_FOUND,
            "{} {path}",
            operation.method
        );
        assert_eq!(
            answer.message(),
            format!("Sandbox \"{id}\" doesn't exist or you don't have access to it")
        );
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} operations were tried");
    for list in ["/sandboxes", "/v2/sandboxes"] {
        let answer = world.ask_as(&foreign, Method::GET, list, "").await;
        assert_eq!(answer.json.as_array().map(Vec::len), Some(0), "{list}");
    }
    let many = format!("/sandboxes/metrics?sandbox_ids={id}");
    let answer = world.ask_as(&foreign, Method::GET, &many, "").await;
    assert_eq!(answer.json["sandboxes"], serde_json::json!({}));
    assert_eq!(
        world.ask(Method::GET, &detail, "").await.json,
        before,
        "nothing changed"
    );
}

fn leak(path: &str) -> &'static str {
    Box::leak(path.to_owned().into_boxed_str())
}

#[tokio::test]
async fn nobody_touches_templates_and_keys_of_another_team() {
    let world = World::new().await;
    let foreign = [("X-API-Key", world.other_key.as_str())];
    let key = world
        .ask(Method::POST, "/api-keys", r#"{"name":"mine"}"#)
        .await
        .json;
    let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
    let answer = world.ask_as(&foreign, Method::DELETE, &path, "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let text = key["key"].as_str().unwrap();
    let answer = world
        .ask_as(&[("x-api-key", text)], Method::GET, "/v2/sandboxes", "")
        .await;
    assert_eq!(answer.status, StatusCode::OK, "the key still works");

    crate::templates::import(&world, r#"{"name":"own","source":{"kind":"host"}}"#).await;
    let id = world.ask(Method::GET, "/templates/own", "").await.json["templateID"].clone();
    let path = format!("/templates/{}", id.as_str().unwrap());
    for method in [Method::GET, Method::DELETE] {
        let answer = world.ask_as(&foreign, method.clone(), &path, "").await;
        let is_hidden = matches!(answer.status.as_u16(), 403 | 404);
        assert!(is_hidden, "{method}: {}", answer.status);
    }
    let body = format!(r#"{{"templateID":{id}}}"#);
    let answer = world
        .ask_as(&foreign, Method::POST, "/v2/sandboxes", &body)
        .await;
    assert!(
        matches!(answer.status.as_u16(), 403 | 404),
        "{}",
        answer.status
    );
    let answer = world.ask_as(&foreign, Method::GET, "/templates", "").await;
    assert!(!answer.json.to_string().contains("own"), "{}", answer.json);
    let team = world.tenant.team.to_string();
    let path = format!("/templates?teamID={team}");
    let answer = world.ask_as(&foreign, Method::GET, &path, "").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(
        world.ask(Method::GET, "/templates/own", "").await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_read_only_key_reads_only() {
    let world = World::new().await;
    let body = r#"{"name":"reader","readOnly":true}"#;
    let key = world.ask(Method::POST, "/api-keys", body).await.json;
    let reader = [("x-api-key", key["key"].as_str().unwrap())];
    let id = world.create_base().await;
    let path = format!("/sandboxes/{id}");
    let answer = world.ask_as(&reader, Method::GET, &path, "").await;
    assert_eq!(answer.status, StatusCode::OK);
    for (method, path, body) in [
        (Method::POST, "/v2/sandboxes", r#"{"templateID":"base"}"#),
        (Method::DELETE, path.as_str(), ""),
    ] {
        let answer = world.ask_as(&reader, method.clone(), path, body).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}");
    }
}
