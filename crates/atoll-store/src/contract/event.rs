//! What every store must do with events.

use atoll_core::event::{Cursor, EventKind, Subject};
use atoll_core::id::Generation;
use atoll_core::sandbox::EndReason;
use atoll_core::scheduler::decision::Candidate;
use atoll_core::scheduler::record::{Asked, Part, Record, Rejected, Short, SmallestChange};
use sqlx::Connection as _;

use super::{at, event, history, insert, intent, prune, start, stop, team};
use crate::sqlite::SqliteStore;
use crate::store::{EventGap, EventQuery, EventRow, IntentChange, Retention, Store};

pub(super) fn of(subject: Subject, kind: EventKind, second: i64) -> EventRow {
    EventRow {
        subject,
        team: None,
        kind,
        ..event("i", second, kind.as_str())
    }
}

/// Everything that a decision can say.
pub(super) fn decision() -> Record {
    let node = |name: &str| name.parse().unwrap();
    Record {
        node: Some(node("n1")),
        score: 930_000,
        parts: vec![Part {
            term: "spread".to_owned(),
            value: 900_000,
            weight_permille: 833,
        }],
        alternatives: vec![Candidate {
            node: node("n2"),
            score: 920_000,
        }],
        strategy: "least_allocated".to_owned(),
        sparing: "all".to_owned(),
        fitting: 2,
        rejected: vec![Rejected {
            constraint: "memory".to_owned(),
            nodes: 12,
        }],
        smallest_change: Some(SmallestChange {
            text: "needs more".to_owned(),
            nodes: 1,
            short: vec![Short {
                dimension: "memory".to_owned(),
                needs: 4_096,
                free: 3_277,
            }],
        }),
        asked: Asked {
            generation: Generation::new(3),
            seed: u64::MAX,
            refused: vec![node("n3")],
        },
    }
}

pub(super) async fn decisions_are_part_of_a_subjects_history_only(store: &dyn Store) {
    let row = insert(store, "ia").await;
    let subject = Subject::Sandbox(row.id.clone());
    let mut placed = of(subject, EventKind::SandboxPlaced, 200);
    placed.decision = Some(Box::new(decision()));
    let mut refused = placed.clone();
    refused.decision = Some(Box::new(Record {
        node: None,
        smallest_change: None,
        ..decision()
    }));
    let written = vec![placed.clone(), refused.clone()];
    store.event_append(written).await.unwrap();
    let listed = store.event_list(&history(&row.id)).await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|stored| stored.event).collect();
    assert_eq!(listed[0].decision, None);
    assert_eq!(listed[1..], [placed, refused]);
    let query = EventQuery::default();
    let page = store.event_list_after(Cursor::START, &query, 100).await;
    for stored in page.unwrap().events {
        assert_eq!(stored.event.decision, None);
    }
    let page = store.event_page(&query, false, 0, 100).await.unwrap();
    assert!(page.iter().all(|stored| stored.event.decision.is_none()));
}

fn node(id: &str) -> Subject {
    Subject::Node(id.parse().unwrap())
}

async fn read(store: &dyn Store, query: &EventQuery) -> Vec<EventKind> {
    let page = store.event_list_after(Cursor::START, query, 100).await;
    let events = page.unwrap().events;
    events.into_iter().map(|stored| stored.event.kind).collect()
}

