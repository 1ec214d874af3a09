//! Finding a storage, and who it is.

use std::num::NonZeroU32;
use std::path::Path;

use atoll_core::id::StoreId;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutPayload, RetryConfig};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::{Arc, Duration, Error, Inner, Pace, Semaphore, SnapshotStore, UPLOADS_AT_ONCE};

/// The object that says who the storage is.
const IDENTITY: &str = "store.json";

/// The file of the data directory that remembers it.
const REMEMBERED: &str = "snapshot-store.json";

/// How long one request is tried again before the whole work is, later.
const RETRY_FOR: Duration = Duration::from_secs(20);

/// How often one request is tried again.
const RETRIES_MAX: usize = 4;

/// How to reach a storage.
#[derive(Debug, Clone)]
pub struct Config {
    /// `file:///DIRECTORY` or `s3://BUCKET/PREFIX`.
    pub url: String,
    /// Settings of the S3 client by their AWS names, over those of the environment.
    pub options: Vec<(String, SecretString)>,
    /// How fast snapshots come and go; none: as fast as it goes.
    pub mib_per_second: Option<NonZeroU32>,
}

/// Why there is no storage.
#[derive(Debug, thiserror::Error)]
pub enum InvalidUrl {
    /// The text is none.
    #[error("`{0}` is no snapshot store: write file:///DIRECTORY or s3://BUCKET/PREFIX")]
    Text(String),
    /// A setting is none of the client's.
    #[error("`{0}` is no setting of an S3 client")]
    Option(String),
    /// The client refuses its settings.
    #[error("set up the client of the snapshot store")]
    Client(#[source] object_store::Error),
    /// It does not answer, and was never seen.
    #[error("find out who the snapshot store is")]
    Away(#[source] Error),
    /// Who it is cannot be remembered.
    #[error("remember the snapshot store")]
    Remember(#[source] std::io::Error),
}

#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    v: u32,
    id: String,
    /// In the data directory only: which storage that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

impl SnapshotStore {
    /// Finds the storage. One that was seen before may be away; `fresh` becomes the id of one that
    /// is used for the first time.
    ///
    /// # Errors
    /// [`InvalidUrl`].
    pub async fn open(
        config: &Config,
        data_dir: &Path,
        fresh: StoreId,
    ) -> Result<Self, InvalidUrl> {
        let (objects, prefix) = client(config)?;
        let id = match identify(objects.as_ref(), &prefix, fresh).await {
            Ok(id) => {
                remember(data_dir, &config.url, &id).map_err(InvalidUrl::Remember)?;
                id
            }
            Err(error) => {
                let known = recall(data_dir, &config.url);
                let id = known.ok_or(InvalidUrl::Away(error))?;
                tracing::warn!(store = %id, "the snapshot store does not answer; it is tried on");
                id
            }
        };
        Ok(Self {
            inner: Arc::new(Inner {
                objects,
                prefix,
                id,
                uploads: Semaphore::new(UPLOADS_AT_ONCE),
                pace: Pace::new(config.mib_per_second),
            }),
        })
    }
}

fn client(config: &Config) -> Result<(Box<dyn ObjectStore>, Key), InvalidUrl> {
    let invalid = || InvalidUrl::Text(config.url.chars().take(256).collect());
    if let Some(directory) = config.url.strip_prefix("file://") {
        if !Path::new(directory).is_absolute() {
            return Err(invalid());
        }
        // It has to be there: a mount that is missing must not become a directory of this machine.
        let objects = LocalFileSystem::new_with_prefix(directory).map_err(InvalidUrl::Client)?;
        let objects = objects.with_fsync(true).with_automatic_cleanup(true);
        return Ok((Box::new(objects), Key::default()));
    }
    let rest = config.url.strip_prefix("s3://").ok_or_else(invalid)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = Key::parse(prefix).map_err(|_| invalid())?;
    if bucket.is_empty() || bucket.contains(['@', '?', '#']) {
        return Err(invalid());
    }
    let retry = RetryConfig {
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_FOR,
        ..RetryConfig::default()
    };
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retry);
    for (name, value) in &config.options {
        let key: AmazonS3ConfigKey = name.parse().map_err(|_| InvalidUrl::Option(name.clone()))?;
        builder = builder.with_config(key, value.expose_secret());
    }
    let objects = builder.build().map_err(InvalidUrl::Client)?;
    Ok((Box::new(objects), prefix))
}

/// Who the storage is: whoever comes first says so.
async fn identify(
    objects: &dyn ObjectStore,
    prefix: &Key,
    fresh: StoreId,
) -> Result<StoreId, Error> {
    let key = prefix.clone().join(IDENTITY);
    if let Some(id) = read(objects, &key).await? {
        return Ok(id);
    }
    let identity = Identity {
        v: 1,
        id: fresh.to_string(),
        url: None,
    };
    let bytes = serde_json::to_vec(&identity).unwrap_or_default();
    let payload = PutPayload::from(bytes);
    let create = objects
        .put_opts(&key, payload.clone(), PutMode::Create.into())
        .await;
    let written = match create {
        // Not every S3-compatible service can create without overwriting.
        Err(object_store::Error::NotImplemented { .. }) => {
            objects.put(&key, payload).await.map(drop)
        }
        Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
        other => other.map(drop),
    };
    written.map_err(Error::store("say who it is"))?;
    let found = read(objects, &key).await?;
    found.ok_or_else(|| Error::damaged(&key, "it is missing after it was written"))
}

async fn read(objects: &dyn ObjectStore, key: &Key) -> Result<Option<StoreId>, Error> {
    let found = match objects.get(key).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(Error::store("read who it is")(error)),
    };
    let bytes = found.bytes().await;
    let bytes = bytes.map_err(Error::store("read who it is"))?;
    let identity: Identity =
        serde_json::from_slice(&bytes).map_err(|error| Error::damaged(key, error.to_string()))?;
    let id = identity.id.parse();
    id.map(Some)
        .map_err(|_| Error::damaged(key, "it has no id"))
}

fn remember(data_dir: &Path, url: &str, id: &StoreId) -> std::io::Result<()> {
    let identity = Identity {
        v: 1,
        id: id.to_string(),
        url: Some(url.to_owned()),
    };
    let path = data_dir.join(REMEMBERED);
    let temporary = path.with_extension("new");
    std::fs::create_dir_all(data_dir)?;
    std::fs::write(&temporary, serde_json::to_vec(&identity)?)?;
    std::fs::rename(&temporary, &path)
}

fn recall(data_dir: &Path, url: &str) -> Option<StoreId> {
    let bytes = std::fs::read(data_dir.join(REMEMBERED)).ok()?;
    let identity: Identity = serde_json::from_slice(&bytes).ok()?;
    let is_same = identity.url.as_deref() == Some(url);
    is_same.then(|| identity.id.parse().ok()).flatten()
}
