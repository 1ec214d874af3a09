//! The node's port, in a process that outlives the agent.
//!
//! ```text
//!  server ──orders──▶ relay ──socket of the machine──▶ agent
//!  edges  ──tunnels─▶   └──network namespace──▶ port in a sandbox
//! ```
//!
//! What is to be done about sandboxes is the agent's; what goes on inside them must not end with
//! it. So connections into sandboxes are made and carried here, from what outlives the agent (see
//! [`Reach`]). Orders are passed on unread: without an agent their connection just ends, which the
//! control plane takes for an unknown outcome.
//!
//! The relay knows nothing that it could not read again, and decides nothing.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atoll_proto::join_token::JoinToken;
use atoll_proto::tunnel;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept;
use crate::driver::jail::reach::Reach;
use crate::rpc::{Body, IDLE_MAX, answer, refuse};

mod tunnels;

/// Connections at once: one for each connection of an edge into a sandbox, and a few for orders.
const CONNECTIONS_MAX: usize = 16_384;

/// How every tunnel begins; nothing else begins so.
const TUNNEL_METHOD: &[u8] = b"GET ";

/// How long to wait for more of a beginning that came in pieces.
const PIECE_PAUSE: Duration = Duration::from_millis(5);

/// What a relay is made of.
#[derive(Debug, Clone)]
pub struct Relay {
    /// How sandboxes are reached.
    pub reach: Arc<Reach>,
    /// The socket on which the agent takes orders, when there is one.
    pub orders: PathBuf,
    /// What edges show. The agent looks at what comes with orders itself.
    pub token: Option<JoinToken>,
    /// Where connections run.
    pub tasks: TaskTracker,
}

impl Relay {
    /// Serves `listener` until `cancel`. What was begun goes on until `cut`.
    pub async fn serve(
        self,
        listener: TcpListener,
        cancel: CancellationToken,
        cut: CancellationToken,
    ) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let accept = || async { Ok(listener.accept().await?.0) };
        while let Some((slot, stream)) = accept::next(&slots, &cancel, accept).await {
            let (relay, cut) = (self.clone(), cut.clone());
            self.tasks.spawn(async move {
                let carried = relay.carry(stream, cut.clone());
                if let Some(Err(error)) = cut.run_until_cancelled(carried).await {
                    tracing::debug!(%error, "a peer's connection ended");
                }
                drop(slot);
            });
        }
    }

    async fn carry(self, mut stream: TcpStream, cut: CancellationToken) -> io::Result<()> {
        // Terminals send small frames that must not wait for an acknowledgement.
        stream.set_nodelay(true)?;
        let is_tunnel = tokio::time::timeout(IDLE_MAX, is_tunnel(&stream));
        let is_tunnel = is_tunnel.await.unwrap_or(Ok(false))?;
        if !is_tunnel {
            let mut agent = UnixStream::connect(&self.orders).await?;
            return tokio::io::copy_bidirectional(&mut stream, &mut agent)
                .await
                .map(drop);
        }
        let service = service_fn(|request| {
            let (relay, cut) = (self.clone(), cut.clone());
            async move { Ok::<_, Infallible>(relay.open(request, cut).await) }
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await
            .map_err(io::Error::other)
    }

    async fn open(
        &self,
        request: Request<Incoming>,
        cut: CancellationToken,
    ) -> http::Response<Body> {
        if let Some(refusal) = refuse(self.token.as_ref(), request.headers()) {
            return refusal;
        }
        if !request.uri().path().starts_with(tunnel::PATH_PREFIX) {
            return answer(
                http::StatusCode::NOT_FOUND,
                "tunnels have a connection of their own",
            );
        }
        tunnels::open(&self.reach, request, &self.tasks, cut).await
    }
}

/// Whether the connection begins as one into a sandbox does. Takes nothing from it.
async fn is_tunnel(stream: &TcpStream) -> io::Result<bool> {
    const LENGTH: usize = TUNNEL_METHOD.len() + tunnel::PATH_PREFIX.len();
    let expected = [TUNNEL_METHOD, tunnel::PATH_PREFIX.as_bytes()].concat();
    let mut begin = [0; LENGTH];
    loop {
        let length = stream.peek(&mut begin).await?;
        if length == 0 || begin[..length] != expected[..length] {
            return Ok(false);
        }
        if length == LENGTH {
            return Ok(true);
        }
        tokio::time::sleep(PIECE_PAUSE).await;
    }
}
