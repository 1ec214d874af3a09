//! Webhooks: who is told of events over the network, and how far each has come.
//!
//! Two sides write a row: its owner, and whoever delivers. Each change of the owner raises the
//! version, and a delivery's progress under an older version is refused, so a delivery that is on
//! its way when the owner changes something undoes nothing.

use async_trait::async_trait;
use atoll_core::event::{Cursor, EventKind};
use atoll_core::id::{TeamId, WebhookId};
use atoll_core::time::Timestamp;

use crate::store::{EventRow, Result};

/// What deliveries are signed with. Kept as it is, because signing needs it; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(String);

impl SigningSecret {
    /// Wraps a secret.
    #[must_use]
    pub const fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

/// One webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRow {
    /// Its id.
    pub id: WebhookId,
    /// Whose it is.
    pub team: TeamId,
    /// Its name, for people.
    pub name: String,
    /// Where deliveries go.
    pub url: String,
    /// What it wants.
    pub kinds: Vec<EventKind>,
    /// What deliveries are signed with.
    pub secret: SigningSecret,
    /// Whether anything is delivered.
    pub is_enabled: bool,
    /// Why it was given up, if it was.
    pub disabled_reason: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its owner changed it last, or it was given up.
    pub updated_at: Timestamp,
    /// Raised with every such change; the first is 1.
    pub version: u64,
    /// Everything up to here was delivered.
    pub cursor: Cursor,
    /// Since when every attempt has failed.
    pub failing_since: Option<Timestamp>,
    /// How the last attempt failed.
    pub last_error: Option<String>,
}

/// How far deliveries have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookProgress {
    /// To which webhook.
    pub id: WebhookId,
    /// Under which version.
    pub version: u64,
    /// Everything up to here was delivered.
    pub cursor: Cursor,
    /// Since when every attempt has failed.
    pub failing_since: Option<Timestamp>,
    /// How the last attempt failed.
    pub last_error: Option<String>,
}

/// Durable state of webhooks; part of [`crate::store::Store`].
#[async_trait]
pub trait WebhookStore {
    /// Adds a webhook, unless its team has `most` already. Answers whether it did.
    async fn webhook_insert(&self, row: &WebhookRow, most: u32) -> Result<bool>;

    /// One webhook.
    async fn webhook_get(&self, id: &WebhookId) -> Result<Option<WebhookRow>>;

    /// A team's webhooks, oldest first.
    async fn webhook_list(&self, team: &TeamId) -> Result<Vec<WebhookRow>>;

    /// A page of all webhooks that are enabled, by id.
    async fn webhook_list_enabled(
        &self,
        after: Option<&WebhookId>,
        limit: u32,
    ) -> Result<Vec<WebhookRow>>;

    /// Replaces a webhook and raises its version, if that is still the given row's; with the events
    /// that tell of it. Answers the new row.
    async fn webhook_update(
        &self,
        row: WebhookRow,
        events: Vec<EventRow>,
    ) -> Result<Option<WebhookRow>>;

    /// Keeps how far deliveries have come. Answers whether the webhook is still of that version.
    async fn webhook_progress(&self, progress: WebhookProgress) -> Result<bool>;

    /// Removes one of the team's webhooks. Answers whether there was one.
    async fn webhook_remove(&self, team: &TeamId, id: &WebhookId) -> Result<bool>;
}
