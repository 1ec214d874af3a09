//! One request from a client into a sandbox and its answer back.

use std::net::IpAddr;
use std::sync::Arc;
use std::{fmt, io};

use atoll_core::route::Route;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Answer;
use crate::body::{self, BoxError, EdgeBody, Tracked};
use crate::dial::{BoxedStream, Dialer};
use crate::forward::{self, View};
use crate::limit::{
    DIAL_RETRY_PAUSES, DIAL_TIMEOUT, MAX_CONNECTION_BUFFER, MAX_REQUESTS_PER_SANDBOX,
    MAX_WAKING_REQUESTS, Permit, RequestLimiter, TUNNEL_IDLE_TIMEOUT, WAKE_TIMEOUT,
};
use crate::linger::{Deaf, Lingering};
use crate::metrics;
use crate::pool::{Key, Pool, SWEEP_INTERVAL};
use crate::table::{LiveRoute, RouteTable};
use crate::target::{Hosts, Target};
use crate::tunnel;
use crate::wake::{WakeError, Waker};

/// The port of the guest agent, which checks its own access token.
pub const GUEST_PORT: u16 = 49983;

/// Carries the traffic token of a sandbox whose ports are not public.
pub const TRAFFIC_TOKEN_HEADER: &str = "e2b-traffic-access-token";

/// Stands for the port in a masked Host header.
const PORT_PLACEHOLDER: &str = "${PORT}";

/// Attempts to send one request: the first may meet a pooled connection that was just closed.
const MAX_SEND_ATTEMPTS: usize = 3;

/// What an edge is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// The host names that mean something.
    pub hosts: Hosts,
    /// Requests and tunnels one sandbox may have under way.
    pub max_requests_per_sandbox: usize,
    /// Who wakes paused sandboxes; none: nobody does.
    pub waker: Option<Arc<dyn Waker>>,
}

impl Config {
    /// The usual limits for the given hosts.
    #[must_use]
    pub const fn new(hosts: Hosts) -> Self {
        Self {
            hosts,
            max_requests_per_sandbox: MAX_REQUESTS_PER_SANDBOX,
            waker: None,
        }
    }
}

struct Inner {
    cfg: Config,
    table: RouteTable,
    dialer: Arc<dyn Dialer>,
    pool: Pool,
    limiter: RequestLimiter,
    waking: Semaphore,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// The proxy. Cheap to clone; clones share connections and limits.
#[derive(Clone)]
pub struct Edge {
    inner: Arc<Inner>,
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge")
            .field("cfg", &self.inner.cfg)
            .field("routes", &self.inner.table.len())
            .finish_non_exhaustive()
    }
}

/// Why a request did not get through to a sandbox.
enum SendError {
    /// Nobody listens there.
    Refused,
    /// The node says that the sandbox is gone.
    Gone,
    /// The exchange broke off.
    Broken(BoxError),
}

impl Edge {
    /// An edge whose tasks run on `tasks` and end with `cancel`. Must be called within a runtime.
    #[must_use]
    pub fn new(
        cfg: Config,
        table: RouteTable,
        dialer: Arc<dyn Dialer>,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let limiter = RequestLimiter::new(cfg.max_requests_per_sandbox);
        let edge = Self {
            inner: Arc::new(Inner {
                cfg,
                table,
                dialer,
                pool: Pool::default(),
                limiter,
                waking: Semaphore::new(MAX_WAKING_REQUESTS),
                tasks,
                cancel,
            }),
        };
        edge.spawn_sweeper();
        edge
    }

