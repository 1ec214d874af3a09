//! Teams, what they may have, and the audit.

use std::num::NonZeroU32;

use atoll_core::id::TeamId;
use atoll_core::network::NetworkPolicy;
use atoll_core::quota::{Exceeded, Overrides, Quota, Rate, Usage};
use atoll_core::sandbox::{EndReason, State};
use futures::future::join_all;

use super::{at, history, insert, intent, limits, new, sandbox, start, stop, team, transition};
use crate::sqlite::SqliteStore;
use crate::store::{
    Admission, AuditFilter, AuditRow, Inserted, IntentChange, Store, TeamChange, TeamChanged,
    TeamRow, TeamUsage,
};

/// What the suite's sandbox takes while it is not paused.
fn charged(places: u64) -> Usage {
    Usage {
        places,
        cpu_millis: 2_000 * places,
        memory_mib: 512 * places,
        disk_mib: u64::from(u32::MAX) * places,
    }
}

pub(super) async fn the_quota_is_exact(store: &dyn Store) {
    let first = start(store, "ia", 110).await;
    let usage = |places, running| TeamUsage {
        charged: charged(places),
        running,
    };
    assert_eq!(store.team_usage(&team()).await.unwrap(), usage(1, 1));
    let mut second = new(sandbox("ib"));
    second.limits.concurrent_sandboxes = 1;
    let refused = store.sandbox_insert(second.clone()).await.unwrap();
    let exceeded = Exceeded {
        quota: Quota::ConcurrentSandboxes,
        used: 1,
        wanted: 1,
        limit: 1,
    };
    assert_eq!(refused, Admission::QuotaExceeded(exceeded));
    assert_eq!(store.sandbox_get(&second.sandbox.id).await.unwrap(), None);
    let told = store.event_list(&history(&second.sandbox.id)).await;
    assert_eq!(told.unwrap(), []);
    stop(store, &first, 120).await;
    assert_eq!(store.team_usage(&team()).await.unwrap(), usage(0, 0));
    let accepted = store.sandbox_insert(second).await.unwrap();
    assert_eq!(accepted, Admission::Accepted);
    assert_eq!(store.team_usage(&team()).await.unwrap(), usage(1, 0));
}

pub(super) async fn each_quota_is_checked_where_it_is_counted(store: &dyn Store) {
    insert(store, "ia").await;
    for (quota, overrides) in [
        (
            Quota::Cpu,
            Overrides {
                cpu_millis: Some(3_999),
                ..Overrides::default()
            },
        ),
        (
            Quota::Memory,
            Overrides {
                memory_mib: Some(1_023),
                ..Overrides::default()
            },
        ),
        (
            Quota::Disk,
            Overrides {
                disk_mib: Some(u64::from(u32::MAX)),
                ..Overrides::default()
            },
        ),
        (
            Quota::ConcurrentSandboxes,
            Overrides {
                concurrent_sandboxes: Some(1),
                ..Overrides::default()
            },
        ),
    ] {
        let change = TeamChange {
            overrides: Some(overrides),
            ..TeamChange::default()
        };
        store.team_update(&team(), change).await.unwrap();
        match store.sandbox_insert(new(sandbox("ib"))).await.unwrap() {
            Admission::QuotaExceeded(exceeded) => assert_eq!(exceeded.quota, quota),
            other => panic!("{quota:?}: {other:?}"),
        }
    }
    let change = TeamChange {
        overrides: Some(Overrides::default()),
        ..TeamChange::default()
    };
    store.team_update(&team(), change).await.unwrap();
    let accepted = store.sandbox_insert(new(sandbox("ib"))).await.unwrap();
    assert_eq!(accepted, Admission::Accepted);
    assert_eq!(store.team_usage(&team()).await.unwrap().charged, charged(2));
}

