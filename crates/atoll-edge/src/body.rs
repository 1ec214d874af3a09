//! Bodies on their way through: passed frame by frame, never collected.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::limit::Permit;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of the edge, in either direction.
pub type EdgeBody = UnsyncBoxBody<Bytes, BoxError>;

/// The route of the sandbox ended while its answer was streaming.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the sandbox is no longer running")]
pub struct RouteEnded;

/// A body of known content.
#[must_use]
pub fn full(content: Bytes) -> EdgeBody {
    Full::new(content)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Boxes a body.
pub fn boxed<B>(body: B) -> EdgeBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// An answer on its way to the client: holds the request's permit until it is through, and breaks
/// off when the route ends.
pub(crate) struct Tracked<B> {
    body: B,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: Permit,
}

impl<B> Tracked<B> {
    pub(crate) fn new(body: B, ended: CancellationToken, permit: Permit) -> Self {
        Self {
            body,
            ended: Box::pin(ended.cancelled_owned()),
            _permit: permit,
        }
    }
}

impl<B> fmt::Debug for Tracked<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked").finish_non_exhaustive()
    }
}

impl<B> Body for Tracked<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // What the sandbox still said goes out first: a last line before a kill is worth having.
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => {
                ready!(self.ended.as_mut().poll(cx));
                Poll::Ready(Some(Err(RouteEnded.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
