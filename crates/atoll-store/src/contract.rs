//! What every store must do: one suite, run against each.

mod backup;
mod cluster;
mod event;
mod forecast;
mod lease;
mod lifecycle;
mod paging;
mod policy;
mod postgres;
mod teams;
mod webhook;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use atoll_core::event::{EventKind, Subject};
use atoll_core::id::{Generation, SandboxId, TeamId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::quota::{Limits, Rate};
use atoll_core::resources::Resources;
use atoll_core::sandbox::{Desired, EndReason, OnTimeout, Sandbox, SandboxConfig, State};
use atoll_core::template::{BuildStatus, Template};
use atoll_core::time::Timestamp;

use crate::memory::MemStore;
use crate::sqlite::SqliteStore;
use crate::store::{
    Admission, Error, EventFilter, EventRow, IdempotencyKey, Inserted, Intent, IntentChange,
    KeyRow, NewSandbox, Removed, Retention, SandboxFilter, Store, Transition,
};

mod node;

/// Runs every check of the suite against a store made by the expression, each on its own.
macro_rules! contract {
    ($backend:ident, $make:expr) => {
        mod $backend {
            use super::*;

            contract!(@checks $make,
                meta_is_written_once, keys_are_unique_and_of_a_team,
                templates_keep_names_and_counts, a_template_in_use_stays,
                a_sandbox_reads_back_as_written, teams::the_quota_is_exact,
                teams::each_quota_is_checked_where_it_is_counted,
                teams::a_pause_gives_back_what_it_does_not_hold, teams::teams_are_kept_and_changed,
                teams::a_disabled_team_gets_nothing,
                teams::many_at_a_time_get_no_more_than_there_is,
                teams::the_audit_is_paged_filtered_and_pruned,
                teams::a_change_brings_its_audit_row_or_neither_is_there,
                an_idempotency_key_is_used_once, a_stale_transition_changes_nothing,
                a_start_moves_the_deadline, an_unwanted_sandbox_takes_no_intent,
                an_expiry_loses_against_an_extension, listing_orders_filters_and_pages,
                events_keep_their_order_and_are_searched, history_is_pruned_with_its_sandbox,
                live_sandboxes_are_paged, event::events_are_read_in_the_order_of_their_cursors,
                event::the_head_moves_with_what_is_committed,
                event::a_reader_that_is_behind_what_was_pruned_is_told,
                event::subscribers_find_their_cursors_again,
                event::recent_events_are_paged_either_way,
                event::decisions_are_part_of_a_subjects_history_only,
                event::no_more_is_kept_than_may_be, webhook::webhooks_are_kept_and_changed,
                webhook::progress_of_an_older_version_is_refused,
                lifecycle::a_pause_keeps_and_a_resume_begins_a_new_deadline,
                lifecycle::what_counts_as_paused_is_found_by_its_labels,
                lifecycle::a_resume_needs_a_place_of_the_quota,
                lifecycle::a_snapshot_is_noted_once_and_outlives_its_node,
                lifecycle::a_failed_pause_or_resume_takes_its_wish_back,
                lifecycle::a_restart_keeps_its_place, lease::servers_count_their_beats,
                lease::a_lease_has_one_holder_that_lives,
                lease::a_claim_comes_with_its_wish, lease::a_claim_is_passed_on_by_its_revision,
                lease::several_are_read_at_once, forecast::what_was_learnt_is_kept,
                lifecycle::wishes_apply_only_where_they_make_sense,
                node::a_node_keeps_what_was_decided_about_it,
                node::corrections_are_kept_in_a_bounded_number);
        }
    };
    (@checks $make:expr, $($($part:ident)::+),+) => {
        $(
            contract!(@check $make, $($part)::+);
        )+
    };
    (@check $make:expr, $module:ident::$check:ident) => {
        contract!(@test $make, $check, super::$module::$check);
    };
    (@check $make:expr, $check:ident) => {
        contract!(@test $make, $check, super::$check);
    };
    (@test $make:expr, $check:ident, $path:path) => {
        #[tokio::test]
        async fn $check() {
            let made = $make;
            let Some((store, _keep)) = made else {
                return;
            };
            $path(&store).await;
            store.close().await;
        }
    };
}

contract!(memory, Some((MemStore::default(), ())));
contract!(sqlite, {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("test.db")).await;
    Some((store.unwrap(), directory))
});
contract!(postgres_store, postgres::shared().await);

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

