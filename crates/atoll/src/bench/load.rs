//! The client that makes the load of `atoll bench control`. It shares the machine's processors with
//! the server that is measured, so it does as little as HTTP allows: a connection for each request
//! under way, and nothing of an answer is read but what is needed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::connection::Connection;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// The server as the load sees it.
#[derive(Debug, Clone)]
pub(super) struct Load {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    authority: String,
    host: HeaderValue,
    key: HeaderValue,
    /// Open connections without a request: at most as many as there ever were requests at a time.
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    tasks: TaskTracker,
}

impl Load {
    /// # Errors
    /// If the connection's address or key cannot be used.
    pub(super) fn new(connection: &Connection) -> anyhow::Result<Self> {
        let url: Uri = connection.api_url.parse()?;
        let authority = url.authority().context("the server's URL has no address")?;
        let inner = Inner {
            authority: authority.to_string(),
            host: authority.as_str().parse()?,
            key: connection.api_key.parse()?,
            idle: Mutex::default(),
            tasks: TaskTracker::new(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Sends a request, and answers with the body of a success.
    ///
    /// # Errors
    /// What the server says, or that it does not answer.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> anyhow::Result<Bytes> {
        let request = self.request(method, path, body)?;
        let answered = timeout(REQUEST_TIMEOUT, self.exchange(request));
        answered.await.context("no answer in time")?
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.inner.host.clone())
            .header("x-api-key", self.inner.key.clone());
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        Ok(request.body(Full::from(body.unwrap_or_default()))?)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Bytes> {
        let idle = self.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        self.idle().push(connection);
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.inner.authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its sender.
        self.inner.tasks.spawn(connection);
        Ok(sender)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        let idle = self.inner.idle.lock();
        idle.unwrap_or_else(PoisonError::into_inner)
    }
}
