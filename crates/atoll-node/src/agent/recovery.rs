//! What a start does with what it finds: adopts what lives, keeps what is paused, removes the rest.
//!
//! | record | processes | becomes |
//! |---|---|---|
//! | starting | any | removed: nobody was told that it exists |
//! | running | there | running; a pause that was cut off is undone |
//! | running | gone | removed |
//! | paused with memory | there | paused, standing still; a resume that was cut off is undone |
//! | paused with memory | gone | paused with its files |
//! | paused with its files | any | paused with its files; a pause is finished, a resume undone |
//! | none, unreadable | any | removed |

use std::path::Path;
use std::sync::Arc;

use super::owner::{Body, Chain};
use super::{Agent, Error};
use crate::driver::Instance;
use crate::ledger::{Found, Record, Stage};

/// What becomes of a directory that was found.
enum Fate {
    Live(Arc<dyn Instance>),
    /// Only its files are kept; whether they are all that is left of more.
    Files {
        is_degraded: bool,
    },
    Dead,
}

impl Agent {
    /// See the module.
    pub(super) async fn recover(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let mut kept = Vec::new();
        let mut dead = Vec::new();
        for Found { directory, record } in inner.ledger.list().map_err(Error::Ledger)? {
            let Some(record) = record else {
                dead.push(directory);
                continue;
            };
            match self.fate(&record, &directory).await {
                Fate::Dead => dead.push(directory),
                fate => kept.push((record, fate)),
            }
        }
        let live: Vec<_> = kept
            .iter()
            .filter_map(|(_, fate)| match fate {
                Fate::Live(instance) => Some(Arc::clone(instance)),
                _ => None,
            })
            .collect();
        // Processes that are to end do so here.
        inner.driver.sweep(&live).await.map_err(Error::Driver)?;
        for directory in &dead {
            inner.ledger.remove(directory).map_err(Error::Ledger)?;
        }
        let (adopted, files) = (live.len(), kept.len() - live.len());
        tracing::info!(adopted, files, removed = dead.len(), "node recovered");
        for (record, fate) in kept {
            self.own_again(record, fate);
        }
        Ok(())
    }

    async fn fate(&self, record: &Record, directory: &Path) -> Fate {
        let has_processes = match record.stage {
            Stage::Starting => return Fate::Dead,
            Stage::Paused { has_memory: false } => return Fate::Files { is_degraded: false },
            Stage::Running | Stage::Paused { has_memory: true } => {
                self.inner.driver.adopt(record, directory).await
            }
        };
        let is_paused = record.stage != Stage::Running;
        let settled = match has_processes {
            Ok(None) => None,
            Ok(Some(instance)) => {
                let set = if is_paused {
                    instance.pause().await
                } else {
                    instance.resume().await
                };
                Some(set.map(|()| instance))
            }
            Err(error) => Some(Err(error)),
        };
        match settled {
            Some(Ok(instance)) => return Fate::Live(instance),
            Some(Err(error)) => {
                let error = Chain(&error);
                tracing::warn!(sandbox = %record.id, error = %error, "not adopted");
            }
            None => {}
        }
        if is_paused {
            Fate::Files { is_degraded: true }
        } else {
            Fate::Dead
        }
    }

    fn own_again(&self, mut record: Record, fate: Fate) {
        let (body, is_degraded) = match (fate, record.stage) {
            (Fate::Live(instance), Stage::Paused { .. }) => (Body::Frozen(instance), false),
            (Fate::Live(instance), _) => (Body::Running(instance), false),
            (Fate::Files { is_degraded }, _) => {
                record.stage = Stage::Paused { has_memory: false };
                (Body::Files, is_degraded)
            }
            (Fate::Dead, _) => return,
        };
        let inner = &self.inner;
        let mut state = inner.lock();
        let (owner, _) = inner.own(&mut state, record, body.running());
        let entry = &state.entries[owner.id()];
        // They are there, whether the settings still allow for them or not.
        let sum = state.allocated.checked_add(entry.hold.of(entry.size));
        state.allocated = sum.unwrap_or(state.allocated);
        drop(state);
        inner.tracker.spawn(owner.run_adopted(body, is_degraded));
    }
}
