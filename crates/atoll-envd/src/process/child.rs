//! One process: its input, its followers, its end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use atoll_proto::process::ProcessConfig;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::output::{Followers, Origin, Source};
use super::spawn::{self, Ends, Size};
use super::status::End;
use crate::sys;

/// Pieces read after the exit of a process whose output no longer counts as open: more than a pipe
/// holds.
const LAST_PIECES_MAX: usize = 32;

/// Requests that wait to write to one process.
const WRITERS_MAX: usize = 64;

/// Why input could not be given or a signal not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("tty not assigned to process")]
    NoTerminal,
    #[error("tty assigned to process — input should be written to the pty, not the stdin")]
    InputIsTerminal,
    #[error("tty not assigned to process — input should be written to the stdin, not the tty")]
    InputIsPipe,
    #[error("cannot close stdin for PTY process — send Ctrl+D (0x04) instead")]
    CloseTerminal,
    #[error("stdin not enabled or closed")]
    InputClosed,
    #[error("too many requests write to process '{0}'")]
    TooManyWriters(u32),
    #[error("error writing to {what} of process '{pid}': {source}")]
    Write {
        what: &'static str,
        pid: u32,
        source: io::Error,
    },
    #[error("os: process already finished")]
    Finished,
    #[error("{0}")]
    System(io::Error),
}

/// A process that was started for a client.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) tag: Option<String>,
    pub(crate) config: ProcessConfig,
    pub(crate) followers: Followers,
    terminal: Option<Arc<AsyncFd<OwnedFd>>>,
    stdin: Mutex<Option<pipe::Sender>>,
    /// Set after `end`.
    done: CancellationToken,
    writers: AtomicUsize,
    /// Set by the reaper.
    exit: watch::Sender<Option<End>>,
    /// Set when the exit alone, not the end of the output, is the end.
    cut: CancellationToken,
    /// Set before the followers' queues end.
    end: OnceLock<End>,
}