fn team() -> TeamId {
    "team".parse().unwrap()
}

fn sandbox(id: &str) -> Sandbox {
    Sandbox {
        id: id.parse().unwrap(),
        revision: 0,
        team: team(),
        created_by: Some("key-1".parse().unwrap()),
        config: SandboxConfig {
            template: "template".parse().unwrap(),
            build: "build-1".parse().unwrap(),
            alias: Some("base".to_owned()),
            resources: Resources {
                cpu_millis: 2_000,
                memory_mib: 512,
                disk_mib: u32::MAX,
            },
            metadata: BTreeMap::from([("user".to_owned(), "änn'\"".to_owned())]),
            env: BTreeMap::from([("A".to_owned(), "1\n2".to_owned())]),
            network: NetworkPolicy {
                internet_access: false,
                allow_out: vec!["1.1.1.1".to_owned()],
                deny_out: vec!["0.0.0.0/0".to_owned()],
                public_traffic: false,
                mask_request_host: Some("localhost:${PORT}".to_owned()),
            },
            is_secured: true,
            on_timeout: OnTimeout::Pause { keep_memory: false },
            auto_resume: true,
            scheduling: Some(Box::new(policy::full())),
        },
        state: State::Pending,
        desired: Desired::Running,
        stop_reason: None,
        generation: Generation::FIRST,
        node: None,
        created_at: at(100),
        started_at: None,
        timeout: Duration::from_secs(100),
        deadline: at(200),
        keep_memory: true,
        kept: None,
        kept_on: None,
        snapshot: None,
        is_restarting: false,
        claimed_by: None,
        updated_at: at(100),
        ended: None,
        last_error: None,
    }
}

fn event(id: &str, second: i64, message: &str) -> EventRow {
    EventRow {
        subject: Subject::Sandbox(id.parse().unwrap()),
        team: Some(team()),
        at: at(second),
        kind: EventKind::SandboxUpdated,
        level: "info".to_owned(),
        message: message.to_owned(),
        fields: BTreeMap::from([("node".to_owned(), "n".to_owned())]),
        decision: None,
    }
}

fn limits() -> Limits {
    let rate = Rate {
        per_second: NonZeroU32::MAX,
        burst: NonZeroU32::MAX,
    };
    Limits {
        concurrent_sandboxes: 100,
        cpu_millis: u64::MAX,
        memory_mib: u64::MAX,
        disk_mib: u64::MAX,
        creates: rate,
        requests: rate,
    }
}

fn new(sandbox: Sandbox) -> NewSandbox {
    NewSandbox {
        limits: limits(),
        idempotency: None,
        events: vec![event(sandbox.id.as_str(), 100, "made")],
        sandbox,
    }
}

async fn insert(store: &dyn Store, id: &str) -> Sandbox {
    store.team_ensure(&team(), "default", at(1)).await.unwrap();
    let sandbox = sandbox(id);
    let admission = store.sandbox_insert(new(sandbox.clone())).await.unwrap();
    assert_eq!(admission, Admission::Accepted);
    sandbox
}

fn transition(row: &Sandbox, next: State, second: i64) -> Transition {
    Transition {
        id: row.id.clone(),
        team: row.team.clone(),
        expected: (row.state, row.generation),
        next,
        placement: None,
        is_detached: false,
        started_at: None,
        paused_at: None,
        ended_at: None,
        desired: None,
        deadline: None,
        stop_reason: None,
        last_error: None,
        at: at(second),
        events: vec![event(row.id.as_str(), second, "changed")],
        audit: None,
    }
}

async fn start(store: &dyn Store, id: &str, second: i64) -> Sandbox {
    let row = insert(store, id).await;
    begin(store, &row, second).await
}

/// A running sandbox that was made at this second.
async fn start_made(store: &dyn Store, id: &str, second: i64) -> Sandbox {
    store.team_ensure(&team(), "default", at(1)).await.unwrap();
    let mut row = sandbox(id);
    row.created_at = at(second);
    let admission = store.sandbox_insert(new(row.clone())).await.unwrap();
    assert_eq!(admission, Admission::Accepted);
    begin(store, &row, second).await
}

