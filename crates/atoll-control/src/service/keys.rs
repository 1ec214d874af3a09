//! Keys: who is asking, and managing them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use atoll_core::error::ErrorKind;
use atoll_core::id::KeyId;
use atoll_core::time::Timestamp;
use atoll_store::store::{Inserted, KeyRow};
use secrecy::ExposeSecret as _;

use super::{ControlPlane, Inner, demand_full, unavailable};
use crate::error::{Error, Result};
use crate::key::{self, BODY_LEN, PREFIX};
use crate::limit::{KEY_NAME_MAX, KEYS_PER_TEAM_MAX, KNOWN_KEYS_MAX};
use crate::lock::lock;
use crate::view::{CreatedKey, KeyView, Scope, Tenant};

/// How far the written time of a key's last use may lag: a write a minute and key, not one a
/// request.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// Valid keys by hash, so that a request need not read the store to know who asks.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    keys: BTreeMap<String, KnownKey>,
    /// When keys were presented, as far as that is to be written.
    used: BTreeMap<KeyId, Timestamp>,
    /// Raised by each revocation: a key that was looked up before is not kept, or it would work
    /// for ever.
    epoch: u64,
}

#[derive(Debug)]
struct KnownKey {
    tenant: Tenant,
    /// What the store knows of its last use, or will.
    last_used_at: Option<Timestamp>,
}

impl KnownKeys {
    /// Who presents the key with this hash, and what [`Self::put`] must be told if it is unknown.
    fn get(&self, hash: &str, now: Timestamp) -> std::result::Result<Tenant, u64> {
        let mut known = lock(&self.known);
        let Known { keys, used, epoch } = &mut *known;
        let key = keys.get_mut(hash).ok_or(*epoch)?;
        let is_due = key
            .last_used_at
            .is_none_or(|last| now.saturating_since(last) >= TOUCH_INTERVAL);
        if is_due {
            key.last_used_at = Some(now);
            used.insert(key.tenant.key.clone(), now);
        }
        Ok(key.tenant.clone())
    }

    fn epoch(&self) -> u64 {
        lock(&self.known).epoch
    }

    fn put(&self, hash: String, key: KnownKey, epoch: u64) {
        let mut known = lock(&self.known);
        if known.epoch != epoch {
            return;
        }
        if known.keys.len() >= KNOWN_KEYS_MAX {
            known.keys.clear();
        }
        known.keys.insert(hash, key);
    }

    fn forget(&self, key: &KeyId) {
        let mut known = lock(&self.known);
        known.epoch += 1;
        known.keys.retain(|_, known| known.tenant.key != *key);
        known.used.remove(key);
    }
}

const fn scope(row: &KeyRow) -> Scope {
    if row.is_read_only {
        Scope::ReadOnly
    } else {
        Scope::Full
    }
}

fn view(row: &KeyRow) -> KeyView {
    KeyView {
        id: row.id.clone(),
        name: row.name.clone(),
        prefix: PREFIX.to_owned(),
        body_len: u32::try_from(BODY_LEN).unwrap_or(u32::MAX),
        masked_start: row.masked_start.clone(),
        masked_end: row.masked_end.clone(),
        scope: scope(row),
        created_at: row.created_at,
        created_by: row.created_by.clone(),
        last_used_at: row.last_used_at,
    }
}

fn unknown_key() -> Error {
    Error::new(ErrorKind::Unauthenticated, "unknown API key")
}

impl Inner {
    /// Who has the key with this hash.
    ///
    /// What is compared is a digest of 160 random bits, and by look-up: how long that takes says
    /// nothing about any key that exists.
    async fn tenant_of(&self, hash: String) -> Result<Tenant> {
        let epoch = match self.keys.get(&hash, self.clock.now()) {
            // With others on the store, one of them may have revoked it.
            Ok(tenant) if self.servers.is_alone() => return Ok(tenant),
            Ok(_) => self.keys.epoch(),
            Err(epoch) => epoch,
        };
        let row = self.store.key_find(&hash).await.map_err(unavailable)?;
        let row = row.ok_or_else(unknown_key)?;
        let tenant = Tenant {
            scope: scope(&row),
            team: row.team,
            key: row.id,
            receipt: None,
        };
        let key = KnownKey {
            tenant: tenant.clone(),
            last_used_at: row.last_used_at,
        };
        self.keys.put(hash.clone(), key, epoch);
        // Once more, for the time of its use.
        let _ = self.keys.get(&hash, self.clock.now());
        Ok(tenant)
    }

