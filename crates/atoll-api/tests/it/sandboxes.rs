//! Making, reaching and ending sandboxes.

use std::time::Duration;

use atoll_core::node::NodeEvent;
use atoll_core::sandbox::UsageSample;
use atoll_core::time::Timestamp;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::World;

fn micros(value: &Value) -> i64 {
    let time: jiff::Timestamp = value.as_str().unwrap().parse().unwrap();
    time.as_microsecond()
}

fn seconds_left(detail: &Value) -> i64 {
    (micros(&detail["endAt"]) - jiff::Timestamp::now().as_microsecond()) / 1_000_000
}

#[tokio::test]
async fn a_sandbox_is_made_shown_and_ended() {
    let world = World::new().await;
    let body = json!({
        "templateID": "base", "timeout": 120, "metadata": {"user": "a"},
        "envVars": {"A": "1"}, "unknownToThisVersion": {"x": [1]},
        "network": {"denyOut": ["8.8.8.8"]}, "mcp": null, "autoResume": {"enabled": false}
    });
    let made = world
        .ask(Method::POST, "/v2/sandboxes", &body.to_string())
        .await;
    assert_eq!(made.status, StatusCode::CREATED);
    let id = made.json["sandboxID"].as_str().unwrap();
    assert!(
        made.json["envdAccessToken"].is_string(),
        "the second version always secures"
    );
    assert_eq!(made.json["alias"], "base");
    assert_eq!(made.json["envdVersion"], "0.6.13");

    let detail = world
        .ask(Method::GET, &format!("/sandboxes/{id}"), "")
        .await
        .json;
    assert_eq!(detail["state"], "running");
    assert_eq!(detail["metadata"], json!({"user": "a"}));
    assert_eq!(detail["envdAccessToken"], made.json["envdAccessToken"]);
    assert_eq!(detail["network"]["denyOut"], json!(["8.8.8.8"]));
    assert_eq!(
        detail["lifecycle"],
        json!({"autoResume": false, "onTimeout": "kill"})
    );
    assert_eq!(
        (&detail["cpuCount"], &detail["memoryMB"]),
        (&json!(2), &json!(512))
    );
    assert!((100..=120).contains(&seconds_left(&detail)), "{detail}");
    // Older clients append the client id.
    let long = format!("/sandboxes/{id}-{}", detail["clientID"].as_str().unwrap());
    assert_eq!(
        world.ask(Method::GET, &long, "").await.status,
        StatusCode::OK
    );
    assert_eq!(world.node.spec(id).env["A"], "1");

    let path = format!("/sandboxes/{id}");
    assert_eq!(
        world.ask(Method::DELETE, &path, "").await.status,
        StatusCode::NO_CONTENT
    );
    for method in [Method::GET, Method::DELETE] {
        let answer = world.ask(method, &path, "").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    let list = world.ask(Method::GET, "/v2/sandboxes", "").await;
    assert_eq!(list.json, json!([]));
    assert_eq!(world.node.running_count(), 0);
}

#[tokio::test]
async fn the_first_version_secures_only_if_asked() {
    let world = World::new().await;
    for (body, is_secured) in [
        (r#"{"templateID":"base"}"#, false),
        (r#"{"templateID":"base","secure":true}"#, true),
    ] {
        let made = world.ask(Method::POST, "/sandboxes", body).await;
        assert_eq!(made.status, StatusCode::CREATED);
        assert_eq!(made.json["envdAccessToken"].is_string(), is_secured);
        let id = made.json["sandboxID"].as_str().unwrap();
        let detail = world
            .ask(Method::GET, &format!("/sandboxes/{id}"), "")
            .await
            .json;
        assert!(
            (5..=15).contains(&seconds_left(&detail)),
            "the default is 15 s: {detail}"
        );
    }
}

#[tokio::test]
async fn a_private_sandbox_gets_a_traffic_token() {
    let world = World::new().await;
    let body = r#"{"templateID":"base","network":{"allowPublicTraffic":false}}"#;
    let made = world.ask(Method::POST, "/v2/sandboxes", body).await;
    assert!(made.json["trafficAccessToken"].is_string());
    let refused = world.ask(Method::POST, "/sandboxes", body).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn connect_extends_and_timeout_sets() {
    let world = World::new().await;
    let id = world.create(r#"{"templateID":"base","timeout":100}"#).await;
    let detail = format!("/sandboxes/{id}");
    let steps: [(Method, String, &str, u16, std::ops::RangeInclusive<i64>); 7] = [
        (
            Method::POST,
            format!("/sandboxes/{id}/connect"),
            r#"{"timeout":50}"#,
            200,
            80..=100,
        ),
        (
            Method::POST,
            format!("/sandboxes/{id}/connect"),
            r#"{"timeout":200}"#,
            200,
            180..=200,
        ),
        (
            Method::POST,
            format!("/v2/sandboxes/{id}/connect"),
            "",
            200,
            280..=300,
        ),
        (
            Method::POST,
            format!("/v2/sandboxes/{id}/connect"),
            "{}",
            200,
            280..=300,
        ),
        (
            Method::POST,
            format!("/sandboxes/{id}/timeout"),
            r#"{"timeout":30}"#,
            204,
            10..=30,
        ),
        (
            Method::POST,
            format!("/sandboxes/{id}/refreshes"),
            r#"{"duration":60}"#,
            204,
            40..=60,
        ),
        (
            Method::POST,
            format!("/sandboxes/{id}/refreshes"),
            "",
            204,
            40..=60,
        ),
    ];
    for (method, path, body, status, left) in steps {
        let answer = world.ask(method, &path, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.json);
        let shown = world.ask(Method::GET, &detail, "").await.json;
        assert!(
            left.contains(&seconds_left(&shown)),
            "{path} {body}: {}",
            seconds_left(&shown)
        );
    }
}

#[tokio::test]
async fn network_is_replaced_as_a_whole() {
    let world = World::new().await;
    let id = world
        .create(r#"{"templateID":"base","network":{"denyOut":["1.1.1.1"]}}"#)
        .await;
    let path = format!("/sandboxes/{id}/network");
    let body = r#"{"allowOut":["9.9.9.9"],"denyOut":["0.0.0.0/0"]}"#;
    assert_eq!(
        world.ask(Method::PUT, &path, body).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(world.node.network(&id).deny_out, ["0.0.0.0/0"]);
    assert_eq!(
        world.ask(Method::PUT, &path, "{}").await.status,
        StatusCode::NO_CONTENT
    );
    assert!(world.node.network(&id).deny_out.is_empty());
    let detail = world
        .ask(Method::GET, &format!("/sandboxes/{id}"), "")
        .await
        .json;
    assert_eq!(detail["network"]["allowOut"], json!([]));
}

#[tokio::test]
async fn the_same_idempotency_key_makes_one_sandbox() {
    let world = World::new().await;
    let key = ("Idempotency-Key", "retry-1");
    let auth = ("x-api-key", "e2b_0123456789abcdef0123456789abcdef01234567");
    let send = async |body: &str| {
        world
            .ask_as(&[auth, key], Method::POST, "/v2/sandboxes", body)
            .await
    };
    let first = send(r#"{"templateID":"base","timeout":60}"#).await;
    assert_eq!(first.status, StatusCode::CREATED);
    // The same document in another spelling.
    let second = send(r#"{ "timeout": 60, "templateID": "base" }"#).await;
    assert_eq!(second.json["sandboxID"], first.json["sandboxID"]);
    let other = send(r#"{"templateID":"base","timeout":61}"#).await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    assert_eq!(other.json["error_code"], "idempotency_request_mismatch");
    assert_eq!(world.node.running_count(), 1);
}

#[tokio::test]
async fn a_quota_is_told_with_when_to_retry() {
    let world = World::with(|config| config.team_limits.concurrent_sandboxes = 1).await;
    world.create_base().await;
    let answer = world
        .ask(Method::POST, "/v2/sandboxes", r#"{"templateID":"base"}"#)
        .await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let after: u64 = answer.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(after >= 1);
    assert!(
        answer.message().contains("maximum number of concurrent"),
        "{}",
        answer.message()
    );
}

#[tokio::test]
async fn the_deadline_ends_a_sandbox() {
    let world = World::new().await;
    let id = world.create(r#"{"templateID":"base","timeout":1}"#).await;
    let path = format!("/sandboxes/{id}");
    let gone = tokio::time::timeout(Duration::from_secs(10), async {
        while world.ask(Method::GET, &path, "").await.status != StatusCode::NOT_FOUND {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    gone.await.expect("the sandbox outlived its deadline");
    let answer = world.ask(Method::DELETE, &path, "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_timeout_of_zero_ends_a_sandbox() {
    let world = World::new().await;
    let id = world.create(r#"{"templateID":"base","timeout":300}"#).await;
    let path = format!("/sandboxes/{id}");
    let set = format!("{path}/timeout");
    let answer = world.ask(Method::POST, &set, r#"{"timeout":0}"#).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.json);
    let gone = tokio::time::timeout(Duration::from_secs(10), async {
        while world.ask(Method::GET, &path, "").await.status != StatusCode::NOT_FOUND {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    gone.await.expect("the sandbox outlived its deadline");
}

#[tokio::test]
async fn metrics_are_shown_within_their_range() {
    let world = World::new().await;
    let id = world.create_base().await;
    let now = jiff::Timestamp::now().as_microsecond();
    let sample = UsageSample {
        at: Timestamp::from_micros(now),
        cpu_used_pct: 12.5,
        cpu_count: 2,
        memory_used_bytes: 1,
        memory_total_bytes: 2,
        memory_cache_bytes: 3,
        disk_used_bytes: 4,
        disk_total_bytes: 5,
    };
    world
        .events
        .send(NodeEvent::Usage(id.parse().unwrap(), sample))
        .await
        .unwrap();
    let path = format!("/sandboxes/{id}/metrics");
    let shown = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let answer = world.ask(Method::GET, &path, "").await;
            if answer
                .json
                .as_array()
                .is_some_and(|samples| !samples.is_empty())
            {
                return answer.json;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let shown = shown.await.expect("no sample in time");
    assert_eq!(shown[0]["cpuUsedPct"], 12.5);
    assert_eq!(shown[0]["timestampUnix"], now / 1_000_000);
    let before = format!("{path}?start=1&end=2");
    assert_eq!(world.ask(Method::GET, &before, "").await.json, json!([]));
    let many = format!("/sandboxes/metrics?sandbox_ids={id},iunknown");
    let many = world.ask(Method::GET, &many, "").await.json;
    assert_eq!(many["sandboxes"][&id]["memTotal"], 2);
    assert_eq!(many["sandboxes"].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn logs_tell_the_history_also_after_the_end() {
    let world = World::new().await;
    let id = world.create_base().await;
    world
        .ask(Method::DELETE, &format!("/sandboxes/{id}"), "")
        .await;
    let v1 = world
        .ask(Method::GET, &format!("/sandboxes/{id}/logs"), "")
        .await;
    let lines = v1.json["logs"].as_array().unwrap();
    assert!(!lines.is_empty());
    assert_eq!(lines.len(), v1.json["logEntries"].as_array().unwrap().len());
    let line: Value = serde_json::from_str(lines[0]["line"].as_str().unwrap()).unwrap();
    assert!(line["level"].is_string() && line["logger"].is_string() && line["message"].is_string());
    let times = |entries: &Value| -> Vec<i64> {
        let entries = entries.as_array().unwrap().iter();
        entries.map(|entry| micros(&entry["timestamp"])).collect()
    };
    let v2 = format!("/v2/sandboxes/{id}/logs");
    let forward = world
        .ask(Method::GET, &format!("{v2}?direction=forward"), "")
        .await;
    let backward = world.ask(Method::GET, &v2, "").await;
    assert!(times(&forward.json["logs"]).is_sorted());
    assert!(times(&backward.json["logs"]).iter().rev().is_sorted());
    let one = world.ask(Method::GET, &format!("{v2}?limit=1"), "").await;
    assert_eq!(one.json["logs"].as_array().unwrap().len(), 1);
    let none = world
        .ask(Method::GET, &format!("{v2}?search=no-such-text"), "")
        .await;
    assert_eq!(none.json["logs"], json!([]));
}