/// Has a pending sandbox serve.
async fn begin(store: &dyn Store, row: &Sandbox, second: i64) -> Sandbox {
    let mut placed = transition(row, State::Creating, second);
    placed.placement = Some(("node-1".parse().unwrap(), Generation::new(7)));
    let row = store.sandbox_transition(placed).await.unwrap().unwrap();
    assert_eq!(row.generation, Generation::new(7));
    assert_eq!(row.node, Some("node-1".parse().unwrap()));
    let mut started = transition(&row, State::Running, second);
    started.started_at = Some(at(second));
    store.sandbox_transition(started).await.unwrap().unwrap()
}

async fn stop(store: &dyn Store, row: &Sandbox, second: i64) -> Sandbox {
    let intent = intent(&row.id, IntentChange::Stop(EndReason::Killed));
    let row = store.sandbox_intend(intent).await.unwrap().unwrap();
    let stopping = transition(&row, State::Stopping, second);
    let row = store.sandbox_transition(stopping).await.unwrap().unwrap();
    let mut stopped = transition(&row, State::Stopped, second);
    stopped.ended_at = Some(at(second));
    store.sandbox_transition(stopped).await.unwrap().unwrap()
}

fn intent(id: &SandboxId, change: IntentChange) -> Intent {
    Intent {
        id: id.clone(),
        change,
        claimed_by: None,
        at: at(150),
        events: vec![event(id.as_str(), 150, "intended")],
        audit: None,
    }
}

const fn expiry(seen: Timestamp, how: OnTimeout) -> IntentChange {
    IntentChange::Expire { seen, how }
}

fn filter() -> SandboxFilter {
    SandboxFilter {
        team: team(),
        states: vec![State::Running, State::Paused],
        labels: BTreeMap::new(),
        template: None,
        started_after: None,
        is_ascending: true,
        after: None,
        limit: 100,
    }
}

fn history(id: &SandboxId) -> EventFilter {
    EventFilter {
        subject: Subject::Sandbox(id.clone()),
        start: None,
        is_ascending: true,
        levels: Vec::new(),
        search: None,
        limit: 100,
    }
}

/// Forgets what is older. Answers how many sandboxes that were.
async fn prune(store: &dyn Store, before: Timestamp) -> u64 {
    let retention = Retention {
        before,
        sandboxes_max: 1_000,
        events_max: 1_000,
        limit: 10,
    };
    store.history_prune(&retention).await.unwrap().sandboxes
}

async fn meta_is_written_once(store: &dyn Store) {
    assert_eq!(store.meta_ensure("seed", "a").await.unwrap(), "a");
    assert_eq!(store.meta_ensure("seed", "b").await.unwrap(), "a");
    store.ping().await.unwrap();
}

async fn keys_are_unique_and_of_a_team(store: &dyn Store) {
    store.team_ensure(&team(), "default", at(1)).await.unwrap();
    let key = KeyRow {
        id: "key-1".parse().unwrap(),
        team: team(),
        name: "ci".to_owned(),
        hash: "hash".to_owned(),
        masked_start: "ab".to_owned(),
        masked_end: "cdef".to_owned(),
        is_read_only: true,
        created_at: at(1),
        created_by: Some("key-0".parse().unwrap()),
        last_used_at: None,
    };
    assert_eq!(store.key_insert(&key).await.unwrap(), Inserted::Yes);
    assert_eq!(
        store.key_insert(&key).await.unwrap(),
        Inserted::AlreadyExists
    );
    assert_eq!(store.key_find("hash").await.unwrap(), Some(key.clone()));
    assert_eq!(store.key_find("other").await.unwrap(), None);
    let listed = store.key_list(&team()).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&key));
    let other: TeamId = "other".parse().unwrap();
    assert_eq!(store.key_list(&other).await.unwrap(), []);
    let used = vec![(key.id.clone(), at(5)), ("gone".parse().unwrap(), at(6))];
    store.key_touch(used).await.unwrap();
    let found = store.key_find("hash").await.unwrap().unwrap();
    assert_eq!(found.last_used_at, Some(at(5)));
    assert!(!store.key_remove(&other, &key.id).await.unwrap());
    assert!(store.key_remove(&team(), &key.id).await.unwrap());
    assert_eq!(store.key_find("hash").await.unwrap(), None);
}

