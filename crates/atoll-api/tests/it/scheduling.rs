//! Policies decide where sandboxes go: a request's, its team's, and both together.

use std::collections::BTreeMap;

use atoll_core::descriptor::{Descriptor, WrittenTaint};
use atoll_core::node::NodeInfo;
use atoll_core::scheduler::constraint::Version;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{ADMIN_TOKEN, Answer, KEY, World};

fn pairs(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

/// The plain node `node-1`, one with a disk, one with a taint, and one of another machine.
async fn fleet() -> World {
    let world = World::new().await;
    let disk = NodeInfo {
        tags: pairs("fast", ""),
        descriptor: Descriptor {
            labels: pairs("disk", "nvme"),
            zone: "b".to_owned(),
            ..Descriptor::default()
        },
        ..NodeInfo::default()
    };
    let taint = "gpu=a100:no_schedule".parse::<WrittenTaint>().unwrap();
    let gpu = NodeInfo {
        descriptor: Descriptor {
            taints: vec![taint.0],
            labels: pairs("gpu", "a100"),
            ..Descriptor::default()
        },
        ..NodeInfo::default()
    };
    let arm = NodeInfo {
        descriptor: Descriptor {
            architecture: "aarch64".to_owned(),
            cpu_features: ["sve".to_owned()].into(),
            drivers: BTreeMap::from([("jail".to_owned(), Version(2, 1, 0))]),
            ..Descriptor::default()
        },
        ..NodeInfo::default()
    };
    for (id, info) in [("disk", disk), ("gpu", gpu), ("arm", arm)] {
        world.add_node(id, info).await;
    }
    world
}

pub(crate) fn asking(policy: &Value) -> String {
    json!({"templateID": "base", "scheduling": policy}).to_string()
}

pub(crate) async fn create(world: &World, body: &str) -> Answer {
    world.ask(Method::POST, "/v2/sandboxes", body).await
}

pub(crate) async fn node_of(world: &World, made: &Answer) -> String {
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.json);
    let id = made.json["sandboxID"].as_str().unwrap();
    let path = format!("/admin/v1/explain/sandboxes/{id}");
    let told = world.ask_admin(Method::GET, &path, "").await;
    told.json["intent"]["nodeID"].as_str().unwrap().to_owned()
}

/// Makes a sandbox under this policy; answers its node.
pub(crate) async fn placed(world: &World, policy: &Value) -> String {
    let made = create(world, &asking(policy)).await;
    node_of(world, &made).await
}

pub(crate) async fn dry_run(world: &World, policy: &Value) -> Value {
    let policy = policy.to_string();
    let encoded: String = policy.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = format!("/admin/v1/schedule?policy={encoded}");
    let told = world.ask_admin(Method::GET, &path, "").await;
    assert_eq!(told.status, StatusCode::OK, "{}", told.json);
    told.json
}

async fn set_team_policy(world: &World, policy: &Value) {
    let path = format!("/admin/v1/teams/{}/policy", world.tenant.team);
    let set = world
        .ask_admin(Method::PUT, &path, &policy.to_string())
        .await;
    assert_eq!(set.status, StatusCode::OK, "{}", set.json);
}

#[tokio::test]
async fn each_kind_of_constraint_decides() {
    let world = fleet().await;
    let label = |key: &str, operator: &str, values: Value| {
        let wanted = json!({"key": key, "operator": operator, "values": values});
        json!({"constraints": {"labels": [wanted]}})
    };
    for (policy, node) in [
        (label("disk", "eq", json!(["nvme"])), "disk"),
        (label("disk", "in", json!(["hdd", "nvme"])), "disk"),
        (label("disk", "exists", json!([])), "disk"),
        (json!({"constraints": {"tags": ["fast"]}}), "disk"),
        (json!({"constraints": {"architecture": "aarch64"}}), "arm"),
        (json!({"constraints": {"cpuFeatures": ["sve"]}}), "arm"),
        (
            json!({"constraints": {"driver": {"name": "jail", "atLeast": "2.1"}}}),
            "arm",
        ),
    ] {
        let told = dry_run(&world, &policy).await;
        assert_eq!(told["nodeID"], node, "{policy}: {told}");
        assert_eq!(placed(&world, &policy).await, node, "{policy}");
    }
    for (policy, fallen) in [
        (
            label("disk", "eq", json!(["hdd"])),
            "without the wanted labels",
        ),
        (
            label("gpu", "eq", json!(["a100"])),
            "with a taint it does not tolerate",
        ),
        (
            json!({"constraints": {"driver": {"name": "jail", "atLeast": "2.2"}}}),
            "without the wanted driver or its version",
        ),
    ] {
        let told = dry_run(&world, &policy).await;
        assert_eq!(told["fits"], false, "{policy}");
        let refused = create(&world, &asking(&policy)).await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.message().contains(fallen), "{}", refused.message());
    }
}

