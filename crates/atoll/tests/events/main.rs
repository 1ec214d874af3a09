//! A real server that no node joins, followed by the command line and delivering to a receiver on
//! this machine: creates are refused for lack of a node, and that is told.
#![cfg(test)]
#![expect(
    clippy::print_stderr,
    reason = "what is skipped says so, and a failure shows what the server said"
)]

mod server;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use server::{Server, eventually};

const DOCUMENT: &str = include_str!("../../../../docs/events.md");

/// What a receiver got, and what it answers.
#[derive(Debug, Default)]
struct Book {
    /// Answers 500 so often yet.
    refusals: usize,
    refused: Vec<(HeaderMap, Bytes)>,
    accepted: Vec<(HeaderMap, Bytes)>,
}

type Receiver = Arc<Mutex<Book>>;

/// Receives on a port of this machine; answers the URL.
async fn receive(receiver: Receiver) -> String {
    let take = move |headers: HeaderMap, body: Bytes| async move {
        let mut book = receiver.lock().unwrap();
        if book.refusals > 0 {
            book.refusals -= 1;
            book.refused.push((headers, body));
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        book.accepted.push((headers, body));
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

fn ids(deliveries: &[(HeaderMap, Bytes)], kind: &str) -> Vec<String> {
    let events = deliveries.iter().map(|(_, body)| {
        let event: Value = serde_json::from_slice(body).unwrap();
        (event["kind"] == kind).then(|| event["sandboxId"].as_str().unwrap().to_owned())
    });
    events.flatten().collect()
}

/// Checks a signature with the very code that the documents show, in Python; tells whether it did.
fn check(secret: &str, (headers, body): &(HeaderMap, Bytes)) -> bool {
    let (_, rest) = DOCUMENT.split_once("```python\n").unwrap();
    let (snippet, _) = rest.split_once("```").unwrap();
    let program = format!(
        "{snippet}\nimport base64, sys\nsecret, ours, theirs = sys.argv[1:]\n\
         body = sys.stdin.buffer.read()\n\
         assert is_genuine(secret, body, ours)\n\
         assert not is_genuine(secret, body + b' ', ours)\n\
         assert not is_genuine('another', body, ours)\n\
         digest = hashlib.sha256(secret.encode() + body).digest()\n\
         assert base64.urlsafe_b64encode(digest).rstrip(b'=').decode() == theirs\n"
    );
    let header = |name: &str| headers[name].to_str().unwrap();
    let started = Command::new("python3")
        .args(["-c", &program, secret])
        .args([header("atoll-signature"), header("e2b-signature")])
        .stdin(Stdio::piped())
        .spawn();
    let Ok(mut python) = started else {
        eprintln!("skipped: signatures are not checked: there is no python3 here");
        return false;
    };
    python.stdin.take().unwrap().write_all(body).unwrap();
    assert!(python.wait().unwrap().success(), "{headers:?} {body:?}");
    true
}

/// Refused deliveries come again, a server that is killed delivers what it had not when it is
/// back, and what follows its events goes on.
#[tokio::test]
async fn webhooks_and_followers_outlive_refusals_and_a_kill() {
    let receiver = Receiver::default();
    let url = receive(Arc::clone(&receiver)).await;
    let mut server = Server::start().await;
    let kinds = "sandbox.created,resource.exhausted";
    let made = server.run(&[
        "webhook", "create", "mine", &url, "--event", kinds, "--json",
    ]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let secret = made["signatureSecret"].as_str().unwrap();
    let mut follower = server.follow(&["--kind", "sandbox.created"]);
    assert_eq!(server.run(&["webhook", "ls"]).lines().count(), 2);

    receiver.lock().unwrap().refusals = 1;
    let accepted = |kind| ids(&receiver.lock().unwrap().accepted, kind);
    server.create_in_vain().await;
    eventually("the second attempt", || {
        accepted("sandbox.created").len() == 1
    })
    .await;
    {
        let book = receiver.lock().unwrap();
        let (first, second) = (&book.refused[0], &book.accepted[0]);
        assert_eq!(first.1, second.1, "the same event");
        assert_ne!(first.0["e2b-delivery-id"], second.0["e2b-delivery-id"]);
        assert_eq!(second.0["e2b-webhook-id"], made["id"].as_str().unwrap());
    }

    // What cannot be delivered before the kill.
    receiver.lock().unwrap().refusals = usize::MAX;
    server.create_in_vain().await;
    eventually("a refusal", || receiver.lock().unwrap().refused.len() >= 2).await;
    server.kill();
    receiver.lock().unwrap().refusals = 0;
    server.restart().await;
    eventually("the rest", || accepted("sandbox.created").len() >= 2).await;
    server.create_in_vain().await;
    eventually("what is new", || accepted("sandbox.created").len() >= 3).await;

    let listed = server.run(&["events", "--json", "--kind", "sandbox.created"]);
    let wanted: Vec<String> = listed
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["sandboxID"].clone())
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(wanted.len(), 3, "{listed}");
    let mut got = accepted("sandbox.created");
    // At least once: what was accepted just before the kill may come again.
    got.dedup();
    assert_eq!(got, wanted);
    for delivery in &receiver.lock().unwrap().accepted {
        if !check(secret, delivery) {
            break;
        }
    }
    let told = server.run(&["events", "--json", "--kind", "resource.exhausted"]);
    let told: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert_eq!(told["fields"]["scope"], "fleet");
    follower.until(&wanted).await;
    let id = made["id"].as_str().unwrap();
    server.run(&["webhook", "rm", id]);
    assert_eq!(server.run(&["webhook", "list", "--json"]), "");
}

/// A server connects to no private address unless its operator says so.
#[tokio::test]
async fn a_server_delivers_to_no_private_address_unless_told_to() {
    let server = Server::start_with("public").await;
    for url in [
        "http://127.0.0.1:9/",
        "http://169.254.169.254/",
        "http://[::1]/",
    ] {
        let arguments = [
            "webhook",
            "create",
            "inside",
            url,
            "--event",
            "sandbox.created",
        ];
        let refused = server.fail(&arguments);
        assert!(refused.contains("not on the public internet"), "{refused}");
    }
}
