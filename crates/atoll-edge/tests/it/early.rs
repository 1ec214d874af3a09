//! Answers that come before the request was read.

use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{Answer, LIMIT, World, zeros};

const SIZE: usize = 8 * 1024 * 1024;
/// Enough that no order of events is left untried.
const ROUNDS: usize = 20;

/// A server that answers as soon as it has read some of a request, and hangs up.
async fn impatient(world: &World, port: u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.open_at(port, listener.local_addr().unwrap());
    let cancel = world.cancel.clone();
    world.tasks.spawn(async move {
        while let Some(Ok((mut stream, _))) = cancel.run_until_cancelled(listener.accept()).await {
            let mut some = [0; 2048];
            if stream.read(&mut some).await.is_ok_and(|read| read > 0) {
                let answer = b"HTTP/1.1 507 Full\r\ncontent-length: 8\r\n\r\nno space";
                stream.write_all(answer).await.ok();
            }
        }
    });
}

/// Sends a whole upload before it looks for an answer.
async fn upload(world: &World, host: &str) -> String {
    let talk = async {
        let mut client = TcpStream::connect(world.addr).await.unwrap();
        let head = format!(
            "POST /files HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
             content-length: {SIZE}\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![0; SIZE]).await.expect("all is read");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(LIMIT, talk)
        .await
        .expect("an answer in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_is_heard() {
    let world = World::new().await;
    impatient(&world, 3000).await;
    for _ in 0..ROUNDS {
        let answer = upload(&world, "3000-isandbox1.e2b.test").await;
        assert!(answer.starts_with("HTTP/1.1 507"), "{answer}");
        assert!(answer.ends_with("no space"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_is_heard_over_http2() {
    let world = World::new().await;
    impatient(&world, 3000).await;
    for _ in 0..ROUNDS {
        let request = Request::post("http://3000-isandbox1.e2b.test/files")
            .body(zeros(SIZE))
            .unwrap();
        let answer = Answer::of(world.send_h2(request).await).await;
        assert_eq!(answer.status, StatusCode::INSUFFICIENT_STORAGE);
        assert_eq!(answer.text, "no space");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edges_own_refusal_is_heard() {
    let world = World::new().await;
    for host in ["3000-isandbox1.e2b.test", "3000-inobody.e2b.test"] {
        let answer = upload(&world, host).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert!(answer.contains("\"code\":502"), "{answer}");
    }
}

/// Whoever asks before sending is answered at once, and sends nothing.
#[tokio::test]
async fn a_refusal_does_not_ask_for_the_body() {
    let world = World::new().await;
    let mut client = TcpStream::connect(world.addr).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: 3000-inobody.e2b.test\r\n\
                expect: 100-continue\r\ncontent-length: 100000\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(LIMIT, client.read_to_string(&mut answer));
    read.await.expect("an end in time").unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}
