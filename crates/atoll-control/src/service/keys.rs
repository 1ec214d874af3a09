//! Keys: who is asking, and managing them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use atoll_core::error::ErrorKind;
use atoll_core::id::KeyId;
use atoll_store::store::{Inserted, KeyRow};
use secrecy::ExposeSecret as _;

use super::{ControlPlane, Inner, demand_full, unavailable};
use crate::error::{Error, Result};
use crate::key::{self, BODY_LEN, PREFIX};
use crate::lock::lock;
use crate::view::{CreatedKey, KeyView, Scope, Tenant};

/// Keys that were seen and are valid. When there are more, all are looked up again.
const KNOWN_MAX: usize = 10_000;

/// Keys of one team.
const KEYS_PER_TEAM_MAX: usize = 100;

/// The longest name of a key, in characters.
const NAME_MAX: usize = 128;

/// Valid keys by hash, so that a request need not read the store to know who asks.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    tenants: Mutex<BTreeMap<String, Tenant>>,
}

impl KnownKeys {
    fn get(&self, hash: &str) -> Option<Tenant> {
        lock(&self.tenants).get(hash).cloned()
    }

    fn put(&self, hash: String, tenant: Tenant) {
        let mut tenants = lock(&self.tenants);
        if tenants.len() >= KNOWN_MAX {
            tenants.clear();
        }
        tenants.insert(hash, tenant);
    }

    fn forget(&self, key: &KeyId) {
        lock(&self.tenants).retain(|_, tenant| tenant.key != *key);
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

impl Inner {
    pub(super) fn draw_key_id(&self) -> KeyId {
        self.draw_uuid()
            .parse()
            .expect("a UUID's text is a valid key id")
    }
}

impl ControlPlane {
    /// Tells who presents this key.
    ///
    /// # Errors
    /// `Unauthenticated` for a malformed, unknown or revoked key.
    pub async fn authenticate(&self, presented: &str) -> Result<Tenant> {
        let digested = key::digest(presented).ok_or_else(|| {
            Error::new(
                ErrorKind::Unauthenticated,
                "invalid API key: it is `e2b_` followed by 40 hexadecimal digits",
            )
        })?;
        if let Some(tenant) = self.inner.keys.get(&digested.hash) {
            return Ok(tenant);
        }
        let row = self
            .inner
            .store
            .key_find(&digested.hash)
            .await
            .map_err(unavailable)?
            .ok_or_else(|| Error::new(ErrorKind::Unauthenticated, "unknown API key"))?;
        let tenant = Tenant {
            scope: scope(&row),
            team: row.team,
            key: row.id,
        };
        self.inner.keys.put(digested.hash, tenant.clone());
        Ok(tenant)
    }

    /// Makes a key for the caller's team.
    ///
    /// # Errors
    /// `InvalidArgument` (name), `QuotaExceeded` (too many keys), `PermissionDenied`.
    pub async fn key_create(
        &self,
        tenant: &Tenant,
        name: &str,
        scope: Scope,
    ) -> Result<CreatedKey> {
        demand_full(tenant)?;
        let length = name.chars().count();
        if length == 0 || length > NAME_MAX || name.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "a key's name has 1 to {NAME_MAX} characters, none of them a control character"
            )));
        }
        let inner = &self.inner;
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
