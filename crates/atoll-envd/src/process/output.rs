//! From a process's output to those who follow it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// Bytes read from a pipe at once.
const PIPE_CHUNK: usize = 32 * 1024;

/// Bytes read from a terminal at once.
const TERMINAL_CHUNK: usize = 16 * 1024;

/// Pieces that wait for one follower before the process has to wait.
const FOLLOWER_QUEUE: usize = 16;

/// Followers of one process.
pub(crate) const FOLLOWERS_MAX: usize = 64;

/// Where a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Stdout,
    Stderr,
    Terminal,
}

/// A piece of output.
pub(crate) type Piece = (Origin, Bytes);

/// One readable end.
#[derive(Debug)]
pub(crate) enum Source {
    Pipe(Origin, pipe::Receiver),
    Terminal(std::sync::Arc<AsyncFd<OwnedFd>>),
}

impl Source {
    pub(crate) fn pipe(origin: Origin, end: OwnedFd) -> io::Result<Self> {
        Ok(Self::Pipe(origin, pipe::Receiver::from_owned_fd(end)?))
    }

    /// The next piece; `None` when there will be no more.
    pub(crate) async fn read(&self) -> Option<Piece> {
        loop {
            let ready = match self {
                Self::Pipe(_, receiver) => receiver.readable().await.is_ok(),
                Self::Terminal(terminal) => terminal.readable().await.is_ok(),
            };
            if !ready {
                return None;
            }
            match self.read_now() {
                Ok(piece) => return piece,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A terminal whose last program closed it answers EIO.
                Err(_) => return None,
            }
        }
    }

    /// What is there already; `Ok(None)` at the end, `WouldBlock` if nothing is.
    pub(crate) fn read_now(&self) -> io::Result<Option<Piece>> {
        let (origin, bytes) = match self {
            Self::Pipe(origin, receiver) => {
                let mut buffer = vec![0; PIPE_CHUNK];
                let count = receiver.try_read(&mut buffer)?;
                (*origin, cut(buffer, count))
            }
            Self::Terminal(terminal) => {
                let mut buffer = vec![0; TERMINAL_CHUNK];
                let count = terminal.try_io(Interest::READABLE, |end| {
                    Ok(rustix::io::read(end, &mut buffer)?)
                })?;
                (Origin::Terminal, cut(buffer, count))
            }
        };
        Ok((!bytes.is_empty()).then_some((origin, bytes)))
    }
}

/// Small pieces must not hold a whole buffer while they wait.
fn cut(mut buffer: Vec<u8>, count: usize) -> Bytes {
    if count < buffer.len() / 2 {
        return Bytes::copy_from_slice(&buffer[..count]);
    }
    buffer.truncate(count);
    Bytes::from(buffer)
}

/// Those who follow a process. Closed once its last piece has been handed out.
#[derive(Debug)]
pub(crate) struct Followers(Mutex<Option<Vec<mpsc::Sender<Piece>>>>);

impl Followers {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }

    /// A queue that gets everything from now on; it ends when the process does. `None` if there are
    /// too many already.
    pub(crate) fn add(&self) -> Option<mpsc::Receiver<Piece>> {
        let (sender, receiver) = mpsc::channel(FOLLOWER_QUEUE);
        if let Some(all) = self.lock().as_mut() {
            all.retain(|known| !known.is_closed());
            if all.len() >= FOLLOWERS_MAX {
                return None;
            }
            all.push(sender);
        }
        Some(receiver)
    }

    /// Hands a piece to everybody, waiting for the slow ones.
    pub(crate) async fn send(&self, piece: &Piece) {
        let all = self.lock().clone().unwrap_or_default();
        for follower in all {
            // Gone followers are dropped when the next one comes.
            let _ = follower.send(piece.clone()).await;
        }
    }

    /// Lets all queues end.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<mpsc::Sender<Piece>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
