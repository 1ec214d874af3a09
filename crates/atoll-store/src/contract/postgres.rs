//! What only PostgreSQL must do: it is shared, and it goes away.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_core::event::Cursor;
use atoll_core::id::{Generation, SandboxId};
use atoll_core::quota::Limits;
use atoll_core::sandbox::State;
use sqlx::{Connection as _, PgConnection, SqliteConnection};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::cluster::{self, Cluster};
use super::{at, insert, limits, new, sandbox, team, transition};
use crate::postgres::{DatabaseUrl, PoolSizes, PostgresStore};
use crate::sqlite::SqliteStore;
use crate::store::{Admission, Error, EventQuery, IdempotencyKey, NewSandbox, Store};

/// How long a condition may take to come about, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store as tests use it.
pub(super) async fn open(url: &DatabaseUrl) -> PostgresStore {
    let sizes = PoolSizes {
        writers: 1,
        readers: 2,
    };
    PostgresStore::connect(url, sizes).await.unwrap()
}

/// A store in a database of its own, with nothing to keep; none where there is no PostgreSQL.
pub(super) async fn shared() -> Option<(PostgresStore, ())> {
    let url = cluster::shared().await?;
    Some((open(&url).await, ()))
}

/// Two servers on one database.
async fn two() -> Option<(PostgresStore, PostgresStore)> {
    let url = cluster::shared().await?;
    let (one, other) = tokio::join!(open(&url), open(&url));
    Some((one, other))
}

fn keyed(id: &str, key: &str, most: u32) -> NewSandbox {
    NewSandbox {
        limits: Limits {
            concurrent_sandboxes: most,
            ..limits()
        },
        idempotency: Some(IdempotencyKey {
            key: key.to_owned(),
            fingerprint: "f".to_owned(),
        }),
        ..new(sandbox(id))
    }
}