    /// The host names this edge knows.
    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        &self.inner.cfg.hosts
    }

    /// Carries one request into the sandbox it names. Never fails: what goes wrong is an answer.
    ///
    /// Dropping the future, or the body of the answer, ends the exchange with the sandbox.
    pub async fn handle<B>(&self, request: Request<B>, peer: Option<IpAddr>) -> Response<EdgeBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let body = Lingering::new(body::boxed(body), &parts, &self.inner.tasks).boxed_unsync();
        let response = self.answer(parts, body, peer).await;
        metrics::answered(response.status().as_u16());
        response
    }

    async fn answer(
        &self,
        parts: Parts,
        body: EdgeBody,
        peer: Option<IpAddr>,
    ) -> Response<EdgeBody> {
        let mut admitted = self.admit(&parts);
        if let Err(Answer::NotFound(target)) = &admitted
            && let Some(waker) = &self.inner.cfg.waker
        {
            admitted = match self.wake(waker.as_ref(), &parts, target).await {
                Ok(()) => self.admit(&parts),
                Err(error) => Err(error.answer(target.clone())),
            };
        }
        match admitted {
            Ok((target, live, permit)) => {
                self.exchange(parts, body, &target, live, permit, peer)
                    .await
            }
            Err(answer) => {
                tracing::debug!(?answer, path = parts.uri.path(), "request not forwarded");
                answer.into_response(&parts)
            }
        }
    }

    /// Decides whether a request may pass, and to where.
    fn admit(&self, parts: &Parts) -> Result<(Target, LiveRoute, Permit), Answer> {
        if parts.method == Method::CONNECT {
            return Err(Answer::MethodNotAllowed);
        }
        let target = self
            .inner
            .cfg
            .hosts
            .target(parts)
            .map_err(Answer::BadTarget)?;
        // Before the look-up: the refusal tells nothing about which sandboxes exist.
        if target.port == GUEST_PORT && forward::is_internal_path(parts.uri.path()) {
            let path = parts.uri.path().to_owned();
            return Err(Answer::InternalRoute { path });
        }
        let Some(live) = self.inner.table.get(&target.sandbox) else {
            return Err(Answer::NotFound(target));
        };
        if let Some(token) = &live.route.traffic_token
            && target.port != GUEST_PORT
        {
            match parts.headers.get(TRAFFIC_TOKEN_HEADER) {
                None => return Err(Answer::TokenMissing(target)),
                Some(given) if !constant_time_eq(given.as_bytes(), token.expose().as_bytes()) => {
                    return Err(Answer::TokenInvalid(target));
                }
                Some(_) => {}
            }
        }
        let Some(permit) = self.inner.limiter.try_acquire(&target.sandbox) else {
            return Err(Answer::TooMany(
                target,
                self.inner.cfg.max_requests_per_sandbox,
            ));
        };
        Ok((target, live, permit))
    }

    /// Has a sandbox without a route woken, if it is paused.
    async fn wake(
        &self,
        waker: &dyn Waker,
        parts: &Parts,
        target: &Target,
    ) -> Result<(), WakeError> {
        let Ok(_place) = self.inner.waking.try_acquire() else {
            return Err(WakeError::Unavailable);
        };
        let token = parts.headers.get(TRAFFIC_TOKEN_HEADER);
        let token = token.map(|token| token.to_str().unwrap_or_default());
        let woken = waker.wake(target, token);
        tokio::time::timeout(WAKE_TIMEOUT, woken)
            .await
            .unwrap_or(Err(WakeError::Unavailable))
    }

    async fn exchange(
        &self,
        mut parts: Parts,
        body: EdgeBody,
        target: &Target,
        live: LiveRoute,
        permit: Permit,
        peer: Option<IpAddr>,
    ) -> Response<EdgeBody> {
        let head = error_context(&parts);
        let client_upgrade = parts.extensions.remove::<OnUpgrade>();
        let upgrade = forward::strip_hop_by_hop(&mut parts.headers)
            .filter(|_| client_upgrade.is_some() && parts.version <= http::Version::HTTP_11);
        let host = masked_host(&live.route, target.port);
        let view = View {
            peer,
            host: host.as_deref(),
            upgrade,
        };
        let request = forward::request_to_sandbox(parts, body, view);
        let sent = tokio::select! {
            sent = self.send(request, &live.route, target.port) => sent,
            () = live.ended.cancelled() => Err(SendError::Gone),
        };
        match sent {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                self.switch(response, client_upgrade, target, live, permit, &head)
            }
            Ok(response) => answer_from(response, live, permit),
            Err(error) => refuse(&error, target).into_response(&head),
        }
    }

    /// Sends a request on a pooled or a new connection, and again only if nothing of it was sent.
    async fn send(
        &self,
        mut request: Request<EdgeBody>,
        route: &Route,
        port: u16,
    ) -> Result<Response<Incoming>, SendError> {
        let key = Key {
            sandbox: route.sandbox.clone(),
            generation: route.generation,
            port,
        };
        for attempt in 1..=MAX_SEND_ATTEMPTS {
            let mut sender = match self.inner.pool.take(&key) {
                Some(sender) => sender,
                None => self.connect(route, port).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                        self.keep(key, sender);
                    }
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if attempt < MAX_SEND_ATTEMPTS => request = unsent,
                    _ => return Err(SendError::Broken(error.into_error().into())),
                },
            }
        }
        Err(SendError::Refused)
    }

    /// Opens a connection, with some patience for a server that is only just starting.
    async fn connect(&self, route: &Route, port: u16) -> Result<SendRequest<EdgeBody>, SendError> {
        let mut pauses = DIAL_RETRY_PAUSES.iter();
        let stream = loop {
            match self.dial(route, port).await {
                Ok(stream) => break stream,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(SendError::Gone);
                }
                // The guest agent listens before the sandbox has a route: no patience needed.
                Err(error) => match pauses.next() {
                    Some(pause)
                        if port != GUEST_PORT
                            && error.kind() == io::ErrorKind::ConnectionRefused =>
                    {
                        tokio::time::sleep(*pause).await;
                    }
                    _ => {
                        tracing::debug!(sandbox = %route.sandbox, port, %error, "dial failed");
                        return Err(SendError::Refused);
                    }
                },
            }
        };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_CONNECTION_BUFFER)
            .handshake::<_, EdgeBody>(TokioIo::new(Deaf::new(stream)))
            .await
            .map_err(|error| SendError::Broken(error.into()))?;
        let cancel = self.inner.cancel.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                result = connection.with_upgrades() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection to sandbox ended");
                    }
                }
                () = drained(&cancel) => {}
            }
        });
        Ok(sender)
    }

    async fn dial(&self, route: &Route, port: u16) -> io::Result<BoxedStream> {
        tokio::time::timeout(DIAL_TIMEOUT, self.inner.dialer.dial(route, port))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Returns a connection to the pool once its answer is through.
    fn keep(&self, key: Key, mut sender: SendRequest<EdgeBody>) {
        if sender.is_ready() {
            self.inner.pool.put(key, sender);
            return;
        }
        let pool = self.inner.pool.clone();
        self.inner.tasks.spawn(async move {
            if sender.ready().await.is_ok() {
                pool.put(key, sender);
            }
        });
    }

    /// Joins the two sides of an upgraded connection.
    fn switch(
        &self,
        mut response: Response<Incoming>,
        client: Option<OnUpgrade>,
        target: &Target,
        live: LiveRoute,
        permit: Permit,
        head: &Parts,
    ) -> Response<EdgeBody> {
        let protocol = forward::strip_hop_by_hop(response.headers_mut());
        let (Some(client), Some(protocol)) = (client, protocol) else {
            tracing::debug!(sandbox = %target.sandbox, "sandbox upgraded unasked");
            return Answer::Broken(target.clone()).into_response(head);
        };
        let sandbox = hyper::upgrade::on(&mut response);
        self.inner.tasks.spawn(tunnel::run(
            client,
            sandbox,
            TUNNEL_IDLE_TIMEOUT,
            live.ended,
            permit,
        ));
        let mut answer = Response::new(body::full(Bytes::new()));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        std::mem::swap(answer.headers_mut(), response.headers_mut());
        forward::set_upgrade(answer.headers_mut(), protocol);
        answer
    }

    fn spawn_sweeper(&self) {
        let pool = self.inner.pool.clone();
        let table = self.inner.table.clone();
        let cancel = self.inner.cancel.clone();
        self.inner.tasks.spawn(async move {
            let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
                pool.sweep(|key| {
                    table
                        .get(&key.sandbox)
                        .is_some_and(|live| live.route.generation == key.generation)
                });
            }
            pool.sweep(|_| false);
        });
    }
}