pub(super) async fn events_are_read_in_the_order_of_their_cursors(store: &dyn Store) {
    let row = insert(store, "ia").await;
    let subject = Subject::Sandbox(row.id.clone());
    let mut line = event("ia", 90, "a line");
    line.kind = EventKind::Log;
    let joined = of(node("n1"), EventKind::NodeJoined, 80);
    let short = of(Subject::Fleet, EventKind::ResourceExhausted, 70);
    let other = of(node("n2"), EventKind::NodeJoined, 60);
    let written = vec![line.clone(), joined.clone(), short, other];
    store.event_append(written).await.unwrap();

    let all = EventQuery::default();
    let page = store.event_list_after(Cursor::START, &all, 2).await;
    let page = page.unwrap();
    assert_eq!(page.events.len(), 2);
    assert_eq!(page.events[0].event, event("ia", 100, "made"));
    assert_eq!(page.events[1].event, joined);
    let cursors: Vec<_> = page.events.iter().map(|stored| stored.cursor).collect();
    assert_eq!(cursors, [Cursor::new(1), Cursor::new(3)]);
    assert_eq!(page.next, Cursor::new(3));
    let rest = store.event_list_after(page.next, &all, 9).await.unwrap();
    assert_eq!(rest.events.len(), 2);
    assert_eq!(rest.next, Cursor::new(5));
    let end = store.event_list_after(rest.next, &all, 9).await.unwrap();
    assert_eq!((end.events.len(), end.next), (0, Cursor::new(5)));

    let query = |query: EventQuery| async move { read(store, &query).await };
    let of_team = EventQuery {
        team: Some(team()),
        ..EventQuery::default()
    };
    assert_eq!(query(of_team.clone()).await, [EventKind::SandboxUpdated]);
    let lines = EventQuery {
        kinds: vec![EventKind::Log],
        ..of_team
    };
    assert_eq!(query(lines).await, [EventKind::Log]);
    for (subject, found) in [(subject, 1), (node("n2"), 1), (Subject::Fleet, 1)] {
        let of_subject = EventQuery {
            subject: Some(subject),
            ..EventQuery::default()
        };
        assert_eq!(query(of_subject).await.len(), found);
    }
    let mut of_node = history(&row.id);
    of_node.subject = node("n1");
    let rows = store.event_list(&of_node).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].event, joined);
}

pub(super) async fn the_head_moves_with_what_is_committed(store: &dyn Store) {
    let mut head = store.event_head();
    assert_eq!(*head.borrow_and_update(), Cursor::START);
    let row = insert(store, "ia").await;
    assert!(head.has_changed().unwrap());
    assert_eq!(*head.borrow_and_update(), Cursor::new(1));
    let stopped = intent(&row.id, IntentChange::Stop(EndReason::Killed));
    let told = stopped.events.len() as u64;
    store.sandbox_intend(stopped.clone()).await.unwrap();
    assert_eq!(*head.borrow_and_update(), Cursor::new(1 + told));
    // What did not happen is not told.
    store.sandbox_intend(stopped).await.unwrap();
    assert!(!head.has_changed().unwrap());
}

pub(super) async fn a_reader_that_is_behind_what_was_pruned_is_told(store: &dyn Store) {
    let old = start(store, "iold", 110).await;
    stop(store, &old, 120).await;
    let newest_of_old = *store.event_head().borrow();
    let ancient = of(node("n1"), EventKind::NodeJoined, 130);
    store.event_append(vec![ancient]).await.unwrap();
    let live = start(store, "ilive", 110).await;
    let newest = *store.event_head().borrow();
    assert_eq!(store.event_gap(Cursor::START).await.unwrap(), None);

    prune(store, at(300)).await;

    let through = Cursor::new(newest_of_old.get() + 1);
    let gap = |missed| Some(EventGap { through, missed });
    let missed = through.get();
    assert_eq!(store.event_gap(Cursor::START).await.unwrap(), gap(missed));
    assert_eq!(
        store.event_gap(newest_of_old).await.unwrap(),
        gap(1),
        "the node's event"
    );
    assert_eq!(store.event_gap(through).await.unwrap(), None);
    let all = EventQuery::default();
    let left = store.event_list_after(Cursor::START, &all, 99).await;
    let left = left.unwrap();
    assert_eq!(left.next, newest);
    assert!(
        left.events
            .iter()
            .all(|stored| stored.event.subject.sandbox() == Some(&live.id))
    );
}

