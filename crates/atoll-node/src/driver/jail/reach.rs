//! Connections into sandboxes without their agent.
//!
//! What outlives the agent is enough to reach what it made: the ledger says which placement of a
//! sandbox is current, its supervisor which cell it is in, and the cell's network namespace is
//! bound at a path. Nothing of it is remembered without being checked: a connection counts only if
//! the supervisor still lives after it was made, because until then the cell is this sandbox's.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use atoll_core::id::{Generation, SandboxId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::TcpStream;

use super::supervisor::{self, Handles};
use crate::agent::{Paused, SANDBOXES_FOLDER};
use crate::ledger::{Ledger, Record, Stage};
use crate::net::dialer::Dialer;
use crate::net::slot_in;

/// Sandboxes whose supervisors are remembered; more than a node runs. Beyond that all are asked
/// again.
const KNOWN_MAX: usize = 8_192;

/// A supervisor that was found. Whoever looks for it holds the lock, so that a burst of connections
/// asks it once.
type Known = Arc<tokio::sync::Mutex<Option<Live>>>;

#[derive(Debug)]
struct Live {
    /// The placement that the supervisor was started for.
    born: Generation,
    cell: u32,
    handles: Handles,
}

impl Live {
    /// Whether the supervisor is still there. Its handle is readable from its end on.
    fn is_alive(&self) -> bool {
        let mut handles = [PollFd::new(
            self.handles.supervisor.get_ref(),
            PollFlags::IN,
        )];
        // A failure would be one of this process; then it is asked again.
        poll(&mut handles, Some(&Timespec::default())).is_ok_and(|ready| ready == 0)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Reach {
    ledger: Ledger,
    run_dir: PathBuf,
    dialer: Dialer,
    known: Mutex<BTreeMap<SandboxId, Known>>,
}

impl Reach {
    /// Reaches what the agent on `data_dir` makes, whose network pool runs in `run_dir`. Neither
    /// has to be there yet.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn open(data_dir: &Path, run_dir: PathBuf) -> io::Result<Self> {
        Ok(Self {
            ledger: Ledger::of_other(data_dir.join(SANDBOXES_FOLDER)),
            run_dir,
            dialer: Dialer::spawn()?,
            known: Mutex::default(),
        })
    }

    /// Whether the agent has no sandboxes, not even halves of one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ledger.is_empty()
    }

    /// The placement of a sandbox that serves.
    ///
    /// # Errors
    /// `NotFound` if there is no such sandbox, [`Paused`] (a `HostUnreachable`) if it is paused.
    pub fn serving(&self, id: &SandboxId) -> io::Result<Generation> {
        self.current(id).map(|record| record.generation)
    }

    fn current(&self, id: &SandboxId) -> io::Result<Record> {
        let record = self.ledger.get(id).map_err(io::Error::other)?;
        match record {
            Some(record) if record.stage == Stage::Running => Ok(record),
            Some(record) if matches!(record.stage, Stage::Paused { .. }) => {
                Err(io::Error::new(io::ErrorKind::HostUnreachable, Paused))
            }
            _ => Err(not_found()),
        }
    }

    /// Connects to a port inside a sandbox.
    ///
    /// # Errors
    /// `NotFound` if there is no such sandbox in this generation, [`Paused`] (a `HostUnreachable`)
    /// if it is paused, `ConnectionRefused` if nothing listens, `TimedOut` if what listens does not
    /// answer.
    pub async fn dial(
        &self,
        id: &SandboxId,
        generation: Generation,
        port: u16,
    ) -> io::Result<TcpStream> {
        let record = self.current(id)?;
        if record.generation != generation {
            return Err(not_found());
        }
        let known = self.known(id);
        let mut live = known.lock().await;
        let is_right = |live: &Live| live.born == record.born && live.is_alive();
        if !live.as_ref().is_some_and(is_right) {
            *live = None;
            *live = self.find(&record).await?;
        }
        let cell = live.as_ref().map(|live| live.cell);
        drop(live);
        let Some(cell) = cell else {
            self.forget(id);
            return Err(not_found());
        };
        let slot = slot_in(&self.run_dir, cell)?;
        let stream = self.dialer.dial_slot(&slot, port).await?;
        if known.lock().await.as_ref().is_some_and(is_right) {
            return Ok(stream);
        }
        self.forget(id);
        Err(not_found())
    }

    /// Forgets the supervisor of a sandbox that is gone.
    pub fn forget(&self, id: &SandboxId) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(id);
    }

    fn known(&self, id: &SandboxId) -> Known {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX && !known.contains_key(id) {
            known.clear();
        }
        Arc::clone(known.entry(id.clone()).or_default())
    }

    async fn find(&self, record: &Record) -> io::Result<Option<Live>> {
        let found = supervisor::find(&self.ledger.directory(&record.id)).await?;
        Ok(found.and_then(|(status, handles)| {
            let is_same =
                status.sandbox == record.id.as_str() && status.generation == record.born.get();
            is_same.then_some(Live {
                born: record.born,
                cell: status.cell,
                handles,
            })
        }))
    }
}

fn not_found() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no such sandbox")
}
