//! The agent's heartbeats.

use std::time::Duration;

use async_trait::async_trait;
use atoll_core::heartbeat::{HEARTBEAT_INTERVAL, Heartbeat, StateDigest};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::Agent;

/// How long the delivery of one heartbeat may take. After that it is stale: the next one says
/// more.
const SEND_TIMEOUT: Duration = HEARTBEAT_INTERVAL;

/// Who is told of heartbeats: the control plane of this process, or one behind a network.
#[async_trait]
pub trait HeartbeatSink: Send + Sync {
    /// Delivers one heartbeat.
    ///
    /// # Errors
    /// Why it was not taken, for the log. It is not repeated: the next one follows soon.
    async fn send(&self, heartbeat: Heartbeat) -> Result<(), String>;
}

impl Agent {
    /// What the node says of itself now.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        let report = self.report();
        Heartbeat {
            at: self.inner.clock.now(),
            total: report.total,
            allocated: report.allocated,
            sandboxes: u32::try_from(report.sandboxes.len()).unwrap_or(u32::MAX),
            usage: self.inner.meter.sample(),
            digest: StateDigest::of(&report.sandboxes),
            driver: self.inner.driver.name().to_owned(),
            driver_problem: None,
            node: report.node,
        }
    }

    /// Sends a heartbeat every [`HEARTBEAT_INTERVAL`] until cancelled, the first at once. One that
    /// is not taken is logged when that begins and when it ends.
    pub async fn beat(&self, sink: &dyn HeartbeatSink, cancel: CancellationToken) {
        let mut ticks = interval(HEARTBEAT_INTERVAL);
        // After a pause of the machine one heartbeat is enough.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_heard = true;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let sent = timeout(SEND_TIMEOUT, sink.send(self.heartbeat()));
            let result = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                result = sent => result.unwrap_or_else(|_| Err("no answer in time".to_owned())),
            };
            match (&result, is_heard) {
                (Err(problem), true) => tracing::warn!(problem, "heartbeats are not taken"),
                (Ok(()), false) => tracing::info!("heartbeats are taken again"),
                _ => {}
            }
            is_heard = result.is_ok();
        }
    }
}
