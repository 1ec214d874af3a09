//! Upgraded connections.

use axum::Router;
use axum::extract::ws::{Message as ServerMessage, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use futures::{SinkExt as _, StreamExt as _};
use http::StatusCode;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::world::{Answer, LIMIT, World, by_host, empty};

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let is_close = matches!(message, ServerMessage::Close(_));
        if socket.send(message).await.is_err() || is_close {
            return;
        }
    }
}

async fn connect(world: &World) -> WebSocketStream<TcpStream> {
    let upgrade = |upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) };
    world
        .open(3000, Router::new().route("/ws", get(upgrade)))
        .await;
    let stream = TcpStream::connect(world.addr).await.unwrap();
    let request = "ws://3000-isandbox1.e2b.test/ws"
        .into_client_request()
        .unwrap();
    let (socket, response) = tokio_tungstenite::client_async(request, stream)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    socket
}

#[tokio::test]
async fn messages_pass_both_ways_until_closed() {
    let world = World::new().await;
    let mut socket = connect(&world).await;
    let large = "x".repeat(1024 * 1024);
    for text in ["one", "two", large.as_str()] {
        socket.send(Message::text(text)).await.unwrap();
        let back = tokio::time::timeout(LIMIT, socket.next())
            .await
            .expect("an echo");
        assert_eq!(back.unwrap().unwrap().into_text().unwrap().as_str(), text);
    }
    socket.close(None).await.unwrap();
    let end = tokio::time::timeout(LIMIT, async { while socket.next().await.is_some() {} });
    end.await.expect("the close handshake ends");
}

#[tokio::test]
async fn a_tunnel_ends_with_its_route() {
    let world = World::new().await;
    let mut socket = connect(&world).await;
    socket.send(Message::text("hello")).await.unwrap();
    socket.next().await.unwrap().unwrap();
    world.withdraw();
    let end = tokio::time::timeout(LIMIT, socket.next())
        .await
        .expect("an end");
    assert!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
}

#[tokio::test]
async fn an_upgrade_to_http2_is_not_passed_on() {
    let world = World::new().await;
    let show = |headers: http::HeaderMap| async move {
        format!(
            "{}",
            headers.contains_key("upgrade") || headers.contains_key("http2-settings")
        )
    };
    world.open(3000, Router::new().route("/", get(show))).await;
    let request = by_host(3000, "/")
        .header("connection", "Upgrade, HTTP2-Settings")
        .header("upgrade", "h2c")
        .header("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA")
        .body(empty())
        .unwrap();
    let answer = Answer::of(world.send(request).await).await;
    assert_eq!(
        (answer.status, answer.text.as_str()),
        (StatusCode::OK, "false")
    );
}
