//! One client: a kept connection over loopback, with as little of its own between it and the
//! server as HTTP allows, because both share the machine.

use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::server::{KEY, TEMPLATE};

/// Deadline of the sandboxes in seconds: beyond any measurement.
const SANDBOX_TIMEOUT_S: u32 = 86_400;

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    host: String,
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the connection ends with its client, which aborts it"
        )]
        let driver = tokio::spawn(async move {
            // How it ended is told to whoever sends.
            let _ = connection.await;
        });
        Ok(Self {
            host: address.to_string(),
            sender,
            driver,
        })
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: String,
        expected: StatusCode,
    ) -> anyhow::Result<(HeaderMap, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host)
            .header("x-api-key", KEY)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        anyhow::ensure!(
            head.status == expected,
            "{path} answers {}: {}",
            head.status,
            String::from_utf8_lossy(&body)
        );
        Ok((head.headers, body))
    }

    /// Makes a sandbox; the answer is its description.
    pub(super) async fn create(&mut self) -> anyhow::Result<Bytes> {
        let body = format!(r#"{{"templateID":"{TEMPLATE}","timeout":{SANDBOX_TIMEOUT_S}}}"#);
        let path = "/sandboxes";
        let (_, body) = self
            .ask(Method::POST, path, body, StatusCode::CREATED)
            .await?;
        Ok(body)
    }

    /// Ends the sandbox of a description.
    pub(super) async fn kill(&mut self, description: &Bytes) -> anyhow::Result<()> {
        let described: Value = serde_json::from_slice(description)?;
        let id = described["sandboxID"]
            .as_str()
            .context("the answer has no sandboxID")?;
        let path = format!("/sandboxes/{id}");
        self.ask(Method::DELETE, &path, String::new(), StatusCode::NO_CONTENT)
            .await?;
        Ok(())
    }

    /// One page of the listing: how many rows it has, and where the next one begins.
    pub(super) async fn page(
        &mut self,
        limit: u32,
        token: Option<&str>,
    ) -> anyhow::Result<(usize, Option<String>)> {
        let path = match token {
            Some(token) => format!("/v2/sandboxes?limit={limit}&nextToken={token}"),
            None => format!("/v2/sandboxes?limit={limit}"),
        };
        let (headers, body) = self
            .ask(Method::GET, &path, String::new(), StatusCode::OK)
            .await?;
        let rows: Vec<IgnoredAny> = serde_json::from_slice(&body)?;
        let next = headers.get("x-next-token");
        let next = next.map(|token| token.to_str().map(str::to_owned));
        Ok((rows.len(), next.transpose()?))
    }
}