fn template(id: &str, owner: Option<TeamId>, name: &str) -> Template {
    Template {
        id: id.parse().unwrap(),
        build: format!("build-of-{id}").parse().unwrap(),
        team: owner,
        names: vec![name.to_owned()],
        is_public: false,
        resources: Resources {
            cpu_millis: 1,
            memory_mib: 2,
            disk_mib: 3,
        },
        status: BuildStatus::Building,
        envd_version: "0.6.13".to_owned(),
        created_at: at(1),
        updated_at: at(1),
    }
}

async fn templates_keep_names_and_counts(store: &dyn Store) {
    let mut global = template("t1", None, "base");
    let own = template("t2", Some(team()), "base");
    for template in [&global, &own] {
        assert_eq!(
            store.template_insert(template).await.unwrap(),
            Inserted::Yes
        );
    }
    for (id, owner) in [("t3", None), ("t4", Some(team()))] {
        let again = template(id, owner, "base");
        assert_eq!(
            store.template_insert(&again).await.unwrap(),
            Inserted::AlreadyExists
        );
    }
    global.status = BuildStatus::Ready;
    global.resources.memory_mib = 512;
    global.updated_at = at(2);
    global.is_public = true;
    store.template_update(&global).await.unwrap();
    store.template_spawned(&global.id, 3, at(9)).await.unwrap();
    let rows = store.template_list().await.unwrap();
    let found: Vec<_> = rows.iter().map(|row| row.template.clone()).collect();
    assert_eq!(found, [global.clone(), own]);
    assert_eq!((rows[0].spawn_count, rows[1].spawn_count), (3, 0));
    assert_eq!(rows[0].last_spawned_at, Some(at(9)));
    assert_eq!(rows[0].build_count, 1);
}

async fn a_template_in_use_stays(store: &dyn Store) {
    let id: TemplateId = "template".parse().unwrap();
    store
        .template_insert(&template("template", None, "base"))
        .await
        .unwrap();
    let row = start(store, "ia", 110).await;
    assert_eq!(store.template_remove(&id).await.unwrap(), Removed::InUse(1));
    stop(store, &row, 120).await;
    assert_eq!(store.template_remove(&id).await.unwrap(), Removed::Yes);
    assert_eq!(store.template_remove(&id).await.unwrap(), Removed::Unknown);
    assert_eq!(store.template_list().await.unwrap(), []);
}

async fn a_sandbox_reads_back_as_written(store: &dyn Store) {
    let written = insert(store, "ia").await;
    let read = store.sandbox_get(&written.id).await.unwrap();
    assert_eq!(read, Some(written.clone()));
    let absent: SandboxId = "iabsent".parse().unwrap();
    assert_eq!(store.sandbox_get(&absent).await.unwrap(), None);
    let policy = NetworkPolicy::default();
    let change = IntentChange::SetNetwork(policy.clone());
    let row = store.sandbox_intend(intent(&written.id, change)).await;
    let row = row.unwrap().unwrap();
    assert_eq!(row.config.network, policy);
    assert_eq!(store.sandbox_get(&written.id).await.unwrap(), Some(row));
}

async fn an_idempotency_key_is_used_once(store: &dyn Store) {
    store.team_ensure(&team(), "default", at(1)).await.unwrap();
    let mut first = new(sandbox("ia"));
    first.idempotency = Some(IdempotencyKey {
        key: "k".to_owned(),
        fingerprint: "f".to_owned(),
    });
    let mut second = first.clone();
    second.sandbox.id = "ib".parse().unwrap();
    let (one, two) = tokio::join!(
        store.sandbox_insert(first.clone()),
        store.sandbox_insert(second)
    );
    assert_eq!(one.unwrap(), Admission::Accepted);
    let replayed = Admission::Replayed {
        sandbox: first.sandbox.id.clone(),
        fingerprint: "f".to_owned(),
    };
    assert_eq!(two.unwrap(), replayed);
    let mut third = first.clone();
    third.sandbox.id = "ic".parse().unwrap();
    // It made another sandbox, or is another team's: nothing is released.
    let (ours, other) = (team(), "other".parse::<TeamId>().unwrap());
    for (team, sandbox) in [(&ours, &third.sandbox.id), (&other, &first.sandbox.id)] {
        let release = store.idempotency_release(team, "k", sandbox);
        release.await.unwrap();
        let again = store.sandbox_insert(third.clone()).await.unwrap();
        assert_eq!(again, replayed);
    }
    assert_eq!(store.team_usage(&team()).await.unwrap().charged.places, 1);
    let release = store.idempotency_release(&ours, "k", &first.sandbox.id);
    release.await.unwrap();
    let again = store.sandbox_insert(third).await.unwrap();
    assert_eq!(again, Admission::Accepted);
}

