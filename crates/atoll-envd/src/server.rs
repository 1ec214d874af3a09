//! Connections, and the way of a request: cross-origin rules, access token, then a service or a
//! file route.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use atoll_proto::filesystem::FilesystemExt;
use atoll_proto::process::ProcessExt;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use connectrpc::{ConnectError, ConnectRpcService, Limits, Router};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;

use crate::connections::{Connections, Seat};
use crate::filesystem;
use crate::filesystem::watchers::Watchers;
use crate::inbound::Inbound;
use crate::options::{Listen, Serve};
use crate::process::reaper::Reaper;
use crate::process::service::Service;
use crate::process::table::Table;
use crate::rest;
use crate::settings::Settings;
use crate::sys;
use crate::user::User;

/// A connection on which no request begins is closed after this.
const IDLE_MAX: Duration = Duration::from_secs(640);

/// The first request of a connection is there within this, or the connection is closed: what talks
/// to the agent in earnest connects because it has something to say.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(10);

/// Bytes that a connection buffers in each direction.
const CONNECTION_BUFFER: usize = 64 * 1024;

/// Bytes of one message of a service. File contents do not go this way.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Threads for file work.
const HELPER_THREADS_MAX: usize = 8;

/// Helper threads end after being idle for this.
const HELPER_THREAD_IDLE: Duration = Duration::from_secs(2);

/// Stack of a helper thread, in bytes.
const HELPER_STACK: usize = 256 * 1024;

/// The longest wait that a client can ask for; more is cut.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Between signs of life in a stream, if the client names no interval.
const KEEPALIVE_DEFAULT: Duration = Duration::from_secs(90);

