//! Events and webhooks through the API, and a receiver that checks what it gets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_api::webhook::{HttpSender, Targets};
use atoll_core::event::{EventKind, Subject};
use atoll_core::time::Timestamp;
use atoll_store::store::{EventRow, Retention, Store as _};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tower::ServiceExt as _;

use crate::world::{ADMIN_TOKEN, KEY, World};

const SECRET: &str = "what only the receiver knows";
const LIMIT: Duration = Duration::from_secs(20);

/// Makes a sandbox and ends it; answers its id.
async fn live_and_die(world: &World) -> String {
    let body = json!({ "templateID": "base", "metadata": { "user": "ann" } }).to_string();
    let made = world.ask(Method::POST, "/v2/sandboxes", &body).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let id = made.json["sandboxID"].as_str().unwrap().to_owned();
    let path = format!("/sandboxes/{id}");
    let killed = world.ask(Method::DELETE, &path, "").await;
    assert_eq!(killed.status, StatusCode::NO_CONTENT);
    id
}

fn texts(events: &Value, name: &str) -> Vec<String> {
    let events = events.as_array().unwrap().iter();
    events
        .map(|event| event[name].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn events_are_read_by_cursor_and_in_the_form_of_e2b() {
    let world = World::new().await;
    let id = live_and_die(&world).await;
    let page = world.ask(Method::GET, "/events?limit=2", "").await;
    let page = page.json;
    assert_eq!(
        texts(&page["events"], "kind"),
        ["sandbox.created", "sandbox.placed"]
    );
    let path = format!("/events?cursor={}&kind=sandbox.deleted", page["cursor"]);
    let rest = world.ask(Method::GET, &path, "").await.json;
    assert_eq!(texts(&rest["events"], "sandboxID"), [id.as_str()]);
    assert_eq!(rest["isLast"], true);

    let path = format!("/events/sandboxes/{id}");
    let recent = world.ask(Method::GET, &path, "").await.json;
    assert_eq!(
        texts(&recent, "type"),
        ["sandbox.lifecycle.killed", "sandbox.lifecycle.created"]
    );
    assert_eq!(recent[0]["eventData"]["sandbox_metadata"]["user"], "ann");
    assert_eq!(recent[0]["eventData"]["kill_reason"], "killed");
    assert!(recent[0]["eventData"]["execution"]["vcpu_count"].is_u64());
    let path = "/events/sandboxes?orderAsc=true&offset=1&limit=1";
    let one = world.ask(Method::GET, path, "").await.json;
    assert_eq!(texts(&one, "type"), ["sandbox.lifecycle.killed"]);

    for path in ["/events", "/events/sandboxes"] {
        let foreign = world
            .ask_as(&[("X-API-Key", &world.other_key)], Method::GET, path, "")
            .await;
        assert!(!foreign.json.to_string().contains(&id), "{path}");
    }
    for path in [
        "/events?kind=unheard-of",
        "/events?limit=0",
        "/events?cursor=99999999",
        "/events?from=yesterday",
    ] {
        let refused = world.ask(Method::GET, path, "").await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{path}");
    }
    let node = world.ask(Method::GET, "/events?node=node-1", "").await;
    assert_eq!(node.status, StatusCode::FORBIDDEN);
    let all = world
        .ask_admin(Method::GET, "/admin/v1/events?kind=sandbox.created", "")
        .await;
    assert_eq!(texts(&all.json["events"], "sandboxID"), [id]);
}

/// Reads a stream until it holds the text.
async fn read_until(world: &World, path: &str, header: (&str, &str), wanted: &str) -> String {
    let request = Request::get(path)
        .header(header.0, header.1)
        .body(Body::empty())
        .unwrap();
    let answer = world.router.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    let mut text = String::new();
    while !text.contains(wanted) {
        let frame = tokio::time::timeout(LIMIT, body.frame()).await;
        let frame = frame.expect("the stream is silent").unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn a_stream_begins_at_any_cursor() {
    let world = World::new().await;
    let id = live_and_die(&world).await;
    let wanted = "event: sandbox.deleted";
    let key = ("X-API-Key", KEY);
    let all = read_until(&world, "/events/stream?from=beginning", key, wanted).await;
    let (first, _) = all.split_once("\nevent: sandbox.created\n").unwrap();
    let first = first.strip_prefix("id: ").unwrap();
    assert!(all.contains(&id));
    let token = ("X-Admin-Token", ADMIN_TOKEN);
    let path = format!("/admin/v1/events/stream?cursor={first}");
    let rest = read_until(&world, &path, token, wanted).await;
    assert!(!rest.contains("sandbox.created"), "{rest}");
}

/// Ids and names of what a part of a stream holds.
fn lines(text: &str) -> Vec<(Option<u64>, String)> {
    let messages = text.split("\n\n").filter(|part| part.contains("event: "));
    let field = |part: &str, name: &str| {
        let found = part.lines().find_map(|line| line.strip_prefix(name));
        found.map(str::to_owned)
    };
    messages
        .map(|part| {
            let id = field(part, "id: ").map(|id| id.parse().unwrap());
            (id, field(part, "event: ").unwrap())
        })
        .collect()
}

/// One that reads nothing for long holds up nobody; then it is told of what is gone, and gets the
/// rest.
#[tokio::test]
async fn a_slow_watcher_holds_up_nobody_and_is_told_that_it_fell_behind() {
    let world = World::new().await;
    live_and_die(&world).await;
    let open = |path: &'static str| {
        let request = Request::get(path).header("X-API-Key", KEY);
        let request = request.body(Body::empty()).unwrap();
        world.router.clone().oneshot(request)
    };
    let slow = open("/events/stream?from=beginning").await.unwrap();
    let mut slow = slow.into_body();
    let first = slow.frame().await.unwrap().unwrap();
    let mut text = String::from_utf8(first.into_data().unwrap().to_vec()).unwrap();
    for _ in 0..5 {
        let path = "/events/stream?from=now";
        let (id, fast) = tokio::join!(
            live_and_die(&world),
            read_until(&world, path, ("X-API-Key", KEY), "event: sandbox.deleted")
        );
        assert!(fast.contains(&id), "{fast}");
    }
    // More than the bus remembers, so that what the store forgets is gone.
    let filler = EventRow {
        subject: Subject::Fleet,
        team: None,
        at: Timestamp::from_micros(1),
        kind: EventKind::ResourceExhausted,
        level: "info".to_owned(),
        message: "filler".to_owned(),
        fields: BTreeMap::new(),
        decision: None,
    };
    let filler = vec![filler; 9_000];
    world.store.event_append(filler).await.unwrap();
    let retention = Retention {
        before: Timestamp::from_micros(0),
        sandboxes_max: 1_000,
        events_max: 3,
        limit: 10_000,
    };
    while world.store.history_prune(&retention).await.unwrap().is_more {}
    live_and_die(&world).await;
    let newest = world.ask(Method::GET, "/events?from=now", "").await.json;
    let newest = newest["cursor"].as_u64().unwrap();
    while !text.contains(&format!("id: {newest}\n")) {
        let frame = tokio::time::timeout(LIMIT, slow.frame()).await;
        let frame = frame.expect("the stream is silent").unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    let seen = lines(&text);
    let lagged = seen.iter().position(|(_, name)| name == "lagged").unwrap();
    let after: Vec<_> = seen[lagged + 1..]
        .iter()
        .map(|(id, _)| id.unwrap())
        .collect();
    assert!(after.is_sorted() && after.len() >= 3, "{text}");
    assert_eq!(after.last(), Some(&newest), "{text}");
    let before = seen[..lagged].iter().map(|(id, _)| id.unwrap());
    assert!(before.is_sorted() && lagged >= 4, "{text}");
}

type Received = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A receiver that refuses the first three deliveries. Answers its URL.
async fn receive(received: Received) -> String {
    let refusals = Arc::new(Mutex::new(3));
    let take = move |headers: HeaderMap, body: Bytes| async move {
        let mut left = refusals.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        received.lock().unwrap().push((headers, body));
        StatusCode::OK
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        let router = Router::new().route("/hook", post(take));
        axum::serve(listener, router).await.unwrap();
    });
    format!("http://{address}/hook")
}

/// Checks a delivery as a receiver does; answers the event.
fn checked(headers: &HeaderMap, body: &[u8]) -> Value {
    let header = |name: &str| headers[name].to_str().unwrap();
    let mut digest = Sha256::new();
    digest.update(SECRET.as_bytes());
    digest.update(body);
    assert_eq!(header("e2b-signature-version"), "v1");
    assert_eq!(
        header("e2b-signature"),
        URL_SAFE_NO_PAD.encode(digest.finalize())
    );
    let (time, signature) = header("atoll-signature").split_once(",v1=").unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(time.strip_prefix("t=").unwrap().as_bytes());
    mac.update(b".");
    mac.update(body);
    assert_eq!(hex::encode(mac.finalize().into_bytes()), signature);
    serde_json::from_slice(body).unwrap()
}

#[tokio::test]
async fn a_receiver_that_fails_at_first_gets_all_in_order_and_signed() {
    let world = World::with(|config| {
        config.webhooks.retry_min = Duration::from_millis(5);
        config.webhooks.retry_max = Duration::from_millis(20);
    })
    .await;
    let sender = Arc::new(HttpSender::new(Targets::Any).unwrap());
    world.control.webhooks_deliver(sender).await.unwrap();
    let received = Received::default();
    let url = receive(Arc::clone(&received)).await;
    let new = json!({
        "name": "mine", "url": url, "signatureSecret": SECRET,
        "events": ["sandbox.lifecycle.created", "sandbox.running", "sandbox.lifecycle.killed"],
    });
    let made = world
        .ask(Method::POST, "/events/webhooks", &new.to_string())
        .await;
    assert_eq!(made.status, StatusCode::CREATED);
    let made = made.json;
    assert!(!made.to_string().contains(SECRET));
    let id = live_and_die(&world).await;
    tokio::time::timeout(LIMIT, async {
        while received.lock().unwrap().len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("not all was delivered");
    let received = received.lock().unwrap().clone();
    let events: Vec<_> = received
        .iter()
        .map(|(headers, body)| checked(headers, body))
        .collect();
    let types: Vec<_> = events.iter().map(|event| &event["type"]).collect();
    assert_eq!(
        types,
        [
            "sandbox.lifecycle.created",
            "sandbox.running",
            "sandbox.lifecycle.killed"
        ]
    );
    assert!(events.iter().all(|event| event["sandboxId"] == id.as_str()));
    assert_eq!(
        received[0].0["e2b-webhook-id"],
        made["id"].as_str().unwrap()
    );
}

#[tokio::test]
async fn webhooks_are_managed_by_their_team_only() {
    let world = World::new().await;
    let sender = Arc::new(HttpSender::new(Targets::Public).unwrap());
    world.control.webhooks_deliver(sender).await.unwrap();
    let new = |url: &str| {
        let events = ["sandbox.lifecycle.created"];
        json!({ "name": "a", "url": url, "signatureSecret": SECRET, "events": events }).to_string()
    };
    for url in [
        "http://127.0.0.1/",
        "http://[::1]/",
        "ftp://example.com/",
        "x",
    ] {
        let refused = world.ask(Method::POST, "/events/webhooks", &new(url)).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{url}");
    }
    let body = new("https://example.com/hook");
    let made = world.ask(Method::POST, "/events/webhooks", &body).await;
    let id = made.json["id"].as_str().unwrap().to_owned();
    let path = format!("/events/webhooks/{id}");
    let other = [("X-API-Key", world.other_key.as_str())];
    for (method, body) in [
        (Method::GET, ""),
        (Method::PATCH, "{\"enabled\":false}"),
        (Method::DELETE, ""),
    ] {
        let foreign = world.ask_as(&other, method, &path, body).await;
        assert_eq!(foreign.status, StatusCode::NOT_FOUND);
    }
    let changed = world
        .ask(Method::PATCH, &path, "{\"enabled\":false,\"name\":\"b\"}")
        .await;
    let changed = changed.json;
    assert_eq!(
        (&changed["enabled"], &changed["name"]),
        (&json!(false), &json!("b"))
    );
    let listed = world.ask(Method::GET, "/events/webhooks", "").await;
    assert_eq!(listed.json, json!([changed]));
    let removed = world.ask(Method::DELETE, &path, "").await;
    assert_eq!(removed.status, StatusCode::OK);
    let gone = world.ask(Method::GET, &path, "").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}
