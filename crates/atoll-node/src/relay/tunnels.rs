//! Connections into sandboxes: an HTTP/1.1 upgrade, then bytes in both directions until one side
//! ends.

use std::io;

use atoll_core::id::{Generation, SandboxId};
use atoll_proto::tunnel;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Body, answer};
use crate::driver::jail::reach::Reach;

/// Answers 101 once the connection into the sandbox stands: 404 means no such sandbox in this
/// generation, 409 that it is paused, 502 that nobody listens on the port, 504 that the listener
/// does not answer.
pub(super) async fn open(
    reach: &Reach,
    mut request: Request<Incoming>,
    tasks: &TaskTracker,
    cancel: CancellationToken,
) -> Response<Body> {
    let Some((sandbox, generation, port)) = target(request.uri().path()) else {
        return answer(StatusCode::BAD_REQUEST, "malformed path of a tunnel");
    };
    let wanted = request.headers().get(UPGRADE);
    if wanted.is_none_or(|wanted| wanted != tunnel::PROTOCOL) {
        return answer(StatusCode::BAD_REQUEST, "a tunnel is an upgrade");
    }
    let inner = match reach.dial(&sandbox, generation, port).await {
        Ok(inner) => inner,
        Err(error) => return refused(&error),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tasks.spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = carry(upgrade, inner) => {}
        }
    });
    let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(tunnel::PROTOCOL));
    response
}

fn target(path: &str) -> Option<(SandboxId, Generation, u16)> {
    let mut parts = path.strip_prefix(tunnel::PATH_PREFIX)?.split('/');
    let sandbox = parts.next()?.parse().ok()?;
    let generation = Generation::new(parts.next()?.parse().ok()?);
    let port = parts.next()?.parse().ok()?;
    parts
        .next()
        .is_none()
        .then_some((sandbox, generation, port))
}

fn refused(error: &io::Error) -> Response<Body> {
    match error.kind() {
        io::ErrorKind::NotFound => answer(StatusCode::NOT_FOUND, "no such sandbox"),
        io::ErrorKind::ConnectionRefused => answer(StatusCode::BAD_GATEWAY, "nobody listens"),
        io::ErrorKind::HostUnreachable => answer(StatusCode::CONFLICT, "it is paused"),
        io::ErrorKind::TimedOut => answer(StatusCode::GATEWAY_TIMEOUT, "it does not answer"),
        _ => {
            tracing::debug!(%error, "a port of a sandbox is not reached");
            answer(StatusCode::INTERNAL_SERVER_ERROR, "the port is not reached")
        }
    }
}

async fn carry(upgrade: hyper::upgrade::OnUpgrade, mut inner: TcpStream) {
    let outer = match upgrade.await {
        Ok(outer) => outer,
        Err(error) => {
            tracing::debug!(%error, "upgrade not completed");
            return;
        }
    };
    let mut outer = TokioIo::new(outer);
    if let Err(error) = tokio::io::copy_bidirectional(&mut outer, &mut inner).await {
        tracing::debug!(%error, "tunnel broke");
    }
}