pub(super) async fn subscribers_find_their_cursors_again(store: &dyn Store) {
    let get = |name: &'static str| async move { store.event_cursor_get(name).await.unwrap() };
    assert_eq!(get("a").await, None);
    for cursor in [5, 9] {
        let cursor = Cursor::new(cursor);
        store.event_cursor_set("a", cursor, at(1)).await.unwrap();
    }
    let other = Cursor::new(2);
    store.event_cursor_set("b", other, at(1)).await.unwrap();
    assert_eq!(get("a").await, Some(Cursor::new(9)));
    assert_eq!(get("b").await, Some(other));
}

pub(super) async fn recent_events_are_paged_either_way(store: &dyn Store) {
    insert(store, "ia").await;
    let more = ["a", "b", "c"].map(|text| event("ia", 101, text));
    store.event_append(more.to_vec()).await.unwrap();
    let query = EventQuery {
        team: Some(team()),
        ..EventQuery::default()
    };
    let texts = async |is_ascending, offset, limit| -> Vec<String> {
        let page = store.event_page(&query, is_ascending, offset, limit).await;
        let events = page.unwrap().into_iter();
        events.map(|stored| stored.event.message).collect()
    };
    assert_eq!(texts(true, 0, 9).await, ["made", "a", "b", "c"]);
    assert_eq!(texts(false, 1, 2).await, ["b", "a"]);
    assert_eq!(texts(true, 4, 2).await, Vec::<String>::new());
}

pub(super) async fn no_more_is_kept_than_may_be(store: &dyn Store) {
    for (id, second) in [("ia", 110), ("ib", 120), ("ic", 130)] {
        let row = start(store, id, second).await;
        stop(store, &row, second).await;
    }
    let live = start(store, "ilive", 110).await;
    let head = *store.event_head().borrow();
    let retention = Retention {
        before: at(0),
        sandboxes_max: 1,
        events_max: 2,
        limit: 10,
    };
    let pruned = store.history_prune(&retention).await.unwrap();
    assert_eq!((pruned.sandboxes, pruned.is_more), (2, false));
    for (id, is_kept) in [("ia", false), ("ib", false), ("ic", true), ("ilive", true)] {
        let found = store.sandbox_get(&id.parse().unwrap()).await.unwrap();
        assert_eq!(found.is_some(), is_kept, "{id}");
    }
    let all = EventQuery::default();
    let left = store.event_list_after(Cursor::START, &all, 99).await;
    assert_eq!(left.unwrap().events.len(), 2);
    let gap = store.event_gap(Cursor::START).await.unwrap().unwrap();
    assert_eq!(gap.missed, head.get() - 2);
    // A live sandbox is never forgotten, whatever its history was.
    assert!(store.sandbox_get(&live.id).await.unwrap().is_some());
}

#[tokio::test]
async fn sqlite_the_head_outlives_a_restart_and_a_prune() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let row = start(&store, "ia", 110).await;
    stop(&store, &row, 120).await;
    let head = *store.event_head().borrow();
    assert_eq!(prune(&store, at(300)).await, 1);
    store.close().await;
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(*store.event_head().borrow(), head);
    insert(&store, "ib").await;
    assert_eq!(store.event_head().borrow().get(), head.get() + 1);
    store.close().await;
}

/// Events that were written before they had subjects are read as they were.
#[tokio::test]
async fn sqlite_events_of_the_first_schema_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    let url = format!("sqlite:{}?mode=rwc", path.display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    for text in [
        include_str!("../../migrations/sqlite/0001_initial.sql"),
        "CREATE TABLE schema_version (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)",
        "INSERT INTO schema_version VALUES (1, 'initial')",
        "INSERT INTO sandbox_events (seq, sandbox, team, at, kind, level, message, fields) VALUES \
         (7, 'ia', 'team', 100000000, 'sandbox.updated', 'info', 'made', '{\"node\":\"n\"}')",
    ] {
        sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    let store = SqliteStore::open(&path).await.unwrap();
    let rows = store.event_list(&history(&"ia".parse().unwrap())).await;
    let rows = rows.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].cursor, Cursor::new(7));
    assert_eq!(rows[0].event, event("ia", 100, "made"));
    assert_eq!(*store.event_head().borrow(), Cursor::new(7));
    store.close().await;
}
