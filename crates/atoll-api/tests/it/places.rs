//! What draws sandboxes to nodes and keeps them away, over REST: zones, a given sandbox's node, a
//! node's limits, files that must be there, and the shares of teams.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_core::descriptor::Descriptor;
use atoll_core::node::NodeInfo;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::node::FakeNode;
use crate::scheduling::{asking, create, dry_run, node_of, placed};
use crate::world::{ADMIN_TOKEN, World};

fn described(descriptor: Descriptor) -> NodeInfo {
    NodeInfo {
        descriptor,
        ..NodeInfo::default()
    }
}

fn in_zone(zone: &str) -> NodeInfo {
    described(Descriptor {
        zone: zone.to_owned(),
        ..Descriptor::default()
    })
}

fn fallen(told: &Value, constraint: &str) -> u64 {
    let fallen = told["fallen"].as_array().unwrap().iter();
    let mut of_it = fallen.filter(|fell| fell["constraint"] == constraint);
    of_it
        .next()
        .map_or(0, |fell| fell["nodes"].as_u64().unwrap())
}

/// Two nodes in one zone, one in each of two others, beside the plain one in no zone.
#[tokio::test]
async fn a_group_is_spread_over_zones() {
    let world = World::new().await;
    for (id, zone) in [("a-1", "a"), ("a-2", "a"), ("b-1", "b")] {
        world.add_node(id, in_zone(zone)).await;
    }
    // Full weight: zones decide, not what is free.
    let policy = json!({"groups": ["web"], "spread": {"group": "web"},
        "preferences": {"zones": 1_000}});
    let mut zones = Vec::new();
    for _ in 0..3 {
        let node = placed(&world, &policy).await;
        zones.push(node.chars().next().unwrap());
    }
    zones.sort_unstable();
    assert_eq!(zones, ['a', 'b', 'n'], "each zone once, before any twice");
}

#[tokio::test]
async fn a_sandbox_comes_near_a_given_one() {
    let world = World::new().await;
    for id in ["other-1", "other-2", "other-3"] {
        world.add_node(id, NodeInfo::default()).await;
    }
    let first = create(&world, &asking(&json!({}))).await;
    let id = first.json["sandboxID"].as_str().unwrap().to_owned();
    let node = node_of(&world, &first).await;
    for _ in 0..3 {
        let near = json!({"near": id, "preferences": {"near": 1_000}});
        assert_eq!(placed(&world, &near).await, node);
    }
}

#[tokio::test]
async fn a_node_takes_no_more_sandboxes_than_it_says() {
    let world = World::new().await;
    let few = described(Descriptor {
        labels: BTreeMap::from([("few".to_owned(), "yes".to_owned())]),
        sandboxes_max: Some(2),
        ..Descriptor::default()
    });
    world.add_node("few", few).await;
    let label = json!({"key": "few", "operator": "exists"});
    let policy = json!({"constraints": {"labels": [label]}});
    for _ in 0..2 {
        assert_eq!(placed(&world, &policy).await, "few");
    }
    let refused = create(&world, &asking(&policy)).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    let why = "at their largest number of sandboxes: 1 node(s)";
    assert!(refused.message().contains(why), "{}", refused.message());
}

#[tokio::test]
async fn a_node_starts_no_more_at_a_time_than_it_says() {
    let world = Arc::new(World::new().await);
    let slow = described(Descriptor {
        labels: BTreeMap::from([("slow".to_owned(), "yes".to_owned())]),
        starts_max: Some(1),
        ..Descriptor::default()
    });
    let node = world.add_node("slow", slow).await;
    let label = json!({"key": "slow", "operator": "exists"});
    let policy = json!({"constraints": {"labels": [label]}});
    node.hold_starts();
    let first = {
        let (world, body) = (Arc::clone(&world), asking(&policy));
        #[expect(clippy::disallowed_methods, reason = "the test waits for it below")]
        tokio::spawn(async move { create(&world, &body).await.status })
    };
    let is_full = async || {
        let told = dry_run(&world, &policy).await;
        fallen(&told, "with no start slot free") == 1
    };
    world.until("the first start", is_full).await;
    let refused = create(&world, &asking(&policy)).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    node.go_on();
    assert_eq!(first.await.unwrap(), StatusCode::CREATED);
    assert_eq!(placed(&world, &policy).await, "slow");
}

#[tokio::test]
async fn what_must_be_on_the_node_is_there() {
    let world = World::new().await;
    let bare = Arc::new(FakeNode::named("bare"));
    bare.stay_bare();
    world.join(&bare).await;
    let policy = json!({"constraints": {"present": ["template"]}});
    let told = dry_run(&world, &policy).await;
    assert_eq!(
        (&told["nodeID"], &told["fitting"]),
        (&json!("node-1"), &json!(1))
    );
    assert_eq!(fallen(&told, "without the files it needs"), 1);
    for _ in 0..3 {
        assert_eq!(placed(&world, &policy).await, "node-1");
    }
}

/// Two teams on one node with room for eight: the weights are taken into the shares at once.
#[tokio::test]
async fn the_weight_of_a_team_decides_what_its_share_is() {
    let world = World::new().await;
    let made = world
        .ask_admin(Method::POST, "/admin/v1/teams", r#"{"name":"heavy"}"#)
        .await;
    assert_eq!(made.json["weight"], 1);
    let id = made.json["id"].as_str().unwrap().to_owned();
    let path = format!("/admin/v1/teams/{id}");
    for wrong in [r#"{"weight":0}"#, r#"{"weight":1001}"#, r#"{"weight":-1}"#] {
        let refused = world.ask_admin(Method::PATCH, &path, wrong).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let operator = [("X-Admin-Token", ADMIN_TOKEN), ("X-Team-ID", id.as_str())];
    let key = world
        .ask_as(&operator, Method::POST, "/admin/v1/keys", r#"{"name":"k"}"#)
        .await;
    let key = key.json["key"].as_str().unwrap().to_owned();
    let heavy = [("X-API-Key", key.as_str())];
    let body = r#"{"templateID":"base"}"#;
    let mut ours = Vec::new();
    let refused = loop {
        let made = create(&world, body).await;
        let Some(id) = made.json["sandboxID"].as_str() else {
            break made;
        };
        ours.push(id.to_owned());
    };
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    let refused = world
        .ask_as(&heavy, Method::POST, "/v2/sandboxes", body)
        .await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    let path_of = |id: &str| format!("/sandboxes/{id}");
    world.ask(Method::DELETE, &path_of(&ours[0]), "").await;
    for (weight, share) in [(1, "its share is 50 %"), (3, "its share is 25 %")] {
        let change = json!({"weight": weight}).to_string();
        let changed = world.ask_admin(Method::PATCH, &path, &change).await;
        assert_eq!(changed.json["weight"], weight, "{}", changed.json);
        let refused = create(&world, body).await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.message().contains(share), "{}", refused.message());
    }
    let served = world
        .ask_as(&heavy, Method::POST, "/v2/sandboxes", body)
        .await;
    assert_eq!(served.status, StatusCode::CREATED, "{}", served.json);
    let shown = world.ask_admin(Method::GET, &path, "").await.json;
    assert_eq!(shown["weight"], 3);
}
