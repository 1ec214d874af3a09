//! Nodes, usage, corrections and health, as operators see them.

use std::collections::BTreeMap;

use atoll_core::descriptor::{Descriptor, WrittenTaint};
use atoll_core::node::NodeInfo;
use atoll_core::scheduler::constraint::Version;
use atoll_store::store::Store as _;
use atoll_store::store::node::NodeStore as _;
use http::{Method, StatusCode};
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn a_node_is_shown_with_what_it_has_and_gave_away() {
    let world = World::new().await;
    let id = world.create_base().await;
    let heartbeat = world.node.heartbeat();
    world.control.node_heartbeat(heartbeat).await.unwrap();
    let list = world.ask_admin(Method::GET, "/admin/v1/nodes", "").await;
    let node = &list.json[0];
    assert_eq!(node["id"], "node-1");
    assert_eq!(node["state"], "ready");
    assert_eq!(node["breaker"], "closed");
    assert_eq!(node["sandboxes"], 1);
    assert_eq!(node["allocated"]["memoryMiB"], 512);
    assert_eq!(node["lastHeartbeat"]["machine"]["cpuMillis"]["used"], 4_000);

    let one = world
        .ask_admin(Method::GET, "/admin/v1/nodes/node-1", "")
        .await;
    let allocation = &one.json["allocations"][0];
    assert_eq!(allocation["sandboxID"], id);
    assert_eq!(allocation["resources"]["cpuMillis"], 2_000);
    assert_eq!(allocation["seen"], "running");
    for wrong in ["node-2", "A", "%00"] {
        let path = format!("/admin/v1/nodes/{wrong}");
        let answer = world.ask_admin(Method::GET, &path, "").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{wrong}");
    }

    let fleet = world.ask_admin(Method::GET, "/admin/v1/usage", "").await;
    let of = |answer: &serde_json::Value, what: &str| answer[what]["cpuMillis"].as_u64().unwrap();
    assert_eq!(of(&fleet.json, "total"), 16_000);
    assert_eq!(of(&fleet.json, "used"), 2_000);
    assert_eq!(of(&fleet.json, "available"), 14_000);
    assert_eq!(fleet.json["total"]["networkBps"], 1_000_000);
    assert_eq!(fleet.json["measured"]["memoryBytes"]["available"], 1 << 29);
    assert!(fleet.json["ageSeconds"].as_f64().unwrap() < 20.0);
    let node = world
        .ask_admin(Method::GET, "/admin/v1/usage?nodeID=node-1", "")
        .await;
    assert_eq!(node.json["used"], fleet.json["used"]);
    let path = format!("/admin/v1/usage?teamID={}", world.tenant.team);
    let team = world.ask_admin(Method::GET, &path, "").await;
    assert_eq!(of(&team.json, "used"), 2_000);
    assert_eq!(team.json["sandboxes"], 1);
    for (path, status) in [
        ("/admin/v1/usage?nodeID=node-2", StatusCode::NOT_FOUND),
        ("/admin/v1/usage?teamID=nobody", StatusCode::NOT_FOUND),
        ("/admin/v1/usage?teamID=x&nodeID=y", StatusCode::BAD_REQUEST),
    ] {
        let answer = world.ask_admin(Method::GET, path, "").await;
        assert_eq!(answer.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_node_is_drained_and_gets_sandboxes_again() {
    let world = World::new().await;
    let drain = "/admin/v1/nodes/node-1/drain";
    let drained = world.ask_admin(Method::POST, drain, "").await;
    assert_eq!(drained.json["state"], "draining", "{}", drained.json);
    assert_eq!(drained.json["drain"], "wait");
    let body = r#"{"templateID":"base"}"#;
    let refused = world.ask(Method::POST, "/v2/sandboxes", body).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers.contains_key("retry-after"));
    let ready = world.ask_as(&[], Method::GET, "/health/ready", "").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    let health = world.ask_as(&[], Method::GET, "/health", "").await;
    assert_eq!(health.status, StatusCode::NO_CONTENT);
    let wrong = world
        .ask_admin(Method::POST, drain, r#"{"mode":"x"}"#)
        .await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);

    let undrain = "/admin/v1/nodes/node-1/undrain";
    let undrained = world.ask_admin(Method::POST, undrain, "").await;
    assert_eq!(undrained.json["state"], "ready");
    let id = world.create_base().await;
    let ready = world.ask_as(&[], Method::GET, "/health/ready", "").await;
    assert_eq!(ready.status, StatusCode::NO_CONTENT);

    let path = "/admin/v1/nodes/node-1";
    let kept = world.ask_admin(Method::DELETE, path, "").await;
    assert_eq!(kept.status, StatusCode::CONFLICT, "it has {id}");
    let body = r#"{"mode":"evict"}"#;
    let evicted = world.ask_admin(Method::POST, drain, body).await;
    assert_eq!(evicted.json["drain"], "evict");
    world
        .until("the node is empty", async || {
            world.control.node_list()[0].sandboxes == 0
        })
        .await;
    let removed = world.ask_admin(Method::DELETE, path, "").await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    let list = world.ask_admin(Method::GET, "/admin/v1/nodes", "").await;
    assert_eq!(list.json, json!([]));
}

#[tokio::test]
async fn the_e2b_surface_shows_and_drains_nodes_too() {
    let world = World::new().await;
    world.create_base().await;
    let list = world.ask_admin(Method::GET, "/nodes", "").await;
    assert_eq!(list.json[0]["nodeID"], "node-1");
    assert_eq!(list.json[0]["status"], "ready");
    assert_eq!(list.json[0]["sandboxCount"], 1);
    assert_eq!(list.json[0]["metrics"]["allocatedCPU"], 2);
    for (status, answer) in [
        ("draining", StatusCode::NO_CONTENT),
        ("unhealthy", StatusCode::BAD_REQUEST),
    ] {
        let body = format!(r#"{{"status":"{status}"}}"#);
        let given = world.ask_admin(Method::POST, "/nodes/node-1", &body).await;
        assert_eq!(given.status, answer, "{status}");
    }
    let node = world.ask_admin(Method::GET, "/nodes/node-1", "").await;
    assert_eq!(node.json["status"], "draining");
    let body = r#"{"status":"ready"}"#;
    let given = world.ask_admin(Method::POST, "/nodes/node-1", body).await;
    assert_eq!(given.status, StatusCode::NO_CONTENT);
    let unknown = world.ask_admin(Method::POST, "/nodes/node-2", body).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    for path in ["/nodes", "/nodes/node-1", "/admin/v1/corrections"] {
        let answer = world.ask(Method::GET, path, "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn health_says_what_each_part_does_and_how_fast() {
    let world = World::new().await;
    let heartbeat = world.node.heartbeat();
    world.control.node_heartbeat(heartbeat).await.unwrap();
    let health = world.ask_admin(Method::GET, "/admin/v1/health", "").await;
    assert_eq!(health.json["status"], "healthy", "{}", health.json);
    let parts = health.json["components"].as_array().unwrap();
    let names: Vec<_> = parts
        .iter()
        .map(|part| part["name"].as_str().unwrap())
        .collect();
    let expected = [
        "store",
        "cache",
        "discovery",
        "node node-1",
        "driver fake on node-1",
        "disk of node-1",
        "clock of node-1",
    ];
    assert_eq!(names, expected);
    assert!(parts.iter().all(|part| part["latencySeconds"].is_number()));
    assert!(parts.iter().all(|part| part["lastSuccessAt"].is_string()));

    let mut ailing = world.node.heartbeat();
    ailing.driver_problem = Some("no cgroups".to_owned());
    ailing.usage.disk_bytes.used = ailing.usage.disk_bytes.total;
    ailing.at = atoll_core::time::Timestamp::from_micros(0);
    world.control.node_heartbeat(ailing).await.unwrap();
    let health = world.ask_admin(Method::GET, "/admin/v1/health", "").await;
    assert_eq!(health.json["status"], "degraded", "{}", health.json);
    let ill = health.json["components"].as_array().unwrap().iter();
    assert_eq!(ill.filter(|part| part["status"] == "unhealthy").count(), 3);
    let health = world.ask_as(&[], Method::GET, "/health", "").await;
    assert_eq!(
        health.status,
        StatusCode::NO_CONTENT,
        "degraded still serves"
    );
}

/// Defends: while the store is down, writes are refused with a time to try again, and what runs is
/// left alone.
#[tokio::test]
async fn without_a_store_writes_are_refused_and_sandboxes_go_on() {
    let world = World::new().await;
    world.create_base().await;
    assert_eq!(world.node.running_count(), 1);
    world.store.close().await;
    let body = r#"{"templateID":"base"}"#;
    let refused = world.ask(Method::POST, "/v2/sandboxes", body).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(world.node.running_count(), 1);
    let heartbeat = world.node.heartbeat();
    world.control.node_heartbeat(heartbeat).await.unwrap();
    let health = world.ask_as(&[], Method::GET, "/health", "").await;
    assert_eq!(health.status, StatusCode::SERVICE_UNAVAILABLE);
    let detail = world.ask_admin(Method::GET, "/admin/v1/health", "").await;
    assert_eq!(detail.json["components"][0]["status"], "unhealthy");
    let ready = world.ask_as(&[], Method::GET, "/health/ready", "").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn corrections_are_listed_newest_first() {
    let world = World::new().await;
    let list = world
        .ask_admin(Method::GET, "/admin/v1/corrections", "")
        .await;
    assert_eq!(list.json, json!([]));
    world.node.plant("iorphan");
    for _ in 0..2 {
        let heartbeat = world.node.heartbeat();
        world.control.node_heartbeat(heartbeat).await.unwrap();
    }
    world
        .until("the orphan is removed", async || {
            world.node.running_count() == 0 && world.control.corrections(10).len() == 2
        })
        .await;
    let list = world
        .ask_admin(Method::GET, "/admin/v1/corrections", "")
        .await;
    assert_eq!(list.json[0]["kind"], "orphan_removed", "{}", list.json);
    assert_eq!(list.json[0]["sandboxID"], "iorphan");
    assert_eq!(list.json[1]["kind"], "digest_mismatch");
    let one = world
        .ask_admin(Method::GET, "/admin/v1/corrections?limit=1", "")
        .await;
    assert_eq!(one.json.as_array().unwrap().len(), 1);
    let wrong = world
        .ask_admin(Method::GET, "/admin/v1/corrections?limit=0", "")
        .await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_a_node_says_of_itself_is_shown_and_kept() {
    let world = World::new().await;
    let pairs = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let info = NodeInfo {
        name: "Rack 4".to_owned(),
        tags: pairs("fast", ""),
        descriptor: Descriptor {
            labels: pairs("disk", "nvme"),
            taints: vec!["gpu=a100:no_schedule".parse::<WrittenTaint>().unwrap().0],
            zone: "eu-1a".to_owned(),
            architecture: "riscv64".to_owned(),
            cpu_features: ["v".to_owned()].into(),
            drivers: BTreeMap::from([("jail".to_owned(), Version(1, 2, 3))]),
            sandboxes_max: Some(7),
            ..Descriptor::default()
        },
        ..NodeInfo::default()
    };
    world.add_node("n2", info.clone()).await;
    let shown = world.ask_admin(Method::GET, "/admin/v1/nodes/n2", "").await;
    for (name, value) in [
        ("name", json!("Rack 4")),
        ("tags", json!({"fast": ""})),
        ("labels", json!({"disk": "nvme"})),
        ("taints", json!(["gpu=a100:no_schedule"])),
        ("zone", json!("eu-1a")),
        ("architecture", json!("riscv64")),
        ("cpuFeatures", json!(["v"])),
        ("drivers", json!({"jail": "1.2.3"})),
        ("sandboxesMax", json!(7)),
    ] {
        assert_eq!(shown.json[name], value, "{name}");
    }
    let kept = world.store.node_list().await.unwrap();
    let row = kept.iter().find(|row| row.id.as_str() == "n2").unwrap();
    assert_eq!(row.info, info);
}
