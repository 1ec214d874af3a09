//! Pausing, resuming and restarting, as the store has to remember them.

use std::time::Duration;

use atoll_core::id::Generation;
use atoll_core::quota::Limits;
use atoll_core::sandbox::{Desired, EndReason, Kept, OnTimeout, Sandbox, State};
use atoll_core::snapshot::{Digest, Snapshot};

use super::{at, expiry, filter, intent, limits, new, sandbox, start, team, transition};
use crate::sqlite::SqliteStore;
use crate::store::{Admission, IntentChange, Readmission, Store};

async fn intend(store: &dyn Store, row: &Sandbox, change: IntentChange) -> Option<Sandbox> {
    store.sandbox_intend(intent(&row.id, change)).await.unwrap()
}

pub(super) async fn pause(store: &dyn Store, row: &Sandbox, second: i64) -> Sandbox {
    let change = IntentChange::Pause { keep_memory: false };
    let row = intend(store, row, change).await.unwrap();
    let pausing = transition(&row, State::Pausing, second);
    let row = store.sandbox_transition(pausing).await.unwrap().unwrap();
    let mut paused = transition(&row, State::Paused, second);
    paused.paused_at = Some(at(second));
    store.sandbox_transition(paused).await.unwrap().unwrap()
}

/// At most so many sandboxes at once.
fn at_most(concurrent_sandboxes: u32) -> Limits {
    Limits {
        concurrent_sandboxes,
        ..limits()
    }
}

pub(super) async fn resume(store: &dyn Store, row: &Sandbox, limit: u32) -> Readmission {
    let change = IntentChange::Resume {
        timeout: Duration::from_secs(30),
    };
    let row = intend(store, row, change).await.unwrap();
    let mut resuming = transition(&row, State::Resuming, 140);
    let node = "node-1".parse().unwrap();
    resuming.placement = Some((node, row.generation.next()));
    store
        .sandbox_readmit(resuming, at_most(limit))
        .await
        .unwrap()
}

pub(super) async fn a_pause_keeps_and_a_resume_begins_a_new_deadline(store: &dyn Store) {
    let running = start(store, "ia", 110).await;
    let paused = pause(store, &running, 120).await;
    assert_eq!(
        (paused.state, paused.desired),
        (State::Paused, Desired::Paused)
    );
    assert!(!paused.keep_memory);
    let kept = Kept {
        generation: running.generation,
        at: at(120),
    };
    assert_eq!(paused.kept, Some(kept));
    assert!(paused.revision > running.revision);
    let usage = store.team_usage(&team()).await.unwrap();
    assert_eq!((usage.charged.places, usage.running), (0, 0));
    let held = paused.config.resources.held_when_paused(false);
    assert_eq!(usage.charged.memory_mib, u64::from(held.memory_mib));
    assert_eq!(usage.charged.disk_mib, u64::from(held.disk_mib));

    let Readmission::Accepted(resuming) = resume(store, &paused, 1).await else {
        panic!("the quota has a place");
    };
    assert_eq!(resuming.kept, Some(kept));
    assert_eq!(resuming.generation, running.generation.next());
    let mut started = transition(&resuming, State::Running, 500);
    started.started_at = Some(at(500));
    let row = store.sandbox_transition(started).await.unwrap().unwrap();
    assert_eq!((row.kept, row.started_at), (None, Some(at(500))));
    assert_eq!(row.deadline, at(530), "paused time does not count");
    assert_eq!(store.sandbox_get(&row.id).await.unwrap(), Some(row));
    let usage = store.team_usage(&team()).await.unwrap();
    assert_eq!((usage.charged.places, usage.running), (1, 1));
}

pub(super) async fn what_counts_as_paused_is_found_by_its_labels(store: &dyn Store) {
    let running = start(store, "ia", 110).await;
    start(store, "ib", 110).await;
    let mut labelled = filter();
    labelled.labels.clone_from(&running.config.metadata);
    let found = async |states: &[State]| -> Vec<String> {
        let mut labelled = labelled.clone();
        labelled.states = states.to_vec();
        let rows = store.sandbox_list(&labelled).await.unwrap();
        rows.iter().map(|row| row.id.to_string()).collect()
    };
    let paused = [State::Pausing, State::Paused, State::Resuming];
    assert_eq!(found(&paused).await.len(), 0);
    let kept = pause(store, &running, 120).await;
    assert_eq!(found(&paused).await, ["ia"]);
    assert_eq!(found(&[State::Running]).await, ["ib"]);
    let Readmission::Accepted(resuming) = resume(store, &kept, 5).await else {
        panic!("the quota has a place");
    };
    assert_eq!(found(&paused).await, ["ia"]);
    let mut started = transition(&resuming, State::Running, 500);
    started.started_at = Some(at(500));
    store.sandbox_transition(started).await.unwrap().unwrap();
    assert_eq!(found(&paused).await.len(), 0);
    assert_eq!(found(&[State::Running]).await, ["ia", "ib"]);
}