#[tokio::test]
async fn kin_stay_apart_by_team_group_and_metadata() {
    let world = fleet().await;
    let labelled = json!({
        "templateID": "base", "metadata": {"app": "db"},
        "scheduling": {"constraints": {"apartFrom": [{"metadata": "app"}]}},
    });
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let made = create(&world, &labelled.to_string()).await;
        nodes.push(node_of(&world, &made).await);
    }
    nodes.sort();
    assert_eq!(nodes, ["arm", "disk", "node-1"]);
    let refused = create(&world, &labelled.to_string()).await;
    assert!(
        refused.message().contains("must be apart from"),
        "{}",
        refused.message()
    );
    let group = json!({"groups": ["g"], "constraints": {"apartFrom": [{"group": "g"}]}});
    let first = placed(&world, &group).await;
    assert_ne!(placed(&world, &group).await, first);
    let alone = json!({"constraints": {"apartFrom": ["team"]}});
    assert_eq!(dry_run(&world, &alone).await["fits"], false);
}

#[tokio::test]
async fn a_teams_policy_is_narrowed_and_never_lifted() {
    let world = fleet().await;
    let exists = |key: &str| json!([{"key": key, "operator": "exists"}]);
    set_team_policy(&world, &json!({"constraints": {"labels": exists("disk")}})).await;
    assert_eq!(placed(&world, &json!({})).await, "disk");
    let other = json!({"constraints": {"architecture": "aarch64"}});
    let refused = create(&world, &asking(&other)).await;
    assert_eq!(
        refused.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "the label still holds"
    );
    let absent = json!({"constraints": {"labels": [{"key": "disk", "operator": "absent"}]}});
    assert_eq!(dry_run(&world, &absent).await["fits"], false);

    let gpu = json!({"tolerations": [{"key": "gpu"}], "constraints": {"labels": exists("gpu")}});
    let path = format!("/admin/v1/teams/{}/policy", world.tenant.team);
    let cleared = world.ask_admin(Method::DELETE, &path, "").await;
    assert_eq!(cleared.status, StatusCode::NO_CONTENT);
    let gone = world.ask_admin(Method::GET, &path, "").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    let refused = create(&world, &asking(&gpu)).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(
        refused.message().contains("scheduling.tolerations[0]"),
        "{}",
        refused.message()
    );
    set_team_policy(&world, &json!({"allowTolerations": [{"key": "gpu"}]})).await;
    assert_eq!(placed(&world, &gpu).await, "gpu");
    let kept = world.ask_admin(Method::GET, &path, "").await;
    assert_eq!(kept.json["allowTolerations"], json!([{"key": "gpu"}]));
}

#[tokio::test]
async fn a_header_says_what_a_body_does() {
    let world = fleet().await;
    let policy = json!({"constraints": {"architecture": "aarch64"}}).to_string();
    let send = async |policy: &str, body: &str| {
        let headers = [
            ("X-API-Key", KEY),
            ("X-Atoll-Scheduling", policy),
            ("Idempotency-Key", "one"),
        ];
        world
            .ask_as(&headers, Method::POST, "/v2/sandboxes", body)
            .await
    };
    let plain = r#"{"templateID":"base"}"#;
    let made = send(&policy, plain).await;
    assert_eq!(node_of(&world, &made).await, "arm");
    let again = send(&policy, plain).await;
    assert_eq!(again.json["sandboxID"], made.json["sandboxID"]);
    let other = send("{}", plain).await;
    assert_eq!(
        other.status,
        StatusCode::CONFLICT,
        "it is part of what was asked"
    );
    let twice = send(&policy, &asking(&json!({}))).await;
    assert_eq!(twice.status, StatusCode::BAD_REQUEST);
    assert!(
        twice.message().contains("given twice"),
        "{}",
        twice.message()
    );
}

