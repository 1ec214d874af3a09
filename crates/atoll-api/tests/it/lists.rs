//! Listings: filters, order, pages.

use http::{Method, StatusCode};
use serde_json::Value;

use crate::world::{Answer, World};

fn ids(answer: &Answer) -> Vec<String> {
    let rows = answer.json.as_array().unwrap().iter();
    rows.map(|row| row["sandboxID"].as_str().unwrap().to_owned())
        .collect()
}

async fn list(world: &World, query: &str) -> Answer {
    let answer = world
        .ask(Method::GET, &format!("/v2/sandboxes{query}"), "")
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{query}: {}", answer.json);
    answer
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let world = World::new().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(world.create_base().await);
    }
    for (order, expected) in [
        ("asc", made.clone()),
        ("desc", made.iter().rev().cloned().collect()),
    ] {
        let mut seen = Vec::new();
        let mut token = String::new();
        loop {
            let page = list(&world, &format!("?limit=2&order={order}{token}")).await;
            assert_eq!(page.headers["x-total-running"], "5");
            seen.extend(ids(&page));
            match page.headers.get("x-next-token") {
                Some(next) => token = format!("&nextToken={}", next.to_str().unwrap()),
                None => break,
            }
        }
        assert_eq!(seen, expected, "{order}");
    }
    assert_eq!(
        ids(&list(&world, "").await),
        made.iter().rev().cloned().collect::<Vec<_>>()
    );
    let v1 = world.ask(Method::GET, "/sandboxes", "").await;
    assert_eq!(ids(&v1).len(), 5);
}

#[tokio::test]
async fn filters_select() {
    let world = World::new().await;
    let a = world
        .create(r#"{"templateID":"base","metadata":{"user id":"a&b=c","x":"1"}}"#)
        .await;
    let b = world
        .create(r#"{"templateID":"base","metadata":{"x":"1"}}"#)
        .await;
    // As the SDKs write it: each part encoded, the pairs encoded, the query encoded.
    let nested = "metadata=user%252520id%3Da%252526b%25253Dc";
    assert_eq!(
        ids(&list(&world, &format!("?{nested}")).await),
        std::slice::from_ref(&a)
    );
    let v1 = world
        .ask(Method::GET, &format!("/sandboxes?{nested}"), "")
        .await;
    assert_eq!(ids(&v1), std::slice::from_ref(&a));
    assert_eq!(
        ids(&list(&world, "?metadata=x%3D1").await),
        [b.clone(), a.clone()]
    );
    assert_eq!(
        ids(&list(&world, "?metadata=x%3D2").await),
        [] as [String; 0]
    );
    assert_eq!(ids(&list(&world, "?template=base").await).len(), 2);
    assert_eq!(ids(&list(&world, "?template=unknown").await).len(), 0);
    assert_eq!(ids(&list(&world, "?state=running").await).len(), 2);
    let paused = list(&world, "?state=paused").await;
    assert_eq!(ids(&paused).len(), 0);
    assert!(!paused.headers.contains_key("x-total-running"));

    let detail = world
        .ask(Method::GET, &format!("/sandboxes/{b}"), "")
        .await
        .json;
    let started: &Value = &detail["startedAt"];
    let after = started.as_str().unwrap();
    assert_eq!(
        ids(&list(&world, &format!("?startedAfter={after}")).await),
        std::slice::from_ref(&b)
    );
    // A plus that nobody escaped.
    let offset = after.replace('Z', "+00:00");
    assert_eq!(
        ids(&list(&world, &format!("?startedAfter={offset}")).await),
        [b.as_str()]
    );
}
