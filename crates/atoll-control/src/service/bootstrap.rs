//! What the first start makes: the default team and a key.

use atoll_store::store::{Inserted, KeyRow};
use secrecy::{ExposeSecret as _, SecretString};

use super::{ControlPlane, unavailable};
use crate::error::{Error, Result};
use crate::key;
use crate::view::Bootstrapped;

impl ControlPlane {
    /// Makes the default team and a key, once. With `key` given (`e2b_` and 40 hex digits), that
    /// key works afterwards; without, a key is made if the team has none.
    ///
    /// # Errors
    /// `InvalidArgument` for a key of another form; `Unavailable` for the store.
    pub async fn bootstrap(&self, key: Option<SecretString>) -> Result<Bootstrapped> {
        let inner = &self.inner;
        let team = inner
            .store
            .meta_ensure("default_team", &inner.draw_uuid())
            .await
            .map_err(unavailable)?
            .parse()
            .map_err(|error| Error::invalid("the stored team id is damaged").with_source(error))?;
        let now = inner.clock.now();
        inner
            .store
            .team_ensure(&team, "default", now)
            .await
            .map_err(unavailable)?;
        let text = match key {
            Some(text) => text,
            None => {
                let keys = inner.store.key_list(&team).await.map_err(unavailable)?;
                if !keys.is_empty() {
                    return Ok(Bootstrapped { team, key: None });
                }
                key::generate(inner.random.as_ref())
            }
        };
        let digested = key::digest(text.expose_secret()).ok_or_else(|| {
            Error::invalid("an API key is `e2b_` followed by 40 hexadecimal digits")
        })?;
        let row = KeyRow {
            id: inner.draw_key_id(),
            team: team.clone(),
            name: "default".to_owned(),
            hash: digested.hash,
            masked_start: digested.masked_start,
            masked_end: digested.masked_end,
            is_read_only: false,
            created_at: now,
            created_by: None,
            last_used_at: None,
        };
        match inner.store.key_insert(&row).await.map_err(unavailable)? {
            Inserted::Yes | Inserted::AlreadyExists => {}
        }
        Ok(Bootstrapped {
            team,
            key: Some(text),
        })
    }
}