async fn a_stale_transition_changes_nothing(store: &dyn Store) {
    let row = start(store, "ia", 110).await;
    let before = store.event_list(&history(&row.id)).await.unwrap().len();
    for expected in [
        (State::Creating, row.generation),
        (State::Running, Generation::FIRST),
    ] {
        let mut stale = transition(&row, State::Error, 120);
        stale.expected = expected;
        assert_eq!(store.sandbox_transition(stale).await.unwrap(), None);
    }
    assert_eq!(store.sandbox_get(&row.id).await.unwrap(), Some(row.clone()));
    assert_eq!(store.team_usage(&team()).await.unwrap().running, 1);
    let after = store.event_list(&history(&row.id)).await.unwrap().len();
    assert_eq!(after, before);
}

async fn a_start_moves_the_deadline(store: &dyn Store) {
    // Made at 100 to live until 200, started at 130: it lives until 230.
    let row = start(store, "ia", 130).await;
    assert_eq!(row.started_at, Some(at(130)));
    assert_eq!(row.deadline, at(230));
}

async fn an_unwanted_sandbox_takes_no_intent(store: &dyn Store) {
    let row = start(store, "ia", 110).await;
    let extend = IntentChange::ExtendDeadline(at(150));
    let same = store.sandbox_intend(intent(&row.id, extend)).await.unwrap();
    assert_eq!(same.unwrap().deadline, row.deadline);
    let extend = IntentChange::ExtendDeadline(at(900));
    let longer = store.sandbox_intend(intent(&row.id, extend)).await.unwrap();
    assert_eq!(longer.unwrap().deadline, at(900));
    let set = IntentChange::SetDeadline(at(300));
    let shorter = store.sandbox_intend(intent(&row.id, set)).await.unwrap();
    assert_eq!(shorter.unwrap().deadline, at(300));

    let mut failed = transition(&row, State::Error, 160);
    failed.stop_reason = Some(EndReason::Failed);
    failed.last_error = Some("it broke".to_owned());
    let row = store.sandbox_transition(failed).await.unwrap().unwrap();
    assert_eq!(row.desired, Desired::Stopped);
    for change in [
        IntentChange::Stop(EndReason::Killed),
        IntentChange::SetDeadline(at(999)),
        IntentChange::ExtendDeadline(at(999)),
        IntentChange::SetNetwork(NetworkPolicy::default()),
        expiry(at(300), OnTimeout::Kill),
        expiry(at(300), OnTimeout::Pause { keep_memory: true }),
        IntentChange::Pause { keep_memory: true },
        IntentChange::Resume {
            timeout: Duration::from_secs(1),
        },
        IntentChange::StayPaused,
        IntentChange::Restart,
    ] {
        let refused = store.sandbox_intend(intent(&row.id, change)).await.unwrap();
        assert_eq!(refused, None);
    }
    let stopping = transition(&row, State::Stopping, 170);
    let row = store.sandbox_transition(stopping).await.unwrap().unwrap();
    let mut stopped = transition(&row, State::Stopped, 180);
    stopped.ended_at = Some(at(180));
    let row = store.sandbox_transition(stopped).await.unwrap().unwrap();
    // The first reason stays, and so does what went wrong.
    assert_eq!(row.ended, Some((at(180), EndReason::Failed)));
    assert_eq!(row.last_error.as_deref(), Some("it broke"));
}

