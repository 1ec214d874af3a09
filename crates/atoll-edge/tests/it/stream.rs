//! Bodies: streamed both ways, never kept, ended when either side ends.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request as AxumRequest;
use axum::response::Response as AxumResponse;
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::world::{Answer, LIMIT, TestBody, World, by_host, empty, full, wait_for};

const MIB: usize = 1024 * 1024;
const LARGE: usize = 100 * MIB;
const CHUNK: usize = 64 * 1024;
/// What may be held at once for 100 MiB on their way: buffers of four connections.
const MAX_GROWTH: u64 = 32 * 1024 * 1024;

/// A body the test feeds, and its feeder.
fn channel() -> (mpsc::Sender<Bytes>, TestBody) {
    let (tx, rx) = mpsc::channel::<Bytes>(1);
    let frames = stream::unfold(rx, |mut rx| async move {
        let bytes = rx.recv().await?;
        Some((Ok::<_, io::Error>(Frame::data(bytes)), rx))
    });
    (tx, StreamBody::new(frames).boxed_unsync())
}

/// A body of `len` zero bytes, made as it is read.
fn zeros(len: usize) -> impl futures::Stream<Item = Result<Frame<Bytes>, io::Error>> + Send {
    stream::unfold(len, |left| async move {
        let now = left.min(CHUNK);
        (now > 0).then(|| (Ok(Frame::data(Bytes::from(vec![0; now]))), left - now))
    })
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

async fn count(
    mut body: impl http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
) -> usize {
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        total += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    total
}

#[tokio::test]
async fn the_first_event_arrives_before_the_last_is_sent() {
    let world = World::new().await;
    let (feed, body) = channel();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let handler = move || async move {
        let body = body.lock().unwrap().take().unwrap();
        AxumResponse::builder()
            .header("content-type", "text/event-stream")
            .body(Body::new(body))
            .unwrap()
    };
    world
        .open(3000, Router::new().route("/events", get(handler)))
        .await;
    feed.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
    let request = by_host(3000, "/events").body(empty()).unwrap();
    let mut events = world.send(request).await.into_body();
    for n in 1..=3 {
        let frame = tokio::time::timeout(LIMIT, events.frame())
            .await
            .expect("an event");
        let data = frame.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, format!("data: {n}\n\n"));
        if n < 3 {
            let next = format!("data: {}\n\n", n + 1);
            feed.send(Bytes::from(next)).await.unwrap();
        }
    }
    drop(feed);
    assert!(events.frame().await.is_none());
}

