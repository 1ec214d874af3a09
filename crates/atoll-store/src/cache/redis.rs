//! The cache in Redis, or what speaks its protocol (Valkey).

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::breaker::{Breaker, Policy};
use atoll_core::quota::Rate;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, FromRedisValue, RedisError, Script};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::{Instant, timeout};

use super::{ANSWER_TIMEOUT, Cache, Taken};
use crate::metrics;

/// Before every key, so that the server may be shared with other programs.
const PREFIX: &str = "atoll:";

/// How long connecting may take: it is done beside the requests, which go on without.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Requests under way at once on the one connection; what comes beyond goes on without an answer.
const UNDER_WAY_MAX: usize = 1_024;

/// After so many failures in a row it is left alone for a while, so that requests do not wait for
/// it one after the other.
const BREAKER: Policy = Policy {
    failures: 3,
    cool_off: Duration::from_secs(1),
    cool_off_max: Duration::from_secs(15),
    probe: Duration::from_secs(1),
};

/// Takes a place of a rate: the generic cell rate algorithm (ITU-T I.371, annex A), with the
/// server's clock, so that those who ask need not agree on the time. The value is the theoretical
/// arrival time of the next cell, in microseconds; one that is no number, or that no row of
/// requests can have led to, is not believed.
///
/// `ARGV`: microseconds between two places, places at once, and 1 to take one in any case.
/// Answers with the microseconds until there is a place; 0 if one was taken.
const TAKE_RATE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local full = now + interval * burst
local next = tonumber(redis.call('GET', KEYS[1])) or now
if not (next >= now) then next = now end -- also if it is no number at all
if next > full then next = full end
local wait = next + interval - full
if wait > 0 and ARGV[3] ~= '1' then return wait end
next = math.min(next + interval, full)
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.ceil((next - now) / 1000) + 1)
return 0
";

/// Gives a lock back to nobody but its holder.
const UNLOCK: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
";

/// Shows that values are taken and given back.
const CHECK: &str = r"
redis.call('SET', KEYS[1], ARGV[1], 'PX', 1000)
return redis.call('GET', KEYS[1])
";

/// Why the address of a Redis server cannot be used. The address is left out: it may hold a
/// password.
#[derive(Debug, thiserror::Error)]
#[error("the address of the Redis server cannot be used: {0}")]
pub struct BadAddress(String);

/// See the module.
pub struct RedisCache {
    /// Connects when it is needed, and anew when the connection was lost.
    connection: ConnectionManager,
    begun: Instant,
    breaker: Mutex<Breaker>,
    take_rate: Script,
    unlock: Script,
    check: Script,
}

impl std::fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisCache").finish_non_exhaustive()
    }
}

impl RedisCache {
    /// For the server at `url` (`redis://`, `rediss://`, `unix://`, with name and password if it
    /// wants them). It need not be there yet.
    ///
    /// # Errors
    /// If the address is none.
    pub fn new(url: &SecretString) -> Result<Self, BadAddress> {
        // What the error says is about the scheme or the host, never the password.
        let bad = |error: RedisError| BadAddress(error.category().to_owned());
        let client = Client::open(url.expose_secret()).map_err(bad)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(CHECK_TIMEOUT))
            .set_concurrency_limit(UNDER_WAY_MAX)
            .set_number_of_retries(0);
        let connection = ConnectionManager::new_lazy_with_config(client, config).map_err(bad)?;
        Ok(Self {
            connection,
            begun: Instant::now(),
            breaker: Mutex::new(Breaker::new(BREAKER)),
            take_rate: Script::new(TAKE_RATE),
            unlock: Script::new(UNLOCK),
            check: Script::new(CHECK),
        })
    }

    /// Asks, unless it was silent lately; none if there is no answer in time.
    async fn ask<T: FromRedisValue>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, RedisError>>,
    ) -> Option<T> {
        if !self.breaker().admit(self.begun.elapsed()) {
            metrics::cache_asked(operation, "skipped", Duration::ZERO);
            return None;
        }
        let begun = Instant::now();
        let answer = timeout(ANSWER_TIMEOUT, request).await;
        let (answer, outcome) = match answer {
            Ok(Ok(answer)) => (Some(answer), "ok"),
            Ok(Err(_)) => (None, "error"),
            Err(_) => (None, "timeout"),
        };
        metrics::cache_asked(operation, outcome, begun.elapsed());
        let now = self.begun.elapsed();
        match &answer {
            Some(_) => self.breaker().succeeded(),
            None => self.breaker().failed(now),
        }
        answer
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        let breaker = self.breaker.lock();
        breaker.unwrap_or_else(PoisonError::into_inner)
    }

    async fn rate(&self, bucket: &str, rate: Rate, is_forced: bool) -> Option<u64> {
        let interval = 1_000_000 / u64::from(rate.per_second.get());
        let mut call = self.take_rate.prepare_invoke();
        call.key(key("rate", bucket))
            .arg(interval.max(1))
            .arg(rate.burst.get())
            .arg(u8::from(is_forced));
        let mut connection = self.connection.clone();
        let ask = call.invoke_async(&mut connection);
        self.ask("rate", ask).await
    }
}

fn key(kind: &str, name: &str) -> String {
    format!("{PREFIX}{kind}:{name}")
}

#[async_trait]
impl Cache for RedisCache {
    async fn rate_take(&self, bucket: &str, rate: Rate) -> Option<Taken> {
        let wait = self.rate(bucket, rate, false).await?;
        Some(match wait {
            0 => Taken::Place,
            // Never longer than it takes to get the whole burst back.
            wait => Taken::NoneFor(Duration::from_micros(wait).min(period(rate))),
        })
    }

    async fn rate_count(&self, bucket: &str, rate: Rate) {
        let _: Option<u64> = self.rate(bucket, rate, true).await;
    }

    async fn lock(&self, name: &str, holder: &str, hold: Duration) -> Option<bool> {
        let hold = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut command = redis::cmd("SET");
        command.arg(key("lock", name)).arg(holder).arg("NX");
        command.arg("PX").arg(hold);
        let mut connection = self.connection.clone();
        let ask = command.query_async(&mut connection);
        let answer: Option<Option<String>> = self.ask("lock", ask).await;
        answer.map(|answer| answer.is_some())
    }

    async fn unlock(&self, name: &str, holder: &str) {
        let mut call = self.unlock.prepare_invoke();
        call.key(key("lock", name)).arg(holder);
        let mut connection = self.connection.clone();
        let ask = call.invoke_async(&mut connection);
        let _: Option<u64> = self.ask("unlock", ask).await;
    }

    async fn check(&self) -> Result<(), String> {
        const WORD: &str = "well";
        let mut connection = self.connection.clone();
        let mut call = self.check.prepare_invoke();
        call.key(key("check", "health")).arg(WORD);
        let answer = timeout(
            CHECK_TIMEOUT,
            call.invoke_async::<Option<String>>(&mut connection),
        );
        match answer.await {
            Err(_) => Err("does not answer in time".to_owned()),
            Ok(Err(error)) => Err(error.category().to_owned()),
            Ok(Ok(word)) if word.as_deref() == Some(WORD) => Ok(()),
            Ok(Ok(_)) => Err("does not give back what it was given".to_owned()),
        }
    }
}

/// How long a rate takes to give its whole burst.
fn period(rate: Rate) -> Duration {
    Duration::from_secs(1) * rate.burst.get() / rate.per_second.get()
}
