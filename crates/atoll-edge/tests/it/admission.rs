//! Who gets through, who does not, and in which words.

use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::Request as AxumRequest;
use axum::routing::{any, get};
use http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::world::{Answer, SANDBOX, World, by_host, empty, full, token, wait_for};

fn parsed(answer: &Answer) -> Value {
    serde_json::from_str(&answer.text).unwrap()
}

#[tokio::test]
async fn one_listener_serves_api_and_sandboxes() {
    let world = World::new().await;
    world
        .open(
            3000,
            Router::new().route("/", get(|| async { "the sandbox" })),
        )
        .await;
    assert_eq!(world.get(3000, "/").await.text, "the sandbox");

    let plain = Request::builder().uri("/").header("host", "localhost");
    let answer = Answer::of(world.send(plain.body(empty()).unwrap()).await).await;
    assert_eq!(answer.text, "the api");

    let by_headers = Request::builder()
        .uri("/")
        .header("host", format!("localhost:{}", world.addr.port()))
        .header("E2b-Sandbox-Id", SANDBOX)
        .header("E2b-Sandbox-Port", "3000");
    let answer = Answer::of(world.send(by_headers.body(empty()).unwrap()).await).await;
    assert_eq!(answer.text, "the sandbox");

    let over_h2 = Request::builder().uri(format!("http://3000-{SANDBOX}.e2b.test/"));
    let answer = Answer::of(world.send_h2(over_h2.body(empty()).unwrap()).await).await;
    assert_eq!(answer.text, "the sandbox");
}

#[tokio::test]
async fn a_sandbox_without_route_is_not_found() {
    let world = World::new().await;
    let request = Request::builder()
        .uri("/")
        .header("host", "80-inobody.e2b.test");
    let answer = Answer::of(world.send(request.body(empty()).unwrap()).await).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(
        answer.headers["content-type"],
        "application/json; charset=utf-8"
    );
    assert_eq!(
        answer.text,
        r#"{"sandboxId":"inobody","message":"The sandbox was not found","code":502}"#
    );
    assert_eq!(
        world.ports.dials.load(Ordering::SeqCst),
        0,
        "it must not be dialled"
    );

    world.withdraw();
    let answer = world.get(49983, "/health").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.text.contains("was not found"));
}