/// Waits until the store's head is there.
async fn reached(store: &PostgresStore, cursor: Cursor) {
    let mut head = store.event_head();
    let reached = head.wait_for(|head| *head >= cursor);
    timeout(PATIENCE, reached).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failed_write_leaves_its_neighbours_alone() {
    let Some((store, ())) = shared().await else {
        return;
    };
    let row = insert(&store, "ia").await;
    // The second insert of one id violates the primary key.
    let writes = ["ib", "ia", "ic"].map(|id| store.sandbox_insert(new(sandbox(id))));
    let [good, bad, also_good] = writes;
    let (good, bad, also_good) = tokio::join!(good, bad, also_good);
    assert_eq!(good.unwrap(), Admission::Accepted);
    assert!(matches!(bad, Err(Error::Database { .. })), "{bad:?}");
    assert_eq!(also_good.unwrap(), Admission::Accepted);
    assert_eq!(store.team_usage(&row.team).await.unwrap().charged.places, 3);
    // What the refused one would have told is not told, and left no gap.
    assert_eq!(store.event_head().borrow().get(), 3);
    store.close().await;
}

#[tokio::test]
async fn servers_that_start_together_migrate_once() {
    let Some(url) = cluster::shared().await else {
        return;
    };
    let (one, two, three) = tokio::join!(open(&url), open(&url), open(&url));
    for store in [one, two, three] {
        store.ping().await.unwrap();
        store.close().await;
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let Some(url) = cluster::shared().await else {
        return;
    };
    open(&url).await.close().await;
    let mut connection = PgConnection::connect_with(url.plain()).await.unwrap();
    sqlx::raw_sql("INSERT INTO schema_version (version, name) VALUES (9999, 'future')")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let refused = PostgresStore::connect(&url, PoolSizes::default()).await;
    assert!(matches!(
        refused,
        Err(Error::SchemaTooNew { found: 9999, .. })
    ));
}

/// Tables with their columns and whether those may be missing.
type Schema = BTreeMap<String, BTreeSet<(String, bool)>>;

fn schema(rows: Vec<(String, String, bool)>) -> Schema {
    let mut schema = Schema::new();
    for (table, column, is_required) in rows {
        schema
            .entry(table)
            .or_default()
            .insert((column, is_required));
    }
    schema
}

/// What one store keeps the other keeps: but for what PostgreSQL needs because it is shared, and
/// SQLite keeps for itself.
#[tokio::test]
async fn the_schemas_have_the_same_tables_and_columns() {
    let Some(url) = cluster::shared().await else {
        return;
    };
    open(&url).await.close().await;
    let mut connection = PgConnection::connect_with(url.plain()).await.unwrap();
    let text = "SELECT table_name::text, column_name::text, is_nullable = 'NO' \
         FROM information_schema.columns WHERE table_schema = 'public'";
    let rows = sqlx::query_as(text).fetch_all(&mut connection).await;
    let mut postgres = schema(rows.unwrap());
    connection.close().await.unwrap();
    for own in ["heads", "writers"] {
        assert!(postgres.remove(own).is_some());
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    SqliteStore::open(&path).await.unwrap().close().await;
    let file = format!("sqlite:{}", path.display());
    let mut connection = SqliteConnection::connect(&file).await.unwrap();
    let text = "SELECT m.name, c.name, c.\"notnull\" = 1 FROM sqlite_schema m \
         JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'";
    let rows = sqlx::query_as(text).fetch_all(&mut connection).await;
    assert_eq!(postgres, schema(rows.unwrap()));
}

#[tokio::test]
async fn a_quota_is_exact_whichever_server_is_asked() {
    const MOST: u32 = 12;
    let Some((one, other)) = two().await else {
        return;
    };
    one.team_ensure(&team(), "default", at(1)).await.unwrap();
    let asked = (0..40).map(|number| {
        let store = if number % 2 == 0 { &one } else { &other };
        let (id, key) = (format!("i{number}"), format!("k{number}"));
        async move { store.sandbox_insert(keyed(&id, &key, MOST)).await.unwrap() }
    });
    let answers = futures::future::join_all(asked).await;
    let accepted = answers.iter().filter(|it| **it == Admission::Accepted);
    assert_eq!(accepted.count(), MOST as usize);
    let usage = other.team_usage(&team()).await.unwrap();
    assert_eq!(usage.charged.places, u64::from(MOST));
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn an_idempotency_key_makes_one_sandbox_whichever_server_is_asked() {
    let Some((one, other)) = two().await else {
        return;
    };
    one.team_ensure(&team(), "default", at(1)).await.unwrap();
    for round in 0..10 {
        let key = format!("k{round}");
        let ids = [format!("ia{round}"), format!("ib{round}")];
        let (first, second) = tokio::join!(
            one.sandbox_insert(keyed(&ids[0], &key, 100)),
            other.sandbox_insert(keyed(&ids[1], &key, 100)),
        );
        let answers = [first.unwrap(), second.unwrap()];
        let made = answers.iter().position(|it| *it == Admission::Accepted);
        let made = made.unwrap();
        let replayed = Admission::Replayed {
            sandbox: ids[made].parse().unwrap(),
            fingerprint: "f".to_owned(),
        };
        assert_eq!(answers[1 - made], replayed);
    }
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn of_two_servers_that_change_one_state_one_does() {
    let Some((one, other)) = two().await else {
        return;
    };
    let row = insert(&one, "ia").await;
    let mut changes = [1, 2].map(|_| transition(&row, State::Creating, 110));
    for (change, generation) in changes.iter_mut().zip([7, 8]) {
        change.placement = Some(("node-1".parse().unwrap(), Generation::new(generation)));
    }
    let [first, second] = changes;
    let (first, second) = tokio::join!(
        one.sandbox_transition(first),
        other.sandbox_transition(second),
    );
    let changed = [first.unwrap(), second.unwrap()];
    assert_eq!(changed.iter().flatten().count(), 1, "{changed:?}");
    one.close().await;
    other.close().await;
}

/// Whoever has seen a cursor never finds an event at or below it later, on any server, and no
/// cursor is left out.
#[tokio::test]
async fn cursors_rise_without_a_gap_whoever_writes() {
    const EACH: u64 = 50;
    let Some((one, other)) = two().await else {
        return;
    };
    one.team_ensure(&team(), "default", at(1)).await.unwrap();
    let write = async |store: &PostgresStore, prefix: &str| {
        let inserts = (0..EACH).map(|number| {
            let id = format!("i{prefix}{number}");
            async move { store.sandbox_insert(new(sandbox(&id))).await.unwrap() }
        });
        for admission in futures::future::join_all(inserts).await {
            assert_eq!(admission, Admission::Accepted);
        }
    };
    let all = Cursor::new(2 * EACH);
    let follow = async |store: &PostgresStore| {
        let mut head = store.event_head();
        let mut seen = Cursor::START;
        while seen < all {
            let query = EventQuery::default();
            let page = store.event_list_after(seen, &query, 7).await.unwrap();
            for event in page.events {
                assert_eq!(event.cursor.get(), seen.get() + 1);
                seen = event.cursor;
            }
            let more = head.wait_for(|head| *head > seen || *head >= all);
            timeout(PATIENCE, more).await.unwrap().unwrap();
        }
    };
    let following = async { tokio::join!(follow(&one), follow(&other)) };
    let writing = async { tokio::join!(write(&one, "a"), write(&other, "b")) };
    tokio::join!(timeout(PATIENCE, following), writing)
        .0
        .unwrap();
    reached(&one, all).await;
    reached(&other, all).await;
    one.close().await;
    other.close().await;
}

/// Every acknowledged write is there, none is there twice, and whoever waited longer than the
/// database was away waited in vain for nothing.
#[tokio::test]
async fn a_restart_of_the_database_costs_time_only() {
    const WRITERS: usize = 16;
    const CRASHES: usize = 2;
    let Some(mut cluster) = Cluster::start(true) else {
        return cluster::skipped();
    };
    let url = cluster.database().await;
    let store = Arc::new(open(&url).await);
    store.team_ensure(&team(), "default", at(1)).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (store, stopped) = (Arc::clone(&store), stopped.clone());
        writers.spawn(async move { load(&store, writer, &stopped).await });
    }
    for _ in 0..CRASHES {
        let before = *store.event_head().borrow();
        reached(&store, Cursor::new(before.get() + 50)).await;
        cluster = tokio::task::spawn_blocking(move || {
            cluster.crash();
            cluster.start_again();
            cluster
        })
        .await
        .unwrap();
    }
    let before = *store.event_head().borrow();
    reached(&store, Cursor::new(before.get() + 50)).await;
    stop.send(true).unwrap();
    let made: u64 = writers.join_all().await.into_iter().sum();
    let usage = store.team_usage(&team()).await.unwrap();
    assert_eq!(usage.charged.places, made);
    let live = store.sandbox_list_live(None, u32::MAX >> 1).await.unwrap();
    assert_eq!(live.len() as u64, made);
    // One event each, and one cursor each.
    assert_eq!(store.event_head().borrow().get(), made);
    a_commit_without_an_answer_is_found(&store, &url).await;
    store.close().await;
    drop(cluster);
}

/// The commit waits for a standby that there is not, after it is on the disk; then its connection
/// is ended. What asked for it hears that it was done.
async fn a_commit_without_an_answer_is_found(store: &PostgresStore, url: &DatabaseUrl) {
    let mut operator = PgConnection::connect_with(url.plain()).await.unwrap();
    let before = store.team_usage(&team()).await.unwrap().charged.places;
    for text in [
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::raw_sql(text).execute(&mut operator).await.unwrap();
    }
    let is_ended = Cell::new(false);
    // The server takes the settings over in its own time: until then commits are answered.
    let inserting = async {
        let mut made = 0;
        while !is_ended.get() {
            let id = format!("iunanswered{made}");
            let admission = store.sandbox_insert(keyed(&id, &id, u32::MAX)).await;
            assert_eq!(admission.unwrap(), Admission::Accepted);
            made += 1;
        }
        made
    };
    let ending = async {
        let text = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE wait_event = 'SyncRep' AND query = 'COMMIT'";
        let mut ended: i64 = 0;
        while ended == 0 {
            let count = sqlx::query_scalar(text).fetch_one(&mut operator);
            ended = count.await.unwrap();
        }
        is_ended.set(true);
        for text in [
            "ALTER SYSTEM RESET synchronous_standby_names",
            "SELECT pg_reload_conf()",
        ] {
            sqlx::raw_sql(text).execute(&mut operator).await.unwrap();
        }
    };
    let both = async { tokio::join!(inserting, ending) };
    let (made, ()) = timeout(PATIENCE, both).await.unwrap();
    let after = store.team_usage(&team()).await.unwrap().charged.places;
    assert_eq!(after, before + made);
    operator.close().await.unwrap();
}

/// Adds sandboxes one after the other until told to stop. Answers how many there must be.
async fn load(
    store: &PostgresStore,
    writer: usize,
    stopped: &tokio::sync::watch::Receiver<bool>,
) -> u64 {
    let mut made = 0;
    while !*stopped.borrow() {
        let id = format!("i{writer}x{made}");
        let wanted = NewSandbox {
            limits: Limits {
                concurrent_sandboxes: u32::MAX,
                ..limits()
            },
            ..new(sandbox(&id))
        };
        // Without a key: an answer that is wrong would show.
        match store.sandbox_insert(wanted).await {
            Ok(admission) => {
                assert_eq!(admission, Admission::Accepted);
                let id: SandboxId = id.parse().unwrap();
                assert!(read(store, &id).await);
                made += 1;
            }
            // Nothing was written: the next turn makes the same one.
            Err(Error::Locked { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    made
}

/// Whether the sandbox is there, as soon as it can be told: a restart may take longer than a read
/// waits.
async fn read(store: &PostgresStore, id: &SandboxId) -> bool {
    let reading = async {
        loop {
            match store.sandbox_get(id).await {
                Ok(found) => return found.is_some(),
                Err(Error::Database { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    timeout(PATIENCE, reading).await.unwrap()
}