impl Child {
    /// Takes over a started program.
    pub(crate) fn new(
        pid: u32,
        tag: Option<String>,
        config: ProcessConfig,
        ends: Ends,
    ) -> io::Result<(Self, Vec<Source>)> {
        let (terminal, stdin, sources) = match ends {
            Ends::Terminal(controller) => {
                rustix::io::ioctl_fionbio(&controller, true)?;
                let terminal = Arc::new(sys::watch_descriptor(controller)?);
                (
                    Some(Arc::clone(&terminal)),
                    None,
                    vec![Source::Terminal(terminal)],
                )
            }
            Ends::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                let stdin = stdin.map(pipe::Sender::from_owned_fd).transpose()?;
                let sources = vec![
                    Source::pipe(Origin::Stdout, stdout)?,
                    Source::pipe(Origin::Stderr, stderr)?,
                ];
                (None, stdin, sources)
            }
        };
        let child = Self {
            pid,
            tag,
            config,
            followers: Followers::new(),
            terminal,
            stdin: Mutex::new(stdin),
            done: CancellationToken::new(),
            writers: AtomicUsize::new(0),
            exit: watch::Sender::new(None),
            cut: CancellationToken::new(),
            end: OnceLock::new(),
        };
        Ok((child, sources))
    }

    /// Called by the reaper, once.
    pub(crate) fn set_exit(&self, end: End) {
        self.exit.send_replace(Some(end));
    }

    /// How it ended, once its last piece of output has been handed out.
    pub(crate) fn end(&self) -> Option<&End> {
        self.end.get()
    }

    /// Reads until the end and tells it.
    pub(crate) async fn pump(&self, sources: Vec<Source>) -> End {
        let mut sources = sources;
        while !sources.is_empty() {
            let read = async {
                let reads = sources.iter().map(|source| Box::pin(source.read()));
                let (piece, index, _) = futures::future::select_all(reads).await;
                (piece, index)
            };
            tokio::select! {
                (piece, index) = read => match piece {
                    Some(piece) => self.followers.send(&piece).await,
                    None => drop(sources.remove(index)),
                },
                () = self.cut_off() => {
                    self.pump_rest(&sources).await;
                    break;
                }
            }
        }
        self.exited().await
    }

    /// Lets the followers go.
    pub(crate) fn finish(&self, end: End) {
        let _ = self.end.set(end);
        self.followers.close();
        self.done.cancel();
    }

    async fn pump_rest(&self, sources: &[Source]) {
        for source in sources {
            for _ in 0..LAST_PIECES_MAX {
                match source.read_now() {
                    Ok(Some(piece)) => self.followers.send(&piece).await,
                    _ => break,
                }
            }
        }
    }

    async fn cut_off(&self) {
        self.cut.cancelled().await;
        self.exited().await;
    }

    async fn exited(&self) -> End {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_else(lost),
            Err(_) => lost(),
        }
    }

    /// Waits until [`Self::finish`].
    pub(crate) async fn finished(&self) {
        self.done.cancelled().await;
    }

    /// Signals the process, and lets its exit be its end.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.cut.cancel();
        // The borrow holds off the reaper, so the number is still this process's.
        let exit = self.exit.borrow();
        if exit.is_some() {
            return Err(Error::Finished);
        }
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(Error::Finished)?;
        kill_process(pid, signal).map_err(|error| match error {
            rustix::io::Errno::SRCH => Error::Finished,
            other => Error::System(other.into()),
        })
    }

    /// Tells the terminal its size.
    pub(crate) fn resize(&self, size: Size) -> Result<(), Error> {
        let terminal = self.terminal.as_ref().ok_or(Error::NoTerminal)?;
        spawn::resize(terminal.as_fd(), size).map_err(Error::System)
    }

    /// Writes to standard input, waiting until the program has room for it.
    pub(crate) async fn write_stdin(&self, data: &[u8]) -> Result<(), Error> {
        if self.terminal.is_some() {
            return Err(Error::InputIsTerminal);
        }
        let _turn = self.turn()?;
        let mut stdin = self.stdin.lock().await;
        let writer = stdin.as_mut().ok_or(Error::InputClosed)?;
        tokio::select! {
            written = writer.write_all(data) => {
                written.map_err(|source| Error::Write { what: "stdin", pid: self.pid, source })
            }
            () = self.done.cancelled() => Err(Error::InputClosed),
        }
    }

    /// Writes to the terminal, waiting until it has room for it.
    pub(crate) async fn write_terminal(&self, data: &[u8]) -> Result<(), Error> {
        let terminal = self.terminal.as_ref().ok_or(Error::InputIsPipe)?;
        let _turn = self.turn()?;
        // One writer at a time keeps each piece whole; the lock is free for that, a terminal has no
        // pipe.
        let _whole = self.stdin.lock().await;
        let failed = |source| Error::Write {
            what: "tty",
            pid: self.pid,
            source,
        };
        let mut rest = data;
        while !rest.is_empty() {
            let write =
                terminal.async_io(Interest::WRITABLE, |end| Ok(rustix::io::write(end, rest)?));
            let count = tokio::select! {
                count = write => count.map_err(failed)?,
                () = self.done.cancelled() => return Err(Error::Finished),
            };
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Ends standard input. Doing so twice is no error.
    pub(crate) async fn close_stdin(&self) -> Result<(), Error> {
        if self.terminal.is_some() {
            return Err(Error::CloseTerminal);
        }
        let _turn = self.turn()?;
        drop(self.stdin.lock().await.take());
        Ok(())
    }

    fn turn(&self) -> Result<Turn<'_>, Error> {
        let turn = Turn(&self.writers);
        if self.writers.fetch_add(1, Ordering::Relaxed) >= WRITERS_MAX {
            return Err(Error::TooManyWriters(self.pid));
        }
        Ok(turn)
    }
}

/// The end of a process whose exit the agent could not learn.
fn lost() -> End {
    End {
        code: -1,
        exited: false,
        text: "exit status unknown".to_owned(),
    }
}

/// Counts one request that writes.
struct Turn<'a>(&'a AtomicUsize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
