//! Backups hold everything, and are restored whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;

use atoll_core::correction::{Correction, CorrectionKind};
use atoll_core::event::{Cursor, EventKind, Subject};
use atoll_core::node::{DrainMode, NodeInfo};
use atoll_core::quota::Overrides;

use super::{
    at, cluster, event, insert, lifecycle, new, node, policy, postgres, sandbox, start, stop, team,
    teams, template, webhook,
};
use crate::backup::{self, Error, Location, Summary};
use crate::sqlite::{self, SqliteStore};
use crate::store::{
    Admission, EventQuery, IdempotencyKey, Inserted, KeyRow, NewSandbox, Store, TeamRow, TeamUsage,
};

/// Something in every table, with texts and numbers that are hard to carry.
async fn fill(store: &dyn Store) {
    store.meta_ensure("seed", "a\u{1f980}\n\"").await.unwrap();
    let other = TeamRow {
        id: "other".parse().unwrap(),
        name: "ünïcode 'n \\ \"quotes\"".to_owned(),
        is_disabled: true,
        created_at: at(-5),
        overrides: Overrides {
            memory_mib: Some(i64::MAX.unsigned_abs()),
            ..Overrides::default()
        },
        policy: Some(Box::new(policy::full())),
        weight: 3,
        usage: TeamUsage::default(),
    };
    assert_eq!(store.team_insert(&other).await.unwrap(), Inserted::Yes);
    let pausing = start(store, "ipaused", 110).await;
    lifecycle::pause(store, &pausing, 120).await;
    let ending = start(store, "iended", 110).await;
    stop(store, &ending, 120).await;
    insert(store, "ipending").await;
    fill_tenancy(store).await;
    fill_nodes(store).await;
    super::forecast::what_was_learnt_is_kept(store).await;
    // The newest event is pruned: its number is not given out again.
    let last = event("iended", 121, "the last");
    store.event_append(vec![last]).await.unwrap();
    super::prune(store, at(130)).await;
    // What is not pruned with it.
    let mut late = sandbox("ikeyed");
    late.created_at = at(200);
    let keyed = NewSandbox {
        idempotency: Some(IdempotencyKey {
            key: "k".to_owned(),
            fingerprint: "f".to_owned(),
        }),
        ..new(late)
    };
    let admission = store.sandbox_insert(keyed).await.unwrap();
    assert_eq!(admission, Admission::Accepted);
}

async fn fill_tenancy(store: &dyn Store) {
    let key = KeyRow {
        id: "key-1".parse().unwrap(),
        team: team(),
        name: String::new(),
        hash: "hash".to_owned(),
        masked_start: "ab".to_owned(),
        masked_end: "cdef".to_owned(),
        is_read_only: true,
        created_at: at(1),
        created_by: None,
        last_used_at: Some(at(7)),
    };
    store.key_insert(&key).await.unwrap();
    for (id, owner) in [("t1", None), ("t2", Some(team()))] {
        let template = template(id, owner, "base");
        store.template_insert(&template).await.unwrap();
    }
    let placed = Subject::Sandbox("ipending".parse().unwrap());
    let mut placed = super::event::of(placed, EventKind::SandboxPlaced, 200);
    placed.decision = Some(Box::new(super::event::decision()));
    let fleet = super::event::of(Subject::Fleet, EventKind::SandboxUpdated, 201);
    store.event_append(vec![placed, fleet]).await.unwrap();
    store
        .event_cursor_set("who", Cursor::new(3), at(9))
        .await
        .unwrap();
    let audit = vec![teams::audit(1, "create"), teams::audit(2, "kill")];
    store.audit_append(audit).await.unwrap();
    store
        .webhook_insert(&webhook::hook("b", 1), 2)
        .await
        .unwrap();
}

async fn fill_nodes(store: &dyn Store) {
    let info = NodeInfo {
        name: "rack 4".to_owned(),
        address: None,
        tags: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        descriptor: node::descriptor(),
    };
    let id = "node-1".parse().unwrap();
    store.node_join(&id, &info, at(1)).await.unwrap();
    let drain = Some(DrainMode::Evict);
    store.node_drain(&id, drain, at(2), vec![]).await.unwrap();
    let correction = Correction {
        at: at(3),
        kind: CorrectionKind::from_name("change_noticed").unwrap(),
        node: Some(id),
        sandbox: None,
        generation: None,
        reason: "it was so".to_owned(),
    };
    store.correction_append(vec![correction]).await.unwrap();
}

async fn backed_up(from: Location<'_>) -> (Summary, Vec<u8>) {
    let mut file = Vec::new();
    let summary = backup::write(from, &mut file).await.unwrap();
    (summary, file)
}

async fn restored(to: Location<'_>, mut file: &[u8]) -> backup::Result<Summary> {
    backup::restore(to, &mut file).await
}

/// All lines but the first, which names the store, and the checksum of it.
fn body(file: &[u8]) -> Vec<&str> {
    let text = std::str::from_utf8(file).unwrap();
    let lines: Vec<_> = text.lines().collect();
    lines[1..lines.len() - 1].to_vec()
}

