//! The orchestrator's service as clients without its generated code meet it: Connect with JSON,
//! gRPC-Web, and the table of its calls. gRPC itself is tested by an independent client
//! (`tests/conformance/python/test_grpc.py`).

use std::collections::BTreeMap;

use atoll_core::resources::Resources;
use atoll_proto::ORCHESTRATOR_DESCRIPTORS;
use atoll_proto::google_rpc::{BadRequest, QuotaFailure, RetryInfo};
use atoll_proto::orchestrator::{
    CreateSandboxRequest, CreateSandboxResponse, GetSandboxRequest, SandboxState,
};
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use buffa::Message;
use buffa_descriptor::generated::descriptor::FileDescriptorSet;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::world::{ADMIN_TOKEN, KEY, World};

pub(crate) const SERVICE: &str = "/atoll.orchestrator.v1.OrchestratorService/";

/// The flag of the frame that ends a gRPC-Web answer.
const TRAILER_FRAME: u8 = 0x80;

pub(crate) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The code of a Connect error.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or("ok").to_owned()
    }

    /// A detail of a Connect error.
    fn detail<T: Message>(&self, name: &str) -> T {
        let json = self.json();
        let details = json["details"].as_array().expect("there are details");
        let detail = details.iter().find(|detail| detail["type"] == name);
        let value = detail.unwrap_or_else(|| panic!("no {name} in {json}"))["value"].clone();
        let bytes = STANDARD_NO_PAD.decode(value.as_str().unwrap()).unwrap();
        T::decode_from_slice(&bytes).unwrap()
    }
}