/// Ends some time after the edge was told to stop, so that answers under way can finish.
async fn drained(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(crate::limit::SHUTDOWN_GRACE).await;
}

/// The sandbox's answer as the client gets it.
fn answer_from(
    response: Response<Incoming>,
    live: LiveRoute,
    permit: Permit,
) -> Response<EdgeBody> {
    let (mut parts, body) = response.into_parts();
    forward::strip_hop_by_hop(&mut parts.headers);
    let mut answer = Response::new(body::boxed(Tracked::new(body, live.ended, permit)));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    answer
}

fn refuse(error: &SendError, target: &Target) -> Answer {
    match error {
        SendError::Refused => Answer::PortClosed(target.clone()),
        SendError::Gone => Answer::NotFound(target.clone()),
        SendError::Broken(error) => {
            let (sandbox, port) = (&target.sandbox, target.port);
            tracing::debug!(%sandbox, port, %error, "exchange broke");
            Answer::Broken(target.clone())
        }
    }
}

/// The part of a request's head that decides the form of an answer.
fn error_context(parts: &Parts) -> Parts {
    let mut head = Request::new(()).into_parts().0;
    for name in ["accept", "user-agent", "sec-fetch-mode", "x-requested-with"] {
        if let Some(value) = parts.headers.get(name) {
            head.headers.insert(name, HeaderValue::clone(value));
        }
    }
    head
}

fn masked_host(route: &Route, port: u16) -> Option<String> {
    let mask = route.mask_request_host.as_deref()?;
    (port != GUEST_PORT).then(|| mask.replace(PORT_PLACEHOLDER, &port.to_string()))
}

/// Compares without telling, by the time it takes, how much was right.
fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}
