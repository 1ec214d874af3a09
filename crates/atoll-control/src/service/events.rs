//! Events: read page by page, watched, and handled in this process.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_core::error::ErrorKind;
use atoll_core::event::{Cursor, Subject};
use atoll_core::id::{SandboxId, TeamId};
use atoll_core::sandbox::Sandbox;
use atoll_store::store::EventQuery;

use super::{ControlPlane, unavailable};
use crate::bus::{EventHandler, EventStream};
use crate::error::{Error, Result};
use crate::request::{EVENT_LIMIT_MAX, EventSelection, RecentEvents, StartAt};
use crate::view::{EventPage, EventView, Tenant};

impl ControlPlane {
    /// Watches the events of the tenant's team.
    ///
    /// # Errors
    /// `ResourceExhausted` if there are too many watchers; `InvalidArgument` for a cursor that no
    /// event can have had.
    pub fn events_watch(
        &self,
        tenant: &Tenant,
        selection: &EventSelection,
        from: StartAt,
    ) -> Result<EventStream> {
        self.watch(query_for(tenant, selection)?, from)
    }

    /// Watches all events, or those of one team: for operators.
    ///
    /// # Errors
    /// As [`ControlPlane::events_watch`].
    pub fn fleet_events_watch(
        &self,
        selection: &EventSelection,
        from: StartAt,
    ) -> Result<EventStream> {
        self.watch(query_of(selection)?, from)
    }

    fn watch(&self, query: EventQuery, from: StartAt) -> Result<EventStream> {
        let cancel = self.inner.cancel.clone();
        let from = self.begin(from)?;
        EventStream::open(&self.inner.bus, query, from, cancel)
    }

    /// The team's events after a cursor, oldest first.
    ///
    /// # Errors
    /// `InvalidArgument` for a limit out of range.
    pub async fn events_list(
        &self,
        tenant: &Tenant,
        selection: &EventSelection,
        from: StartAt,
        limit: u32,
    ) -> Result<EventPage> {
        self.page(query_for(tenant, selection)?, from, limit).await
    }

    /// All events after a cursor, or those of one team, oldest first: for operators.
    ///
    /// # Errors
    /// As [`ControlPlane::events_list`].
    pub async fn fleet_events_list(
        &self,
        selection: &EventSelection,
        from: StartAt,
        limit: u32,
    ) -> Result<EventPage> {
        self.page(query_of(selection)?, from, limit).await
    }

    async fn page(&self, query: EventQuery, from: StartAt, limit: u32) -> Result<EventPage> {
        check_limit(limit)?;
        let from = self.begin(from)?;
        let store = &self.inner.store;
        let gap = store.event_gap(from).await.map_err(unavailable)?;
        let mut page = store
            .event_list_after(from, &query, limit)
            .await
            .map_err(unavailable)?;
        // A page without any is not the end as long as the head is further on.
        while page.events.is_empty() && page.next < self.inner.bus.now() {
            page = store
                .event_list_after(page.next, &query, limit)
                .await
                .map_err(unavailable)?;
        }
        Ok(EventPage {
            is_last: page.next >= self.inner.bus.now(),
            events: page.events.iter().map(EventView::from).collect(),
            next: page.next,
            missed: gap.map_or(0, |gap| gap.missed),
        })
    }

    fn begin(&self, from: StartAt) -> Result<Cursor> {
        let now = self.inner.bus.now();
        match from {
            StartAt::Beginning => Ok(Cursor::START),
            StartAt::Now => Ok(now),
            StartAt::After(cursor) if cursor <= now => Ok(cursor),
            StartAt::After(cursor) => Err(Error::invalid(format!(
                "no event has had the cursor {cursor} yet"
            ))),
        }
    }

    /// A page of the team's events of sandboxes, each with its sandbox as it is now: for people who
    /// leaf through what is recent.
    ///
    /// # Errors
    /// `InvalidArgument` for a limit out of range; `NotFound` for an unknown or foreign sandbox.
    pub async fn events_recent(
        &self,
        tenant: &Tenant,
        wanted: &RecentEvents,
    ) -> Result<Vec<(EventView, Option<Arc<Sandbox>>)>> {
        check_limit(wanted.limit)?;
        let store = &self.inner.store;
        if let Some(id) = &wanted.sandbox {
            let row = store.sandbox_get(id).await.map_err(unavailable)?;
            if row.is_none_or(|row| row.team != tenant.team) {
                return Err(Error::no_sandbox(id));
            }
        }
        let query = EventQuery {
            team: Some(tenant.team.clone()),
            subject: wanted.sandbox.clone().map(Subject::Sandbox),
            kinds: wanted.kinds.clone(),
        };
        let page = store.event_page(&query, wanted.is_ascending, wanted.offset, wanted.limit);
        let mut sandboxes: BTreeMap<SandboxId, Option<Arc<Sandbox>>> = BTreeMap::new();
        let mut events = Vec::new();
        for stored in page.await.map_err(unavailable)? {
            let sandbox = match stored.event.subject.sandbox() {
                None => None,
                Some(id) => {
                    if !sandboxes.contains_key(id) {
                        let row = store.sandbox_get(id).await.map_err(unavailable)?;
                        sandboxes.insert(id.clone(), row.map(Arc::new));
                    }
                    sandboxes.get(id).cloned().flatten()
                }
            };
            events.push((EventView::from(&stored), sandbox));
        }
        Ok(events)
    }

    /// Has a handler of this process handle events, from where it stopped the last time; the first
    /// time, from now on. Ends with the control plane.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer.
    pub async fn events_handle(&self, handler: Arc<dyn EventHandler>) -> Result<()> {
        let inner = &self.inner;
        let name = handler.name();
        let kept = inner.store.event_cursor_get(name).await;
        let cursor = match kept.map_err(unavailable)? {
            Some(cursor) => cursor,
            None => {
                let now = inner.bus.now();
                let stored = inner.store.event_cursor_set(name, now, inner.clock.now());
                stored.await.map_err(unavailable)?;
                now
            }
        };
        let cancel = inner.cancel.clone();
        let run = crate::bus::run_handler(Arc::clone(inner), handler, cursor, cancel);
        inner.tasks.spawn(run);
        Ok(())
    }
}

fn check_limit(limit: u32) -> Result<()> {
    if limit == 0 || limit > EVENT_LIMIT_MAX {
        return Err(Error::invalid(format!(
            "limit must be between 1 and {EVENT_LIMIT_MAX}"
        )));
    }
    Ok(())
}

fn query_of(selection: &EventSelection) -> Result<EventQuery> {
    let subject = match (&selection.sandbox, &selection.node) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("events are of a sandbox or of a node"));
        }
        (Some(id), None) => Some(Subject::Sandbox(id.clone())),
        (None, Some(id)) => Some(Subject::Node(id.clone())),
        (None, None) => None,
    };
    Ok(EventQuery {
        team: selection.team.clone(),
        subject,
        kinds: selection.kinds.clone(),
    })
}

fn query_for(tenant: &Tenant, selection: &EventSelection) -> Result<EventQuery> {
    let is_foreign = |team: &TeamId| *team != tenant.team;
    if selection.node.is_some() || selection.team.as_ref().is_some_and(is_foreign) {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            "events of nodes and of other teams are for operators",
        ));
    }
    Ok(EventQuery {
        team: Some(tenant.team.clone()),
        ..query_of(selection)?
    })
}
