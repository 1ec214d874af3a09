//! Templates as their team sees them.

use http::{Method, StatusCode};

use crate::world::World;

/// Imports a template and waits until it is ready.
pub(crate) async fn import(world: &World, body: &str) -> serde_json::Value {
    let started = world
        .ask_admin(Method::POST, "/admin/v1/imports", body)
        .await;
    assert_eq!(started.status, StatusCode::ACCEPTED, "{}", started.json);
    let location = started.headers["location"].to_str().unwrap().to_owned();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        loop {
            let answer = world.ask_admin(Method::GET, &location, "").await;
            if answer.json["status"] != "running" {
                return answer.json;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    ended.await.expect("the import did not end")
}

#[tokio::test]
async fn the_base_template_is_listed_and_found() {
    let world = World::new().await;
    for path in ["/templates", "/v2/templates"] {
        let answer = world.ask(Method::GET, path, "").await;
        assert_eq!(answer.json[0]["names"][0], "base", "{path}");
        assert_eq!(answer.json[0]["buildStatus"], "ready");
    }
    let one = world.ask(Method::GET, "/templates/base", "").await;
    assert_eq!(one.json["builds"].as_array().unwrap().len(), 1);
    let id = one.json["templateID"].as_str().unwrap();
    let by_id = world
        .ask(Method::GET, &format!("/templates/{id}"), "")
        .await;
    assert_eq!(by_id.json["templateID"], id);
    for alias in ["base", "BASE", "base:default"] {
        let answer = world
            .ask(Method::GET, &format!("/templates/aliases/{alias}"), "")
            .await;
        assert_eq!(answer.json["templateID"], id, "{alias}");
    }
    for alias in ["nothing", "base:v2"] {
        let answer = world
            .ask(Method::GET, &format!("/templates/aliases/{alias}"), "")
            .await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{alias}");
    }
}

#[tokio::test]
async fn templates_come_in_pages() {
    let world = World::new().await;
    import(&world, r#"{"name":"two","source":{"kind":"host"}}"#).await;
    let mut names = Vec::new();
    let mut query = "?limit=1".to_owned();
    loop {
        let page = world
            .ask(Method::GET, &format!("/v2/templates{query}"), "")
            .await;
        let rows = page.json.as_array().unwrap();
        assert_eq!(rows.len(), 1);
        names.push(rows[0]["aliases"][0].as_str().unwrap().to_owned());
        match page.headers.get("x-next-token") {
            Some(next) => query = format!("?limit=1&nextToken={}", next.to_str().unwrap()),
            None => break,
        }
    }
    names.sort();
    assert_eq!(names, ["base", "two"]);
}

#[tokio::test]
async fn a_template_in_use_stays() {
    let world = World::new().await;
    import(
        &world,
        r#"{"name":"mine","source":{"kind":"dir","path":"/srv/x"}}"#,
    )
    .await;
    let id = world.create(r#"{"templateID":"mine"}"#).await;
    let refused = world.ask(Method::DELETE, "/templates/mine", "").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.json);
    world
        .ask(Method::DELETE, &format!("/sandboxes/{id}"), "")
        .await;
    let removed = world.ask(Method::DELETE, "/templates/mine", "").await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT, "{}", removed.json);
    let again = world.ask(Method::DELETE, "/templates/mine", "").await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    // The base template belongs to nobody.
    let base = world.ask(Method::DELETE, "/templates/base", "").await;
    assert_eq!(base.status, StatusCode::FORBIDDEN);
}
