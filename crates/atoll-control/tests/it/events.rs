//! The event bus: order, watching from any cursor, handlers that outlive crashes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atoll_control::request::{EventSelection, StartAt};
use atoll_control::view::{EventView, Watched};
use atoll_control::{EventHandler, EventStream, HandlerError};
use atoll_core::error::ErrorKind;
use atoll_core::event::{Cursor, EventKind, Subject};
use atoll_core::id::SandboxId;
use atoll_store::store::{EventRow, Retention};
use futures::future::join_all;

use crate::tenancy::stranger;
use crate::world::{Running, World, wait_for};

/// How long the next event may take to come.
const LIMIT: Duration = Duration::from_secs(15);

fn everything() -> EventSelection {
    EventSelection::default()
}

async fn next(watcher: &mut EventStream) -> Watched {
    let next = tokio::time::timeout(LIMIT, watcher.next()).await;
    next.expect("nothing came in time").unwrap().unwrap()
}

async fn next_event(watcher: &mut EventStream) -> EventView {
    match next(watcher).await {
        Watched::Event(event) => event,
        lagged @ Watched::Lagged { .. } => panic!("{lagged:?}"),
    }
}

/// Reads until every sandbox was deleted.
async fn until_deleted(watcher: &mut EventStream, mut count: usize) -> Vec<EventView> {
    let mut events = Vec::new();
    while count > 0 {
        let event = next_event(watcher).await;
        count -= usize::from(event.kind == EventKind::SandboxDeleted);
        events.push(event);
    }
    events
}

async fn live_and_die(running: &Running) -> SandboxId {
    let id = running.create().await.sandbox.id;
    let killed = running.control.sandbox_kill(&running.tenant, &id).await;
    killed.unwrap();
    id
}

async fn all_events(running: &Running) -> Vec<EventView> {
    let control = &running.control;
    let mut events = Vec::new();
    let mut from = StartAt::Beginning;
    loop {
        let page = control.fleet_events_list(&everything(), from, 100).await;
        let page = page.unwrap();
        events.extend(page.events);
        if page.is_last {
            return events;
        }
        from = StartAt::After(page.next);
    }
}

fn filler(count: usize) -> Vec<EventRow> {
    let filler = EventRow {
        subject: Subject::Fleet,
        team: None,
        at: atoll_core::time::Timestamp::from_micros(1),
        kind: EventKind::ResourceExhausted,
        level: "info".to_owned(),
        message: "filler".to_owned(),
        fields: BTreeMap::new(),
        decision: None,
    };
    vec![filler; count]
}