    /// Writes when keys were last presented.
    pub(crate) async fn flush_key_uses(&self) {
        let used = std::mem::take(&mut lock(&self.keys.known).used);
        if used.is_empty() {
            return;
        }
        // What is lost here is seen again a minute later, if the key is still used.
        if let Err(error) = self.store.key_touch(used.into_iter().collect()).await {
            tracing::warn!(%error, "when keys were used is not written");
        }
    }

    pub(super) fn draw_key_id(&self) -> KeyId {
        self.draw_uuid()
            .parse()
            .expect("a UUID's text is a valid key id")
    }
}

impl ControlPlane {
    /// Tells who presents this key, and counts it as one request of its team.
    ///
    /// # Errors
    /// `Unauthenticated` for a malformed, unknown or revoked key; `PermissionDenied` for one of a
    /// disabled team; `RateLimited` if the team asks too fast.
    pub async fn authenticate(&self, presented: &str) -> Result<Tenant> {
        let digested = key::digest(presented).ok_or_else(|| {
            Error::new(
                ErrorKind::Unauthenticated,
                "invalid API key: it is `e2b_` followed by 40 hexadecimal digits",
            )
        })?;
        let tenant = self.inner.tenant_of(digested.hash).await?;
        let gate = self.inner.gate_now(&tenant.team).await?;
        // A key refers to its team, which is never removed.
        let gate = gate.ok_or_else(unknown_key)?;
        gate.demand_enabled()?;
        let requests = gate.requests();
        self.inner
            .take_place(&tenant.team, "requests", requests)
            .await?;
        Ok(tenant)
    }

    /// Makes a key for the caller's team.
    ///
    /// # Errors
    /// `InvalidArgument` (name), `QuotaExceeded` (too many keys), `PermissionDenied`, `NotFound`
    /// (the team an operator named).
    pub async fn key_create(
        &self,
        tenant: &Tenant,
        name: &str,
        scope: Scope,
    ) -> Result<CreatedKey> {
        demand_full(tenant)?;
        let length = name.chars().count();
        if length == 0 || length > KEY_NAME_MAX || name.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "a key's name has 1 to {KEY_NAME_MAX} characters, none of them a control character"
            )));
        }
        let inner = &self.inner;
        if inner.gate(&tenant.team).await?.is_none() {
            let message = format!("there is no team `{}`", tenant.team);
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let keys = inner.store.key_list(&tenant.team).await;
        if keys.map_err(unavailable)?.len() >= KEYS_PER_TEAM_MAX {
            return Err(Error::new(
                ErrorKind::QuotaExceeded,
                format!("a team has at most {KEYS_PER_TEAM_MAX} keys; revoke one first"),
            ));
        }
        let text = key::generate(inner.random.as_ref());
        let digested =
            key::digest(text.expose_secret()).expect("a generated key has the form of a key");
        let row = KeyRow {
            id: inner.draw_key_id(),
            team: tenant.team.clone(),
            name: name.to_owned(),
            hash: digested.hash,
            masked_start: digested.masked_start,
            masked_end: digested.masked_end,
            is_read_only: scope == Scope::ReadOnly,
            created_at: inner.clock.now(),
            created_by: Some(tenant.key.clone()),
            last_used_at: None,
        };
        match inner.store.key_insert(&row).await.map_err(unavailable)? {
            Inserted::Yes => Ok(CreatedKey {
                view: view(&row),
                text,
            }),
            Inserted::AlreadyExists => Err(Error::new(
                ErrorKind::Internal,
                "the generated key exists already",
            )),
        }
    }

    /// The keys of the caller's team, oldest first.
    ///
    /// # Errors
    /// `Unavailable` for the store.
    pub async fn key_list(&self, tenant: &Tenant) -> Result<Vec<KeyView>> {
        let rows = self.inner.store.key_list(&tenant.team).await;
        Ok(rows.map_err(unavailable)?.iter().map(view).collect())
    }

    /// Revokes a key of the caller's team, at once.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn key_revoke(&self, tenant: &Tenant, key: &KeyId) -> Result<()> {
        demand_full(tenant)?;
        let removed = self.inner.store.key_remove(&tenant.team, key).await;
        let removed = removed.map_err(unavailable)?;
        self.inner.keys.forget(key);
        if removed {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no API key `{key}`"),
            ))
        }
    }
}
