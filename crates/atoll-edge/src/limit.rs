//! How much one sandbox, and the whole edge, may be asked at once. Every number has its reason.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_core::id::SandboxId;

/// Requests and tunnels one sandbox may have under way. The JavaScript SDK alone keeps up to 2,000
/// in flight against one guest agent.
pub const MAX_REQUESTS_PER_SANDBOX: usize = 4096;

/// Connections from clients at once. Each costs a descriptor and about 20 KiB; the next waits in
/// the listener's backlog.
pub const MAX_CLIENT_CONNECTIONS: usize = 16_384;

/// Streams a client may have open on one HTTP/2 connection.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 1024;

/// Bytes the edge reads ahead on one HTTP/1.1 connection, and the limit of a request head.
pub const MAX_CONNECTION_BUFFER: usize = 128 * 1024;

/// Bytes a client may send ahead on one HTTP/2 stream.
pub const STREAM_WINDOW: u32 = 256 * 1024;

/// Bytes a client may send ahead on one HTTP/2 connection.
pub const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// How long a client connection may stand idle. Longer than the keep-alive of the official SDKs
/// (300 s) and of common load balancers (600 s), so that the client closes first and no request
/// meets a connection that is just being closed.
pub const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(620);

/// How long a connection may take to be opened. Sandboxes are one hop away; what takes longer is
/// stuck.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests that may wait for paused sandboxes at once. Each costs a few KiB; more than this means
/// that sandboxes are not being resumed, and waiting longer would not help.
pub const MAX_WAKING_REQUESTS: usize = 1024;

/// How long a request waits for its sandbox to be resumed. Less than the 60 s after which the SDKs
/// give up.
pub const WAKE_TIMEOUT: Duration = Duration::from_secs(50);

/// Pauses between attempts at a port where nobody listens yet. A server started a moment before
/// the request gets this long (750 ms in sum) to open its port; E2B waits 1 s.
pub const DIAL_RETRY_PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

/// How long an upgraded connection may carry no byte in either direction.
pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long connections may take to finish after the edge was told to stop.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Bytes of a request that are read and thrown away when its answer is there first. More than
/// clients send before they look for an answer; the guest agent reads as much.
pub const MAX_DISCARDED: u64 = 256 * 1024 * 1024;

/// How long that may take.
pub const MAX_DISCARD_TIME: Duration = Duration::from_secs(30);

/// Counts what each sandbox has under way.
#[derive(Debug, Clone)]
pub(crate) struct RequestLimiter {
    counts: Arc<Mutex<HashMap<SandboxId, usize>>>,
    max: usize,
}

/// The right to one request; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    counts: Arc<Mutex<HashMap<SandboxId, usize>>>,
    id: SandboxId,
}

impl RequestLimiter {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            counts: Arc::default(),
            max,
        }
    }

    pub(crate) fn try_acquire(&self, id: &SandboxId) -> Option<Permit> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(id.clone()).or_insert(0);
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Permit {
            counts: Arc::clone(&self.counts),
            id: id.clone(),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.id) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sandbox_has_its_own_limit_and_leaves_nothing_behind() {
        let limiter = RequestLimiter::new(2);
        let (a, b): (SandboxId, SandboxId) = ("ia".parse().unwrap(), "ib".parse().unwrap());
        let held = (limiter.try_acquire(&a), limiter.try_acquire(&a));
        assert!(held.0.is_some() && held.1.is_some());
        assert!(limiter.try_acquire(&a).is_none());
        assert!(limiter.try_acquire(&b).is_some());
        drop(held);
        assert!(limiter.counts.lock().unwrap().is_empty());
    }
}
