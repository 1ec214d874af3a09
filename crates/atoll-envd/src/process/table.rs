//! All processes that clients know of: the live ones, and for a while those that ended.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_proto::process::ProcessConfig;
use tokio::time::Instant;

use super::child::Child;
use super::output::Source;
use super::spawn::Program;
use super::status::End;

/// Live processes that were started by clients. What those start themselves is not counted here.
pub(crate) const PROCESSES_MAX: usize = 2048;

/// How long the end of a process can still be learnt.
const RETENTION: Duration = Duration::from_secs(30);

/// Ends that are kept at most; the oldest go first.
const RETAINED_MAX: usize = 1024;

/// How a client names a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selector {
    Pid(u32),
    Tag(String),
}

/// The end of a process that is gone.
#[derive(Debug, Clone)]
pub(crate) struct Retained {
    pub(crate) pid: u32,
    tag: Option<String>,
    pub(crate) end: End,
    until: Instant,
}

/// Why no process was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("too many processes: the limit is {PROCESSES_MAX}")]
    Full,
    #[error("{0}")]
    Start(io::Error),
}

/// The process table.
#[derive(Debug, Default)]
pub(crate) struct Table(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    live: BTreeMap<u32, Arc<Child>>,
    retained: VecDeque<Retained>,
}

impl Table {
    /// Starts a program and enters it. The caller runs [`Child::pump`] on what comes back, then
    /// [`Self::finish`].
    pub(crate) fn start(
        &self,
        program: &Program,
        tag: Option<String>,
        config: ProcessConfig,
    ) -> Result<(Arc<Child>, Vec<Source>), Error> {
        let mut inner = self.lock();
        if inner.live.len() >= PROCESSES_MAX {
            return Err(Error::Full);
        }
        let spawned = program.start().map_err(Error::Start)?;
        let (child, sources) =
            Child::new(spawned.pid, tag, config, spawned.ends).map_err(Error::Start)?;
        // A number or tag that is used again must not lead to its former owner's end.
        inner
            .retained
            .retain(|old| old.pid != child.pid && (child.tag.is_none() || old.tag != child.tag));
        let child = Arc::new(child);
        inner.live.insert(child.pid, Arc::clone(&child));
        Ok((child, sources))
    }

    /// Runs `reap` for one exit under the lock and tells the child of it. False: there was none to
    /// reap.
    pub(crate) fn reap_one(&self, reap: impl FnOnce() -> Option<(u32, End)>) -> bool {
        let inner = self.lock();
        let Some((pid, end)) = reap() else {
            return false;
        };
        if let Some(child) = inner.live.get(&pid) {
            child.set_exit(end);
        }
        true
    }

    /// Takes a process out whose output is read, and keeps its end for late clients.
    pub(crate) fn finish(&self, child: &Arc<Child>, end: End) {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.retained.retain(|old| old.until > now);
        if inner
            .live
            .get(&child.pid)
            .is_some_and(|known| Arc::ptr_eq(known, child))
        {
            inner.live.remove(&child.pid);
            if inner.retained.len() >= RETAINED_MAX {
                inner.retained.pop_front();
            }
            inner.retained.push_back(Retained {
                pid: child.pid,
                tag: child.tag.clone(),
                end: end.clone(),
                until: now + RETENTION,
            });
        }
        child.finish(end);
    }

    /// The live process that is meant; of several with one tag, the one with the highest number.
    pub(crate) fn find(&self, selector: &Selector) -> Option<Arc<Child>> {
        let inner = self.lock();
        match selector {
            Selector::Pid(pid) => inner.live.get(pid).cloned(),
            Selector::Tag(tag) => inner
                .live
                .values()
                .rev()
                .find(|child| child.tag.as_deref() == Some(tag))
                .cloned(),
        }
    }

    /// The end of a process that is gone.
    pub(crate) fn find_retained(&self, selector: &Selector) -> Option<Retained> {
        let inner = self.lock();
        let now = Instant::now();
        inner
            .retained
            .iter()
            .rev()
            .filter(|old| old.until > now)
            .find(|old| old.is(selector))
            .cloned()
    }

    /// The live ones, by number.
    pub(crate) fn list(&self) -> Vec<Arc<Child>> {
        self.lock().live.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Retained {
    fn is(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Pid(pid) => self.pid == *pid,
            Selector::Tag(tag) => self.tag.as_deref() == Some(tag),
        }
    }
}
