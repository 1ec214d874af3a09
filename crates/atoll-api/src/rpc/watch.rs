//! Streams of what happens.
//!
//! A watch is a cursor of its client's: it begins after the last event the client has seen, and
//! what the client is too slow for stays in the store until it comes for it.

use std::time::Duration;

use atoll_control::EventStream;
use atoll_control::request::{EventSelection, StartAt};
use atoll_control::view::{EventView, Tenant, Watched};
use atoll_core::error::ErrorKind;
use atoll_core::event::{Cursor, EventKind};
use atoll_core::id::SandboxId;
use atoll_proto::orchestrator::{
    FellBehind, Idle, Sandbox, WatchEventsRequest, WatchEventsResponse, WatchSandboxRequest,
    WatchSandboxResponse,
};
use atoll_proto::orchestrator_oneof::{watch_events_response, watch_sandbox_response};
use connectrpc::{ConnectError, ServiceStream};
use futures::{StreamExt as _, stream};
use tokio::time::timeout;

use super::access::Identity;
use super::field::{self, Problems};
use super::{message, status};
use crate::error::ApiError;
use crate::limit::{MAX_WATCH_TYPES, WATCH_IDLE_INTERVAL};
use crate::query::shorten;
use crate::rest::Api;

/// What a watch says next.
enum Said {
    Event(Box<EventView>),
    FellBehind(FellBehind),
    Idle(Cursor),
}

/// Waits for what is to be said next, but not longer than `patience`.
///
/// # Errors
/// If the store does not answer, or the server stops: the client goes on at its cursor.
async fn next(events: &mut EventStream, patience: Duration) -> Result<Said, ApiError> {
    match timeout(patience, events.next()).await {
        Err(_) => Ok(Said::Idle(events.cursor())),
        Ok(None) => Err(ApiError::new(ErrorKind::Unavailable, "the server stops")),
        Ok(Some(Err(error))) => Err(error.into()),
        Ok(Some(Ok(Watched::Event(event)))) => Ok(Said::Event(Box::new(event))),
        Ok(Some(Ok(Watched::Lagged { to, missed, .. }))) => Ok(Said::FellBehind(FellBehind {
            missed,
            cursor: to.to_string(),
            ..FellBehind::default()
        })),
    }
}

fn idle(cursor: Cursor) -> Idle {
    Idle {
        cursor: cursor.to_string(),
        ..Idle::default()
    }
}

/// Where a watch begins.
fn start_at(cursor: &str) -> Result<StartAt, ApiError> {
    match cursor {
        "" => Ok(StartAt::Now),
        "0" => Ok(StartAt::Beginning),
        text => text
            .parse()
            .map(|number| StartAt::After(Cursor::new(number)))
            .map_err(|_| ApiError::validation("`cursor` is not one of ours").at("cursor")),
    }
}

pub(super) fn events(
    api: &Api,
    caller: &Identity,
    request: &WatchEventsRequest,
) -> Result<ServiceStream<WatchEventsResponse>, ApiError> {
    let mut problems = Problems::default();
    let from = problems.take(start_at(&request.cursor).map(Some));
    let kinds = problems.take(kinds(&request.types));
    let sandbox = match request.sandbox_id.as_str() {
        "" => None,
        text => problems.take(field::sandbox_id(text).map(Some)),
    };
    problems.finish()?;
    let selection = EventSelection {
        kinds,
        sandbox,
        ..EventSelection::default()
    };
    let from = from.unwrap_or(StartAt::Now);
    let events = if caller.names_team {
        let tenant = &caller.tenant;
        api.control().events_watch(tenant, &selection, from)
    } else {
        api.control().fleet_events_watch(&selection, from)
    };
    let events = events.map_err(at_cursor)?;
    Ok(stream::unfold(Some(events), |events| async {
        let mut events = events?;
        match next(&mut events, WATCH_IDLE_INTERVAL).await {
            Ok(said) => Some((Ok(event_item(said)), Some(events))),
            Err(error) => Some((Err(status::log(&error)), None)),
        }
    })
    .boxed())
}

/// A cursor is the only thing about a watch that the use case finds wrong.
fn at_cursor(error: atoll_control::Error) -> ApiError {
    let error = ApiError::from(error);
    if error.kind() == ErrorKind::InvalidArgument {
        error.at("cursor")
    } else {
        error
    }
}

fn event_item(said: Said) -> WatchEventsResponse {
    use watch_events_response::Item;

    let item = match said {
        Said::Event(event) => Item::from(message::event(*event)),
        Said::FellBehind(fell_behind) => Item::from(fell_behind),
        Said::Idle(cursor) => Item::from(idle(cursor)),
    };
    WatchEventsResponse {
        item: Some(item),
        ..WatchEventsResponse::default()
    }
}

