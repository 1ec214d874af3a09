//! Watchers: readers that live as long as somebody listens.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use atoll_core::error::ErrorKind;
use atoll_core::event::Cursor;
use atoll_core::id::TeamId;
use atoll_store::store::EventQuery;
use futures::Stream;
use tokio::sync::watch as moving;
use tokio_util::sync::CancellationToken;

use super::{Bus, Chunk};
use crate::error::{Error, Result};
use crate::limit::{TEAM_WATCHERS_MAX, WATCHERS_MAX};
use crate::lock::lock;
use crate::service::unavailable;
use crate::view::{EventView, Watched};

/// Who watches: by team, operators under none.
#[derive(Debug, Default)]
pub(crate) struct Places {
    taken: Mutex<BTreeMap<Option<TeamId>, u32>>,
}

/// A watcher's place, given back when it goes.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    team: Option<TeamId>,
}

impl Places {
    fn take(self: &Arc<Self>, team: Option<TeamId>) -> Result<Place> {
        let mut taken = lock(&self.taken);
        let all: u32 = taken.values().sum();
        let own = taken.get(&team).copied().unwrap_or(0);
        if all >= WATCHERS_MAX || own >= TEAM_WATCHERS_MAX {
            let most = if all >= WATCHERS_MAX {
                WATCHERS_MAX
            } else {
                TEAM_WATCHERS_MAX
            };
            return Err(Error::new(
                ErrorKind::QuotaExceeded,
                format!("there are {most} watchers already"),
            )
            .with_retry_after(std::time::Duration::from_secs(5)));
        }
        taken.insert(team.clone(), own + 1);
        drop(taken);
        Ok(Place {
            places: Arc::clone(self),
            team,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        if let Some(count) = taken.get_mut(&self.team) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.team);
            }
        }
    }
}

/// Events from some cursor on, then as they come.
#[derive(Debug)]
pub struct EventStream {
    bus: Arc<Bus>,
    head: moving::Receiver<Cursor>,
    query: EventQuery,
    cursor: Cursor,
    /// Up to where it was told of pruned events.
    told: Cursor,
    ready: VecDeque<Watched>,
    cancel: CancellationToken,
    _place: Place,
}

impl EventStream {
    pub(crate) fn open(
        bus: &Arc<Bus>,
        query: EventQuery,
        from: Cursor,
        cancel: CancellationToken,
    ) -> Result<Self> {
        Ok(Self {
            _place: bus.places().take(query.team.clone())?,
            head: bus.head(),
            bus: Arc::clone(bus),
            query,
            cursor: from,
            told: from,
            ready: VecDeque::new(),
            cancel,
        })
    }

    /// What comes next; waits for it. Ends when the control plane does. Nothing is lost if this is
    /// given up half-way, nor after an error: asking again goes on at the same place.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer.
    pub async fn next(&mut self) -> Option<Result<Watched>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(Ok(item));
            }
            let head = *self.head.borrow_and_update();
            if head <= self.cursor {
                let cancel = self.cancel.clone();
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return None,
                    moved = self.head.changed() => if moved.is_err() { return None },
                }
                continue;
            }
            match self.bus.read(self.cursor, &self.query).await {
                Ok(chunk) => self.take(&chunk),
                Err(error) => return Some(Err(unavailable(error))),
            }
        }
    }

    /// Up to where it has looked, once what it found was taken: a watch that begins there misses
    /// nothing.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The same as a `Stream`.
    pub fn into_stream(self) -> impl Stream<Item = Result<Watched>> + Send {
        futures::stream::unfold(self, |mut watcher| async move {
            let item = watcher.next().await?;
            Some((item, watcher))
        })
    }

    fn take(&mut self, chunk: &Chunk) {
        if let Some(gap) = chunk.gap.filter(|gap| gap.through > self.told) {
            self.told = gap.through;
            self.ready.push_back(Watched::Lagged {
                from: self.cursor,
                to: gap.through,
                missed: gap.missed,
            });
        }
        let events = chunk.events.iter();
        self.ready
            .extend(events.map(|stored| Watched::Event(EventView::from(&**stored))));
        self.cursor = chunk.next;
    }
}
