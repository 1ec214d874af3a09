//! Watches whose changes are collected until a client asks for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_proto::filesystem::FilesystemEvent;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::watch::Watch;

/// Watches of this kind at once.
const WATCHERS_MAX: usize = 64;

/// Changes that wait for the client; then the watch fails.
const CHANGES_MAX: usize = 16 * 1024;

/// All of them, by id.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    all: BTreeMap<String, Watcher>,
    count: u64,
}

#[derive(Debug)]
struct Watcher {
    changes: Arc<Mutex<Changes>>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Changes {
    events: Vec<FilesystemEvent>,
    failure: Option<String>,
}

impl Watchers {
    /// Collects changes of a watch from now on. `None` if there are too many already.
    pub(crate) fn add(&self, watch: Watch, tasks: &TaskTracker) -> Option<String> {
        let mut inner = lock(&self.0);
        if inner.all.len() >= WATCHERS_MAX {
            return None;
        }
        inner.count += 1;
        let id = format!("w{:x}", inner.count);
        let watcher = Watcher {
            changes: Arc::default(),
            stop: CancellationToken::new(),
        };
        tasks.spawn(collect(
            watch,
            Arc::clone(&watcher.changes),
            watcher.stop.clone(),
        ));
        inner.all.insert(id.clone(), watcher);
        Some(id)
    }

    /// What changed since the last time; `None` if there is no such watch, an error once it failed.
    pub(crate) fn take(&self, id: &str) -> Option<Result<Vec<FilesystemEvent>, String>> {
        let inner = lock(&self.0);
        let mut changes = lock(&inner.all.get(id)?.changes);
        Some(match &changes.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(std::mem::take(&mut changes.events)),
        })
    }

    /// Ends a watch. False if there is none.
    pub(crate) fn remove(&self, id: &str) -> bool {
        lock(&self.0)
            .all
            .remove(id)
            .map(|watcher| watcher.stop.cancel())
            .is_some()
    }
}

async fn collect(mut watch: Watch, changes: Arc<Mutex<Changes>>, stop: CancellationToken) {
    loop {
        let next = tokio::select! {
            next = watch.next() => next,
            () = stop.cancelled() => return,
        };
        let mut changes = lock(&changes);
        match next {
            Ok(events) if changes.events.len() + events.len() <= CHANGES_MAX => {
                changes.events.extend(events);
            }
            Ok(_) => {
                changes.events = Vec::new();
                changes.failure = Some(super::watch::Error::Overflow.to_string());
                return;
            }
            Err(error) => {
                changes.failure = Some(error.to_string());
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
