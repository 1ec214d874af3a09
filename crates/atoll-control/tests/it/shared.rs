//! What servers share by way of the cache, which may be silent or lie.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::error::ErrorKind;
use atoll_core::quota::Rate;
use atoll_store::cache::{Cache, Taken};

use crate::world::{KEY, Running, World, request};

/// What the cache of a test does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    Silent,
    /// There is never a place, and every lock is somebody else's.
    Refusing,
    /// There is always a place, and every lock is free.
    Granting,
}

#[derive(Debug)]
struct FakeCache {
    mood: Mood,
    taken: Mutex<BTreeMap<String, u32>>,
    locks: Mutex<BTreeMap<String, String>>,
}

impl FakeCache {
    fn new(mood: Mood) -> Arc<Self> {
        Arc::new(Self {
            mood,
            taken: Mutex::default(),
            locks: Mutex::default(),
        })
    }
}

/// Nothing comes back while a test runs.
#[async_trait]
impl Cache for FakeCache {
    async fn rate_take(&self, bucket: &str, rate: Rate) -> Option<Taken> {
        let none = Some(Taken::NoneFor(Duration::from_secs(1)));
        match self.mood {
            Mood::Silent => None,
            Mood::Refusing => none,
            Mood::Granting => Some(Taken::Place),
            Mood::Well => {
                let mut taken = self.taken.lock().unwrap();
                let taken = taken.entry(bucket.to_owned()).or_default();
                if *taken >= rate.burst.get() {
                    return none;
                }
                *taken += 1;
                Some(Taken::Place)
            }
        }
    }

    async fn rate_count(&self, bucket: &str, _: Rate) {
        let mut taken = self.taken.lock().unwrap();
        *taken.entry(bucket.to_owned()).or_default() += 1;
    }

    async fn lock(&self, name: &str, holder: &str, _: Duration) -> Option<bool> {
        match self.mood {
            Mood::Silent => None,
            Mood::Refusing => Some(false),
            Mood::Granting => Some(true),
            Mood::Well => {
                let mut locks = self.locks.lock().unwrap();
                let by = locks.entry(name.to_owned());
                Some(by.or_insert_with(|| holder.to_owned()) == holder)
            }
        }
    }

    async fn unlock(&self, name: &str, holder: &str) {
        let mut locks = self.locks.lock().unwrap();
        if locks.get(name).is_some_and(|by| by == holder) {
            locks.remove(name);
        }
    }

    async fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

async fn two(mood: Mood, burst: u32) -> (World, [Running; 2]) {
    let mut world = World::in_memory(&["node-1"]);
    world.config.team_limits.requests = Rate {
        per_second: NonZeroU32::MIN,
        burst: NonZeroU32::new(burst).unwrap(),
    };
    world.cache = Some(FakeCache::new(mood));
    let servers = [world.start_server("a").await, world.start_server("b").await];
    // Each takes one place when it starts, before it may know of the other.
    (world, servers)
}

/// How many of 40 requests are let through, at the servers in turn. The clock stands still.
async fn let_through(servers: &[Running; 2]) -> usize {
    let mut passed = 0;
    for turn in 0..40 {
        match servers[turn % 2].control.authenticate(KEY).await {
            Ok(_) => passed += 1,
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::RateLimited);
                assert!(error.retry_after.is_some());
            }
        }
        // What is only counted is counted by a task.
        tokio::task::yield_now().await;
    }
    passed
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_one_for_all_servers_where_there_is_a_cache() {
    const BURST: u32 = 12;
    for (mood, fewest, most) in [
        (Mood::Well, 10, 12),
        // The rate of each.
        (Mood::Silent, 20, 24),
        (Mood::Granting, 20, 24),
        // Their parts of it.
        (Mood::Refusing, 10, 12),
    ] {
        let (_world, servers) = two(mood, BURST).await;
        wait_until_both_know(&servers).await;
        let passed = let_through(&servers).await;
        assert!((fewest..=most).contains(&passed), "{mood:?}: {passed}");
        for server in servers {
            server.stop().await;
        }
    }
}

/// The servers see one another by their beats.
async fn wait_until_both_know(servers: &[Running; 2]) {
    crate::world::wait_for("both see two servers", async || {
        servers
            .iter()
            .all(|server| server.control.server_list().len() == 2)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whatever_a_cache_says_one_key_makes_one_sandbox() {
    for mood in [Mood::Well, Mood::Silent, Mood::Refusing, Mood::Granting] {
        let (world, servers) = two(mood, 1_000).await;
        wait_until_both_know(&servers).await;
        let [a, b] = &servers;
        let mut wanted = request();
        wanted.idempotency_key = Some("once".to_owned());
        let (one, two) = tokio::join!(
            a.control.sandbox_create(&a.tenant, wanted.clone()),
            b.control.sandbox_create(&b.tenant, wanted),
        );
        assert_eq!(one.unwrap().sandbox.id, two.unwrap().sandbox.id, "{mood:?}");
        assert_eq!(world.node().ensures(), 1, "{mood:?}");
        for server in servers {
            server.stop().await;
        }
    }
}
