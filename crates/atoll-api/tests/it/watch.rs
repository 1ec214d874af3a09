//! The streams of the orchestrator's service, over Connect.

use std::time::Duration;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::rpc::SERVICE;
use crate::world::{ADMIN_TOKEN, KEY, World};

const LIMIT: Duration = Duration::from_secs(20);

/// The flag of the frame that ends a Connect stream.
const END_FRAME: u8 = 2;

/// An open stream.
struct Watch {
    body: Body,
    buffer: Vec<u8>,
}

enum Frame {
    Item(Value),
    /// The end, with its error if there is one.
    End(Value),
}

impl Watch {
    async fn open(world: &World, who: (&str, &str), method: &str, message: Value) -> Self {
        Self::open_with(world, &[who], method, message).await
    }

    async fn open_with(
        world: &World,
        headers: &[(&str, &str)],
        method: &str,
        message: Value,
    ) -> Self {
        let content = message.to_string().into_bytes();
        let mut framed = vec![0];
        framed.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
        framed.extend(content);
        let mut request = Request::post(format!("{SERVICE}{method}"))
            .header("content-type", "application/connect+json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(framed)).unwrap();
        let response = world.router.clone().oneshot(request).await.unwrap();
        Self {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }

    async fn frame(&mut self) -> Frame {
        loop {
            if let Some((head, rest)) = self.buffer.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
                let length = usize::try_from(length).unwrap();
                if rest.len() >= length {
                    let flag = head[0];
                    let content = serde_json::from_slice(&rest[..length]).unwrap();
                    self.buffer.drain(..5 + length);
                    return if flag & END_FRAME == 0 {
                        Frame::Item(content)
                    } else {
                        Frame::End(content)
                    };
                }
            }
            let more = tokio::time::timeout(LIMIT, self.body.frame());
            let more = more.await.expect("no frame in time").expect("no end frame");
            self.buffer.extend(more.unwrap().into_data().unwrap());
        }
    }

    async fn item(&mut self) -> Value {
        match self.frame().await {
            Frame::Item(item) => item,
            Frame::End(end) => panic!("ended: {end}"),
        }
    }

    /// The events up to and with the first of this type.
    async fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let item = self.item().await;
            let event = item["event"].clone();
            let is_last = event["type"] == kind;
            events.extend((!event.is_null()).then_some(event));
            if is_last {
                return events;
            }
        }
    }

    async fn end(&mut self) -> Value {
        match self.frame().await {
            Frame::End(end) => end,
            Frame::Item(item) => panic!("not ended: {item}"),
        }
    }
}

fn types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_sandbox_is_followed_to_its_end() {
    let world = World::new().await;
    let id = world.create_base().await;
    let team = ("x-api-key", KEY);
    let mut watch = Watch::open(&world, team, "WatchSandbox", json!({"sandboxId": id})).await;
    let first = watch.item().await;
    assert_eq!(first["sandbox"]["id"], id);
    assert_eq!(first["sandbox"]["state"], "SANDBOX_STATE_RUNNING");
    let cursor = first["idle"]["cursor"].as_str().unwrap().to_owned();

    world
        .ask(http::Method::DELETE, &format!("/sandboxes/{id}"), "")
        .await;
    let events = watch.until("sandbox.deleted").await;
    assert!(events.iter().all(|event| event["sandboxId"] == id));
    assert_eq!(events.last().unwrap()["nodeId"], "node-1");
    assert_eq!(events.last().unwrap()["generation"], "1");
    // The end is no error: there is nothing more to tell.
    assert_eq!(watch.end().await, json!({}));

    // It is gone for whoever comes later, and what happened is still told.
    let mut late = Watch::open(&world, team, "WatchSandbox", json!({"sandboxId": id})).await;
    assert_eq!(late.end().await["error"]["code"], "not_found");
    let query = json!({"cursor": cursor, "sandboxId": id});
    let mut again = Watch::open(&world, team, "WatchEvents", query).await;
    assert_eq!(again.until("sandbox.deleted").await, events);
}

#[tokio::test]
async fn events_are_told_from_any_cursor_and_only_to_whom_they_concern() {
    let world = World::new().await;
    let id = world.create_base().await;
    let team = ("x-api-key", KEY);
    let query = json!({"cursor": "0", "types": ["sandbox.*"]});
    let mut watch = Watch::open(&world, team, "WatchEvents", query).await;
    let events = watch.until("sandbox.running").await;
    assert_eq!(types(&events)[0], "sandbox.created");
    assert!(events.iter().all(|event| event["sandboxId"] == id));

    // From the middle on.
    let query = json!({"cursor": events[0]["cursor"], "types": ["sandbox.*"]});
    let mut watch = Watch::open(&world, team, "WatchEvents", query).await;
    assert_eq!(watch.until("sandbox.running").await, events[1..]);

    // Another team sees its own and nothing else; the operator sees both.
    let other = ("x-api-key", world.other_key.as_str());
    let body = r#"{"templateID":"base"}"#;
    let made = world
        .ask_as(&[other], http::Method::POST, "/v2/sandboxes", body)
        .await;
    let theirs = made.json["sandboxID"].clone();
    let query = json!({"cursor": "0"});
    let mut watch = Watch::open(&world, other, "WatchEvents", query.clone()).await;
    let seen = watch.until("sandbox.running").await;
    assert!(
        seen.iter().all(|event| event["sandboxId"] == theirs),
        "{seen:?}"
    );
    let admin = ("x-admin-token", ADMIN_TOKEN);
    let mut watch = Watch::open(&world, admin, "WatchEvents", query).await;
    let mut seen = watch.until("sandbox.running").await;
    seen.extend(watch.until("sandbox.running").await);
    for sandbox in [&json!(id), &theirs] {
        assert!(seen.iter().any(|event| event["sandboxId"] == *sandbox));
    }
}

#[tokio::test]
async fn a_deadline_ends_a_quiet_stream() {
    let world = World::new().await;
    let headers = [("x-api-key", KEY), ("connect-timeout-ms", "100")];
    let query = json!({"types": ["resource.exhausted"]});
    let mut watch = Watch::open_with(&world, &headers, "WatchEvents", query).await;
    assert_eq!(watch.end().await["error"]["code"], "deadline_exceeded");
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused() {
    let world = World::new().await;
    let id = world.create_base().await;
    let team = ("x-api-key", KEY);
    for (method, query, code) in [
        ("WatchEvents", json!({"cursor": "x"}), "invalid_argument"),
        (
            "WatchEvents",
            json!({"cursor": "999999999"}),
            "invalid_argument",
        ),
        (
            "WatchEvents",
            json!({"types": ["pod.*"]}),
            "invalid_argument",
        ),
        ("WatchEvents", json!({"sandboxId": "!"}), "invalid_argument"),
        ("WatchSandbox", json!({}), "invalid_argument"),
        ("WatchSandbox", json!({"sandboxId": "inone"}), "not_found"),
    ] {
        let mut watch = Watch::open(&world, team, method, query.clone()).await;
        assert_eq!(watch.end().await["error"]["code"], code, "{method} {query}");
    }
    let other = ("x-api-key", world.other_key.as_str());
    let query = json!({"sandboxId": id});
    let mut watch = Watch::open(&world, other, "WatchSandbox", query).await;
    assert_eq!(watch.end().await["error"]["code"], "not_found");
}