/// What the next events and rows of the audit are called shows whether numbering went on.
async fn next_numbers(store: &dyn Store) -> (u64, i64) {
    store
        .event_append(vec![event("ikeyed", 300, "next")])
        .await
        .unwrap();
    store
        .audit_append(vec![teams::audit(9, "next")])
        .await
        .unwrap();
    let filter = crate::store::AuditFilter {
        limit: 1,
        ..Default::default()
    };
    let audit = store.audit_list(&filter).await.unwrap();
    (store.event_head().borrow().get(), audit[0].seq)
}

async fn made(path: &Path) {
    let store = SqliteStore::open(path).await.unwrap();
    fill(&store).await;
    store.close().await;
}

#[tokio::test]
async fn nothing_is_lost_on_the_way_to_postgres_and_back() {
    let Some(url) = cluster::shared().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (path, back) = (folder.path().join("a.db"), folder.path().join("b.db"));
    made(&path).await;
    let (summary, file) = backed_up(Location::Sqlite(&path)).await;
    for (table, rows) in &summary.rows {
        assert!(*rows > 0, "the test leaves `{table}` empty");
    }
    let there = restored(Location::Postgres(&url), &file).await.unwrap();
    assert_eq!(there, summary);
    let (moved, file_there) = backed_up(Location::Postgres(&url)).await;
    assert_eq!(moved.rows, summary.rows);
    assert_eq!(body(&file_there), body(&file));
    restored(Location::Sqlite(&back), &file_there)
        .await
        .unwrap();
    let (_, file_back) = backed_up(Location::Sqlite(&back)).await;
    assert_eq!(file_back, file);
    // The stores go on where the first one was.
    let first = SqliteStore::open(&path).await.unwrap();
    let second = postgres::open(&url).await;
    let third = SqliteStore::open(&back).await.unwrap();
    let query = EventQuery::default();
    let events = first.event_list_after(Cursor::START, &query, 1_000).await;
    let next = next_numbers(&first).await;
    assert_eq!(next_numbers(&second).await, next);
    assert_eq!(next_numbers(&third).await, next);
    for store in [&second as &dyn Store, &third] {
        let page = store.event_list_after(Cursor::START, &query, 1_000).await;
        let page = page.unwrap().events;
        assert_eq!(page[..page.len() - 1], events.as_ref().unwrap().events);
        let teams = store.team_list().await.unwrap();
        assert_eq!(teams, first.team_list().await.unwrap());
        store
            .correction_append(store.correction_list(1).await.unwrap())
            .await
            .unwrap();
        store.close().await;
    }
}

#[tokio::test]
async fn a_damaged_backup_restores_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("a.db"), folder.path().join("b.db"));
    made(&path).await;
    let (_, file) = backed_up(Location::Sqlite(&path)).await;
    let text = String::from_utf8(file.clone()).unwrap();
    let changed = text.replacen("it was so", "it was no", 1);
    let half = &text[..text.len() / 2];
    let lines: Vec<_> = text.lines().collect();
    let without_end = lines[..lines.len() - 1].join("\n") + "\n";
    for damaged in [&changed, half, &without_end] {
        let refused = restored(Location::Sqlite(&other), damaged.as_bytes()).await;
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
    }
    let none = restored(Location::Sqlite(&other), b"{\"format\":\"tar\"}\n").await;
    assert!(matches!(none, Err(Error::NotOne { .. })), "{none:?}");
    let later = text.replacen("\"version\":1", "\"version\":2", 1);
    let later = restored(Location::Sqlite(&other), later.as_bytes()).await;
    assert!(
        matches!(later, Err(Error::OtherVersion { .. })),
        "{later:?}"
    );
    let foreign = text.replacen("\"drain\"", "\"train\"", 1);
    let foreign = restored(Location::Sqlite(&other), foreign.as_bytes()).await;
    assert!(matches!(foreign, Err(Error::OtherVersion { .. })));
    // After all of this it is empty, and takes the whole one; but only once.
    restored(Location::Sqlite(&other), &file).await.unwrap();
    let twice = restored(Location::Sqlite(&other), &file).await;
    assert!(matches!(twice, Err(Error::NotEmpty { table: "meta" })));
    assert_eq!(backed_up(Location::Sqlite(&other)).await.1, file);
}

#[tokio::test]
async fn a_database_of_another_version_is_not_backed_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let refused = backup::write(Location::Sqlite(&path), &mut Vec::new()).await;
    assert!(matches!(refused, Err(Error::OtherSchema)), "{refused:?}");
    assert!(!path.exists());
    // As the server makes it, so that it is private from the beginning.
    std::fs::write(&path, "").unwrap();
    let lacks = async || {
        let states = sqlite::migrations(&path).await.unwrap();
        states.iter().filter(|state| !state.is_applied).count()
    };
    assert!(lacks().await > 0);
    sqlite::migrate(&path).await.unwrap();
    assert_eq!(lacks().await, 0);
    backed_up(Location::Sqlite(&path)).await;
    let Some(url) = cluster::shared().await else {
        return;
    };
    let refused = backup::write(Location::Postgres(&url), &mut Vec::new()).await;
    assert!(matches!(refused, Err(Error::OtherSchema)), "{refused:?}");
    crate::postgres::migrate(&url).await.unwrap();
    let states = crate::postgres::migrations(&url).await.unwrap();
    assert!(states.iter().all(|state| state.is_applied));
    backed_up(Location::Postgres(&url)).await;
}