#[tokio::test]
async fn a_request_streams_while_its_answer_does() {
    let world = World::new().await;
    let echo = |request: AxumRequest| async { AxumResponse::new(request.into_body()) };
    world
        .open(3000, Router::new().route("/echo", post(echo)))
        .await;
    let (feed, body) = channel();
    let request = by_host(3000, "/echo").method("POST").body(body).unwrap();
    feed.send(Bytes::from_static(b"one")).await.unwrap();
    let mut echoed = world.send(request).await.into_body();
    for text in ["one", "two", "three"] {
        let frame = tokio::time::timeout(LIMIT, echoed.frame())
            .await
            .expect("an echo");
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), text);
        if text != "three" {
            let next = if text == "one" { "two" } else { "three" };
            feed.send(Bytes::from_static(next.as_bytes()))
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn a_hundred_mebibytes_pass_each_way_in_flat_memory() {
    let world = World::new().await;
    let up = post(|request: AxumRequest| async { count(request.into_body()).await.to_string() });
    let down = get(|| async { Body::new(StreamBody::new(zeros(LARGE))) });
    let router = Router::new().route("/up", up).route("/down", down);
    world.open(3000, router).await;
    // Whatever is set up once is there before measuring.
    assert_eq!(world.get(3000, "/none").await.status, StatusCode::NOT_FOUND);

    for version in ["1.1", "2"] {
        let peak = Arc::new(AtomicU64::new(0));
        let before = resident_bytes();
        let sampled = Arc::clone(&peak);
        let sampler = async move {
            loop {
                sampled.fetch_max(resident_bytes(), Ordering::Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let transfer = async {
            let up = StreamBody::new(zeros(LARGE)).boxed_unsync();
            let (up, down) = if version == "2" {
                let uri = |path| format!("http://3000-isandbox1.e2b.test{path}");
                let request = http::Request::post(uri("/up")).body(up).unwrap();
                let up = world.send_h2(request).await;
                let request = http::Request::get(uri("/down")).body(empty()).unwrap();
                (up, world.send_h2(request).await)
            } else {
                let request = by_host(3000, "/up").method("POST").body(up).unwrap();
                let up = world.send(request).await;
                (
                    up,
                    world
                        .send(by_host(3000, "/down").body(empty()).unwrap())
                        .await,
                )
            };
            assert_eq!(Answer::of(up).await.text, LARGE.to_string());
            assert_eq!(count(down.into_body()).await, LARGE);
        };
        tokio::select! {
            () = transfer => {}
            () = sampler => {}
        }
        let growth = peak.load(Ordering::Relaxed).saturating_sub(before);
        assert!(
            growth < MAX_GROWTH,
            "HTTP/{version}: grew by {} KiB",
            growth / 1024
        );
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_sender() {
    let world = World::new().await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let endless = move || async move {
        let chunks = stream::repeat_with(move || {
            counter.fetch_add(CHUNK, Ordering::SeqCst);
            Ok::<_, Infallible>(Bytes::from_static(&[0; CHUNK]))
        });
        Body::from_stream(chunks)
    };
    world
        .open(3000, Router::new().route("/", get(endless)))
        .await;
    let response = world.send(by_host(3000, "/").body(empty()).unwrap()).await;
    // Nobody reads the body. The sender has to come to rest.
    let mut last = usize::MAX;
    for _ in 0..200 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let now = sent.load(Ordering::SeqCst);
        if now == last {
            break;
        }
        last = now;
    }
    assert!(
        last < 64 * MIB,
        "{last} bytes were taken from a sender whose reader stopped"
    );
    drop(response);
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_work_in_the_sandbox() {
    let world = World::new().await;
    let ended = Arc::new(AtomicUsize::new(0));
    struct OnDrop(Arc<AtomicUsize>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (for_head, for_body) = (Arc::clone(&ended), Arc::clone(&ended));
    let head = move || async move {
        let _guard = OnDrop(for_head);
        std::future::pending::<()>().await;
    };
    let body = move || async move {
        let guard = OnDrop(for_body);
        let first = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"x")) });
        let rest = stream::once(async move {
            let _guard = guard;
            std::future::pending::<Result<Bytes, Infallible>>().await
        });
        Body::from_stream(futures::StreamExt::chain(first, rest))
    };
    let router = Router::new()
        .route("/head", get(head))
        .route("/body", get(body));
    world.open(3000, router).await;

    let head = "GET /head HTTP/1.1\r\nhost: 3000-isandbox1.e2b.test\r\n\r\n";
    let mut client = TcpStream::connect(world.addr).await.unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    wait_for("the request", || {
        world.ports.dials.load(Ordering::SeqCst) == 1
    })
    .await;
    drop(client);
    wait_for("the handler's end", || ended.load(Ordering::SeqCst) == 1).await;

    let body = "GET /body HTTP/1.1\r\nhost: 3000-isandbox1.e2b.test\r\n\r\n";
    let mut client = TcpStream::connect(world.addr).await.unwrap();
    client.write_all(body.as_bytes()).await.unwrap();
    let mut some = [0; 16];
    assert!(client.read(&mut some).await.unwrap() > 0);
    drop(client);
    wait_for("the stream's end", || ended.load(Ordering::SeqCst) == 2).await;
}

#[tokio::test]
async fn a_stream_ends_abruptly_when_its_route_does() {
    let world = World::new().await;
    let (feed, body) = channel();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let handler = move || async move { Body::new(body.lock().unwrap().take().unwrap()) };
    world
        .open(3000, Router::new().route("/", get(handler)))
        .await;
    feed.send(Bytes::from_static(b"last words")).await.unwrap();
    let response = world.send(by_host(3000, "/").body(empty()).unwrap()).await;
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "last words");
    world.withdraw();
    let end = tokio::time::timeout(LIMIT, body.frame())
        .await
        .expect("an end");
    assert!(end.unwrap().is_err(), "a cut stream must not look complete");
    let gone = world.get(3000, "/").await;
    assert!(gone.text.contains("was not found"));
    drop(feed);
}

#[tokio::test]
async fn head_keeps_its_length_and_has_no_body() {
    let world = World::new().await;
    world
        .open(
            3000,
            Router::new().route("/", get(|| async { "twelve bytes" })),
        )
        .await;
    let request = by_host(3000, "/").method("HEAD").body(empty()).unwrap();
    let answer = Answer::of(world.send(request).await).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-length"], "12");
    assert_eq!(answer.text, "");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let world = World::new().await;
    let handler = |request: AxumRequest| async {
        let collected = request.into_body().collect().await.unwrap();
        let sum = collected.trailers().and_then(|t| t.get("x-sum")).cloned();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-back", sum.unwrap_or(HeaderValue::from_static("none")));
        let frames = stream::iter([
            Ok::<_, Infallible>(Frame::data(collected.to_bytes())),
            Ok(Frame::trailers(trailers)),
        ]);
        AxumResponse::builder()
            .header("trailer", "x-back")
            .body(Body::new(StreamBody::new(frames)))
            .unwrap()
    };
    world.open(3000, Router::new().fallback(any(handler))).await;
    let request = |uri: &str| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("42"));
        let frames = stream::iter([
            Ok::<_, io::Error>(Frame::data(Bytes::from_static(b"text"))),
            Ok(Frame::trailers(trailers)),
        ]);
        by_host(3000, uri)
            .method("POST")
            .header("te", "trailers")
            .header("trailer", "x-sum")
            .body(StreamBody::new(frames).boxed_unsync())
            .unwrap()
    };
    let mut over_h2 = request("http://3000-isandbox1.e2b.test/");
    over_h2.headers_mut().remove("host");
    for response in [world.send(request("/")).await, world.send_h2(over_h2).await] {
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-back"], "42");
        assert_eq!(collected.to_bytes(), "text");
    }
}

