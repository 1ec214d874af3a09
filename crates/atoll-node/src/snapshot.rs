//! Copies of paused sandboxes' files in storage that nodes share: a directory that all of them
//! mount, or an S3-compatible service.
//!
//! ```text
//!   <store>/store.json                          who the storage is
//!   <store>/<sandbox>/<generation>/<sha256>     a part of the disk, compressed
//!   <store>/<sandbox>/<generation>/manifest.json
//! ```
//!
//! Invariants:
//! - A part is named by the digest of what is in it, before compression. What is read is compared
//!   with its name, always.
//! - The manifest is written last. Without it there is no snapshot, and an upload that was cut off
//!   goes on with the parts that are there.
//! - A snapshot is told of only after all of it was read back and compared.
//! - Placements share no parts, so that removing one needs no knowledge of the others: an upload
//!   that is under way somewhere cannot lose a part to it.
//!
//! Parts of a disk that are holes or zeros are not kept.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::id::{BuildId, Generation, SandboxId, StoreId, TemplateId};
use atoll_core::snapshot::Digest;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use self::pace::Pace;

mod collect;
mod manifest;
mod open;
mod pace;
mod restore;
mod upload;

pub use open::{Config, InvalidUrl};

/// Bytes of a disk in one part. Small enough that a few of them fit in memory, large enough that a
/// store which charges for each is not asked often.
const PART_BYTES: usize = 4 << 20;

/// Bytes that a compressed part may have: what does not compress grows a little.
const PART_STORED_MAX: u64 = (PART_BYTES + (64 << 10)) as u64;

/// Bytes of a manifest at most: some 120 for each part, so this is a disk of a terabyte.
const MANIFEST_MAX: u64 = 32 << 20;

/// Parts of one snapshot that are under way at a time.
const PARTS_AT_ONCE: usize = 4;

/// Snapshots that one node makes at a time; with the parts at once this bounds the memory, too.
const UPLOADS_AT_ONCE: usize = 2;

/// Name of the manifest beside the parts.
const MANIFEST: &str = "manifest.json";

/// What can go wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage does not do it.
    #[error("{step} in the snapshot store")]
    Store {
        /// What was being done.
        step: &'static str,
        /// What it said.
        #[source]
        source: object_store::Error,
    },
    /// A file of this machine refused.
    #[error("{step} `{path}`")]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the storage has is not what was put there.
    #[error("{part} of the snapshot is damaged: {found}")]
    Damaged {
        /// Which part, by its name in the storage.
        part: String,
        /// What is wrong with it.
        found: String,
    },
    /// Work on this machine did not come to its end.
    #[error("run a blocking step")]
    Cut(#[source] tokio::task::JoinError),
}

impl Error {
    /// Whether it is what the storage has that is wrong, so that another node finds the same.
    #[must_use]
    pub const fn is_of_storage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    fn store(step: &'static str) -> impl FnOnce(object_store::Error) -> Self {
        move |source| Self::Store { step, source }
    }

    fn damaged(part: &Key, found: impl Into<String>) -> Self {
        Self::Damaged {
            part: part.to_string(),
            found: found.into(),
        }
    }
}

/// Of what a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Of {
    /// Which sandbox.
    pub id: SandboxId,
    /// The placement under which it was paused.
    pub generation: Generation,
    /// The template below its files.
    pub template: TemplateId,
    /// The build of that.
    pub build: BuildId,
}

/// A storage of snapshots; clones are the same one.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    objects: Box<dyn ObjectStore>,
    prefix: Key,
    id: StoreId,
    uploads: Semaphore,
    pace: Pace,
}

impl SnapshotStore {
    /// Who it is: nodes that find the same id share it.
    #[must_use]
    pub fn id(&self) -> &StoreId {
        &self.inner.id
    }

    fn folder_of(&self, id: &SandboxId) -> Key {
        self.inner.prefix.clone().join(id.as_str())
    }

    fn folder(&self, id: &SandboxId, generation: Generation) -> Key {
        self.folder_of(id).join(generation.to_string())
    }

    /// An object as a whole, if it is not larger than this.
    async fn read(&self, key: &Key, max: u64) -> Result<bytes::Bytes, Error> {
        const STEP: &str = "read an object";
        let found = match self.inner.objects.get(key).await {
            Ok(found) if found.meta.size > max => {
                let found = format!("it has {} bytes", found.meta.size);
                return Err(Error::damaged(key, found));
            }
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(Error::damaged(key, "it is missing"));
            }
            Err(source) => return Err(Error::Store { step: STEP, source }),
        };
        self.inner.pace.pass(found.meta.size).await;
        found.bytes().await.map_err(Error::store(STEP))
    }

    /// What is in a part, compared with its name.
    async fn read_part(&self, key: Key, digest: Digest) -> Result<Vec<u8>, Error> {
        let stored = self.read(&key, PART_STORED_MAX).await?;
        blocking(move || {
            let content = zstd::bulk::decompress(&stored, PART_BYTES)
                .map_err(|error| Error::damaged(&key, error.to_string()))?;
            let found = sha256(&content);
            if found == digest {
                return Ok(content);
            }
            Err(Error::damaged(&key, format!("its digest is {found}")))
        })
        .await
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::digest(bytes).into())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::Cut)?
}