async fn an_expiry_loses_against_an_extension(store: &dyn Store) {
    let row = start(store, "ia", 110).await;
    let extend = IntentChange::ExtendDeadline(at(900));
    store.sandbox_intend(intent(&row.id, extend)).await.unwrap();
    let expire = |seen| intent(&row.id, expiry(seen, OnTimeout::Kill));
    let lost = store.sandbox_intend(expire(row.deadline)).await.unwrap();
    assert_eq!(lost, None);
    let won = store
        .sandbox_intend(expire(at(900)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(won.stop_reason, Some(EndReason::Expired));
    assert_eq!(won.desired, Desired::Stopped);
}

async fn listing_orders_filters_and_pages(store: &dyn Store) {
    // Two are made in the same instant: the id breaks the tie.
    for (id, second) in [("ic", 110), ("ia", 120), ("ib", 120)] {
        start_made(store, id, second).await;
    }
    insert(store, "ipending").await;
    let ended = start(store, "iended", 115).await;
    stop(store, &ended, 116).await;
    let ids = async |filter: SandboxFilter| -> Vec<String> {
        let rows = store.sandbox_list(&filter).await.unwrap();
        rows.iter().map(|row| row.id.to_string()).collect()
    };
    assert_eq!(ids(filter()).await, ["ic", "ia", "ib"]);
    let mut newest = filter();
    newest.is_ascending = false;
    newest.limit = 2;
    assert_eq!(ids(newest.clone()).await, ["ib", "ia"]);
    newest.after = Some((at(120), "ia".parse().unwrap()));
    assert_eq!(ids(newest).await, ["ic"]);
    let mut oldest = filter();
    oldest.after = Some((at(120), "ia".parse().unwrap()));
    assert_eq!(ids(oldest).await, ["ib"]);
    let mut later = filter();
    later.started_after = Some(at(120));
    assert_eq!(ids(later).await, ["ia", "ib"]);
    let mut labelled = filter();
    labelled
        .labels
        .insert("user".to_owned(), "änn'\"".to_owned());
    assert_eq!(ids(labelled.clone()).await, ["ic", "ia", "ib"]);
    labelled.after = Some((at(120), "ia".parse().unwrap()));
    assert_eq!(ids(labelled.clone()).await, ["ib"]);
    labelled.is_ascending = false;
    assert_eq!(ids(labelled.clone()).await, ["ic"]);
    labelled.labels.insert("app".to_owned(), "x".to_owned());
    assert_eq!(ids(labelled).await.len(), 0);
    let mut paused = filter();
    paused.states = vec![State::Paused];
    assert_eq!(ids(paused).await.len(), 0);
    let mut foreign = filter();
    foreign.team = "other".parse().unwrap();
    assert_eq!(ids(foreign).await.len(), 0);
    let mut templated = filter();
    templated.template = Some("another".parse().unwrap());
    assert_eq!(ids(templated).await.len(), 0);
}

async fn events_keep_their_order_and_are_searched(store: &dyn Store) {
    let row = insert(store, "ia").await;
    let mut grave = event("ia", 101, "Disk 100% full");
    grave.level = "error".to_owned();
    let lines = vec![event("ia", 102, "b"), grave, event("ia", 102, "c")];
    store.event_append(lines).await.unwrap();
    let texts = async |filter: EventFilter| -> Vec<String> {
        let rows = store.event_list(&filter).await.unwrap();
        rows.into_iter().map(|row| row.event.message).collect()
    };
    let all = history(&row.id);
    assert_eq!(
        texts(all.clone()).await,
        ["made", "Disk 100% full", "b", "c"]
    );
    let mut newest = all.clone();
    newest.is_ascending = false;
    newest.limit = 2;
    assert_eq!(texts(newest).await, ["c", "b"]);
    let mut before = all.clone();
    before.is_ascending = false;
    before.start = Some(at(101));
    assert_eq!(texts(before).await, ["Disk 100% full", "made"]);
    let mut from = all.clone();
    from.start = Some(at(102));
    assert_eq!(texts(from).await, ["b", "c"]);
    let mut grave = all.clone();
    grave.levels = vec!["warn", "error"];
    assert_eq!(texts(grave).await, ["Disk 100% full"]);
    for (text, found) in [("100%", 1), ("disk", 1), ("1_0", 0), ("%", 1), ("\\", 0)] {
        let mut search = all.clone();
        search.search = Some(text.to_owned());
        assert_eq!(texts(search).await.len(), found, "{text}");
    }
}

async fn history_is_pruned_with_its_sandbox(store: &dyn Store) {
    let old = start(store, "iold", 110).await;
    stop(store, &old, 120).await;
    let young = start(store, "iyoung", 110).await;
    stop(store, &young, 500).await;
    let live = start(store, "ilive", 110).await;
    assert_eq!(prune(store, at(300)).await, 1);
    assert_eq!(prune(store, at(300)).await, 0);
    assert_eq!(store.sandbox_get(&old.id).await.unwrap(), None);
    assert_eq!(store.event_list(&history(&old.id)).await.unwrap(), []);
    for id in [&young.id, &live.id] {
        assert!(store.sandbox_get(id).await.unwrap().is_some());
        assert!(!store.event_list(&history(id)).await.unwrap().is_empty());
    }
}

async fn live_sandboxes_are_paged(store: &dyn Store) {
    for id in ["ic", "ia", "ib"] {
        insert(store, id).await;
    }
    let ended = start(store, "id", 110).await;
    stop(store, &ended, 120).await;
    let first = store.sandbox_list_live(None, 2).await.unwrap();
    let ids: Vec<_> = first.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["ia", "ib"]);
    let rest = store
        .sandbox_list_live(Some(&first[1].id), 2)
        .await
        .unwrap();
    assert_eq!(rest.len(), 1);
}

/// A failed write must not undo the writes it shared a commit with.
#[tokio::test]
async fn sqlite_a_failed_write_leaves_its_neighbours_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("test.db"))
        .await
        .unwrap();
    let row = insert(&store, "ia").await;
    // The second insert of one id violates the primary key.
    let writes = ["ib", "ia", "ic"].map(|id| store.sandbox_insert(new(sandbox(id))));
    let [good, bad, also_good] = writes;
    let (good, bad, also_good) = tokio::join!(good, bad, also_good);
    assert_eq!(good.unwrap(), Admission::Accepted);
    assert!(matches!(bad, Err(Error::Database { .. })));
    assert_eq!(also_good.unwrap(), Admission::Accepted);
    assert_eq!(store.team_usage(&row.team).await.unwrap().charged.places, 3);
    store.close().await;
    assert!(matches!(
        store.meta_ensure("a", "b").await,
        Err(Error::Closed)
    ));
}

