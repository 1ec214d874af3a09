//! An edge on a port of its own, with servers that stand for ports of a sandbox.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::id::Generation;
use atoll_core::route::{Route, RouteUpdate};
use atoll_core::sandbox::AccessToken;
use atoll_edge::dial::{BoxedStream, Dialer};
use atoll_edge::proxy::{Config, Edge};
use atoll_edge::table::RouteTable;
use atoll_edge::target::Hosts;
use atoll_edge::wake::Waker;
use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) const SANDBOX: &str = "isandbox1";
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) type TestBody = UnsyncBoxBody<Bytes, io::Error>;

/// Dials what the test says stands for a port; everything else is closed.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    open: Mutex<HashMap<u16, SocketAddr>>,
    pub(crate) dials: AtomicUsize,
    pub(crate) is_gone: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl Dialer for Ports {
    async fn dial(&self, _: &Route, port: u16) -> io::Result<BoxedStream> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        if self.is_gone.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let addr = self.open.lock().unwrap().get(&port).copied();
        let addr = addr.ok_or(io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(TcpStream::connect(addr).await?))
    }
}

pub(crate) struct World {
    pub(crate) addr: SocketAddr,
    pub(crate) table: RouteTable,
    pub(crate) ports: Arc<Ports>,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

pub(crate) fn route() -> Route {
    Route {
        sandbox: SANDBOX.parse().unwrap(),
        node: "node-1".parse().unwrap(),
        generation: Generation::FIRST,
        traffic_token: None,
        mask_request_host: None,
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with_limit(64).await
    }

    pub(crate) async fn with_limit(max_requests_per_sandbox: usize) -> Self {
        Self::with(max_requests_per_sandbox, |_| None).await
    }

    /// A world in which somebody wakes sandboxes.
    pub(crate) async fn with(
        max_requests_per_sandbox: usize,
        waker: impl FnOnce(&RouteTable) -> Option<Arc<dyn Waker>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let (table, ports) = (RouteTable::new(), Arc::new(Ports::default()));
        let mut cfg = Config::new(Hosts::new("e2b.test", &[]));
        cfg.max_requests_per_sandbox = max_requests_per_sandbox;
        cfg.waker = waker(&table);
        let dialer: Arc<dyn Dialer> = Arc::<Ports>::clone(&ports);
        let edge = Edge::new(cfg, table.clone(), dialer, tasks.clone(), cancel.clone());
        let api = Router::new().fallback(|| async { "the api" });
        let serve =
            atoll_edge::server::serve(listener, edge, Some(api), tasks.clone(), cancel.clone());
        tasks.spawn(serve);
        table.apply(RouteUpdate::Publish(route()));
        Self {
            addr,
            table,
            ports,
            tasks,
            cancel,
        }
    }

    pub(crate) fn publish(&self, change: impl FnOnce(&mut Route)) {
        let mut route = route();
        change(&mut route);
        assert!(self.table.apply(RouteUpdate::Publish(route)));
    }

    pub(crate) fn withdraw(&self) {
        let id = SANDBOX.parse().unwrap();
        assert!(
            self.table
                .apply(RouteUpdate::Withdraw(id, Generation::FIRST))
        );
    }

    /// Lets a router stand for a port of the sandbox.
    pub(crate) async fn open(&self, port: u16, router: Router) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.open_at(port, listener.local_addr().unwrap());
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            let served = axum::serve(listener, router).into_future();
            cancel.run_until_cancelled(served).await;
        });
    }

    pub(crate) fn open_at(&self, port: u16, addr: SocketAddr) {
        self.ports.open.lock().unwrap().insert(port, addr);
    }

    /// Sends one request on a connection of its own.
    pub(crate) async fn send(&self, request: Request<TestBody>) -> Response<Incoming> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        self.tasks.spawn(connection.with_upgrades());
        let sent = tokio::time::timeout(LIMIT, sender.send_request(request));
        let response = sent.await.expect("no answer in time").unwrap();
        self.tasks.spawn(async move {
            // Dropping the sender would not end the connection before the body is through.
            let _ = sender.ready().await;
        });
        response
    }

    /// Sends one request over HTTP/2 with prior knowledge.
    pub(crate) async fn send_h2(&self, request: Request<TestBody>) -> Response<Incoming> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        self.tasks.spawn(connection);
        let sent = tokio::time::timeout(LIMIT, sender.send_request(request));
        sent.await.expect("no answer in time").unwrap()
    }

    /// Asks for a path of a port and reads the whole answer.
    pub(crate) async fn get(&self, port: u16, path: &str) -> Answer {
        let request = by_host(port, path).body(empty()).unwrap();
        Answer::of(self.send(request).await).await
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let collected = tokio::time::timeout(LIMIT, body.collect());
        let bytes = collected.await.expect("no end in time").unwrap().to_bytes();
        Self {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}

pub(crate) fn empty() -> TestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(text: &'static str) -> TestBody {
    http_body_util::Full::new(Bytes::from_static(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(crate) fn by_host(port: u16, path: &str) -> http::request::Builder {
    Request::builder()
        .uri(path)
        .header("host", format!("{port}-{SANDBOX}.e2b.test"))
}

pub(crate) fn token(text: &str) -> Option<AccessToken> {
    Some(AccessToken::new(text.to_owned()))
}

/// Waits until `is_true`, and says what it waited for if that does not happen.
pub(crate) async fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for: {what}");
}

/// A body of `len` zero bytes.
pub(crate) fn zeros(len: usize) -> TestBody {
    http_body_util::Full::new(Bytes::from(vec![0; len]))
        .map_err(|never| match never {})
        .boxed_unsync()
}
