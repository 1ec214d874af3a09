//! The agent's orders and events as `NodeService`, on a socket of this machine: the [`relay`] has
//! the node's port and passes on what comes there.
//!
//! Everything that comes here shows the fleet's join token. Certificates for both sides are not
//! part of this yet: the port belongs on a network of the operator's own.
//!
//! [`relay`]: crate::relay

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::node::NodeEvent;
use atoll_proto::join_token::JoinToken;
use atoll_proto::node::NodeServiceExt as _;
use bytes::Bytes;
use connectrpc::{ConnectRpcService, Limits, Router};
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use self::orders::Orders;
use crate::accept;
use crate::agent::Agent;
use crate::traceparent;

pub mod membership;
mod orders;

/// Connections at once: a few of each server, and room for those that were given up.
const CONNECTIONS_MAX: usize = 1_024;

/// Orders that one server may have under way on one connection.
const STREAMS_MAX: u32 = 4_096;

/// Bytes of one order. The largest is a create with its environment, which the API limits.
const MESSAGE_MAX: usize = 4 * 1024 * 1024;

/// Events that wait for a reader; one that falls behind further loses its stream.
const EVENTS_MAX: usize = 4_096;

/// A connection on which no request begins is closed after this.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60);

/// How often a silent peer is asked whether it is still there, and how long it may take to answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(15));

/// How long orders under way may take to be answered after the node was told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves `listener` until `cancel`. `events` is what the agent tells of its own accord; without a
/// reader it is dropped, because whoever comes next asks for a report. Without a `token` everybody
/// is let in; only a loopback address may be served so.
pub async fn serve(
    listener: UnixListener,
    agent: Agent,
    mut events: mpsc::Receiver<NodeEvent>,
    token: Option<JoinToken>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let (publish, _) = broadcast::channel(EVENTS_MAX);
    let door = Door::new(agent, publish.clone(), token, cancel.clone());
    tasks.spawn(cancel.clone().run_until_cancelled_owned(async move {
        while let Some(event) = events.recv().await {
            // An error means that nobody listens.
            drop(publish.send(event));
        }
    }));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = || async { Ok(listener.accept().await?.0) };
    while let Some((slot, stream)) = accept::next(&slots, &cancel, accept).await {
        tasks.spawn(converse(stream, door.clone(), slot, cancel.clone()));
    }
}

async fn converse(
    stream: UnixStream,
    door: Door,
    slot: OwnedSemaphorePermit,
    cancel: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .max_concurrent_streams(STREAMS_MAX);
    let service = service_fn(move |request| {
        let door = door.clone();
        async move { Ok::<_, Infallible>(door.handle(request).await) }
    });
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = cancel.cancelled() => {
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(SHUTDOWN_GRACE, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "a peer's connection ended");
    }
    drop(slot);
}

/// Lets in who shows the token, and sends each to what it asks for.
#[derive(Clone)]
struct Door {
    token: Option<JoinToken>,
    orders: ConnectRpcService,
}

impl Door {
    fn new(
        agent: Agent,
        events: broadcast::Sender<NodeEvent>,
        token: Option<JoinToken>,
        cancel: CancellationToken,
    ) -> Self {
        let orders = Orders::new(agent, events, cancel);
        let limits = Limits::default()
            .with_max_message_size(MESSAGE_MAX)
            .with_max_request_body_size(MESSAGE_MAX);
        let router = Arc::new(orders).register(Router::new());
        Self {
            token,
            orders: ConnectRpcService::new(router).with_limits(limits),
        }
    }

    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        if let Some(refusal) = refuse(self.token.as_ref(), request.headers()) {
            return refusal;
        }
        let span = traceparent::of_order(request.headers(), request.uri().path());
        let mut orders = self.orders.clone();
        let order = tower_service::Service::call(&mut orders, request);
        match order.instrument(span).await {
            Ok(answer) => answer.map(BodyExt::boxed_unsync),
            Err(never) => match never {},
        }
    }
}

/// What those get who do not show the token, if there is one.
pub(crate) fn refuse(
    token: Option<&JoinToken>,
    headers: &http::HeaderMap,
) -> Option<Response<Body>> {
    let shown = headers.get(AUTHORIZATION);
    let shown = shown.map(http::HeaderValue::as_bytes);
    let is_right = token.is_none_or(|token| token.is_shown_by(shown));
    let text = "the join token is missing or wrong";
    (!is_right).then(|| answer(StatusCode::UNAUTHORIZED, text))
}

pub(crate) fn answer(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::from(text).boxed_unsync());
    *response.status_mut() = status;
    response
}
