//! Pages of a listing while sandboxes come and go: what exists throughout is listed once.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::store::Readmission;

/// What happens between two pages.
#[derive(Debug, Clone)]
enum Step {
    /// A sandbox made at this second begins to serve: before, among or after those that are listed.
    Start(i64),
    /// The sandbox of this number ends, if there is one.
    Stop(usize),
    /// The sandbox of this number is paused, if there is one.
    Pause(usize),
    /// The sandbox of this number begins to serve again, later than every other so far.
    Resume(usize),
}

fn second() -> impl Strategy<Value = i64> {
    // Few, so that many begin at the same instant.
    100..110i64
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        second().prop_map(Step::Start),
        (0..24usize).prop_map(Step::Stop),
        (0..24usize).prop_map(Step::Pause),
        (0..24usize).prop_map(Step::Resume),
    ]
}

/// The sandboxes of one run, in the order in which they were made.
#[derive(Default)]
struct World {
    live: BTreeMap<usize, Sandbox>,
    made: usize,
    resumed: i64,
}

impl World {
    async fn apply(&mut self, store: &dyn Store, step: &Step) {
        match step {
            Step::Start(second) => {
                let row = start_made(store, &format!("i{}", self.made), *second).await;
                self.live.insert(self.made, row);
                self.made += 1;
            }
            Step::Stop(number) => {
                if let Some(row) = self.live.remove(number) {
                    stop(store, &row, 200).await;
                }
            }
            Step::Pause(number) => {
                if let Some(row) = self.live.get_mut(number)
                    && row.state == State::Running
                {
                    *row = lifecycle::pause(store, row, 200).await;
                }
            }
            Step::Resume(number) => {
                if let Some(row) = self.live.get_mut(number)
                    && row.state == State::Paused
                {
                    self.resumed += 1;
                    *row = resume(store, row, 300 + self.resumed).await;
                }
            }
        }
    }

    fn ids(&self) -> BTreeSet<SandboxId> {
        self.live.values().map(|row| row.id.clone()).collect()
    }
}

async fn resume(store: &dyn Store, row: &Sandbox, second: i64) -> Sandbox {
    let Readmission::Accepted(resuming) = lifecycle::resume(store, row, 100).await else {
        panic!("the quota has a place");
    };
    let mut started = transition(&resuming, State::Running, second);
    started.started_at = Some(at(second));
    store.sandbox_transition(started).await.unwrap().unwrap()
}

async fn check(
    store: &dyn Store,
    before: &[i64],
    between: &[Step],
    limit: u32,
    is_ascending: bool,
) {
    let mut world = World::default();
    for second in before {
        world.apply(store, &Step::Start(*second)).await;
    }
    let mut throughout = world.ids();
    let mut listed = BTreeSet::new();
    let mut between = between.iter();
    let mut page = SandboxFilter {
        limit,
        is_ascending,
        ..filter()
    };
    loop {
        let rows = store.sandbox_list(&page).await.unwrap();
        for row in &rows {
            assert!(listed.insert(row.id.clone()), "{} is listed twice", row.id);
        }
        let Some(last) = rows.last() else { break };
        page.after = Some((last.created_at, last.id.clone()));
        for step in between.by_ref().take(2) {
            world.apply(store, step).await;
        }
        let live = world.ids();
        throughout.retain(|id| live.contains(id));
    }
    let missing: Vec<_> = throughout.difference(&listed).collect();
    assert!(missing.is_empty(), "{missing:?} are not listed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn pages_neither_lose_nor_repeat_what_exists_throughout(
        before in vec(second(), 0..16),
        between in vec(step(), 0..24),
        limit in 1..5u32,
        is_ascending in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            check(&MemStore::default(), &before, &between, limit, is_ascending).await;
            let directory = tempfile::tempdir().unwrap();
            let store = SqliteStore::open(&directory.path().join("test.db")).await.unwrap();
            check(&store, &before, &between, limit, is_ascending).await;
            store.close().await;
        });
    }
}