async fn post(world: &World, method: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
    let mut request = Request::post(format!("{SERVICE}{method}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).unwrap();
    let response = world.router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Reply {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes().to_vec(),
    }
}

async fn connect_as(world: &World, who: &[(&str, &str)], method: &str, message: Value) -> Reply {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(who);
    post(world, method, &headers, message.to_string().into_bytes()).await
}

async fn connect(world: &World, method: &str, message: Value) -> Reply {
    connect_as(world, &[("x-api-key", KEY)], method, message).await
}

pub(crate) async fn connect_admin(world: &World, method: &str, message: Value) -> Reply {
    connect_as(world, &[("x-admin-token", ADMIN_TOKEN)], method, message).await
}

/// The names of the service's calls and whether each answers with a stream.
fn methods() -> BTreeMap<String, bool> {
    let set = FileDescriptorSet::decode_from_slice(ORCHESTRATOR_DESCRIPTORS).unwrap();
    let mut services = set.file.iter().flat_map(|file| &file.service);
    let service = services
        .find(|service| service.name.as_deref() == Some("OrchestratorService"))
        .expect("the service is described");
    service
        .method
        .iter()
        .map(|method| {
            let name = method.name.clone().unwrap();
            (name, method.server_streaming == Some(true))
        })
        .collect()
}

#[tokio::test]
async fn every_call_refuses_strangers_and_operators_calls_refuse_teams() {
    let world = World::new().await;
    let admin_only = [
        "RegisterNode",
        "Heartbeat",
        "GetNodeStatus",
        "ListNodes",
        "DrainNode",
        "GetSystemMetrics",
        "GetHealth",
    ];
    for (method, is_stream) in methods() {
        let content = if is_stream {
            "application/connect+json"
        } else {
            "application/json"
        };
        let strangers: [&[(&str, &str)]; 4] = [
            &[],
            &[("x-api-key", "e2b_ffffffffffffffffffffffffffffffffffffffff")],
            &[("authorization", "Bearer nonsense")],
            &[("x-admin-token", "wrong")],
        ];
        for who in strangers {
            let mut headers = vec![("content-type", content)];
            headers.extend(who);
            // The message is malformed: nobody looks at it before the sender is known.
            let reply = post(&world, &method, &headers, b"{".to_vec()).await;
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            assert!(
                text.contains("\"unauthenticated\""),
                "{method} {who:?}: {text}"
            );
        }
        let headers = [("content-type", content), ("x-api-key", KEY)];
        let reply = post(&world, &method, &headers, b"{".to_vec()).await;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(
            text.contains("\"permission_denied\""),
            admin_only.contains(&method.as_str()),
            "{method}: {text}"
        );
    }
}

#[tokio::test]
async fn a_sandbox_is_made_found_listed_and_deleted_over_connect() {
    let world = World::new().await;
    let wanted = json!({
        "template": "base",
        "timeout": "60s",
        "metadata": {"purpose": "test"},
        "network": {"denyOut": ["10.0.0.0/8"]},
    });
    let reply = connect(&world, "CreateSandbox", wanted).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.json());
    assert!(reply.headers.contains_key("x-e2b-trace-id"));
    let made = reply.json();
    let sandbox = &made["sandbox"];
    assert_eq!(sandbox["state"], "SANDBOX_STATE_RUNNING");
    assert_eq!(sandbox["teamId"], world.tenant.team.as_str());
    assert_eq!(sandbox["nodeId"], "node-1");
    assert_eq!(sandbox["generation"], "1");
    assert_eq!(sandbox["resources"]["cpuMillicores"], "2000");
    assert_eq!(sandbox["resources"]["memoryBytes"], "536870912");
    assert_eq!(sandbox["network"]["denyOut"], json!(["10.0.0.0/8"]));
    assert_eq!(sandbox["metadata"], json!({"purpose": "test"}));
    assert!(made["access"]["envdAccessToken"].is_string());
    let id = sandbox["id"].as_str().unwrap();

    let found = connect(&world, "GetSandbox", json!({"sandboxId": id})).await;
    assert_eq!(found.json()["sandbox"]["id"], id);
    let query = json!({"metadata": {"purpose": "test"}, "states": ["SANDBOX_STATE_RUNNING"]});
    let listed = connect(&world, "ListSandboxes", query).await.json();
    assert_eq!(listed["sandboxes"][0]["id"], id);
    assert_eq!(listed["totalRunning"], "1");

    // Another team neither sees nor deletes it.
    let other = [("x-api-key", world.other_key.as_str())];
    for method in ["GetSandbox", "DeleteSandbox"] {
        let reply = connect_as(&world, &other, method, json!({"sandboxId": id})).await;
        assert_eq!(reply.code(), "not_found", "{method}");
    }
    let deleted = connect(&world, "DeleteSandbox", json!({"sandboxId": id})).await;
    assert_eq!(deleted.status, StatusCode::OK);
    let again = connect(&world, "DeleteSandbox", json!({"sandboxId": id})).await;
    assert_eq!(
        (again.status, again.code().as_str()),
        (StatusCode::NOT_FOUND, "not_found")
    );
    assert_eq!(world.node.running_count(), 0);
}

#[tokio::test]
async fn a_sandbox_is_paused_resumed_restarted_and_explained() {
    let world = World::new().await;
    let id = world.create_base().await;
    let named = json!({"sandboxId": id});
    let paused = connect(&world, "PauseSandbox", named.clone()).await.json();
    assert_eq!(
        paused["sandbox"]["state"], "SANDBOX_STATE_PAUSED",
        "{paused}"
    );
    let refused = connect(&world, "PauseSandbox", named.clone()).await;
    assert_eq!(refused.code(), "failed_precondition");
    let refused = connect(&world, "RestartSandbox", named.clone()).await;
    assert_eq!(refused.code(), "failed_precondition");
    let listed = json!({"states": ["SANDBOX_STATE_PAUSED"]});
    let listed = connect(&world, "ListSandboxes", listed).await.json();
    assert_eq!(listed["sandboxes"][0]["id"], id);

    let resumed = json!({"sandboxId": id, "timeout": "60s"});
    let resumed = connect(&world, "ResumeSandbox", resumed).await.json();
    assert_eq!(
        resumed["sandbox"]["state"], "SANDBOX_STATE_RUNNING",
        "{resumed}"
    );
    assert_eq!(resumed["sandbox"]["generation"], "2");
    let refused = connect(&world, "ResumeSandbox", named.clone()).await;
    assert_eq!(refused.code(), "failed_precondition");

    let restarted = connect(&world, "RestartSandbox", named.clone())
        .await
        .json();
    assert_eq!(restarted["sandbox"]["id"], id);
    assert_eq!(restarted["sandbox"]["generation"], "3", "{restarted}");

    let known = connect(&world, "ExplainSandbox", named.clone())
        .await
        .json();
    assert_eq!(known["sandbox"]["id"], id);
    assert_eq!(known["observed"]["state"], "OBSERVED_STATE_RUNNING");
    assert_eq!(known["nodeState"], "NODE_STATE_READY");
    assert_eq!(known["decisions"][0]["nodeId"], "node-1");
    assert!(known["decisions"][0]["score"].is_number());
    let happened = |kind: &str| {
        let history = known["history"].as_array().unwrap();
        history.iter().any(|event| event["type"] == kind)
    };
    assert!(
        happened("sandbox.paused") && happened("sandbox.resumed"),
        "{known}"
    );

    for method in [
        "PauseSandbox",
        "ResumeSandbox",
        "RestartSandbox",
        "ExplainSandbox",
    ] {
        let other = [("x-api-key", world.other_key.as_str())];
        let reply = connect_as(&world, &other, method, named.clone()).await;
        assert_eq!(reply.code(), "not_found", "{method}");
    }
    let admin = connect_admin(&world, "ExplainSandbox", named).await;
    assert_eq!(admin.status, StatusCode::OK);
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_request_is_named_at_once() {
    let world = World::new().await;
    let wrong = json!({
        "requestId": "not a key",
        "template": "",
        "timeout": "-1s",
        "metadata": {"": "x"},
        "envVars": {"A=B": "x"},
        "network": {"denyOut": ["example.org"]},
        "onTimeout": 77,
    });
    let reply = connect(&world, "CreateSandbox", wrong).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (StatusCode::BAD_REQUEST, "invalid_argument")
    );
    let details: BadRequest = reply.detail("google.rpc.BadRequest");
    let fields: Vec<&str> = details
        .field_violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(
        fields,
        [
            "template",
            "timeout",
            "metadata",
            "env_vars",
            "network.deny_out",
            "on_timeout",
            "request_id"
        ]
    );
    assert!(
        details
            .field_violations
            .iter()
            .all(|v| !v.description.is_empty())
    );

    // What only the use case can judge is named as well.
    let long = json!({"template": "base", "timeout": "90000000s"});
    let details: BadRequest = connect(&world, "CreateSandbox", long)
        .await
        .detail("google.rpc.BadRequest");
    assert_eq!(details.field_violations[0].field, "timeout");
    let list = json!({"pageSize": 101, "pageToken": "x", "states": ["SANDBOX_STATE_ERROR"]});
    let details: BadRequest = connect(&world, "ListSandboxes", list)
        .await
        .detail("google.rpc.BadRequest");
    assert_eq!(details.field_violations.len(), 3);
    let reply = connect(&world, "CreateSandbox", json!({"template": "nowhere"})).await;
    assert_eq!(reply.code(), "not_found");
    assert_eq!(world.node.running_count(), 0);
}

#[tokio::test]
async fn a_request_id_makes_a_create_safe_to_repeat() {
    let world = World::new().await;
    let wanted = json!({"requestId": "r-1", "template": "base", "metadata": {"a": "1", "b": "2"}});
    let first = connect(&world, "CreateSandbox", wanted.clone())
        .await
        .json();
    // The same content in another order.
    let same = json!({"metadata": {"b": "2", "a": "1"}, "template": "base", "requestId": "r-1"});
    let again = connect(&world, "CreateSandbox", same).await.json();
    assert_eq!(first["sandbox"]["id"], again["sandbox"]["id"]);
    let other = json!({"requestId": "r-1", "template": "base"});
    let reply = connect(&world, "CreateSandbox", other).await;
    assert_eq!(reply.code(), "already_exists");
    let info: atoll_proto::google_rpc::ErrorInfo = reply.detail("google.rpc.ErrorInfo");
    assert_eq!(info.reason, "IDEMPOTENCY_REQUEST_MISMATCH");
    assert_eq!(info.domain, "atoll");
    assert_eq!(world.node.running_count(), 1);
}

#[tokio::test]
async fn what_is_short_is_said_with_when_to_try_again() {
    let world = World::with(|config| config.team_limits.concurrent_sandboxes = 1).await;
    let base = json!({"template": "base"});
    let reply = connect(&world, "CreateSandbox", base.clone()).await;
    assert_eq!(reply.status, StatusCode::OK);
    let reply = connect(&world, "CreateSandbox", base.clone()).await;
    assert_eq!(reply.code(), "resource_exhausted");
    let short: QuotaFailure = reply.detail("google.rpc.QuotaFailure");
    assert_eq!(short.violations[0].subject, "team");
    let retry: RetryInfo = reply.detail("google.rpc.RetryInfo");
    assert!(retry.retry_delay.seconds >= 1);

    let world = World::new().await;
    world
        .fill_up(Resources {
            cpu_millis: 16_000,
            memory_mib: 64,
            disk_mib: 64,
        })
        .await;
    let reply = connect(&world, "CreateSandbox", base).await;
    assert_eq!(reply.code(), "resource_exhausted");
    let short: QuotaFailure = reply.detail("google.rpc.QuotaFailure");
    assert_eq!(short.violations[0].subject, "fleet");
    assert!(short.violations[0].description.contains("too little cpu"));
    let info: atoll_proto::google_rpc::ErrorInfo = reply.detail("google.rpc.ErrorInfo");
    assert_eq!(info.reason, "SANDBOX_CAPACITY_UNAVAILABLE");
    let _: RetryInfo = reply.detail("google.rpc.RetryInfo");
}

#[tokio::test]
async fn a_batch_answers_for_each_of_its_requests() {
    let world = World::new().await;
    let batch = json!({
        "requestId": "batch",
        "requests": [{"template": "base"}, {"template": "nowhere"}, {"template": "base"}],
    });
    let made = connect(&world, "BatchCreateSandboxes", batch.clone())
        .await
        .json();
    let results = made["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    assert!(results[0]["created"]["sandbox"]["id"].is_string(), "{made}");
    assert_eq!(results[1]["error"]["code"], 5, "{made}");
    // A repetition makes nothing new.
    let again = connect(&world, "BatchCreateSandboxes", batch).await.json();
    for place in [0, 2] {
        let id = |answer: &Value| answer["results"][place]["created"]["sandbox"]["id"].clone();
        assert_eq!(id(&made), id(&again));
    }
    assert_eq!(world.node.running_count(), 2);

    // Nothing is made if any of them is malformed.
    let batch = json!({"requests": [{"template": "base"}, {"template": ""}]});
    let reply = connect(&world, "BatchCreateSandboxes", batch).await;
    let details: BadRequest = reply.detail("google.rpc.BadRequest");
    assert_eq!(details.field_violations[0].field, "requests[1].template");
    for requests in [json!([]), json!(vec![json!({"template": "base"}); 101])] {
        let reply = connect(
            &world,
            "BatchCreateSandboxes",
            json!({"requests": requests}),
        )
        .await;
        assert_eq!(reply.code(), "invalid_argument");
    }
    assert_eq!(world.node.running_count(), 2);
}

#[tokio::test]
async fn operators_see_nodes_usage_and_health() {
    let world = World::new().await;
    world.create_base().await;
    let nodes = connect_admin(&world, "ListNodes", json!({})).await.json();
    let node = &nodes["nodes"][0];
    assert_eq!(
        (&node["id"], &node["state"]),
        (&json!("node-1"), &json!("NODE_STATE_READY"))
    );
    let expected = json!({
        "total": {
            "cpuMillicores": "16000", "memoryBytes": "17179869184", "diskBytes": "104857600000",
        },
        "used": {"cpuMillicores": "2000", "memoryBytes": "536870912", "diskBytes": "1073741824"},
        "available": {
            "cpuMillicores": "14000", "memoryBytes": "16642998272", "diskBytes": "103783858176",
        },
    });
    assert_eq!(node["capacity"], expected);
    for scope in [json!({"fleet": {}}), json!({"nodeId": "node-1"})] {
        let usage = connect_admin(&world, "GetResourceUsage", scope.clone())
            .await
            .json();
        for part in ["total", "used", "available"] {
            for unit in ["cpuMillicores", "memoryBytes", "diskBytes"] {
                let (shown, expected) = (&usage["capacity"][part], &expected[part]);
                assert_eq!(shown[unit], expected[unit], "{scope} {part} {unit}");
            }
        }
        assert_eq!(usage["sandboxes"], 1);
        let reply = connect(&world, "GetResourceUsage", scope).await;
        assert_eq!(reply.code(), "permission_denied");
    }
    // A team asks about itself, the operator about any.
    let own = connect(&world, "GetResourceUsage", json!({})).await.json();
    assert_eq!(own["capacity"]["used"]["memoryBytes"], "536870912");
    assert_eq!(own["sandboxes"], 1);
    let team = json!({"teamId": world.tenant.team.as_str()});
    let asked = connect_admin(&world, "GetResourceUsage", team.clone()).await;
    assert_eq!(asked.json(), own);
    let other = [("x-api-key", world.other_key.as_str())];
    let refused = connect_as(&world, &other, "GetResourceUsage", team).await;
    assert_eq!(refused.code(), "permission_denied");
    let named = json!({"nodeId": "node-1"});
    let status = connect_admin(&world, "GetNodeStatus", named.clone()).await;
    let status = status.json();
    assert_eq!(status["node"]["id"], "node-1");
    assert_eq!(
        status["allocations"][0]["resources"]["memoryBytes"],
        "536870912"
    );
    let drained = connect_admin(&world, "DrainNode", named).await.json();
    assert_eq!(drained["node"]["state"], "NODE_STATE_DRAINING");
    assert_eq!(drained["node"]["drain"], "DRAIN_MODE_WAIT");
    let reply = connect(&world, "CreateSandbox", json!({"template": "base"})).await;
    assert_eq!(reply.code(), "resource_exhausted");
    let open = json!({"nodeId": "node-1", "undo": true});
    let opened = connect_admin(&world, "DrainNode", open).await.json();
    assert_eq!(opened["node"]["state"], "NODE_STATE_READY");
    let missing = connect_admin(&world, "GetResourceUsage", json!({"nodeId": "none"})).await;
    assert_eq!(missing.code(), "not_found");
    let health = connect_admin(&world, "GetHealth", json!({})).await.json();
    assert_eq!(health["status"], "HEALTH_STATUS_HEALTHY");
    assert!(
        health["components"]
            .as_array()
            .is_some_and(|all| all.len() >= 2)
    );
}

#[tokio::test]
async fn operators_read_the_figures() {
    let mut world = World::new().await;
    let reply = connect_admin(&world, "GetSystemMetrics", json!({})).await;
    assert_eq!(reply.code(), "unimplemented", "nothing counts here");
    world.count(|| {
        "# TYPE atoll_a_total counter\natoll_a_total{code=\"200\"} 3\natoll_b 0.5\n".to_owned()
    });
    let all = connect_admin(&world, "GetSystemMetrics", json!({})).await;
    let expected = json!([
        {"name": "atoll_a_total", "labels": {"code": "200"}, "value": 3.0},
        {"name": "atoll_b", "value": 0.5},
    ]);
    let all = all.json();
    assert_eq!(all["metrics"], expected);
    assert!(all["at"].is_string());
    let one = json!({"namePrefix": "atoll_b"});
    let one = connect_admin(&world, "GetSystemMetrics", one).await.json();
    assert_eq!(one["metrics"], json!([{"name": "atoll_b", "value": 0.5}]));
}

#[tokio::test]
async fn nodes_join_and_beat_with_the_fleets_token() {
    const TOKEN: &str = "a-token-that-is-long-enough";
    let mut world = World::new().await;
    let node = |address: &str| json!({"nodeId": "n2", "address": address, "incarnation": "1"});
    // A server that runs its own node takes in no others.
    let reply = connect_admin(&world, "RegisterNode", node("http://127.0.0.1:1")).await;
    assert_eq!(reply.code(), "unimplemented");

    world.open_to_nodes(TOKEN);
    let bearer = format!("Bearer {TOKEN}");
    let shown = [("authorization", bearer.as_str())];
    let wrong = [("authorization", "Bearer a-token-that-is-another")];
    let reply = connect_as(&world, &wrong, "RegisterNode", node("http://127.0.0.1:1")).await;
    assert_eq!(reply.code(), "unauthenticated");
    // The token opens what nodes call and nothing else.
    let reply = connect_as(&world, &shown, "ListNodes", json!({})).await;
    assert_eq!(reply.code(), "unauthenticated");
    let reply = connect_as(&world, &shown, "RegisterNode", node("nowhere")).await;
    let details: BadRequest = reply.detail("google.rpc.BadRequest");
    assert_eq!(details.field_violations[0].field, "address");
    for (descriptor, field) in [
        (json!({"labels": {"a b": "c"}}), "descriptor.labels"),
        (json!({"taints": [{"key": ""}]}), "descriptor.taints"),
        (json!({"zone": "e u"}), "descriptor.zone"),
        (json!({"drivers": {"jail": "new"}}), "descriptor.drivers"),
        (json!({"startsMax": 70_000}), "descriptor.starts_max"),
        (json!({"sandboxesMax": 0}), "descriptor.sandboxes_max"),
    ] {
        let mut wrong = node("http://127.0.0.1:1");
        wrong["descriptor"] = descriptor;
        let reply = connect_as(&world, &shown, "RegisterNode", wrong).await;
        let details: BadRequest = reply.detail("google.rpc.BadRequest");
        assert_eq!(details.field_violations[0].field, field);
    }
    // Nobody listens there.
    let reply = connect_as(&world, &shown, "RegisterNode", node("http://127.0.0.1:1")).await;
    assert_eq!(reply.code(), "failed_precondition");

    let beat = json!({
        "nodeId": "n2", "incarnation": "1", "at": "2026-01-01T00:00:00Z",
        "total": {"cpuMillicores": "1000"}, "allocated": {}, "digest": "0", "driver": "jail",
        "measured": {"total": {"cpuMillicores": "1000"}},
    });
    let answer = connect_as(&world, &shown, "Heartbeat", beat).await;
    // It is no member: it has to register.
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({})));
    let reply = connect_as(&world, &shown, "Heartbeat", json!({"incarnation": "1"})).await;
    let details: BadRequest = reply.detail("google.rpc.BadRequest");
    assert_eq!(details.field_violations.len(), 4);
}