pub(super) async fn a_resume_needs_a_place_of_the_quota(store: &dyn Store) {
    let row = start(store, "ia", 110).await;
    let paused = pause(store, &row, 120).await;
    let mut other = new(sandbox("ib"));
    other.limits = at_most(1);
    let admission = store.sandbox_insert(other).await.unwrap();
    assert_eq!(admission, Admission::Accepted);
    let refused = resume(store, &paused, 1).await;
    assert!(matches!(refused, Readmission::QuotaExceeded(_)));
    let row = store.sandbox_get(&paused.id).await.unwrap().unwrap();
    assert_eq!((row.state, row.desired), (State::Paused, Desired::Running));
    let row = intend(store, &row, IntentChange::StayPaused).await.unwrap();
    assert_eq!((row.state, row.desired), (State::Paused, Desired::Paused));
    assert_eq!(store.team_usage(&team()).await.unwrap().charged.places, 1);

    // One that should be gone meanwhile is not readmitted, and takes no place.
    let stop = IntentChange::Stop(EndReason::Killed);
    let row = intend(store, &row, stop).await.unwrap();
    let resuming = transition(&row, State::Resuming, 150);
    let stale = store.sandbox_readmit(resuming, at_most(10)).await.unwrap();
    assert_eq!(stale, Readmission::Stale);
    assert_eq!(store.team_usage(&team()).await.unwrap().charged.places, 1);
}

pub(super) async fn a_failed_pause_or_resume_takes_its_wish_back(store: &dyn Store) {
    let row = start(store, "ia", 110).await;
    let change = IntentChange::Pause { keep_memory: true };
    let row = intend(store, &row, change).await.unwrap();
    let pausing = transition(&row, State::Pausing, 120);
    let row = store.sandbox_transition(pausing).await.unwrap().unwrap();
    let mut failed = transition(&row, State::Running, 121);
    failed.desired = Some(Desired::Running);
    failed.deadline = Some(at(777));
    failed.last_error = Some("no freezer".to_owned());
    let row = store.sandbox_transition(failed).await.unwrap().unwrap();
    assert_eq!((row.state, row.desired), (State::Running, Desired::Running));
    assert_eq!((row.kept, row.deadline), (None, at(777)));
    assert_eq!(row.last_error.as_deref(), Some("no freezer"));

    let paused = pause(store, &row, 130).await;
    let Readmission::Accepted(resuming) = resume(store, &paused, 1).await else {
        panic!("the quota has a place");
    };
    let mut failed = transition(&resuming, State::Paused, 150);
    failed.desired = Some(Desired::Paused);
    let row = store.sandbox_transition(failed).await.unwrap().unwrap();
    assert_eq!((row.state, row.desired), (State::Paused, Desired::Paused));
    assert_eq!(row.kept, paused.kept);
    assert_eq!(store.team_usage(&team()).await.unwrap().charged.places, 0);

    // Nothing brings back what is unwanted.
    let stop = IntentChange::Stop(EndReason::Killed);
    let row = intend(store, &row, stop).await.unwrap();
    let mut late = transition(&row, State::Paused, 160);
    late.desired = Some(Desired::Paused);
    let row = store.sandbox_transition(late).await.unwrap().unwrap();
    assert_eq!(row.desired, Desired::Stopped);
}

pub(super) async fn a_restart_keeps_its_place(store: &dyn Store) {
    let places = async || store.team_usage(&team()).await.unwrap().charged.places;
    let row = start(store, "ia", 110).await;
    let row = intend(store, &row, IntentChange::Restart).await.unwrap();
    let moved = async |row: &Sandbox, next| {
        let change = transition(row, next, 111);
        store.sandbox_transition(change).await.unwrap().unwrap()
    };
    let row = moved(&row, State::Stopping).await;
    assert_eq!(places().await, 1, "nobody takes it on the way");
    let row = moved(&row, State::Pending).await;
    assert_eq!(places().await, 1);
    let row = moved(&row, State::Error).await;
    assert_eq!((places().await, row.is_restarting), (0, false));
    let row = moved(&row, State::Stopping).await;
    assert_eq!(places().await, 0, "what failed is only removed");
    moved(&row, State::Stopped).await;
    assert_eq!(places().await, 0);

    let row = start(store, "ib", 112).await;
    let row = intend(store, &row, IntentChange::Restart).await.unwrap();
    let row = moved(&row, State::Stopping).await;
    let stop = IntentChange::Stop(EndReason::Killed);
    let row = intend(store, &row, stop).await.unwrap();
    moved(&row, State::Stopped).await;
    assert_eq!(places().await, 0, "one that was ended on the way is gone");
}

