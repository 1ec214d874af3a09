//! Requests whose answer comes before they are read.
//!
//! A server may answer, and even hang up, before it has read the request: it refuses an upload, or
//! its disk is full. Many clients send everything before they look for an answer, and a connection
//! that is closed with unread bytes in it is reset, so the answer would be lost on both sides of
//! the edge:
//! - towards the client, [`Lingering`] reads what nobody wants of its request to the end, for a
//!   bounded time and amount, while the answer is on its way;
//! - towards the sandbox, [`Deaf`] takes a failed write for a success, so that what the server said
//!   before it hung up is read, and only the end of that ends the exchange.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::EXPECT;
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::body::{BoxError, EdgeBody};
use crate::limit::{MAX_DISCARD_TIME, MAX_DISCARDED};

/// The body of a client's request.
pub(crate) struct Lingering {
    /// Until its end was read.
    body: Option<EdgeBody>,
    /// Whether the client sends it already, or was asked to.
    is_sent: bool,
    tasks: TaskTracker,
    runtime: Handle,
}

impl Lingering {
    /// Takes the body of the request with the given head. Must be called within a runtime.
    pub(crate) fn new(body: EdgeBody, head: &Parts, tasks: &TaskTracker) -> Self {
        let is_held_back = head
            .headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Self {
            body: Some(body),
            is_sent: !is_held_back,
            tasks: tasks.clone(),
            runtime: Handle::current(),
        }
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.is_sent = true;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        if let Some(rest) = rest
            && self.is_sent
        {
            let discard = async move {
                if let Err(error) = tokio::time::timeout(MAX_DISCARD_TIME, read_out(rest)).await {
                    tracing::debug!(%error, "unwanted request not read to its end");
                }
            };
            // Not `spawn`: the last bodies may go when no runtime is entered any more.
            self.tasks.spawn_on(discard, &self.runtime);
        }
    }
}

async fn read_out(mut body: EdgeBody) {
    let mut left = MAX_DISCARDED;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        left = left.saturating_sub(length as u64);
        if left == 0 {
            return;
        }
    }
}

/// A stream that does not hear that its other side stopped reading.
pub(crate) struct Deaf<T> {
    inner: T,
    has_failed: bool,
}

impl<T> Deaf<T> {
    pub(crate) const fn new(inner: T) -> Self {
        Self {
            inner,
            has_failed: false,
        }
    }

    /// What a writer is told, who is not to know of failures.
    fn pretend<R>(&mut self, polled: Poll<io::Result<R>>, success: R) -> Poll<io::Result<R>> {
        match ready!(polled) {
            Ok(done) => Poll::Ready(Ok(done)),
            Err(error) => {
                tracing::debug!(%error, "sandbox stopped reading");
                self.has_failed = true;
                Poll::Ready(Ok(success))
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Deaf<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Deaf<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.has_failed {
            return Poll::Ready(Ok(buf.len()));
        }
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.pretend(polled, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        if self.has_failed {
            return Poll::Ready(Ok(all));
        }
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.pretend(polled, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_failed {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.pretend(polled, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