/// The kinds that types and groups of types stand for.
fn kinds(types: &[String]) -> Result<Vec<EventKind>, ApiError> {
    if types.len() > MAX_WATCH_TYPES {
        let problem = format!("`types` has more than {MAX_WATCH_TYPES} entries");
        return Err(ApiError::validation(problem).at("types"));
    }
    let mut kinds = Vec::new();
    for text in types {
        let before = kinds.len();
        match text.strip_suffix('*').filter(|group| group.ends_with('.')) {
            Some(group) => {
                let all = EventKind::ALL.iter();
                kinds.extend(all.filter(|kind| kind.as_str().starts_with(group)));
            }
            None => kinds.extend(EventKind::from_name(text)),
        }
        if kinds.len() == before {
            let problem = format!("there are no events of type `{}`", shorten(text));
            return Err(ApiError::validation(problem).at("types"));
        }
    }
    Ok(kinds)
}

/// A watch of one sandbox.
struct SandboxWatch {
    api: Api,
    tenant: Tenant,
    id: SandboxId,
    events: EventStream,
    /// What it begins with, where no cursor was given.
    first: Option<WatchSandboxResponse>,
    is_over: bool,
}

pub(super) async fn sandbox(
    api: &Api,
    caller: &Identity,
    request: &WatchSandboxRequest,
) -> Result<ServiceStream<WatchSandboxResponse>, ApiError> {
    let mut problems = Problems::default();
    let id = problems.take(field::sandbox_id(&request.sandbox_id).map(Some));
    let from = problems.take(start_at(&request.cursor).map(Some));
    problems.finish()?;
    let id = id.ok_or_else(|| ApiError::validation("Invalid sandbox ID"))?;
    let from = from.unwrap_or(StartAt::Now);
    let selection = EventSelection {
        sandbox: Some(id.clone()),
        ..EventSelection::default()
    };
    let tenant = &caller.tenant;
    // Before the sandbox is looked at, so that no change falls between the two.
    let events = api.control().events_watch(tenant, &selection, from);
    let events = events.map_err(at_cursor)?;
    let view = api.control().sandbox_get(tenant, &id).await?;
    let first = (from == StartAt::Now).then(|| WatchSandboxResponse {
        item: Some(idle(events.cursor()).into()),
        sandbox: message::sandbox(view.sandbox).into(),
        ..WatchSandboxResponse::default()
    });
    let watch = SandboxWatch {
        api: api.clone(),
        tenant: tenant.clone(),
        id,
        events,
        first,
        is_over: false,
    };
    Ok(stream::unfold(Some(watch), |watch| async {
        let mut watch = watch.filter(|watch| !watch.is_over)?;
        match watch.next().await {
            Ok(item) => Some((Ok(item), Some(watch))),
            Err(error) => Some((Err::<_, ConnectError>(status::log(&error)), None)),
        }
    })
    .boxed())
}

impl SandboxWatch {
    async fn next(&mut self) -> Result<WatchSandboxResponse, ApiError> {
        use watch_sandbox_response::Item;

        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let said = next(&mut self.events, WATCH_IDLE_INTERVAL).await?;
        let (item, sandbox) = match said {
            Said::Event(event) => {
                self.is_over = event.kind == EventKind::SandboxDeleted;
                let sandbox = self.now().await?;
                (Item::from(message::event(*event)), sandbox)
            }
            Said::FellBehind(fell_behind) => (Item::from(fell_behind), self.now().await?),
            Said::Idle(cursor) => (Item::from(idle(cursor)), None),
        };
        Ok(WatchSandboxResponse {
            item: Some(item),
            sandbox: sandbox.into(),
            ..WatchSandboxResponse::default()
        })
    }

    /// The sandbox as it is, if it is still there.
    async fn now(&self) -> Result<Option<Sandbox>, ApiError> {
        match self.api.control().sandbox_get(&self.tenant, &self.id).await {
            Ok(view) => Ok(Some(message::sandbox(view.sandbox))),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stand_for_their_kinds_and_unknown_types_are_refused() {
        let of = |types: &[&str]| kinds(&types.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]).unwrap(), []);
        assert_eq!(of(&["node.lost"]).unwrap(), [EventKind::NodeLost]);
        let group = of(&["sandbox.*"]).unwrap();
        assert!(
            group.contains(&EventKind::SandboxCreated) && !group.contains(&EventKind::NodeLost)
        );
        for wrong in ["sandbox", "sandbox.*.x", "*", "pod.*", ""] {
            assert!(of(&[wrong]).is_err(), "{wrong}");
        }
    }
}
