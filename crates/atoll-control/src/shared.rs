//! What the servers on one store do together by way of the shared cache, and each alone where it
//! does not answer.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::id::TeamId;
use atoll_store::cache::{Cache, Taken};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};

use crate::error::Result;
use crate::gate::Limiter;
use crate::service::Inner;

/// How long a create keeps others under the same key waiting: about what a slow one takes. A server
/// that dies keeps them no longer.
const TURN_HOLD: Duration = Duration::from_secs(10);

/// How long a create waits for another under the same key to be answered. Then it goes on, and
/// finds what that one wrote.
const TURN_WAIT_MAX: Duration = Duration::from_secs(2);

/// Pause before a turn that another has is asked for again.
const TURN_PAUSE: Duration = Duration::from_millis(50);

/// The right to be the one create under a key that is under way.
#[derive(Debug)]
pub(crate) struct Turn {
    name: String,
    holder: String,
}

impl Inner {
    /// The shared cache, if there is anybody to share with.
    fn shared(&self) -> Option<&Arc<dyn Cache>> {
        self.cache.as_ref().filter(|_| self.servers.has_others())
    }

    /// Takes a place of a team's rate, which is one for all servers.
    ///
    /// This server never lets more through than the whole rate, and always what is its own part of
    /// it, without asking; between the two the shared cache decides. So a cache that is away lets
    /// at most the rate of each server through, and one that refuses everything without reason
    /// leaves the team its rate where its requests come to all servers alike.
    ///
    /// # Errors
    /// `RateLimited`, with the time to wait.
    pub(crate) async fn take_place(
        &self,
        team: &TeamId,
        what: &'static str,
        limiter: &Limiter,
    ) -> Result<()> {
        let taken = limiter.check();
        taken.map_err(|wait| limiter.used_up(what, wait))?;
        let Some(cache) = self.shared() else {
            return Ok(());
        };
        let (bucket, rate) = (format!("{what}:{team}"), limiter.rate());
        if limiter.is_in_part(self.servers.count()) {
            let cache = Arc::clone(cache);
            // Nobody waits for it: it only tells the others.
            let count = async move { cache.rate_count(&bucket, rate).await };
            self.tasks.spawn(count);
            return Ok(());
        }
        match cache.rate_take(&bucket, rate).await {
            Some(Taken::NoneFor(wait)) => Err(limiter.used_up(what, wait)),
            Some(Taken::Place) | None => Ok(()),
        }
    }

    /// Waits while another server makes a sandbox under the same key, so that its answer is found
    /// and the store is not asked to write it twice. The store decides in any case.
    pub(crate) async fn take_turn(&self, team: &TeamId, key: &str) -> Option<Turn> {
        let cache = self.shared()?;
        let turn = Turn {
            // Keys are the client's: they are neither bounded in form nor to be read by others.
            name: hex::encode(Sha256::digest(format!("{team}/{key}"))),
            holder: self.draw_uuid(),
        };
        let since = Instant::now();
        while !cache.lock(&turn.name, &turn.holder, TURN_HOLD).await? {
            if since.elapsed() >= TURN_WAIT_MAX {
                return None;
            }
            sleep(TURN_PAUSE).await;
        }
        Some(turn)
    }

    /// Lets the next one under the key go on.
    pub(crate) fn end_turn(&self, turn: Option<Turn>) {
        if let (Some(turn), Some(cache)) = (turn, &self.cache) {
            let cache = Arc::clone(cache);
            let unlock = async move { cache.unlock(&turn.name, &turn.holder).await };
            self.tasks.spawn(unlock);
        }
    }
}
