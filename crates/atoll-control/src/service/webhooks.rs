//! Webhooks of a team.

use std::sync::Arc;

use atoll_core::error::ErrorKind;
use atoll_core::event::EventKind;
use atoll_core::id::WebhookId;
use atoll_store::webhook::{SigningSecret, WebhookRow};
use secrecy::{ExposeSecret as _, SecretString};

use super::{ControlPlane, demand_full, unavailable};
use crate::error::{Error, Result};
use crate::limit::{WEBHOOK_NAME_MAX, WEBHOOK_SECRET_MAX, WEBHOOK_SECRET_MIN, WEBHOOK_URL_MAX};
use crate::request::{NewWebhook, WebhookChange};
use crate::view::{Tenant, WebhookView};
use crate::webhooks::{self, WebhookSender};

impl ControlPlane {
    /// Begins to deliver to webhooks through this sender; without it there are none. Ends with the
    /// control plane.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer.
    pub async fn webhooks_deliver(&self, sender: Arc<dyn WebhookSender>) -> Result<()> {
        webhooks::begin(&self.inner, sender)
            .await
            .map_err(unavailable)
    }

    /// Makes a webhook. It gets what happens from now on.
    ///
    /// # Errors
    /// `InvalidArgument`, `QuotaExceeded` (too many of the team), `PermissionDenied`,
    /// `Unsupported` if this installation delivers none.
    pub async fn webhook_create(&self, tenant: &Tenant, new: NewWebhook) -> Result<WebhookView> {
        demand_full(tenant)?;
        self.check_name(&new.name)?;
        self.check_url(&new.url)?;
        check_kinds(&new.kinds)?;
        let secret = check_secret(&new.secret)?;
        let inner = &self.inner;
        let now = inner.clock.now();
        let id = inner.draw_uuid();
        let row = WebhookRow {
            id: id.parse().expect("a UUID's text is a valid webhook id"),
            team: tenant.team.clone(),
            name: new.name,
            url: new.url,
            kinds: new.kinds,
            secret,
            is_enabled: new.is_enabled,
            disabled_reason: None,
            created_at: now,
            updated_at: now,
            version: 1,
            cursor: inner.bus.now(),
            failing_since: None,
            last_error: None,
        };
        let most = inner.config.webhooks_per_team_max;
        let inserted = inner.store.webhook_insert(&row, most);
        if !inserted.await.map_err(unavailable)? {
            return Err(Error::new(
                ErrorKind::QuotaExceeded,
                format!("a team has at most {most} webhooks"),
            ));
        }
        let view = WebhookView::from(&row);
        webhooks::start(inner, row);
        Ok(view)
    }

    /// The team's webhooks, oldest first.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer.
    pub async fn webhook_list(&self, tenant: &Tenant) -> Result<Vec<WebhookView>> {
        let rows = self.inner.store.webhook_list(&tenant.team).await;
        let rows = rows.map_err(unavailable)?;
        Ok(rows.iter().map(WebhookView::from).collect())
    }

    /// One of the team's webhooks.
    ///
    /// # Errors
    /// `NotFound` for an unknown or foreign one.
    pub async fn webhook_get(&self, tenant: &Tenant, id: &WebhookId) -> Result<WebhookView> {
        Ok(WebhookView::from(&self.webhook_row(tenant, id).await?))
    }

    async fn webhook_row(&self, tenant: &Tenant, id: &WebhookId) -> Result<WebhookRow> {
        let row = self.inner.store.webhook_get(id).await;
        row.map_err(unavailable)?
            .filter(|row| row.team == tenant.team)
            .ok_or_else(no_webhook)
    }

    /// Changes a webhook. One that its owner had disabled begins with what happens from now on; one
    /// that was given up goes on where it stopped.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`, `PermissionDenied`, `Unsupported`; `Conflict` if somebody
    /// else changed it at the same time.
    pub async fn webhook_update(
        &self,
        tenant: &Tenant,
        id: &WebhookId,
        change: WebhookChange,
    ) -> Result<WebhookView> {
        demand_full(tenant)?;
        let mut row = self.webhook_row(tenant, id).await?;
        if let Some(name) = change.name {
            self.check_name(&name)?;
            row.name = name;
        }
        if let Some(url) = change.url {
            self.check_url(&url)?;
            row.url = url;
        }
        if let Some(kinds) = change.kinds {
            check_kinds(&kinds)?;
            row.kinds = kinds;
        }
        if let Some(secret) = &change.secret {
            row.secret = check_secret(secret)?;
        }
        let inner = &self.inner;
        if let Some(is_enabled) = change.is_enabled {
            let was_given_up = row.disabled_reason.take().is_some();
            if is_enabled && !row.is_enabled && !was_given_up {
                row.cursor = inner.bus.now();
            }
            row.is_enabled = is_enabled;
            row.failing_since = None;
            row.last_error = None;
        }
        row.updated_at = inner.clock.now();
        let updated = inner.store.webhook_update(row, Vec::new()).await;
        let row = updated.map_err(unavailable)?.ok_or_else(|| {
            Error::new(
                ErrorKind::Conflict,
                "the webhook was changed or removed at the same time",
            )
        })?;
        let view = WebhookView::from(&row);
        webhooks::start(inner, row);
        Ok(view)
    }

    /// Removes a webhook. Answers what it was.
    ///
    /// # Errors
    /// `NotFound` for an unknown or foreign one; `PermissionDenied`.
    pub async fn webhook_remove(&self, tenant: &Tenant, id: &WebhookId) -> Result<WebhookView> {
        demand_full(tenant)?;
        let row = self.webhook_row(tenant, id).await?;
        let removed = self.inner.store.webhook_remove(&tenant.team, id).await;
        if !removed.map_err(unavailable)? {
            return Err(no_webhook());
        }
        self.inner.webhooks.stop(id);
        Ok(WebhookView::from(&row))
    }

    fn check_name(&self, name: &str) -> Result<()> {
        let length = name.chars().count();
        if length == 0 || length > WEBHOOK_NAME_MAX || name.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "a webhook's name has 1 to {WEBHOOK_NAME_MAX} printable characters"
            )));
        }
        Ok(())
    }

    fn check_url(&self, url: &str) -> Result<()> {
        let Some(sender) = self.inner.webhooks.sender() else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this server delivers no webhooks",
            ));
        };
        if url.len() > WEBHOOK_URL_MAX {
            return Err(Error::invalid(format!(
                "a webhook's url has at most {WEBHOOK_URL_MAX} bytes"
            )));
        }
        sender
            .check(url)
            .map_err(|why| Error::invalid(format!("webhook url: {why}")))
    }
}

fn no_webhook() -> Error {
    Error::new(ErrorKind::NotFound, "no such webhook")
}

fn check_kinds(kinds: &[EventKind]) -> Result<()> {
    if kinds.is_empty() {
        return Err(Error::invalid("a webhook wants at least one kind of event"));
    }
    if kinds.contains(&EventKind::Log) {
        return Err(Error::invalid(
            "lines of logs are not delivered to webhooks",
        ));
    }
    Ok(())
}

fn check_secret(secret: &SecretString) -> Result<SigningSecret> {
    let text = secret.expose_secret();
    if text.len() < WEBHOOK_SECRET_MIN || text.len() > WEBHOOK_SECRET_MAX {
        return Err(Error::invalid(format!(
            "a webhook's secret has {WEBHOOK_SECRET_MIN} to {WEBHOOK_SECRET_MAX} bytes"
        )));
    }
    Ok(SigningSecret::new(text.to_owned()))
}
