//! The task that delivers to one webhook.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::event::{Cursor, EventKind, Subject};
use atoll_store::store::EventQuery;
use atoll_store::webhook::{WebhookProgress, WebhookRow};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Delivery, Notice, SendError, WebhookSender};
use crate::bus::{Chunk, delays, read};
use crate::events;
use crate::service::Inner;
use crate::view::EventView;

/// How often progress is written at most: what a crash has delivered twice.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The longest text that is kept of a failure, in characters.
const ERROR_MAX: usize = 512;

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
    /// Cancelled, given up, or changed by its owner, who started another.
    Stop,
}

/// See the module. The row is what the store has, but for the progress since `kept_at`.
#[derive(Debug)]
pub(super) struct Courier {
    inner: Arc<Inner>,
    sender: Arc<dyn WebhookSender>,
    row: WebhookRow,
    /// Up to where it was told of pruned events.
    told: Cursor,
    kept: Cursor,
    kept_at: Instant,
    cancel: CancellationToken,
}

impl Courier {
    pub(super) fn new(
        inner: Arc<Inner>,
        sender: Arc<dyn WebhookSender>,
        row: WebhookRow,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            inner,
            sender,
            told: row.cursor,
            kept: row.cursor,
            kept_at: Instant::now(),
            row,
            cancel,
        }
    }

    pub(super) async fn run(mut self) {
        let query = EventQuery {
            team: Some(self.row.team.clone()),
            subject: None,
            kinds: self.row.kinds.clone(),
        };
        let mut head = self.inner.bus.head();
        loop {
            let newest = *head.borrow_and_update();
            if newest <= self.row.cursor {
                let due = self.kept_at + KEEP_INTERVAL;
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => break,
                    moved = head.changed() => if moved.is_err() { break },
                    () = tokio::time::sleep_until(due), if self.kept < self.row.cursor => {
                        if self.keep().await == Go::Stop {
                            return;
                        }
                    }
                }
                continue;
            }
            let chunk = read(&self.inner, self.row.cursor, &query, &self.cancel).await;
            let Some(chunk) = chunk else {
                break;
            };
            if self.deliver(chunk).await == Go::Stop {
                return;
            }
        }
        self.keep().await;
    }

    async fn deliver(&mut self, chunk: Chunk) -> Go {
        if let Some(gap) = chunk.gap.filter(|gap| gap.through > self.told) {
            self.told = gap.through;
            let lagged = Notice::Lagged {
                team: self.row.team.clone(),
                through: gap.through,
                missed: gap.missed,
            };
            if self.insist(&lagged).await == Go::Stop {
                return Go::Stop;
            }
        }
        for stored in &chunk.events {
            let event = EventView::from(&**stored);
            let cursor = event.cursor;
            let notice = self.notice(event).await;
            if self.insist(&notice).await == Go::Stop {
                return Go::Stop;
            }
            self.row.cursor = cursor;
            if self.kept_at.elapsed() >= KEEP_INTERVAL && self.keep().await == Go::Stop {
                return Go::Stop;
            }
        }
        self.row.cursor = chunk.next;
        Go::On
    }

    async fn notice(&self, event: EventView) -> Notice {
        let sandbox = match event.subject.sandbox() {
            // Without it the receiver lacks details, which is better than the event.
            Some(id) => self.inner.store.sandbox_get(id).await.ok().flatten(),
            None => None,
        };
        Notice::Event {
            event,
            sandbox: sandbox.map(Box::new),
        }
    }

    /// Tells the receiver, however often that takes.
    async fn insist(&mut self, notice: &Notice) -> Go {
        let policy = self.inner.config.webhooks;
        let mut waits = delays(policy.retry_min, policy.retry_max);
        loop {
            let cancel = self.cancel.clone();
            let outcome = tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    self.keep().await;
                    return Go::Stop;
                }
                outcome = self.attempt(notice) => outcome,
            };
            match outcome {
                Ok(()) if self.row.failing_since.is_none() => return Go::On,
                Ok(()) => {
                    self.row.failing_since = None;
                    self.row.last_error = None;
                    return self.keep().await;
                }
                Err(error) => {
                    if self.failed(&error).await == Go::Stop {
                        return Go::Stop;
                    }
                }
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Go::Stop,
                () = tokio::time::sleep(waits.next().unwrap_or(policy.retry_max)) => {}
            }
        }
    }

    async fn attempt(&self, notice: &Notice) -> Result<(), SendError> {
        let Ok(_place) = self.inner.webhooks.sends.acquire().await else {
            return Err(SendError::Failed("deliveries have ended".to_owned()));
        };
        let delivery = Delivery {
            id: self.inner.draw_uuid(),
            webhook: &self.row.id,
            url: &self.row.url,
            secret: &self.row.secret,
            at: self.inner.clock.now(),
            notice,
        };
        self.sender.send(&delivery).await
    }

    /// Notes a failure, and gives the webhook up if that is enough.
    async fn failed(&mut self, error: &SendError) -> Go {
        let now = self.inner.clock.now();
        let text: String = error.to_string().chars().take(ERROR_MAX).collect();
        tracing::debug!(webhook = %self.row.id, error = text, "a delivery failed");
        let since = *self.row.failing_since.get_or_insert(now);
        let most = self.inner.config.webhooks.give_up_after;
        let reason = if *error == SendError::Gone {
            Some(text.clone())
        } else if now.saturating_since(since) >= most {
            let hours = most.as_secs() / 3600;
            Some(format!("every delivery failed for {hours} hours: {text}"))
        } else {
            None
        };
        self.row.last_error = Some(text);
        match reason {
            None => self.keep().await,
            Some(reason) => {
                self.give_up(reason).await;
                Go::Stop
            }
        }
    }

    async fn give_up(&self, reason: String) {
        let now = self.inner.clock.now();
        let mut row = self.row.clone();
        let message = format!("webhook `{}` is disabled: {reason}", row.name);
        tracing::warn!(webhook = %row.id, team = %row.team, reason, "a webhook is given up");
        let team = Some(row.team.clone());
        let kind = EventKind::WebhookDisabled;
        let event = events::about(Subject::Fleet, team, now, kind, "warn", message);
        let event = events::with(event, "webhook", row.id.as_str());
        row.is_enabled = false;
        row.disabled_reason = Some(reason);
        row.updated_at = now;
        if let Err(error) = self.inner.store.webhook_update(row, vec![event]).await {
            // The next failure after a restart finds the same.
            tracing::warn!(webhook = %self.row.id, %error, "a webhook is not disabled");
        }
    }

    /// Writes how far it has come.
    async fn keep(&mut self) -> Go {
        self.kept_at = Instant::now();
        let progress = WebhookProgress {
            id: self.row.id.clone(),
            version: self.row.version,
            cursor: self.row.cursor,
            failing_since: self.row.failing_since,
            last_error: self.row.last_error.clone(),
        };
        match self.inner.store.webhook_progress(progress).await {
            Ok(true) => {
                self.kept = self.row.cursor;
                Go::On
            }
            Ok(false) => Go::Stop,
            Err(error) => {
                tracing::warn!(webhook = %self.row.id, %error, "progress is not kept");
                Go::On
            }
        }
    }
}