/// After a failure to accept, such as no descriptors, before trying again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Why the agent cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptor of `--listen-fd` is no listening TCP socket.
    #[error("use file descriptor {number} as a listening socket")]
    Inherit {
        /// Its number.
        number: i32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The address of `--listen` cannot be bound.
    #[error("listen on {address}")]
    Bind {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The runtime, a signal handler or the socket could not be set up.
    #[error("start the agent")]
    Start(#[source] io::Error),
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) settings: Settings,
    pub(crate) table: Arc<Table>,
    pub(crate) watchers: Watchers,
    pub(crate) is_init: bool,
    pub(crate) usage: rest::metrics::Usage,
    pub(crate) tasks: TaskTracker,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// If serving cannot begin.
pub fn run(options: Serve) -> Result<(), Error> {
    sys::keep_memory_small();
    // Whoever started the agent may have left another one; children inherit it.
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(HELPER_THREADS_MAX)
        .thread_keep_alive(HELPER_THREAD_IDLE)
        .thread_stack_size(HELPER_STACK)
        .build()
        .map_err(Error::Start)?;
    let result = runtime.block_on(serve(options));
    // Whatever helper threads still do is of no use to anybody.
    runtime.shutdown_background();
    result
}

async fn serve(options: Serve) -> Result<(), Error> {
    let listener = listen(&options.listen)?;
    let agent = Arc::new(Agent {
        settings: Settings::new(),
        table: Arc::default(),
        watchers: Watchers::default(),
        is_init: options.is_init,
        usage: rest::metrics::Usage::default(),
        tasks: TaskTracker::new(),
    });
    let reaper = Reaper::new(Arc::clone(&agent.table)).map_err(Error::Start)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Start)?;
    if options.is_init {
        rest::mark::write_own();
    }
    agent.tasks.spawn(reaper.run());
    let handler = Handler::new(&agent);
    tokio::select! {
        () = accept(&listener, &agent.tasks, &handler) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn listen(listen: &Listen) -> Result<TcpListener, Error> {
    let (listener, failed): (StdListener, Box<dyn FnOnce(io::Error) -> Error>) = match *listen {
        Listen::Inherited(number) => {
            let failed = move |source| Error::Inherit { number, source };
            (
                StdListener::from(sys::take_descriptor(number).map_err(failed)?),
                Box::new(failed),
            )
        }
        Listen::Address(address) => {
            let failed = move |source| Error::Bind { address, source };
            (
                StdListener::bind(address).map_err(failed)?,
                Box::new(failed),
            )
        }
    };
    let ready = listener
        .local_addr()
        .and_then(|_| listener.set_nonblocking(true))
        .and_then(|()| TcpListener::from_std(listener));
    ready.map_err(failed)
}

async fn accept(listener: &TcpListener, tasks: &TaskTracker, handler: &Handler) {
    let connections = Connections::default();
    loop {
        let seat = connections.seat().await;
        match listener.accept().await {
            Ok((stream, _)) => drop(tasks.spawn(converse(stream, handler.clone(), seat))),
            Err(_) => {
                // Most likely there are no descriptors left.
                connections.evict();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, handler: Handler, seat: Arc<Seat>) {
    // Output of a terminal comes in small pieces that must not wait for each other.
    let _ = stream.set_nodelay(true);
    let worker = Arc::clone(&seat);
    let service = service_fn(move |request| {
        let (handler, work) = (handler.clone(), worker.work());
        async move {
            Ok::<_, Infallible>(
                handler
                    .handle(request)
                    .await
                    .map(|body| work.until_sent(body)),
            )
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX)
        .max_buf_size(CONNECTION_BUFFER)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service);
    let is_silent = async {
        tokio::time::sleep(FIRST_REQUEST_MAX).await;
        if seat.has_worked() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // How a connection ended is the client's affair.
        _ = connection => {}
        () = seat.evicted() => {}
        () = is_silent => {}
    }
}

/// Answers requests.
#[derive(Clone)]
struct Handler {
    agent: Arc<Agent>,
    services: ConnectRpcService,
}

impl Handler {
    fn new(agent: &Arc<Agent>) -> Self {
        let router = Arc::new(Service::new(Arc::clone(agent))).register(Router::new());
        let router =
            Arc::new(filesystem::service::Service::new(Arc::clone(agent))).register(router);
        let limits = Limits::default()
            .with_max_message_size(MESSAGE_MAX)
            .with_max_request_body_size(MESSAGE_MAX);
        Self {
            agent: Arc::clone(agent),
            services: ConnectRpcService::new(router).with_limits(limits),
        }
    }

    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let request = Inbound::of(request, &self.agent.tasks);
        if let Some(answer) = rest::cors::preflight(&request) {
            return answer;
        }
        let is_cross_origin = request.headers().contains_key(http::header::ORIGIN);
        let mut answer = match self.refuse_unauthorised(&request) {
            Some(refusal) => refusal,
            None => self.route(request).await,
        };
        if is_cross_origin {
            rest::cors::allow(answer.headers_mut());
        }
        answer
    }

    fn refuse_unauthorised(&self, request: &Request<Inbound>) -> Option<Response<Body>> {
        // These look at the token, or at a signature, themselves.
        let is_open = matches!(
            (request.method().as_str(), request.uri().path()),
            ("GET", "/health" | "/files") | ("POST", "/files" | "/init")
        );
        let offered = request
            .headers()
            .get("x-access-token")
            .map(http::HeaderValue::as_bytes);
        if is_open || self.agent.settings.admits(offered) {
            return None;
        }
        let message = "unauthorized access, please provide a valid access token or method \
                       signing if supported";
        Some(rest::Refusal::new(http::StatusCode::UNAUTHORIZED, message).into_response())
    }

    async fn route(&self, mut request: Request<Inbound>) -> Response<Body> {
        let path = request.uri().path();
        if !path.starts_with("/process.Process/") && !path.starts_with("/filesystem.Filesystem/") {
            return rest::route(&self.agent, request).await;
        }
        // Zero means no limit in this protocol, but none of the time to the library.
        if request
            .headers()
            .get("connect-timeout-ms")
            .is_some_and(|value| value.as_bytes() == b"0")
        {
            request.headers_mut().remove("connect-timeout-ms");
        }
        let mut services = self.services.clone();
        match tower_service::Service::call(&mut services, request).await {
            Ok(answer) => answer.map(|body| body.map_err(Into::into).boxed_unsync()),
            Err(never) => match never {},
        }
    }
}

/// An answer's body without content.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The user that a request of a service names by basic authentication, else the default one.
pub(crate) fn request_user(settings: &Settings, headers: &HeaderMap) -> Result<User, ConnectError> {
    let named = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(basic_user);
    match named {
        Some(name) => User::by_name(&name)
            .map_err(|_| ConnectError::unauthenticated(format!("invalid username: '{name}'"))),
        None => {
            let name = settings.lock().user.clone();
            User::by_default_name(&name).map_err(|_| {
                ConnectError::unauthenticated(format!("invalid default user: '{name}'"))
            })
        }
    }
}

fn basic_user(header: &str) -> Option<String> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    Some(decoded.split_once(':')?.0.to_owned())
}

/// How often a client wants a sign of life in a silent stream.
pub(crate) fn keepalive(headers: &HeaderMap) -> Duration {
    let asked = headers
        .get("keepalive-ping-interval")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    asked
        .filter(|seconds| *seconds > 0)
        .map_or(KEEPALIVE_DEFAULT, |seconds| {
            Duration::from_secs(seconds).min(WAIT_MAX)
        })
}