#[tokio::test]
async fn a_sandbox_that_its_node_lost_is_not_found() {
    let world = World::new().await;
    world.ports.is_gone.store(true, Ordering::SeqCst);
    let answer = world.get(3000, "/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(parsed(&answer)["message"], "The sandbox was not found");
}

#[tokio::test]
async fn a_closed_port_says_so() {
    let world = World::new().await;
    let answer = world.get(3001, "/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(
        parsed(&answer),
        json!({
            "sandboxId": SANDBOX,
            "message": "The sandbox is running but port is not open",
            "port": 3001,
            "code": 502
        })
    );
    assert!(
        world.ports.dials.load(Ordering::SeqCst) > 1,
        "a server just starting gets a chance"
    );
}

#[tokio::test]
async fn a_port_that_opens_a_moment_later_is_reached() {
    let world = World::new().await;
    let asked = world.get(3000, "/");
    let opened = async {
        wait_for("the first dial", || {
            world.ports.dials.load(Ordering::SeqCst) > 0
        })
        .await;
        world
            .open(3000, Router::new().route("/", get(|| async { "late" })))
            .await;
    };
    let (answer, ()) = tokio::join!(asked, opened);
    assert_eq!(answer.text, "late");
}

#[tokio::test]
async fn a_browser_gets_a_page_and_a_script_in_it_json() {
    let world = World::new().await;
    let navigation = by_host(3001, "/")
        .header("user-agent", "Mozilla/5.0 (X11) Firefox/140")
        .header("sec-fetch-mode", "navigate")
        .header("accept", "text/html,*/*");
    let answer = Answer::of(world.send(navigation.body(empty()).unwrap()).await).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(
        answer.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/html")
    );
    assert!(answer.text.contains("port is not open"));

    let script = by_host(3001, "/")
        .header("user-agent", "Mozilla/5.0 (X11) Firefox/140")
        .header("sec-fetch-mode", "cors");
    let answer = Answer::of(world.send(script.body(empty()).unwrap()).await).await;
    assert_eq!(parsed(&answer)["code"], 502);
}

#[tokio::test]
async fn malformed_targets_are_refused_in_plain_text() {
    let world = World::new().await;
    let headers = |id: &'static str, port: &'static str| {
        Request::builder()
            .uri("/")
            .header("host", "localhost")
            .header("e2b-sandbox-id", id)
            .header("e2b-sandbox-port", port)
    };
    let host = |host: &'static str| Request::builder().uri("/").header("host", host);
    for (request, text) in [
        (headers("../x", "80"), "Invalid sandbox ID\n"),
        (headers(SANDBOX, "eighty"), "Invalid sandbox port\n"),
        (headers(SANDBOX, "70000"), "Invalid sandbox port\n"),
        (headers(SANDBOX, ""), "missing header\n"),
        (host("sandbox.e2b.test"), "Invalid host\n"),
        (host("x-isandbox1.e2b.test"), "Invalid sandbox port\n"),
    ] {
        let answer = Answer::of(world.send(request.body(empty()).unwrap()).await).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{text}");
        assert_eq!(answer.text, text);
    }
}

#[tokio::test]
async fn routes_of_the_node_are_hidden() {
    let world = World::new().await;
    world
        .open(49983, Router::new().fallback(any(|| async { "reached" })))
        .await;
    for path in ["/init", "//init", "/%69nit", "/upgrade", "/freeze/"] {
        let request = by_host(49983, path)
            .method("POST")
            .body(full("{}"))
            .unwrap();
        let answer = Answer::of(world.send(request).await).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        let body = parsed(&answer);
        assert_eq!((&body["path"], &body["code"]), (&json!(path), &json!(404)));
        assert!(body["message"].is_string());
    }
    assert_eq!(world.get(49983, "/files").await.text, "reached");
    // On another port these are paths like any other.
    world
        .open(3000, Router::new().fallback(any(|| async { "reached" })))
        .await;
    assert_eq!(world.get(3000, "/init").await.text, "reached");
}

#[tokio::test]
async fn ports_that_are_not_public_demand_the_token() {
    let world = World::new().await;
    world.publish(|route| route.traffic_token = token("s3cret"));
    let show = |request: AxumRequest| async move {
        format!(
            "{}",
            request.headers().contains_key("e2b-traffic-access-token")
        )
    };
    world.open(3000, Router::new().fallback(any(show))).await;
    world
        .open(49983, Router::new().fallback(any(|| async { "guest" })))
        .await;
    let answer = world.get(3000, "/").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(parsed(&answer)["sandboxId"], SANDBOX);
    for (given, status) in [("wrong", 403), ("s3cre", 403), ("s3cret", 200)] {
        let request = by_host(3000, "/").header("E2B-Traffic-Access-Token", given);
        let answer = Answer::of(world.send(request.body(empty()).unwrap()).await).await;
        assert_eq!(answer.status, status, "{given}");
        if status == 200 {
            assert_eq!(
                answer.text, "false",
                "the token is not the guest's business"
            );
        }
    }
    assert_eq!(
        world.get(49983, "/health").await.text,
        "guest",
        "the guest checks its own token"
    );
}

#[tokio::test]
async fn too_many_requests_of_one_sandbox_are_refused_until_some_end() {
    let world = World::with_limit(1).await;
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let handler = {
        let gate = std::sync::Arc::clone(&gate);
        move || async move {
            gate.notified().await;
            "done"
        }
    };
    world
        .open(3000, Router::new().route("/slow", get(handler)))
        .await;
    let slow = world.get(3000, "/slow");
    let meanwhile = async {
        wait_for("the slow request", || {
            world.ports.dials.load(Ordering::SeqCst) == 1
        })
        .await;
        let refused = world.get(3000, "/slow").await;
        gate.notify_one();
        refused
    };
    let (slow, refused) = tokio::join!(slow, meanwhile);
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(parsed(&refused)["connectionLimit"], 1);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(slow.text, "done");
}

#[tokio::test]
async fn the_sandbox_sees_for_whom_the_request_is() {
    let world = World::new().await;
    world.publish(|route| route.mask_request_host = Some("inside.example:${PORT}".to_owned()));
    let show = |request: AxumRequest| async move {
        let shown: Vec<String> = ["host", "x-forwarded-host", "x-forwarded-for", "connection"]
            .iter()
            .map(|name| match request.headers().get(*name) {
                Some(value) => value.to_str().unwrap().to_owned(),
                None => "-".to_owned(),
            })
            .collect();
        format!("{} {}", shown.join(" "), request.uri())
    };
    world.open(3000, Router::new().fallback(any(show))).await;
    world.open(49983, Router::new().fallback(any(show))).await;
    assert_eq!(
        world.get(3000, "/a%20b?c=d%26").await.text,
        "inside.example:3000 3000-isandbox1.e2b.test 127.0.0.1 - /a%20b?c=d%26"
    );
    assert_eq!(
        world.get(49983, "/").await.text,
        "49983-isandbox1.e2b.test 49983-isandbox1.e2b.test 127.0.0.1 - /",
        "the guest agent sees the real host"
    );
}