#[tokio::test]
async fn the_standard_services_ask_for_no_credentials() {
    let world = World::new().await;
    for service in ["", "atoll.orchestrator.v1.OrchestratorService"] {
        let request = Request::post("/grpc.health.v1.Health/Check")
            .header("content-type", "application/json")
            .body(Body::from(json!({"service": service}).to_string()))
            .unwrap();
        let response = world.router.clone().oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["status"], "SERVING", "{answer}");
    }
}

#[tokio::test]
async fn messages_have_a_limit() {
    let world = World::new().await;
    let large = json!({"template": "x".repeat(5 * 1024 * 1024)});
    let reply = connect(&world, "CreateSandbox", large).await;
    assert_eq!(reply.code(), "resource_exhausted");
}

#[tokio::test]
async fn a_call_that_does_not_exist_is_unimplemented() {
    let world = World::new().await;
    let reply = connect(&world, "Nothing", json!({})).await;
    assert_eq!(reply.code(), "unimplemented");
}

#[tokio::test]
async fn gets_of_idempotent_calls_work_and_others_do_not() {
    let world = World::new().await;
    let ask = |method: &str| {
        let uri = format!("{SERVICE}{method}?connect=v1&encoding=json&message=%7B%7D");
        let request = Request::get(uri).header("x-api-key", KEY);
        world
            .router
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
    };
    assert_eq!(ask("ListSandboxes").await.unwrap().status(), StatusCode::OK);
    let refused = ask("CreateSandbox").await.unwrap().status();
    assert_eq!(refused, StatusCode::METHOD_NOT_ALLOWED);
}