#[tokio::test]
async fn events_of_a_sandbox_come_in_order_whatever_else_happens() {
    const SANDBOXES: usize = 64;
    let world = World::new();
    let running = world.start().await;
    let mut watcher = running
        .control
        .events_watch(&running.tenant, &everything(), StartAt::Now)
        .unwrap();
    let lives = join_all((0..SANDBOXES).map(|_| live_and_die(&running)));
    let (ids, seen) = tokio::join!(lives, until_deleted(&mut watcher, SANDBOXES));

    assert!(seen.is_sorted_by(|a, b| a.cursor < b.cursor));
    let mut by_sandbox: BTreeMap<SandboxId, Vec<EventKind>> = BTreeMap::new();
    for event in &seen {
        let id = event.subject.sandbox().unwrap().clone();
        by_sandbox.entry(id).or_default().push(event.kind);
    }
    assert_eq!(by_sandbox.len(), SANDBOXES);
    for id in ids {
        assert_eq!(
            by_sandbox[&id],
            [
                EventKind::SandboxCreated,
                EventKind::SandboxPlaced,
                EventKind::SandboxRunning,
                EventKind::SandboxDeleted,
            ]
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn a_watcher_from_any_cursor_sees_exactly_what_followed() {
    let world = World::new();
    let running = world.start().await;
    for _ in 0..3 {
        live_and_die(&running).await;
    }
    let before = all_events(&running).await;
    let watch = |from| {
        let control = &running.control;
        control.fleet_events_watch(&everything(), from).unwrap()
    };
    let mut starts = vec![(watch(StartAt::Beginning), 0)];
    for (index, event) in before.iter().enumerate() {
        starts.push((watch(StartAt::After(event.cursor)), index + 1));
    }
    starts.push((watch(StartAt::Now), before.len()));
    for _ in 0..3 {
        live_and_die(&running).await;
    }
    let after = all_events(&running).await;
    for (mut watcher, first) in starts {
        for expected in &after[first..] {
            assert_eq!(next_event(&mut watcher).await, *expected);
        }
    }
    let future = StartAt::After(Cursor::new(u64::MAX));
    let refused = running.control.fleet_events_watch(&everything(), future);
    assert_eq!(refused.unwrap_err().kind, ErrorKind::InvalidArgument);
    running.stop().await;
}

/// A watcher that does not read holds up neither commits nor other watchers, and reads on where it
/// stopped, however far that lies behind what is kept in memory.
#[tokio::test]
async fn a_slow_watcher_delays_nobody_and_catches_up() {
    const EVENTS: usize = 20_000;
    let world = World::in_memory(&["node-1"]);
    let running = world.start().await;
    let store = world.store().await;
    let watch = || {
        let control = &running.control;
        let watcher = control.fleet_events_watch(&everything(), StartAt::Now);
        watcher.unwrap()
    };
    let (mut slow, mut fast) = (watch(), watch());
    let write = async {
        for _ in 0..EVENTS / 100 {
            store.event_append(filler(100)).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let read = async |watcher: &mut EventStream| {
        let mut cursors = Vec::new();
        for _ in 0..EVENTS {
            cursors.push(next_event(watcher).await.cursor);
        }
        cursors
    };
    let first = next_event(&mut slow);
    let ((), seen, first) = tokio::join!(write, read(&mut fast), first);
    assert_eq!(seen.len(), EVENTS);
    assert_eq!(first.cursor, seen[0]);
    for cursor in &seen[1..] {
        assert_eq!(next_event(&mut slow).await.cursor, *cursor);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_watcher_behind_what_was_pruned_is_told_and_goes_on() {
    let world = World::in_memory(&["node-1"]);
    let running = world.start().await;
    let store = world.store().await;
    let mut watcher = running
        .control
        .fleet_events_watch(&everything(), StartAt::Beginning)
        .unwrap();
    store.event_append(filler(9_000)).await.unwrap();
    let old = *store.event_head().borrow();
    let long_after = atoll_core::time::Timestamp::from_micros(1_000);
    let retention = Retention {
        before: long_after,
        sandboxes_max: 100,
        events_max: 100_000,
        limit: 10_000,
    };
    store.history_prune(&retention).await.unwrap();
    let id = live_and_die(&running).await;
    let Watched::Lagged { from, to, missed } = next(&mut watcher).await else {
        panic!("it is not told");
    };
    assert_eq!((from, to), (Cursor::START, old));
    assert!(missed >= 9_000, "{missed}");
    let rest = loop {
        let event = next_event(&mut watcher).await;
        if event.subject.sandbox() == Some(&id) {
            break event;
        }
    };
    assert_eq!(rest.kind, EventKind::SandboxCreated);
    until_deleted(&mut watcher, 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_team_hears_of_its_own_only() {
    let world = World::new();
    let running = world.start().await;
    let (control, other) = (&running.control, stranger());
    let id = live_and_die(&running).await;
    let all = everything();
    let list = control.events_list(&other, &all, StartAt::Beginning, 100);
    assert_eq!(list.await.unwrap().events, []);
    let of_sandbox = EventSelection {
        sandbox: Some(id),
        ..everything()
    };
    let list = control.events_list(&other, &of_sandbox, StartAt::Beginning, 100);
    assert_eq!(list.await.unwrap().events, []);
    let of_team = EventSelection {
        team: Some(running.tenant.team.clone()),
        ..everything()
    };
    let of_node = EventSelection {
        node: Some("node-1".parse().unwrap()),
        ..everything()
    };
    for selection in [of_team, of_node] {
        let list = control.events_list(&other, &selection, StartAt::Now, 100);
        assert_eq!(list.await.unwrap_err().kind, ErrorKind::PermissionDenied);
        let watch = control.events_watch(&other, &selection, StartAt::Now);
        assert_eq!(watch.unwrap_err().kind, ErrorKind::PermissionDenied);
    }
    // A stranger's watcher skips everything of others.
    let mut watcher = control
        .events_watch(&other, &everything(), StartAt::Beginning)
        .unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(200), watcher.next())
            .await
            .is_err()
    );
    running.stop().await;
}

/// Keeps what it handled; fails, or hangs, where it is told to.
#[derive(Debug, Default)]
struct Recorder {
    handled: Mutex<Vec<EventView>>,
    /// Refuses so many events before it takes one.
    refusals: Mutex<u32>,
    /// Hangs at this event, as if the process died while it was handled.
    hangs_at: Option<EventKind>,
}

impl Recorder {
    fn kinds(&self) -> Vec<EventKind> {
        let handled = self.handled.lock().unwrap();
        handled.iter().map(|event| event.kind).collect()
    }
}

#[async_trait]
impl EventHandler for Recorder {
    fn name(&self) -> &str {
        "recorder"
    }

    fn kinds(&self) -> Vec<EventKind> {
        vec![
            EventKind::SandboxCreated,
            EventKind::SandboxRunning,
            EventKind::SandboxDeleted,
        ]
    }

    async fn handle(&self, event: &EventView) -> Result<(), HandlerError> {
        if self.hangs_at == Some(event.kind) {
            std::future::pending::<()>().await;
        }
        {
            let mut refusals = self.refusals.lock().unwrap();
            if *refusals > 0 {
                *refusals -= 1;
                return Err("not now".into());
            }
        }
        self.handled.lock().unwrap().push(event.clone());
        Ok(())
    }
}

const LIFE: [EventKind; 3] = [
    EventKind::SandboxCreated,
    EventKind::SandboxRunning,
    EventKind::SandboxDeleted,
];

#[tokio::test]
async fn a_handler_that_fails_gets_everything_in_order() {
    let world = World::new();
    let running = world.start().await;
    let handler = Arc::new(Recorder {
        refusals: Mutex::new(3),
        ..Recorder::default()
    });
    let handled = running.control.events_handle(handler.clone()).await;
    handled.unwrap();
    live_and_die(&running).await;
    wait_for("everything is handled", async || handler.kinds() == LIFE).await;
    running.stop().await;

    // The next one goes on where that one stopped.
    let running = world.start().await;
    let handler = Arc::new(Recorder::default());
    let handled = running.control.events_handle(handler.clone()).await;
    handled.unwrap();
    live_and_die(&running).await;
    wait_for("the rest is handled", async || handler.kinds() == LIFE).await;
    running.stop().await;
}

/// A process that dies between a commit and its delivery loses nothing: the event comes again to
/// the one after it.
#[tokio::test]
async fn what_was_committed_is_delivered_after_a_crash() {
    let world = World::in_memory(&["node-1"]);
    let dying = world.start().await;
    let handler = Arc::new(Recorder {
        hangs_at: Some(EventKind::SandboxRunning),
        ..Recorder::default()
    });
    let handled = dying.control.events_handle(handler.clone()).await;
    handled.unwrap();
    live_and_die(&dying).await;
    wait_for("the first is handled", async || {
        handler.kinds() == LIFE[..1]
    })
    .await;

    // Not stopped: nothing of the first is written any more.
    let running = world.start().await;
    let handler = Arc::new(Recorder::default());
    let handled = running.control.events_handle(handler.clone()).await;
    handled.unwrap();
    wait_for("all are handled", async || {
        handler.kinds().ends_with(&LIFE[1..])
    })
    .await;
    let events = handler.handled.lock().unwrap().clone();
    assert!(events.is_sorted_by(|a, b| a.cursor < b.cursor));
    running.stop().await;
}