#[tokio::test]
async fn sqlite_what_was_answered_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let row = start(&store, "ia", 110).await;
    // Not closed: as after a crash.
    drop(store);
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.sandbox_get(&row.id).await.unwrap(), Some(row));
    store.close().await;
}

#[tokio::test]
async fn sqlite_a_newer_schema_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    SqliteStore::open(&path).await.unwrap().close().await;
    let url = format!("sqlite:{}", path.display());
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url)
        .await
        .unwrap();
    sqlx::query("INSERT INTO schema_version (version, name) VALUES (9999, 'future')")
        .execute(&mut connection)
        .await
        .unwrap();
    let refused = SqliteStore::open(&path).await;
    assert!(matches!(
        refused,
        Err(Error::SchemaTooNew { found: 9999, .. })
    ));
}

#[tokio::test]
async fn sqlite_pages_walk_an_index() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let labels = BTreeMap::from(["a", "b"].map(|name| (name.to_owned(), name.to_owned())));
    let labelled = SandboxFilter { labels, ..filter() };
    let both = SandboxFilter {
        states: vec![State::Pausing, State::Paused, State::Resuming],
        ..labelled.clone()
    };
    let paused = SandboxFilter {
        states: vec![State::Pausing, State::Paused, State::Resuming],
        ..filter()
    };
    for (kind, index) in [
        (filter(), "sandboxes_listed"),
        (paused, "sandboxes_paused"),
        (labelled, "sandbox_labels_listed"),
        (both, "sandbox_labels_paused"),
    ] {
        for is_ascending in [true, false] {
            let after = Some((at(1), "ia".parse().unwrap()));
            let page = SandboxFilter {
                is_ascending,
                after,
                ..kind.clone()
            };
            let plan = store.explain_list(&page).await;
            assert!(plan.contains(index), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
    store.close().await;
}
