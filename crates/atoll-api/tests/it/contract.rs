//! What is written and what is routed are the same, and every refusal has one shape.

use std::collections::BTreeSet;

use axum::body::Body;
use http::{Method, Request, StatusCode};

use crate::spec;
use crate::world::World;

#[test]
fn specifications_and_routes_name_the_same_operations() {
    let written: BTreeSet<(String, String)> = [spec::e2b(), spec::admin()]
        .iter()
        .flat_map(|spec| spec.operations())
        .map(|operation| (operation.method.to_string(), operation.path))
        .collect();
    let routed: BTreeSet<(String, String)> = atoll_api::rest::operations()
        .into_iter()
        .map(|(method, path)| (method.to_string(), path.to_owned()))
        .collect();
    let unrouted: Vec<_> = written.difference(&routed).collect();
    let unwritten: Vec<_> = routed.difference(&written).collect();
    assert!(unrouted.is_empty(), "written but not routed: {unrouted:?}");
    assert!(
        unwritten.is_empty(),
        "routed but not written: {unwritten:?}"
    );
}

#[test]
fn the_specification_says_what_is_not_served() {
    let e2b = spec::e2b();
    let marked: BTreeSet<(String, String)> = e2b
        .operations()
        .into_iter()
        .filter(|operation| operation.value["x-unsupported"] == true)
        .map(|operation| (operation.method.to_string(), operation.path))
        .collect();
    let refused: BTreeSet<(String, String)> = atoll_api::rest::unsupported_operations()
        .into_iter()
        .map(|(method, path)| (method.to_string(), path.to_owned()))
        .collect();
    assert_eq!(marked, refused);
}

#[tokio::test]
async fn what_is_not_served_says_so() {
    let world = World::new().await;
    for (method, path) in atoll_api::rest::unsupported_operations() {
        let path = spec::e2b().find(&method, path).unwrap().path_with("x");
        let answer = world.ask(method.clone(), &path, "{}").await;
        assert_eq!(
            answer.status,
            StatusCode::NOT_IMPLEMENTED,
            "{method} {path}"
        );
        assert!(
            answer
                .message()
                .contains("not supported by this version of Atoll")
        );
    }
}

#[tokio::test]
async fn unknown_routes_and_wrong_methods_answer_in_shape() {
    let world = World::new().await;
    for (method, path, status) in [
        (Method::GET, "/nothing", StatusCode::NOT_FOUND),
        (Method::GET, "/", StatusCode::NOT_FOUND),
        (Method::GET, "/sandboxes/", StatusCode::NOT_FOUND),
        (Method::GET, "/admin/v1/nothing", StatusCode::NOT_FOUND),
        (Method::PATCH, "/sandboxes", StatusCode::METHOD_NOT_ALLOWED),
        (Method::PUT, "/health", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let answer = world.ask(method.clone(), path, "").await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn health_needs_no_key() {
    let world = World::new().await;
    let answer = world.ask_as(&[], Method::GET, "/health", "").await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn pages_of_any_origin_may_ask() {
    let world = World::new().await;
    let preflight = Request::builder()
        .method(Method::OPTIONS)
        .uri("/v2/sandboxes")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization")
        .body(Body::empty())
        .unwrap();
    let response = tower::ServiceExt::oneshot(world.router.clone(), preflight)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert_eq!(
        response.headers()["access-control-allow-headers"],
        "authorization"
    );
}