#[tokio::test]
async fn continue_is_said_only_when_the_sandbox_is_there() {
    let world = World::new().await;
    let echo = |request: AxumRequest| async { AxumResponse::new(request.into_body()) };
    world.open(3000, Router::new().route("/", post(echo))).await;
    for (port, first_line) in [(3000, "HTTP/1.1 100 Continue"), (49983, "HTTP/1.1 502")] {
        let mut client = TcpStream::connect(world.addr).await.unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: {port}-isandbox1.e2b.test\r\ncontent-length: 5\r\n\
             expect: 100-continue\r\nconnection: close\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let mut seen = vec![0; 12];
        let read = tokio::time::timeout(LIMIT, client.read_exact(&mut seen));
        read.await.expect("an interim answer").unwrap();
        assert!(
            first_line.starts_with(std::str::from_utf8(&seen).unwrap()),
            "{seen:?}"
        );
        if port == 3000 {
            client.write_all(b"hello").await.unwrap();
            let mut rest = String::new();
            client.read_to_string(&mut rest).await.unwrap();
            assert!(rest.contains("200 OK") && rest.ends_with("hello"), "{rest}");
        }
    }
}

#[tokio::test]
async fn connections_are_used_again_and_a_stale_one_costs_nothing() {
    let world = World::new().await;
    world
        .open(49983, Router::new().route("/", get(|| async { "ok" })))
        .await;
    for _ in 0..20 {
        assert_eq!(world.get(49983, "/").await.text, "ok");
    }
    let dials = world.ports.dials.load(Ordering::SeqCst);
    assert!(dials <= 3, "20 requests in a row took {dials} connections");

    // A server that closes after each answer without saying so.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.open_at(3000, listener.local_addr().unwrap());
    let cancel = world.cancel.clone();
    world.tasks.spawn(async move {
        while let Some(Ok((mut stream, _))) = cancel.run_until_cancelled(listener.accept()).await {
            let mut buffer = [0; 2048];
            if stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.ok();
            }
        }
    });
    for _ in 0..20 {
        let request = by_host(3000, "/")
            .method("POST")
            .body(full("once"))
            .unwrap();
        let answer = Answer::of(world.send(request).await).await;
        // The race of a close and a request on its way cannot be won; it must not look like a
        // closed port, and nothing may be sent twice.
        if answer.status != StatusCode::OK {
            assert!(
                answer.text.contains("closed the connection"),
                "{}",
                answer.text
            );
        }
    }
}
