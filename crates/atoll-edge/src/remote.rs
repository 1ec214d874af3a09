//! Reaching sandboxes on nodes of their own: one HTTP/1.1 upgrade on the node's port for each
//! connection, then bytes in both directions.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use atoll_core::id::NodeId;
use atoll_core::route::Route;
use atoll_proto::join_token::JoinToken;
use atoll_proto::tunnel;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dial::{BoxedStream, Dialer};

/// Where the nodes are. Clones are the same book.
#[derive(Debug, Clone, Default)]
pub struct AddressBook {
    /// `host:port` of each node; as many as the fleet has nodes.
    authorities: Arc<RwLock<BTreeMap<NodeId, Arc<str>>>>,
}

impl AddressBook {
    /// Notes where a node is: `host:port`.
    pub fn put(&self, node: NodeId, authority: &str) {
        let mut book = self.authorities.write();
        let book = book.as_mut().unwrap_or_else(|error| error.get_mut());
        book.insert(node, authority.into());
    }

    fn get(&self, node: &NodeId) -> Option<Arc<str>> {
        let book = self.authorities.read();
        let book = book.unwrap_or_else(PoisonError::into_inner);
        book.get(node).cloned()
    }
}

/// Dials sandboxes through the nodes of a book.
#[derive(Debug)]
pub struct RemoteDialer {
    book: AddressBook,
    token: Option<JoinToken>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl RemoteDialer {
    /// A dialer that shows `token` to the nodes. Connections run on `tasks` until `cancel`.
    #[must_use]
    pub const fn new(
        book: AddressBook,
        token: Option<JoinToken>,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            book,
            token,
            tasks,
            cancel,
        }
    }

    fn request(&self, route: &Route, port: u16, host: &str) -> Request<Empty<Bytes>> {
        let (prefix, sandbox) = (tunnel::PATH_PREFIX, &route.sandbox);
        let mut request = Request::get(format!("{prefix}{sandbox}/{}/{port}", route.generation))
            .header(HOST, host)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, tunnel::PROTOCOL);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.header());
        }
        request
            .body(Empty::new())
            .expect("an id, two numbers and visible ASCII make a request")
    }
}

#[async_trait]
impl Dialer for RemoteDialer {
    async fn dial(&self, route: &Route, port: u16) -> io::Result<BoxedStream> {
        let Some(authority) = self.book.get(&route.node) else {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                format!("the address of node {} is not known", route.node),
            ));
        };
        // A node that refuses connections is not a port that nobody listens on.
        let stream = TcpStream::connect(&*authority).await;
        let stream = stream.map_err(|error| io::Error::other(format!("{authority}: {error}")))?;
        stream.set_nodelay(true)?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(io::Error::other)?;
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                result = connection.with_upgrades() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection to a node ended");
                    }
                }
            }
        });
        let request = self.request(route, port, &authority);
        let response = sender.send_request(request).await;
        let response = response.map_err(io::Error::other)?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                let upgraded = hyper::upgrade::on(response).await;
                Ok(Box::new(TokioIo::new(upgraded.map_err(io::Error::other)?)))
            }
            StatusCode::NOT_FOUND => Err(io::ErrorKind::NotFound.into()),
            StatusCode::BAD_GATEWAY => Err(io::ErrorKind::ConnectionRefused.into()),
            StatusCode::CONFLICT => Err(io::ErrorKind::HostUnreachable.into()),
            StatusCode::GATEWAY_TIMEOUT => Err(io::ErrorKind::TimedOut.into()),
            StatusCode::UNAUTHORIZED => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("node {} does not accept the join token", route.node),
            )),
            status => Err(io::Error::other(format!(
                "node {} answered {status}",
                route.node
            ))),
        }
    }
}
