//! Servers, leases and claims.

use std::collections::BTreeSet;

use atoll_core::id::{SandboxId, ServerId};
use atoll_core::sandbox::{EndReason, OnTimeout};
use atoll_core::time::Timestamp;

use super::{expiry, insert, intent, start};
use crate::store::lease::ServerRow;
use crate::store::{IDS_MAX, IntentChange, Store};

fn server(id: &str) -> ServerRow {
    ServerRow {
        id: id.parse().unwrap(),
        address: "10.0.0.1:3000".to_owned(),
        version: "1.2.3".to_owned(),
        silent: Vec::new(),
        beats: 0,
    }
}

pub(super) async fn servers_count_their_beats(store: &dyn Store) {
    assert_eq!(store.server_list().await.unwrap(), []);
    let (mut a, b) = (server("a"), server("b"));
    store.server_beat(&a).await.unwrap();
    store.server_beat(&b).await.unwrap();
    a.silent = vec!["node-1".parse().unwrap(), "node-2".parse().unwrap()];
    for _ in 0..2 {
        store.server_beat(&a).await.unwrap();
    }
    let listed = store.server_list().await.unwrap();
    let beats = |row: &ServerRow, beats| ServerRow {
        beats,
        ..row.clone()
    };
    assert_eq!(listed, [beats(&a, 3), beats(&b, 1)]);
    // Judged by an old count, it is not removed: it lives.
    assert!(!store.server_remove(&a.id, Some(2)).await.unwrap());
    assert!(store.server_remove(&a.id, Some(3)).await.unwrap());
    assert!(!store.server_remove(&a.id, None).await.unwrap());
    assert!(store.server_remove(&b.id, None).await.unwrap());
    assert_eq!(store.server_list().await.unwrap(), []);
    // Who was only thought to be dead is there again with its next beat.
    store.server_beat(&a).await.unwrap();
    assert_eq!(store.server_list().await.unwrap(), [beats(&a, 1)]);
}

pub(super) async fn a_lease_has_one_holder_that_lives(store: &dyn Store) {
    let (a, b) = (server("a"), server("b"));
    let take = async |id: &ServerId| store.lease_take("duties", id).await.unwrap();
    assert_eq!(take(&a.id).await, None, "it is no server yet");
    assert_eq!(store.lease_get("duties").await.unwrap(), None);
    store.server_beat(&a).await.unwrap();
    store.server_beat(&b).await.unwrap();
    let first = take(&a.id).await.unwrap();
    assert_eq!((&first.holder, first.term), (&a.id, 1));
    assert_eq!(take(&b.id).await.as_ref(), Some(&first));
    assert_eq!(
        take(&a.id).await.as_ref(),
        Some(&first),
        "it has it already"
    );
    store.server_remove(&a.id, None).await.unwrap();
    assert_eq!(
        take(&a.id).await.as_ref(),
        Some(&first),
        "the dead take none"
    );
    let second = take(&b.id).await.unwrap();
    assert_eq!((&second.holder, second.term), (&b.id, 2));
    store.server_beat(&a).await.unwrap();
    assert_eq!(take(&a.id).await.as_ref(), Some(&second));
    assert_eq!(store.lease_get("duties").await.unwrap(), Some(second));
    let other = store.lease_take("other", &a.id).await.unwrap().unwrap();
    assert_eq!(other.holder, a.id, "each is held by itself");
}

pub(super) async fn a_claim_comes_with_its_wish(store: &dyn Store) {
    let claimed = async |row: &SandboxId, change, by: &str| {
        let mut intent = intent(row, change);
        intent.claimed_by = Some(by.parse().unwrap());
        let row = store.sandbox_intend(intent).await.unwrap().unwrap();
        assert_eq!(
            store.sandbox_get(&row.id).await.unwrap().as_ref(),
            Some(&row)
        );
        row.claimed_by.map(|server| server.to_string())
    };
    let by = |server: &str| Some(server.to_owned());
    let row = start(store, "ia", 110).await;
    assert_eq!(row.claimed_by, None);
    let pause = IntentChange::Pause { keep_memory: true };
    assert_eq!(claimed(&row.id, pause, "a").await, by("a"));
    // What leads nowhere else leaves it with whoever is at it.
    let later = IntentChange::SetDeadline(Timestamp::from_micros(9));
    assert_eq!(claimed(&row.id, later, "b").await, by("a"));
    let mut unclaimed = intent(&row.id, IntentChange::Stop(EndReason::Killed));
    unclaimed.claimed_by = None;
    let row = store.sandbox_intend(unclaimed).await.unwrap().unwrap();
    assert_eq!(row.claimed_by, Some("a".parse().unwrap()));

    let restart = start(store, "ib", 110).await.id;
    assert_eq!(claimed(&restart, IntentChange::Restart, "c").await, by("c"));
    let stop = IntentChange::Stop(EndReason::Killed);
    assert_eq!(claimed(&restart, stop, "d").await, by("d"));
    for (id, how) in [
        ("ic", OnTimeout::Kill),
        ("id", OnTimeout::Pause { keep_memory: true }),
    ] {
        let due = start(store, id, 110).await;
        let expiry = expiry(due.deadline, how);
        assert_eq!(claimed(&due.id, expiry, "e").await, by("e"));
    }
}

pub(super) async fn a_claim_is_passed_on_by_its_revision(store: &dyn Store) {
    let row = start(store, "ia", 110).await;
    let to: ServerId = "b".parse().unwrap();
    let pass = async |revision| {
        let told = vec![super::event("ia", 160, "passed on")];
        let passed = store.claim_pass(&row.id, revision, &to, told).await;
        passed.unwrap()
    };
    let before = *store.event_head().borrow();
    assert!(!pass(row.revision - 1).await);
    assert!(pass(row.revision).await);
    assert!(!pass(row.revision).await, "it is newer since");
    let now = store.sandbox_get(&row.id).await.unwrap().unwrap();
    assert_eq!(now.claimed_by, Some(to.clone()));
    assert_eq!(now.revision, row.revision + 1);
    let mut head = store.event_head();
    let told = head.wait_for(|head| head.get() > before.get()).await;
    assert_eq!(told.unwrap().get(), before.get() + 1, "told once");
}

pub(super) async fn several_are_read_at_once(store: &dyn Store) {
    let mut known = BTreeSet::new();
    for id in ["ia", "ib", "ic"] {
        known.insert(insert(store, id).await.id);
    }
    let read = async |ids: &[SandboxId]| -> BTreeSet<SandboxId> {
        let rows = store.sandbox_list_by_id(ids).await.unwrap();
        let found: Vec<_> = rows.into_iter().map(|row| row.id).collect();
        assert!(found.len() <= ids.len(), "each once");
        found.into_iter().collect()
    };
    assert_eq!(read(&[]).await.len(), 0);
    let all: Vec<_> = known.iter().cloned().collect();
    assert_eq!(read(&all).await, known);
    assert_eq!(read(&all[..1]).await.len(), 1);
    let many = (0..IDS_MAX - 3).map(|number| format!("n{number}").parse().unwrap());
    let many: Vec<_> = all.iter().cloned().chain(many).collect();
    assert_eq!(read(&many).await, known);
}
