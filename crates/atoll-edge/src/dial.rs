//! How the edge gets a connection into a sandbox: a seam that the composition fills.

use std::fmt;
use std::io;

use async_trait::async_trait;
use atoll_core::route::Route;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection into a sandbox.
pub type BoxedStream = Box<dyn Stream>;

/// Opens connections into sandboxes.
#[async_trait]
pub trait Dialer: Send + Sync + fmt::Debug {
    /// Connects to `port` inside the sandbox that `route` names.
    ///
    /// # Errors
    /// `ConnectionRefused` if nobody listens on the port, `NotFound` if the sandbox is not (or no
    /// longer, in this generation) on that node; any other kind is treated as an unreachable port.
    async fn dial(&self, route: &Route, port: u16) -> io::Result<BoxedStream>;
}