#[tokio::test]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let world = World::new().await;
    let path = format!("/admin/v1/teams/{}/policy", world.tenant.team);
    for (policy, field) in [
        (json!({"strategie": "best_fit"}), "strategie"),
        (json!({"strategy": "worst_fit"}), "worst_fit"),
        (json!({"strategy": {"best_of": 99}}), "strategy.best_of"),
        (
            json!({"strategy": {"weighted": {"luck": 1}}}),
            "strategy.weighted.luck",
        ),
        (json!({"preferences": {"luck": 1}}), "preferences.luck"),
        (json!({"preferences": {"warm": 9_999}}), "preferences.warm"),
        (json!({"tolerancePermille": 1_001}), "tolerancePermille"),
        (
            json!({"constraints": {"driver": {"name": "jail", "atLeast": "x"}}}),
            "driver.atLeast",
        ),
        (
            json!({"constraints": {"labels": [{"key": "a", "operator": "eq"}]}}),
            "constraints.labels[0].values",
        ),
        (json!({"groups": ["a b"]}), "groups"),
        (json!({"near": "?"}), "near"),
        (json!([]), "scheduling"),
    ] {
        let refused = create(&world, &asking(&policy)).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{policy}");
        assert!(
            refused.message().contains(field),
            "{policy}: {}",
            refused.message()
        );
        let refused = world
            .ask_admin(Method::PUT, &path, &policy.to_string())
            .await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{policy}");
    }
    let allowing = json!({"allowTolerations": [{"key": "gpu"}]});
    let refused = create(&world, &asking(&allowing)).await;
    assert!(
        refused.message().contains("scheduling.allowTolerations"),
        "{}",
        refused.message()
    );
    let missing = json!({"constraints": {"apartFrom": [{"metadata": "app"}]}});
    let refused = create(&world, &asking(&missing)).await;
    assert!(
        refused.message().contains("apartFrom[0]"),
        "{}",
        refused.message()
    );
    let listed = world.ask(Method::GET, "/v2/sandboxes", "").await;
    assert_eq!(listed.json, json!([]));
    let kept = world.ask_admin(Method::GET, &path, "").await;
    assert_eq!(kept.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_dry_run_tells_and_leaves_nothing() {
    let world = fleet().await;
    let audit = async || {
        let headers = [("X-Admin-Token", ADMIN_TOKEN)];
        let audit = world
            .ask_as(&headers, Method::GET, "/admin/v1/audit", "")
            .await;
        (
            audit.json,
            world
                .ask_admin(Method::GET, "/admin/v1/usage", "")
                .await
                .json,
        )
    };
    let before = audit().await;
    let told = dry_run(&world, &json!({"preferences": {"zones": 0}})).await;
    assert_eq!(
        (&told["fits"], &told["fitting"]),
        (&json!(true), &json!(3)),
        "{told}"
    );
    assert_eq!(told["alternatives"].as_array().unwrap().len(), 2, "{told}");
    let weights = told["parts"].as_array().unwrap().iter();
    let sum: f64 = weights.map(|part| part["weight"].as_f64().unwrap()).sum();
    assert!((0.99..=1.0).contains(&sum), "{told}");
    let gone = json!([{"constraint": "with a taint it does not tolerate", "nodes": 1}]);
    assert_eq!(told["fallen"], gone);
    let large = "/admin/v1/schedule?cpuMillis=1&memoryMiB=999999&diskMiB=1";
    let told = world.ask_admin(Method::GET, large, "").await.json;
    assert_eq!(told["fits"], false);
    let change = told["smallestChange"].as_str().unwrap();
    assert!(change.contains("needs 976.5 GiB of memory"), "{change}");
    let unknown = world
        .ask_admin(Method::GET, "/admin/v1/schedule?template=none", "")
        .await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(audit().await, before);
}
