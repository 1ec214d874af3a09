//! The shared cache against a real Redis server, also one that is stopped, emptied, slow, full or
//! tells what is not so. Without `redis-server` on this machine the tests are skipped.

#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use atoll_core::quota::Rate;
use atoll_store::cache::redis::RedisCache;
use atoll_store::cache::{Cache, Taken};
use secrecy::SecretString;
use tokio::time::{sleep, timeout};

/// How long a condition may take to come true.
const LIMIT: Duration = Duration::from_secs(30);
const BURST: u32 = 5;

/// A server of its own on a socket in a folder of its own.
struct Server {
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Server {
    /// None, and says so, where there is no Redis.
    async fn start() -> Option<Self> {
        if Command::new("redis-server")
            .arg("--version")
            .output()
            .is_err()
        {
            eprintln!("skipped: there is no redis-server on this machine");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Self {
            folder,
            process: None,
        };
        server.run().await;
        Some(server)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    async fn run(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket"]);
        command
            .arg(self.socket())
            .arg("--dir")
            .arg(self.folder.path());
        command
            .args(["--enable-debug-command", "yes"])
            .stdout(Stdio::null());
        self.process = Some(command.spawn().expect("run redis-server"));
        let cache = self.cache();
        wait_for("the server answers", async || cache.check().await.is_ok()).await;
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("stop redis-server");
            process.wait().expect("wait for redis-server");
        }
    }

    fn cache(&self) -> RedisCache {
        let url = format!("redis+unix://{}", self.socket().display());
        RedisCache::new(&SecretString::from(url)).expect("an address")
    }

    /// Has the server do something, as its operator would.
    async fn tell(&self, command: &[&str]) {
        let url = format!("redis+unix://{}", self.socket().display());
        let client = redis::Client::open(url).expect("an address");
        let mut connection = client
            .get_multiplexed_async_connection()
            .await
            .expect("a connection");
        let mut told = redis::cmd(command[0]);
        told.arg(&command[1..]);
        let _: redis::Value = told.query_async(&mut connection).await.expect(command[0]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let is_in_time = timeout(LIMIT, waiting).await.is_ok();
    assert!(is_in_time, "{what}: not within {LIMIT:?}");
}

/// So slow that nothing comes back while a test runs.
fn rate() -> Rate {
    rate_of(1)
}

fn rate_of(per_second: u32) -> Rate {
    Rate {
        per_second: NonZeroU32::new(per_second).expect("not 0"),
        burst: NonZeroU32::new(BURST).expect("not 0"),
    }
}

fn period() -> Duration {
    Duration::from_secs(u64::from(BURST))
}

/// Waits for an answer: on a busy machine one may be too late, and the server left alone a while.
async fn take(cache: &RedisCache, bucket: &str) -> Taken {
    let mut answer = None;
    wait_for("an answer", async || {
        answer = cache.rate_take(bucket, rate()).await;
        answer.is_some()
    })
    .await;
    answer.expect("waited for")
}

#[tokio::test]
async fn a_rate_is_shared_and_given_back_with_time() {
    let Some(server) = Server::start().await else {
        return;
    };
    let caches = [server.cache(), server.cache()];
    let mut taken = 0;
    let wait = loop {
        match take(&caches[taken % 2], "team").await {
            Taken::Place => taken += 1,
            Taken::NoneFor(wait) => break wait,
        }
        assert!(taken < 100, "there is no end of places");
    };
    // A place comes back each second, also while this waits for late answers.
    assert!(taken >= BURST as usize, "{taken}");
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
    assert_eq!(take(&caches[1], "another").await, Taken::Place);
}

#[tokio::test]
async fn what_is_counted_is_taken_from_the_others() {
    let Some(server) = Server::start().await else {
        return;
    };
    let cache = server.cache();
    wait_for("the places are taken", async || {
        cache.rate_count("team", rate()).await;
        matches!(
            cache.rate_take("team", rate()).await,
            Some(Taken::NoneFor(_))
        )
    })
    .await;
}

#[tokio::test]
async fn a_lock_has_one_holder_until_it_is_given_back_or_over() {
    let Some(server) = Server::start().await else {
        return;
    };
    let [one, other] = [server.cache(), server.cache()];
    let long = Duration::from_secs(60);
    let lock = async |cache: &RedisCache, name: &str, holder: &str, hold| {
        let mut answer = None;
        wait_for("an answer", async || {
            answer = cache.lock(name, holder, hold).await;
            answer.is_some()
        })
        .await;
        answer == Some(true)
    };
    assert!(lock(&one, "a", "one", long).await);
    assert!(!lock(&other, "a", "other", long).await);
    other.unlock("a", "other").await;
    assert!(
        !lock(&other, "a", "other", long).await,
        "it is not the other's"
    );
    wait_for("it is given back", async || {
        one.unlock("a", "one").await;
        lock(&other, "a", "other", long).await
    })
    .await;
    assert!(lock(&one, "b", "one", Duration::from_millis(1)).await);
    wait_for("it is over", async || {
        lock(&other, "b", "other", long).await
    })
    .await;
}

#[tokio::test]
async fn without_the_server_there_is_no_answer_and_with_it_there_is_again() {
    let Some(mut server) = Server::start().await else {
        return;
    };
    let cache = server.cache();
    take(&cache, "team").await;
    server.stop();
    for _ in 0..100 {
        assert_eq!(cache.rate_take("team", rate()).await, None);
    }
    assert!(cache.check().await.is_err());
    server.run().await;
    assert_eq!(
        take(&cache, "team").await,
        Taken::Place,
        "it knows nothing any more"
    );
}

#[tokio::test]
async fn a_server_that_hangs_is_not_waited_for_each_time() {
    let Some(server) = Server::start().await else {
        return;
    };
    let cache = server.cache();
    take(&cache, "team").await;
    server.tell(&["CLIENT", "PAUSE", "60000", "ALL"]).await;
    let asking = async {
        for _ in 0..10_000 {
            assert_eq!(cache.rate_take("team", rate()).await, None);
        }
    };
    let is_done = timeout(LIMIT, asking).await.is_ok();
    assert!(is_done, "each of 10,000 questions waits");
}

#[tokio::test]
async fn an_emptied_server_begins_anew_and_a_full_one_gives_no_answer() {
    let Some(server) = Server::start().await else {
        return;
    };
    let cache = server.cache();
    wait_for("the places are taken", async || {
        take(&cache, "team").await != Taken::Place
    })
    .await;
    server.tell(&["FLUSHALL"]).await;
    assert_eq!(take(&cache, "team").await, Taken::Place);
    server.tell(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(cache.rate_take("another", rate()).await, None);
    assert_eq!(cache.lock("a", "one", period()).await, None);
    assert!(cache.check().await.is_err());
}

#[tokio::test]
async fn what_cannot_be_is_not_believed() {
    let Some(server) = Server::start().await else {
        return;
    };
    let cache = server.cache();
    for lie in ["nonsense", "-1", "nan", "0"] {
        server.tell(&["SET", "atoll:rate:team", lie]).await;
        assert_eq!(take(&cache, "team").await, Taken::Place, "{lie}");
    }
    for lie in ["1e300", "inf", "9007199254740992"] {
        server.tell(&["SET", "atoll:rate:team", lie]).await;
        let answer = take(&cache, "team").await;
        let is_bounded = matches!(answer, Taken::NoneFor(wait) if wait <= Duration::from_secs(1));
        assert!(is_bounded, "{lie}: {answer:?}");
    }
    server.tell(&["DEL", "atoll:rate:team"]).await;
    server.tell(&["LPUSH", "atoll:rate:team", "a list"]).await;
    assert_eq!(cache.rate_take("team", rate()).await, None);
}

#[test]
fn an_address_with_a_password_is_not_told() {
    let url = SecretString::from("http://name:sesame@host".to_owned());
    let error = RedisCache::new(&url).expect_err("no Redis address");
    assert!(!error.to_string().contains("sesame"), "{error}");
}