/// A message in the envelope of gRPC and gRPC-Web.
fn envelope(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    framed.extend(bytes);
    framed
}

/// The frames of a gRPC-Web answer: flag and content.
fn frames(mut body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = body.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let (content, rest) = rest.split_at(usize::try_from(length).unwrap());
        frames.push((head[0], content.to_vec()));
        body = rest;
    }
    frames
}

#[tokio::test]
async fn grpc_web_carries_answers_and_errors() {
    let world = World::new().await;
    let headers = [
        ("content-type", "application/grpc-web+proto"),
        ("x-grpc-web", "1"),
        ("x-api-key", KEY),
    ];
    let request = CreateSandboxRequest {
        template: "base".to_owned(),
        ..CreateSandboxRequest::default()
    };
    let reply = post(&world, "CreateSandbox", &headers, envelope(&request)).await;
    assert_eq!(reply.status, StatusCode::OK);
    let frames = frames(&reply.body);
    assert_eq!(frames.len(), 2);
    let made = CreateSandboxResponse::decode_from_slice(&frames[0].1).unwrap();
    assert_eq!(made.sandbox.state, SandboxState::Running);
    assert_eq!(frames[1].0 & TRAILER_FRAME, TRAILER_FRAME);
    assert!(String::from_utf8_lossy(&frames[1].1).contains("grpc-status: 0"));

    let unknown = GetSandboxRequest {
        sandbox_id: "inone".to_owned(),
        ..GetSandboxRequest::default()
    };
    let reply = post(&world, "GetSandbox", &headers, envelope(&unknown)).await;
    assert_eq!(reply.status, StatusCode::OK);
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let status = reply
        .headers
        .get("grpc-status")
        .map(|v| v.to_str().unwrap());
    assert!(
        status == Some("5") || text.contains("grpc-status: 5"),
        "{text}"
    );
}

/// Codes that gRPC has, in the words of its documentation.
const CODES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[test]
fn the_table_in_the_documents_is_the_service() {
    let document = include_str!("../../../../docs/rpc.md");
    let described = methods();
    let routes: Vec<String> = atoll_api::rest::operations()
        .into_iter()
        .map(|(method, path)| format!("`{method} {path}`"))
        .collect();
    let mut listed = Vec::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [call, whom, counterpart, codes] = cells[..] else {
            continue;
        };
        let call = call.trim_matches('`');
        assert!(described.contains_key(call), "`{call}` is no call");
        assert!(
            ["team", "operator", "team, operator", "node, operator"].contains(&whom),
            "{whom}"
        );
        let is_route = |one: &str| routes.iter().any(|route| route == one);
        let are_routes = counterpart.split(", ").all(is_route);
        assert!(counterpart == "none" || are_routes, "{call}: {counterpart}");
        for word in codes
            .split([',', ';', ' '])
            .filter(|word| word.contains('_'))
        {
            assert!(CODES.contains(&word), "{call}: {word} is no code");
        }
        listed.push(call.to_owned());
    }
    listed.sort();
    let described: Vec<String> = described.into_keys().collect();
    assert_eq!(listed, described);
}
