//! Webhooks: events carried to receivers over the network.
//!
//! Each enabled webhook has a task of its own, which is a reader of the bus with a durable cursor:
//! a receiver that is dead or slow holds up its own events and no other's. An event goes out again
//! until the receiver accepts it, so a receiver gets each at least once and in the order of the
//! commits. A webhook to which nothing could be delivered for long is given up: it is disabled, an
//! event tells of it, and its place is kept for when its owner enables it again.
//!
//! What goes over the wire is the [`WebhookSender`]'s: this module knows no HTTP.

mod courier;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::event::Cursor;
use atoll_core::id::{TeamId, WebhookId};
use atoll_core::sandbox::Sandbox;
use atoll_core::time::Timestamp;
use atoll_store::webhook::{SigningSecret, WebhookRow};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::limit::WEBHOOK_SENDS_MAX;
use crate::lock::lock;
use crate::service::Inner;
use crate::view::EventView;

/// Webhooks read at a time where all are started.
const START_PAGE: u32 = 256;

/// How webhooks are tried again and given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookPolicy {
    /// How long after the first failure there is another attempt; it doubles from there, with
    /// jitter.
    pub retry_min: Duration,
    /// The longest wait between attempts.
    pub retry_max: Duration,
    /// A webhook is disabled when every attempt failed for so long.
    pub give_up_after: Duration,
}

/// What every installation does.
pub const WEBHOOK_POLICY: WebhookPolicy = WebhookPolicy {
    retry_min: Duration::from_secs(1),
    // A receiver that is back is noticed within this.
    retry_max: Duration::from_secs(600),
    // A receiver that broke on a Friday evening is found on Monday.
    give_up_after: Duration::from_secs(3 * 24 * 3600),
};

/// What a receiver is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// Something happened.
    Event {
        /// What.
        event: EventView,
        /// The sandbox that it happened to, as it is now, as long as it is known.
        sandbox: Option<Box<Sandbox>>,
    },
    /// Events may be missing here: they were pruned before they could be delivered.
    Lagged {
        /// Whose.
        team: TeamId,
        /// Up to where.
        through: Cursor,
        /// How many were pruned, of all kinds and teams: the most that can be missing.
        missed: u64,
    },
}

/// One attempt to tell a receiver something.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// Names the attempt.
    pub id: String,
    /// Which webhook.
    pub webhook: &'a WebhookId,
    /// Where it goes.
    pub url: &'a str,
    /// What it is signed with.
    pub secret: &'a SigningSecret,
    /// When it is signed.
    pub at: Timestamp,
    /// What is told.
    pub notice: &'a Notice,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The receiver says that it is no more: there will be no other attempt.
    #[error("the receiver answered that it is gone")]
    Gone,
    /// It was not reached or did not accept.
    #[error("{0}")]
    Failed(String),
}

/// Carries deliveries. Every attempt is bounded in time.
#[async_trait]
pub trait WebhookSender: Send + Sync + std::fmt::Debug {
    /// Whether a webhook may point there; otherwise why not, in words for its owner.
    ///
    /// # Errors
    /// The words.
    fn check(&self, url: &str) -> Result<(), String>;

    /// Makes one attempt.
    ///
    /// # Errors
    /// See [`SendError`].
    async fn send(&self, delivery: &Delivery<'_>) -> Result<(), SendError>;
}

/// The webhooks that are being delivered to.
#[derive(Debug)]
pub(crate) struct Webhooks {
    sender: OnceLock<Arc<dyn WebhookSender>>,
    running: Mutex<BTreeMap<WebhookId, Running>>,
    sends: Semaphore,
}

/// Deliveries to one webhook, as its row was at this version.
#[derive(Debug)]
struct Running {
    version: u64,
    cancel: CancellationToken,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            sender: OnceLock::new(),
            running: Mutex::default(),
            sends: Semaphore::new(WEBHOOK_SENDS_MAX),
        }
    }
}

impl Webhooks {
    pub(crate) fn sender(&self) -> Option<&Arc<dyn WebhookSender>> {
        self.sender.get()
    }

    /// Ends deliveries to a webhook.
    pub(crate) fn stop(&self, id: &WebhookId) {
        if let Some(running) = lock(&self.running).remove(id) {
            running.cancel.cancel();
        }
    }

    /// Ends all deliveries.
    pub(crate) fn stop_all(&self) {
        for running in std::mem::take(&mut *lock(&self.running)).into_values() {
            running.cancel.cancel();
        }
    }

    fn is_running(&self, row: &WebhookRow) -> bool {
        let running = lock(&self.running);
        let running = running.get(&row.id);
        running.is_some_and(|running| running.version == row.version)
    }
}

/// Begins to deliver through this sender, to every webhook that is enabled. Only the first call
/// does anything.
pub(crate) async fn begin(
    inner: &Arc<Inner>,
    sender: Arc<dyn WebhookSender>,
) -> atoll_store::store::Result<()> {
    if inner.webhooks.sender.set(sender).is_err() || !inner.servers.is_on_duty() {
        return Ok(());
    }
    start_all(inner).await
}

/// Delivers to every webhook that is enabled, and to no other, whichever server changed them.
///
/// # Errors
/// If the store does not answer; what is under way goes on.
pub(crate) async fn start_all(inner: &Arc<Inner>) -> atoll_store::store::Result<()> {
    let mut enabled = BTreeSet::new();
    let mut after: Option<WebhookId> = None;
    loop {
        let page = inner.store.webhook_list_enabled(after.as_ref(), START_PAGE);
        let rows = page.await?;
        let Some(last) = rows.last() else {
            break;
        };
        after = Some(last.id.clone());
        for row in rows {
            enabled.insert(row.id.clone());
            if !inner.webhooks.is_running(&row) {
                start(inner, row);
            }
        }
    }
    let running: Vec<_> = lock(&inner.webhooks.running).keys().cloned().collect();
    for id in running.iter().filter(|id| !enabled.contains(*id)) {
        inner.webhooks.stop(id);
    }
    Ok(())
}

/// Has deliveries to a webhook go on as its row says, in the place of what was under way.
pub(crate) fn start(inner: &Arc<Inner>, row: WebhookRow) {
    inner.webhooks.stop(&row.id);
    let Some(sender) = inner.webhooks.sender() else {
        return;
    };
    // The one on duty finds it at its next look.
    if !row.is_enabled || !inner.servers.is_on_duty() {
        return;
    }
    let cancel = inner.cancel.child_token();
    let running = Running {
        version: row.version,
        cancel: cancel.clone(),
    };
    lock(&inner.webhooks.running).insert(row.id.clone(), running);
    let sender = Arc::clone(sender);
    let courier = courier::Courier::new(Arc::clone(inner), sender, row, cancel);
    inner.tasks.spawn(courier.run());
}
