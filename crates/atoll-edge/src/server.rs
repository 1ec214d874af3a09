//! Listening: HTTP/1.1 and h2c on one port, sandbox traffic to the [`Edge`], everything else to a
//! fallback service (in `dev`, the API).

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

use crate::body::{self, BoxError, EdgeBody};
use crate::limit::{
    CLIENT_IDLE_TIMEOUT, CONNECTION_WINDOW, MAX_CLIENT_CONNECTIONS, MAX_CONNECTION_BUFFER,
    MAX_STREAMS_PER_CONNECTION, SHUTDOWN_GRACE, STREAM_WINDOW,
};
use crate::proxy::Edge;

/// Pause after a failed accept: the usual cause, too few descriptors, passes only with time.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);
/// How often a silent HTTP/2 client is asked whether it is still there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// How long it may take to answer that.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The address of the client, put into the extensions of requests to the fallback service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Serves `listener` until `cancel`; returns when no more connections are accepted. Connections
/// run on `tasks`, and have [`SHUTDOWN_GRACE`] to finish.
///
/// Without a `fallback` every request is taken as sandbox traffic.
pub async fn serve<S, B>(
    listener: TcpListener,
    edge: Edge,
    fallback: Option<S>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let slots = Arc::new(Semaphore::new(MAX_CLIENT_CONNECTIONS));
    let builder = Arc::new(builder());
    loop {
        let accept = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let Some((slot, accepted)) = cancel.run_until_cancelled(accept).await else {
            return;
        };
        let (Ok(slot), Ok((stream, peer))) = (slot, accepted) else {
            tracing::warn!("accept failed; retrying");
            tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
            continue;
        };
        let router = Router {
            edge: edge.clone(),
            fallback: fallback.clone(),
            peer: peer.ip().to_canonical(),
        };
        let connection = connection(Arc::clone(&builder), stream, router, slot, cancel.clone());
        tasks.spawn(connection);
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(CLIENT_IDLE_TIMEOUT)
        .max_buf_size(MAX_CONNECTION_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder
}

async fn connection<S, B>(
    builder: Arc<auto::Builder<TokioExecutor>>,
    stream: TcpStream,
    router: Router<S>,
    slot: OwnedSemaphorePermit,
    cancel: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    // Small frames of terminals and event streams must not wait for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    let service = service_fn(move |request| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.route(request).await) }
    });
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = cancel.cancelled() => {
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(SHUTDOWN_GRACE, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "client connection ended");
    }
    drop(slot);
}

#[derive(Clone)]
struct Router<S> {
    edge: Edge,
    fallback: Option<S>,
    peer: IpAddr,
}

impl<S, B> Router<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    async fn route(self, request: Request<Incoming>) -> Response<EdgeBody> {
        let Some(fallback) = self.fallback else {
            return self.edge.handle(request, Some(self.peer)).await;
        };
        let (mut parts, body) = request.into_parts();
        if self.edge.hosts().is_sandbox_traffic(&parts) {
            let request = Request::from_parts(parts, body);
            return self.edge.handle(request, Some(self.peer)).await;
        }
        parts.extensions.insert(Peer(self.peer));
        match fallback.oneshot(Request::from_parts(parts, body)).await {
            Ok(response) => response.map(body::boxed),
            Err(never) => match never {},
        }
    }
}
