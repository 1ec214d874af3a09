//! What is kept of decisions, on a fleet of which one node is full and one is drained.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_core::event::{Cursor, EventKind};
use atoll_core::node::DrainMode;
use atoll_core::resources::Resources;
use atoll_store::store::{EventQuery, Store as _};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::node::FakeNode;
use crate::rpc::connect_admin;
use crate::world::World;

/// All but an eighth of a node's cpu.
const LARGE: Resources = Resources {
    cpu_millis: 15_000,
    memory_mib: 64,
    disk_mib: 64,
};

/// Four nodes: one drained, one full, two with room, by name.
async fn fleet() -> (World, BTreeMap<String, Arc<FakeNode>>) {
    let world = World::new().await;
    let mut nodes = BTreeMap::from([("node-1".to_owned(), Arc::clone(&world.node))]);
    for name in ["node-2", "node-3", "node-4"] {
        let node = Arc::new(FakeNode::named(name));
        nodes.insert(name.to_owned(), Arc::clone(&node));
        let (_, events) = mpsc::channel(1);
        world.control.node_join(node, events).await.unwrap();
    }
    let drained = "node-4".parse().unwrap();
    let drain = world.control.node_drain(&drained, DrainMode::Wait).await;
    drain.unwrap();
    world.fill_up(LARGE).await;
    let full = nodes.iter().find(|(_, node)| node.running_count() == 1);
    let full = full.map(|(name, _)| name.clone()).unwrap();
    nodes.remove(&full);
    nodes.remove("node-4");
    (world, nodes)
}

/// The decisions about a sandbox, by REST and by RPC.
async fn decisions(world: &World, id: &str) -> (Vec<Value>, Vec<Value>) {
    let path = format!("/admin/v1/explain/sandboxes/{id}");
    let rest = world.ask_admin(Method::GET, &path, "").await;
    assert_eq!(rest.status, StatusCode::OK);
    let rpc = connect_admin(world, "ExplainSandbox", json!({"sandboxId": id})).await;
    let list = |json: &Value| json["decisions"].as_array().unwrap().clone();
    (list(&rest.json), list(&rpc.json()))
}

/// The sandbox that failed last.
async fn failed(world: &World) -> String {
    let query = EventQuery {
        kinds: vec![EventKind::SandboxError],
        ..EventQuery::default()
    };
    let page = world
        .store
        .event_list_after(Cursor::START, &query, 100)
        .await;
    let events = page.unwrap().events;
    let last = events.last().unwrap();
    last.event.subject.sandbox().unwrap().to_string()
}

#[tokio::test]
async fn a_decision_is_kept_with_its_parts_alternatives_and_counts() {
    let (world, nodes) = fleet().await;
    let id = world.create_base().await;
    let (rest, rpc) = decisions(&world, &id).await;
    assert_eq!((rest.len(), rpc.len()), (1, 1));
    let kept = &rest[0]["decision"];
    let node = kept["nodeID"].as_str().unwrap();
    assert!(nodes.contains_key(node), "{kept}");
    assert_eq!(kept["fitting"], 2);
    assert_eq!(kept["strategy"], "least_allocated");
    assert_eq!(kept["sparing"], "all");
    assert_eq!(
        (&kept["generation"], &kept["refused"]),
        (&json!(1), &json!([]))
    );
    assert_eq!(kept["smallestChange"], Value::Null);
    let fell = json!([
        {"constraint": "draining", "nodes": 1},
        {"constraint": "cpu", "nodes": 1},
    ]);
    assert_eq!(kept["rejected"], fell);
    let others = kept["alternatives"].as_array().unwrap();
    assert_eq!(others.len(), 1, "{kept}");
    assert!(nodes.contains_key(others[0]["nodeID"].as_str().unwrap()));
    assert_ne!(others[0]["nodeID"], node);
    assert!(others[0]["score"].as_u64() <= kept["score"].as_u64());
    // The score is the sum of its parts; the template is on every node.
    let parts = kept["parts"].as_array().unwrap();
    let terms: Vec<_> = parts.iter().map(|part| &part["term"]).collect();
    assert_eq!(terms, ["spread", "reliability", "template"]);
    assert_eq!(parts[2]["value"], 1_000_000);
    let of = |part: &Value, name: &str| part[name].as_u64().unwrap();
    let sum = parts
        .iter()
        .map(|part| of(part, "value") * of(part, "weightPermille"));
    let sum = sum.sum::<u64>() / 1_000;
    assert!(sum.abs_diff(of(kept, "score")) < 5_000, "{kept}");

    let told = &rpc[0];
    assert_eq!(told["nodeId"], node);
    assert_eq!(told["score"], kept["score"]);
    assert_eq!(told["fitting"], 2);
    assert_eq!(told["fallen"], fell);
    assert_eq!(told["parts"].as_array().unwrap().len(), 3);
    assert_eq!(told["parts"][0]["term"], "spread");
    assert_eq!(told["parts"][0]["value"], parts[0]["value"]);
    assert_eq!(told["ranked"][0]["nodeId"], others[0]["nodeID"]);
    assert_eq!(told["ranked"][0]["score"], others[0]["score"]);
    assert_eq!(told["alternatives"][0], others[0]["nodeID"]);
    assert_eq!(told["seed"], kept["seed"]);
    assert_eq!(told["reason"], rest[0]["message"]);
}

