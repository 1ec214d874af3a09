//! Connections into sandboxes that wait for their next request.
//!
//! A connection belongs to one port of one placement of one sandbox, and is never used for another.
//! Idle ones are few and live shortly: servers in sandboxes come and go, and a connection that its
//! server is just closing costs a client its request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_core::id::{Generation, SandboxId};
use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use crate::body::EdgeBody;

/// Idle connections kept for one port.
const MAX_IDLE_PER_PORT: usize = 8;
/// Idle connections kept in all. Each holds two descriptors on a machine that is also the node.
const MAX_IDLE: usize = 1024;
/// How long a connection to the guest agent may wait: it is ours, and keeps its side open longer.
const GUEST_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection to a port of the user may wait: less than the 5 s after which Node.js,
/// the most impatient of the common servers, closes its side.
const USER_IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often idle connections are looked through.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(2);

/// What a connection may be used for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) sandbox: SandboxId,
    pub(crate) generation: Generation,
    pub(crate) port: u16,
}

impl Key {
    const fn idle_timeout(&self) -> Duration {
        if self.port == crate::proxy::GUEST_PORT {
            GUEST_IDLE_TIMEOUT
        } else {
            USER_IDLE_TIMEOUT
        }
    }
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<EdgeBody>,
    since: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    idle: HashMap<Key, Vec<Idle>>,
    total: usize,
}

/// The idle connections. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool {
    inner: Arc<Mutex<Inner>>,
}

impl Pool {
    /// Takes the connection that was used last, if one is fit for use.
    pub(crate) fn take(&self, key: &Key) -> Option<SendRequest<EdgeBody>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let list = inner.idle.get_mut(key)?;
        let mut taken = 0;
        let mut found = None;
        while let Some(idle) = list.pop() {
            taken += 1;
            if idle.sender.is_ready() && idle.since.elapsed() < key.idle_timeout() {
                found = Some(idle.sender);
                break;
            }
        }
        if list.is_empty() {
            inner.idle.remove(key);
        }
        inner.total -= taken;
        found
    }

    /// Keeps a connection for the next request, if there is room.
    pub(crate) fn put(&self, key: Key, sender: SendRequest<EdgeBody>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.total >= MAX_IDLE {
            return;
        }
        let list = inner.idle.entry(key).or_default();
        if list.len() >= MAX_IDLE_PER_PORT {
            return;
        }
        list.push(Idle {
            sender,
            since: Instant::now(),
        });
        inner.total += 1;
    }

    /// Drops, and thereby closes, what has waited too long or was closed by the sandbox, and
    /// everything whose placement `is_live` denies.
    pub(crate) fn sweep(&self, is_live: impl Fn(&Key) -> bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.idle.retain(|key, list| {
            let live = is_live(key);
            list.retain(|idle| {
                live && !idle.sender.is_closed() && idle.since.elapsed() < key.idle_timeout()
            });
            !list.is_empty()
        });
        inner.total = inner.idle.values().map(Vec::len).sum();
    }
}
