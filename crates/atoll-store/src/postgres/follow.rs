//! Notices what others commit.
//!
//! The newest cursor is looked for every [`POLL_INTERVAL`]: that alone is enough. A notification
//! has it looked for at once. Notifications are lost with their connection, may come late, and do
//! not pass through every pooler, so nothing depends on one.

use std::time::Duration;

use atoll_core::event::Cursor;
use sqlx::postgres::{PgConnectOptions, PgListener};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{CONNECT_TIMEOUT, cursor, pool};
use crate::queries;

/// How long an event of another server may stay unnoticed without a notification.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How often the newest cursor is looked for at most, however many notifications come: what comes
/// within it is found together.
const HINT_SPACING: Duration = Duration::from_millis(10);

/// Where notifications come.
const CHANNEL: &str = "atoll_events";

/// Connections: the one that listens and the one that looks.
const CONNECTIONS: u32 = 2;

/// After how long listening is begun anew where it failed.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// Moves the head until whoever is told of it is gone. Notifications of `own` writers tell nothing
/// new.
pub(super) async fn run(options: PgConnectOptions, own: Vec<String>, head: watch::Sender<Cursor>) {
    let pool = pool(CONNECTIONS).connect_lazy_with(options);
    let mut listener = None;
    let mut listen_at = Instant::now();
    while !head.is_closed() {
        let looked = sqlx::query_scalar(queries::PG_HEADS).fetch_one(&pool);
        match looked.await {
            Ok(newest) => advance(&head, cursor(newest)),
            Err(error) => tracing::debug!(%error, "the newest event is not known"),
        }
        if listener.is_none() && Instant::now() >= listen_at {
            listener = listen(&pool).await;
            listen_at = Instant::now() + LISTEN_AGAIN;
        }
        let spaced = Instant::now() + HINT_SPACING;
        tokio::select! {
            biased;
            () = head.closed() => break,
            is_heard = hint(&mut listener, &own) => {
                if !is_heard {
                    listener = None;
                }
                sleep_until(spaced).await;
            }
            () = sleep(POLL_INTERVAL) => {}
        }
    }
    drop(listener);
    pool.close().await;
}

/// Moves the head forward. Several move it, and what they know may be older than what it says.
pub(super) fn advance(head: &watch::Sender<Cursor>, newest: Cursor) {
    head.send_if_modified(|head| {
        let is_newer = newest > *head;
        *head = newest.max(*head);
        is_newer
    });
}

async fn listen(pool: &sqlx::PgPool) -> Option<PgListener> {
    let listening = async {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    match timeout(CONNECT_TIMEOUT, listening).await {
        Ok(Ok(listener)) => Some(listener),
        Ok(Err(error)) => {
            tracing::debug!(%error, "no notifications: the newest event is looked for instead");
            None
        }
        Err(_) => None,
    }
}

/// Waits until another server tells of events. Answers whether listening goes on.
async fn hint(listener: &mut Option<PgListener>, own: &[String]) -> bool {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.try_recv().await {
            Ok(Some(hint)) if own.iter().any(|own| own == hint.payload()) => {}
            Ok(Some(_)) => return true,
            // Nobody knows what was missed meanwhile.
            Ok(None) | Err(_) => return false,
        }
    }
}
