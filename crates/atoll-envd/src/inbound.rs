//! The body of a request, which is read to its end even if nobody wants it.
//!
//! A connection that is closed with unread bytes in it is reset, and a client that was still
//! sending then loses the answer. So whoever refuses an upload just drops its body, and what is
//! left of it is read and thrown away, for a bounded time and amount, while the answer is on its
//! way. A client that waits for `100 Continue` gets the answer instead, and nothing is read.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Bytes thrown away for one answer. More than an SDK sends in one piece, and done in a second.
const DISCARD_MAX: u64 = 256 * 1024 * 1024;

/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_secs(30);

/// A request's body.
pub(crate) struct Inbound {
    /// Until its end was read.
    body: Option<Incoming>,
    /// Whether the client sends it already, or was asked to.
    is_sent: bool,
    tasks: TaskTracker,
    runtime: Handle,
}

impl Inbound {
    /// Takes the body of a request. Must be called within a runtime.
    pub(crate) fn of(request: Request<Incoming>, tasks: &TaskTracker) -> Request<Self> {
        let (head, body) = request.into_parts();
        let body = Self {
            is_sent: !expects_continue(&head.headers),
            body: Some(body),
            tasks: tasks.clone(),
            runtime: Handle::current(),
        };
        Request::from_parts(head, body)
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
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

impl Drop for Inbound {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        if let Some(rest) = rest
            && self.is_sent
        {
            // Not `spawn`: the last bodies may go when no runtime is entered any more.
            let discard = async move {
                let _ = tokio::time::timeout(DISCARD_TIME, read_out(rest)).await;
            };
            self.tasks.spawn_on(discard, &self.runtime);
        }
    }
}

async fn read_out(mut body: Incoming) {
    let mut left = DISCARD_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        left = left.saturating_sub(length as u64);
        if left == 0 {
            return;
        }
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
