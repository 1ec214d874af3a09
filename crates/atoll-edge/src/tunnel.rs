//! Upgraded connections (WebSocket): bytes in both directions until one side ends, the route ends,
//! or nothing moves for too long.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::limit::Permit;

/// Carries bytes between the client's and the sandbox's side of an upgraded connection.
pub(crate) async fn run(
    client: OnUpgrade,
    sandbox: OnUpgrade,
    idle_timeout: Duration,
    ended: CancellationToken,
    permit: Permit,
) {
    let upgraded = tokio::try_join!(client, sandbox);
    let (client, sandbox) = match upgraded {
        Ok(pair) => pair,
        Err(error) => {
            tracing::debug!(%error, "upgrade not completed");
            return;
        }
    };
    let moved = Arc::new(AtomicU64::new(0));
    let mut client = TokioIo::new(client);
    let mut sandbox = Watched {
        inner: TokioIo::new(sandbox),
        moved: Arc::clone(&moved),
    };
    tokio::select! {
        result = tokio::io::copy_bidirectional(&mut client, &mut sandbox) => {
            if let Err(error) = result {
                tracing::debug!(%error, "tunnel broke");
            }
        }
        () = ended.cancelled() => tracing::debug!("tunnel ended with its route"),
        () = idle(&moved, idle_timeout) => tracing::debug!("tunnel idle for too long"),
    }
    drop(permit);
}

/// Ends after a whole `period` in which nothing moved.
async fn idle(moved: &AtomicU64, period: Duration) {
    let mut last = moved.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(period).await;
        let now = moved.load(Ordering::Relaxed);
        if now == last {
            return;
        }
        last = now;
    }
}

/// Counts the bytes that go through a stream.
struct Watched<T> {
    inner: T,
    moved: Arc<AtomicU64>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.moved.fetch_add(read as u64, Ordering::Relaxed);
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = &polled {
            self.moved.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
