//! One team learns nothing of another's, by any route, those of tomorrow included: the operations
//! come from the specification.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_api::webhook::{HttpSender, Targets};
use http::{Method, StatusCode};

use crate::spec;
use crate::world::{Answer, World};

/// Operations whose path names something that cannot be tried here yet. This list only gets
/// shorter.
const UNTRIED: &[(&str, &str)] = &[];

/// A body with which each operation gets as far as looking for what its path names.
fn body(path: &str) -> &'static str {
    match path {
        "/sandboxes/{sandboxID}/refreshes" => r#"{"duration":60}"#,
        "/sandboxes/{sandboxID}/connect"
        | "/v2/sandboxes/{sandboxID}/connect"
        | "/sandboxes/{sandboxID}/timeout" => r#"{"timeout":60}"#,
        _ => "{}",
    }
}

/// An id that exists and is another team's, and one of the same form that does not, for each
/// variable of a path.
async fn objects(world: &World) -> BTreeMap<&'static str, (String, String)> {
    let sandbox = world.create_base().await;
    let unknown = "i".to_owned() + &"z".repeat(sandbox.len() - 1);
    let key = world
        .ask(Method::POST, "/api-keys", r#"{"name":"mine"}"#)
        .await
        .json;
    crate::templates::import(world, r#"{"name":"own","source":{"kind":"host"}}"#).await;
    let template = world.ask(Method::GET, "/templates/own", "").await.json;
    let template = template["templateID"].as_str().unwrap().to_owned();
    let no_template = "z".repeat(template.len());
    let no_key = "00000000-0000-4000-8000-000000000000".to_owned();
    let sender = Arc::new(HttpSender::new(Targets::Public).unwrap());
    world.control.webhooks_deliver(sender).await.unwrap();
    let hook = r#"{"name":"mine","url":"https://example.com/","enabled":false,
        "events":["sandbox.running"],"signatureSecret":"not to be known"}"#;
    let hook = world.ask(Method::POST, "/events/webhooks", hook).await.json;
    let hook = hook["id"].as_str().unwrap().to_owned();
    BTreeMap::from([
        ("webhookID", (hook, no_key.clone())),
        ("sandboxID", (sandbox, unknown)),
        ("apiKeyID", (key["id"].as_str().unwrap().to_owned(), no_key)),
        ("templateID", (template, no_template)),
        ("alias", ("own".to_owned(), "nope".to_owned())),
    ])
}

/// What is told, but for the id that was asked about.
fn told(answer: &Answer, id: &str) -> String {
    let mut headers: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
    headers.sort();
    let body = answer.json.to_string().replace(id, "{id}");
    format!("{} {headers:?} {body}", answer.status)
}

#[tokio::test]
async fn what_is_foreign_answers_as_what_is_not_there() {
    let world = World::new().await;
    let objects = objects(&world).await;
    let foreign = [("X-API-Key", world.other_key.as_str())];
    let refused = atoll_api::rest::unsupported_operations();
    let (mut tried, mut untried) = (0, Vec::new());
    for operation in spec::e2b().operations() {
        let (method, path) = (operation.method.clone(), operation.path.as_str());
        let is_served = !refused
            .iter()
            .any(|(other, template)| *other == method && *template == path);
        if !path.contains('{') || !is_served {
            continue;
        }
        if operation.is_operators() {
            let sent = operation.path_with("x");
            let answer = world.ask_as(&foreign, method, &sent, body(path)).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
            continue;
        }
        let first = path.split(['{', '}']).nth(1).unwrap();
        let Some((existing, unknown)) = objects.get(first) else {
            untried.push((method.to_string(), path.to_owned()));
            continue;
        };
        let ask = async |id: &str| {
            let sent = operation.path_with(id);
            let answer = world
                .ask_as(&foreign, method.clone(), &sent, body(path))
                .await;
            told(&answer, id)
        };
        let (there, absent) = (ask(existing).await, ask(unknown).await);
        assert_eq!(there, absent, "{method} {path}");
        assert!(there.starts_with("404"), "{method} {path}: {there}");
        tried += 1;
    }
    let known: Vec<_> = UNTRIED
        .iter()
        .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(untried, known, "what is not tried is written down");
    assert!(tried >= 14, "{tried}");
    // And nothing of it did anything.
    for (method, path) in [
        (
            Method::GET,
            format!("/sandboxes/{}", objects["sandboxID"].0),
        ),
        (Method::GET, "/templates/own".to_owned()),
    ] {
        let answer = world.ask(method, &path, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
    let keys = world
        .ask(Method::GET, "/api-keys", "")
        .await
        .json
        .to_string();
    assert!(keys.contains(&objects["apiKeyID"].0));
}

#[tokio::test]
async fn a_foreign_template_starts_nothing_and_says_nothing() {
    let world = World::new().await;
    let objects = objects(&world).await;
    let foreign = [("X-API-Key", world.other_key.as_str())];
    for variable in ["templateID", "alias"] {
        let (existing, unknown) = &objects[variable];
        let mut answers = Vec::new();
        for id in [existing, unknown] {
            for path in ["/sandboxes", "/v2/sandboxes"] {
                let body = format!(r#"{{"templateID":"{id}"}}"#);
                let answer = world.ask_as(&foreign, Method::POST, path, &body).await;
                answers.push(told(&answer, id));
            }
        }
        assert!(answers[0].starts_with("404"), "{}", answers[0]);
        answers.dedup();
        assert_eq!(answers.len(), 1, "{variable}: {answers:?}");
    }
}

/// Whatever the route, a key that only reads changes nothing: it is refused before its request is
/// looked at.
#[tokio::test]
async fn a_key_that_only_reads_is_refused_by_every_changing_operation() {
    let world = World::new().await;
    let made = world
        .ask(Method::POST, "/api-keys", r#"{"name":"r","readOnly":true}"#)
        .await
        .json;
    let reader = [("X-API-Key", made["key"].as_str().unwrap())];
    let id = world.create_base().await;
    let mut tried = 0;
    for operation in spec::e2b().operations() {
        let path = operation.path_with(&id);
        if operation.path == "/health" {
            continue;
        }
        let answer = world
            .ask_as(
                &reader,
                operation.method.clone(),
                &path,
                body(&operation.path),
            )
            .await;
        if operation.is_operators() {
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
            continue;
        }
        let is_refused = answer.status == StatusCode::FORBIDDEN;
        if operation.method == Method::GET {
            assert!(!is_refused, "GET {path}");
        } else {
            assert!(is_refused, "{} {path}: {}", operation.method, answer.status);
            tried += 1;
        }
    }
    assert!(tried >= 30, "{tried}");
    let detail = format!("/sandboxes/{id}");
    assert_eq!(
        world.ask_as(&reader, Method::GET, &detail, "").await.status,
        StatusCode::OK
    );
}
