//! Wakes sandboxes whose deadline passed.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::service::Inner;

/// The longest sleep, although the next deadline may be far: a wall clock that is set forward
/// must not delay a deadline by more than this.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The shortest sleep, so that a deadline that cannot be carried out is not looked at in a loop.
const SLEEP_MIN: Duration = Duration::from_millis(1);

pub(super) async fn run(inner: &Arc<Inner>, cancel: &CancellationToken) {
    loop {
        let now = inner.clock.now();
        // Whoever is on duty keeps them all; the others know them, to take over at once.
        let is_on_duty = inner.servers.is_on_duty();
        if is_on_duty {
            for id in inner.deadlines.take_due(now) {
                inner.wake(&id);
            }
        }
        let next = inner.deadlines.next().filter(|_| is_on_duty);
        let sleep = next.map_or(LOOK_INTERVAL, |next| {
            next.saturating_since(now).clamp(SLEEP_MIN, LOOK_INTERVAL)
        });
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = inner.deadlines.changed() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}