pub(super) async fn a_pause_gives_back_what_it_does_not_hold(store: &dyn Store) {
    let row = start(store, "ia", 110).await;
    let pausing = transition(&row, State::Pausing, 120);
    let row = store.sandbox_transition(pausing).await.unwrap().unwrap();
    let usage = store.team_usage(&team()).await.unwrap();
    assert_eq!((usage.charged, usage.running), (charged(1), 0));
    let paused = transition(&row, State::Paused, 130);
    let row = store.sandbox_transition(paused).await.unwrap().unwrap();
    let usage = store.team_usage(&team()).await.unwrap().charged;
    assert_eq!((usage.places, usage.cpu_millis), (0, 0));
    assert_eq!(usage.disk_mib, charged(1).disk_mib);
    stop(store, &row, 140).await;
    let usage = store.team_usage(&team()).await.unwrap();
    assert_eq!(usage, TeamUsage::default());
}

fn row(id: &str, name: &str) -> TeamRow {
    let few = NonZeroU32::new(3).unwrap();
    TeamRow {
        id: id.parse().unwrap(),
        name: name.to_owned(),
        is_disabled: false,
        created_at: at(5),
        overrides: Overrides {
            concurrent_sandboxes: Some(0),
            cpu_millis: Some(1),
            memory_mib: None,
            disk_mib: Some(u64::from(u32::MAX) * 2),
            creates: Some(Rate {
                per_second: few,
                burst: NonZeroU32::MAX,
            }),
            requests: None,
        },
        policy: Some(Box::new(super::policy::full())),
        weight: 7,
        usage: TeamUsage::default(),
    }
}

pub(super) async fn teams_are_kept_and_changed(store: &dyn Store) {
    store.team_ensure(&team(), "default", at(1)).await.unwrap();
    let mut other = row("other", "Ünï");
    assert_eq!(store.team_insert(&other).await.unwrap(), Inserted::Yes);
    for taken in [row("other", "new"), row("third", "Ünï")] {
        assert_eq!(
            store.team_insert(&taken).await.unwrap(),
            Inserted::AlreadyExists
        );
    }
    let found = store.team_get(&other.id).await.unwrap();
    assert_eq!(found, Some(other.clone()));
    let listed = store.team_list().await.unwrap();
    let ids: Vec<_> = listed.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["team", "other"]);
    let rename = |name: &str| TeamChange {
        name: Some(name.to_owned()),
        is_disabled: Some(true),
        weight: Some(1_000),
        ..TeamChange::default()
    };
    let taken = store.team_update(&other.id, rename("default")).await;
    assert_eq!(taken.unwrap(), TeamChanged::NameTaken);
    let absent: TeamId = "absent".parse().unwrap();
    let unknown = store.team_update(&absent, rename("x")).await.unwrap();
    assert_eq!(unknown, TeamChanged::Unknown);
    assert_eq!(store.team_get(&absent).await.unwrap(), None);
    "renamed".clone_into(&mut other.name);
    other.is_disabled = true;
    other.weight = 1_000;
    let changed = store.team_update(&other.id, rename("renamed")).await;
    assert_eq!(changed.unwrap(), TeamChanged::Yes(Box::new(other.clone())));
    assert_eq!(store.team_get(&other.id).await.unwrap(), Some(other));
}

pub(super) async fn a_disabled_team_gets_nothing(store: &dyn Store) {
    let refused = store.sandbox_insert(new(sandbox("ia"))).await.unwrap();
    assert_eq!(refused, Admission::NoTeam, "an unknown one neither");
    insert(store, "ib").await;
    let switch = |is_disabled| TeamChange {
        is_disabled: Some(is_disabled),
        ..TeamChange::default()
    };
    store.team_update(&team(), switch(true)).await.unwrap();
    let refused = store.sandbox_insert(new(sandbox("ia"))).await.unwrap();
    assert_eq!(refused, Admission::NoTeam);
    store.team_update(&team(), switch(false)).await.unwrap();
    let accepted = store.sandbox_insert(new(sandbox("ia"))).await.unwrap();
    assert_eq!(accepted, Admission::Accepted);
}