pub(super) async fn a_snapshot_is_noted_once_and_outlives_its_node(store: &dyn Store) {
    let running = start(store, "ia", 110).await;
    let snapshot = |generation: u64| Snapshot {
        store: "store".parse().unwrap(),
        generation: Generation::new(generation),
        digest: Digest::new([0xab; 32]),
        bytes: 1 << 40,
    };
    let note = |generation| IntentChange::NoteSnapshot(snapshot(generation));
    let of_pause = running.generation.get();
    assert_eq!(intend(store, &running, note(of_pause)).await, None);
    let paused = pause(store, &running, 120).await;
    assert_eq!(paused.kept_on, running.node);
    for wrong in [of_pause - 1, of_pause + 1] {
        assert_eq!(intend(store, &paused, note(wrong)).await, None);
    }
    let noted = intend(store, &paused, note(of_pause)).await.unwrap();
    assert_eq!(noted.snapshot, Some(snapshot(of_pause)));
    assert_eq!(intend(store, &noted, note(of_pause)).await, None);

    let mut detached = transition(&noted, State::Paused, 130);
    detached.is_detached = true;
    let detached = store.sandbox_transition(detached).await.unwrap().unwrap();
    assert_eq!((&detached.node, &detached.kept_on), (&None, &None));
    assert_eq!(detached.snapshot, noted.snapshot);
    let Readmission::Accepted(resuming) = resume(store, &detached, 1).await else {
        panic!("the quota has a place");
    };
    assert!(resuming.is_elsewhere());
    let mut started = transition(&resuming, State::Running, 500);
    started.started_at = Some(at(500));
    let row = store.sandbox_transition(started).await.unwrap().unwrap();
    assert_eq!((row.snapshot, row.kept_on, row.kept), (None, None, None));
}

pub(super) async fn wishes_apply_only_where_they_make_sense(store: &dyn Store) {
    let row = start(store, "ia", 110).await;
    let timeout = Duration::from_secs(1);
    let resume = IntentChange::Resume { timeout };
    assert_eq!(intend(store, &row, resume.clone()).await, None);
    assert_eq!(intend(store, &row, IntentChange::StayPaused).await, None);
    let wanted = intend(store, &row, IntentChange::Restart).await.unwrap();
    assert!(wanted.is_restarting);
    let pause = IntentChange::Pause { keep_memory: true };
    for change in [pause.clone(), IntentChange::Restart] {
        assert_eq!(intend(store, &row, change).await, None);
    }
    let mut started = transition(&wanted, State::Running, 120);
    started.started_at = Some(at(120));
    let row = store.sandbox_transition(started).await.unwrap().unwrap();
    assert!(!row.is_restarting, "it is done once it serves");

    let seen = row.deadline;
    let how = OnTimeout::Pause { keep_memory: false };
    assert_eq!(intend(store, &row, expiry(at(1), how)).await, None);
    let row = intend(store, &row, expiry(seen, how)).await.unwrap();
    assert_eq!((row.desired, row.stop_reason), (Desired::Paused, None));
    assert!(!row.keep_memory);
    // It is wanted paused already, though it is not yet.
    for change in [pause, resume, expiry(seen, how), IntentChange::Restart] {
        assert_eq!(intend(store, &row, change).await, None);
    }
}

#[tokio::test]
async fn sqlite_rows_of_the_first_schema_keep_their_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    let url = format!("sqlite:{}?mode=rwc", path.display());
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url)
        .await
        .unwrap();
    let text = concat!(
        include_str!("../../migrations/sqlite/0001_initial.sql"),
        "CREATE TABLE schema_version (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL);
         INSERT INTO schema_version VALUES (1, 'initial');
         INSERT INTO teams (id, name, created_at) VALUES ('team', 'team', 1);
         INSERT INTO sandboxes (id, team, template, build, config, state, desired, generation,
                                created_at, started_at, deadline, updated_at)
         VALUES ('ia', 'team', 't', 'b',
                 '{\"v\":1,\"cpu_millis\":1,\"memory_mib\":1,\"disk_mib\":1,\"network\":
                   {\"internet\":true,\"public\":true},\"secured\":true,\"on_timeout\":\"kill\",
                   \"auto_resume\":false}',
                 'running', 'running', 3, 1000000, 5000000, 65000000, 5000000);"
    );
    sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
    drop(connection);
    let store = SqliteStore::open(&path).await.unwrap();
    let row = store.sandbox_get(&"ia".parse().unwrap()).await.unwrap();
    let row = row.unwrap();
    assert_eq!(row.generation, Generation::new(3));
    assert_eq!(row.timeout, Duration::from_secs(60));
    assert_eq!((row.kept, row.is_restarting), (None, false));
    store.close().await;
}