#[tokio::test]
async fn a_node_that_refuses_leads_to_the_alternative_and_is_kept() {
    let (world, nodes) = fleet().await;
    for node in nodes.values() {
        node.refuse();
    }
    let refused = world
        .ask(Method::POST, "/v2/sandboxes", r#"{"templateID":"base"}"#)
        .await;
    assert_eq!(
        refused.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{}",
        refused.json
    );
    let (rest, rpc) = decisions(&world, &failed(&world).await).await;
    let kept: Vec<_> = rest.iter().map(|event| &event["decision"]).collect();
    assert_eq!((kept.len(), rpc.len()), (3, 3), "{kept:?}");
    // The second place is the first one's alternative, under the next generation.
    assert_eq!(kept[1]["nodeID"], kept[0]["alternatives"][0]["nodeID"]);
    assert_eq!(kept[1]["refused"], json!([kept[0]["nodeID"]]));
    assert_eq!(kept[1]["generation"], 2);
    assert_eq!(kept[2]["nodeID"], Value::Null);
    assert_eq!(
        kept[2]["refused"],
        json!([kept[0]["nodeID"], kept[1]["nodeID"]])
    );
    let fell = json!([
        {"constraint": "refused", "nodes": 2},
        {"constraint": "draining", "nodes": 1},
        {"constraint": "cpu", "nodes": 1},
    ]);
    assert_eq!(kept[2]["rejected"], fell);
    assert_eq!(rpc[2]["refusedBy"], kept[2]["refused"]);
    assert_eq!(rpc[2]["fallen"], fell);
    assert_eq!(rpc[2].get("nodeId"), None);
}

#[tokio::test]
async fn a_refusal_is_kept_with_the_smallest_change_that_would_fit() {
    let (world, nodes) = fleet().await;
    for _ in 0..nodes.len() {
        world.create_base().await;
    }
    let refused = world
        .ask(Method::POST, "/v2/sandboxes", r#"{"templateID":"large"}"#)
        .await;
    assert_eq!(
        refused.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{}",
        refused.json
    );
    let change = "needs 15 cores of cpu; largest free is 14 cores on 2 node(s)";
    assert!(refused.message().contains(change), "{}", refused.message());
    let (rest, rpc) = decisions(&world, &failed(&world).await).await;
    let kept = &rest[0]["decision"];
    assert_eq!(kept["nodeID"], Value::Null);
    assert_eq!(
        (&kept["fitting"], &kept["alternatives"]),
        (&json!(0), &json!([]))
    );
    let fell = json!([
        {"constraint": "draining", "nodes": 1},
        {"constraint": "cpu", "nodes": 3},
    ]);
    assert_eq!(kept["rejected"], fell);
    let smallest = json!({
        "text": change,
        "nodes": 2,
        "short": [{"dimension": "cpu", "needs": 15_000, "free": 14_000}],
    });
    assert_eq!(kept["smallestChange"], smallest);
    assert_eq!(rpc[0]["smallestChange"], smallest);
    assert_eq!(rpc[0]["fallen"], fell);
}

#[tokio::test]
async fn a_dry_run_by_rpc_tells_what_would_be_decided() {
    let world = World::new().await;
    let asking = |policy: &str| {
        let wanted = json!({"template": "base", "schedulingJson": policy});
        json!({"sandbox": wanted})
    };
    let told = connect_admin(&world, "DryRunSandbox", asking("{}")).await;
    let decision = &told.json()["decision"];
    assert_eq!(decision["nodeId"], "node-1", "{decision}");
    assert_eq!(decision["fitting"], 1);
    assert!(decision["parts"].is_array(), "{decision}");
    let none = r#"{"constraints":{"tags":["none"]}}"#;
    let told = connect_admin(&world, "DryRunSandbox", asking(none)).await;
    let decision = &told.json()["decision"];
    assert!(decision["nodeId"].is_null(), "{decision}");
    let fallen = json!([{"constraint": "tag", "nodes": 1}]);
    assert_eq!(decision["fallen"], fallen, "{decision}");
    let wrong = asking(r#"{"luck":1}"#);
    let refused = connect_admin(&world, "DryRunSandbox", wrong).await;
    assert_eq!(refused.code(), "invalid_argument");
    let listed = world.ask(Method::GET, "/v2/sandboxes", "").await;
    assert_eq!(listed.json, json!([]), "nothing was made");
}