/// Two hundred creates at a time, of differing sizes, with ends among them.
pub(super) async fn many_at_a_time_get_no_more_than_there_is(store: &dyn Store) {
    let ending = start(store, "iending", 110).await;
    let creates = (0..200).map(|n: u32| {
        let mut row = sandbox(&format!("i{n}"));
        row.config.resources.memory_mib = 1 + n % 7;
        let mut new = new(row);
        new.limits.concurrent_sandboxes = 50;
        new.limits.memory_mib = 512 + 150;
        store.sandbox_insert(new)
    });
    let (admissions, _) = tokio::join!(join_all(creates), stop(store, &ending, 120));
    let mut accepted = 0;
    let mut refused = 0;
    for admission in admissions {
        match admission.unwrap() {
            Admission::Accepted => accepted += 1,
            Admission::QuotaExceeded(exceeded) => {
                assert!(exceeded.used + exceeded.wanted > exceeded.limit);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(accepted + refused, 200);
    let usage = store.team_usage(&team()).await.unwrap().charged;
    let mut sum = Usage::default();
    for row in store.sandbox_list_live(None, 300).await.unwrap() {
        sum = sum.saturating_add(row.charge_in(row.state));
    }
    assert_eq!(usage, sum, "the sums are those of what is there");
    assert_eq!(usage.places, accepted);
    assert!(
        usage.places <= 50 && usage.memory_mib <= 512 + 150,
        "{usage:?}"
    );
    assert!(limits().concurrent_sandboxes > 50);
}

pub(super) fn audit(second: i64, operation: &str) -> AuditRow {
    AuditRow {
        seq: 0,
        at: at(second),
        team: Some(team()),
        actor: "key:key-1".to_owned(),
        operation: operation.to_owned(),
        object: Some(format!("i{second}")),
        outcome: "ok".to_owned(),
        address: Some("::1".to_owned()),
        agent: Some("test/1 \u{fc}".to_owned()),
        trace: Some("0af7".to_owned()),
        left_out: 0,
    }
}

pub(super) async fn a_change_brings_its_audit_row_or_neither_is_there(store: &dyn Store) {
    let row = start(store, "ia", 110).await;
    let rows = async || {
        let filter = AuditFilter {
            limit: 10,
            ..AuditFilter::default()
        };
        let rows = store.audit_list(&filter).await.unwrap();
        let operations = rows.into_iter().map(|row| row.operation);
        operations.collect::<Vec<_>>()
    };
    let told = |operation| Some(Box::new(audit(120, operation)));
    let mut stale = transition(&row, State::Stopping, 120);
    stale.expected.0 = State::Pending;
    stale.audit = told("stale");
    assert_eq!(store.sandbox_transition(stale).await.unwrap(), None);
    let mut absent = intent(
        &"iabsent".parse().unwrap(),
        IntentChange::SetDeadline(at(500)),
    );
    absent.audit = told("absent");
    assert_eq!(store.sandbox_intend(absent).await.unwrap(), None);
    assert_eq!(rows().await, Vec::<String>::new());

    let mut later = intent(&row.id, IntentChange::SetDeadline(at(500)));
    later.audit = told("deadline");
    store.sandbox_intend(later).await.unwrap().unwrap();
    let policy = NetworkPolicy::default();
    let mut network = intent(&row.id, IntentChange::SetNetwork(policy));
    network.audit = told("network");
    store.sandbox_intend(network).await.unwrap().unwrap();
    let mut paused = transition(&row, State::Paused, 120);
    paused.paused_at = Some(at(120));
    paused.audit = told("pause");
    let row = store.sandbox_transition(paused).await.unwrap().unwrap();
    let mut resumed = transition(&row, State::Running, 120);
    resumed.started_at = Some(at(120));
    resumed.audit = told("resume");
    let row = store.sandbox_transition(resumed).await.unwrap().unwrap();
    let mut stop = intent(&row.id, IntentChange::Stop(EndReason::Killed));
    stop.audit = told("stop");
    store.sandbox_intend(stop).await.unwrap().unwrap();
    let mut stopping = transition(&row, State::Stopping, 120);
    stopping.audit = told("stopping");
    store.sandbox_transition(stopping).await.unwrap().unwrap();
    let all = ["stopping", "stop", "resume", "pause", "network", "deadline"];
    assert_eq!(rows().await, all);
}

pub(super) async fn the_audit_is_paged_filtered_and_pruned(store: &dyn Store) {
    let mut anonymous = audit(103, "POST /sandboxes");
    anonymous.team = None;
    "anonymous".clone_into(&mut anonymous.actor);
    anonymous.object = None;
    "unauthenticated".clone_into(&mut anonymous.outcome);
    (anonymous.address, anonymous.agent, anonymous.trace) = (None, None, None);
    anonymous.left_out = 7;
    let rows = vec![
        audit(101, "POST /sandboxes"),
        audit(102, "DELETE /sandboxes/{sandboxID}"),
    ];
    store.audit_append(rows).await.unwrap();
    store.audit_append(vec![anonymous.clone()]).await.unwrap();
    let page = async |change: &dyn Fn(&mut AuditFilter)| -> Vec<AuditRow> {
        let mut filter = AuditFilter {
            limit: 10,
            ..AuditFilter::default()
        };
        change(&mut filter);
        store.audit_list(&filter).await.unwrap()
    };
    let all = page(&|_| ()).await;
    let seconds: Vec<_> = all.iter().map(|row| row.at).collect();
    assert_eq!(seconds, [at(103), at(102), at(101)]);
    anonymous.seq = all[0].seq;
    assert_eq!(all[0], anonymous);
    let rest = page(&|filter| filter.before = Some(all[0].seq)).await;
    assert_eq!(rest, all[1..]);
    assert_eq!(page(&|filter| filter.limit = 1).await, all[..1]);
    assert_eq!(page(&|filter| filter.team = Some(team())).await, all[1..]);
    let of = |text: &str| Some(text.to_owned());
    assert_eq!(
        page(&|filter| filter.actor = of("anonymous")).await,
        all[..1]
    );
    assert_eq!(page(&|filter| filter.object = of("i102")).await, all[1..2]);
    let creates = page(&|filter| filter.operation = of("POST /sandboxes")).await;
    assert_eq!(creates.len(), 2);
    assert_eq!(page(&|filter| filter.outcome = of("ok")).await, all[1..]);
    let between = page(&|filter| {
        filter.start = Some(at(102));
        filter.end = Some(at(103));
    });
    assert_eq!(between.await, all[1..2]);

    assert_eq!(store.audit_prune(at(102), 100, 10).await.unwrap(), 1);
    assert_eq!(store.audit_prune(at(102), 100, 10).await.unwrap(), 0);
    assert_eq!(store.audit_prune(at(0), 1, 10).await.unwrap(), 1);
    assert_eq!(page(&|_| ()).await, all[..1]);
}

/// A file of the first schema, with sandboxes in it, gets the sums of what they hold; and a change
/// of the schema that is missing in the middle is made up for.
#[tokio::test]
async fn sqlite_an_older_file_gets_its_sums() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let running = start(&store, "ia", 110).await;
    insert(&store, "ib").await;
    let ended = start(&store, "ic", 110).await;
    stop(&store, &ended, 120).await;
    let before = store.team_usage(&team()).await.unwrap();
    store.close().await;
    let url = format!("sqlite:{}", path.display());
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url)
        .await
        .unwrap();
    let undo = "DROP TABLE audit; ALTER TABLE sandboxes DROP COLUMN created_by; \
        ALTER TABLE api_keys DROP COLUMN created_by; \
        ALTER TABLE api_keys DROP COLUMN last_used_at; \
        ALTER TABLE teams DROP COLUMN cpu_millis; ALTER TABLE teams DROP COLUMN memory_mib; \
        ALTER TABLE teams DROP COLUMN disk_mib; ALTER TABLE teams DROP COLUMN disabled; \
        ALTER TABLE teams DROP COLUMN max_concurrent; \
        ALTER TABLE teams DROP COLUMN max_cpu_millis; \
        ALTER TABLE teams DROP COLUMN max_memory_mib; \
        ALTER TABLE teams DROP COLUMN max_disk_mib; \
        ALTER TABLE teams DROP COLUMN creates_per_second; \
        ALTER TABLE teams DROP COLUMN creates_burst; \
        ALTER TABLE teams DROP COLUMN requests_per_second; \
        ALTER TABLE teams DROP COLUMN requests_burst; \
        DELETE FROM schema_version WHERE version = 4";
    sqlx::raw_sql(undo).execute(&mut connection).await.unwrap();
    drop(connection);
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.team_usage(&team()).await.unwrap(), before);
    let row = store.sandbox_get(&running.id).await.unwrap().unwrap();
    assert_eq!(row.created_by, None, "nobody wrote down who made it");
    store.close().await;
}
