//! Finding what the storage has, and removing what nobody needs any more. Who needs what is not
//! decided here.

use atoll_core::id::{Generation, SandboxId};
use atoll_core::snapshot::{Stored, Unneeded};
use atoll_core::time::Timestamp;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore as _, ObjectStoreExt as _};

use super::{Duration, Error, MANIFEST, SnapshotStore};

/// Removals that are under way at a time.
const REMOVALS_AT_ONCE: usize = 8;

/// Sandboxes that are looked at in the storage at a time.
const LOOKS_AT_ONCE: usize = 8;

/// Sandboxes that one answer tells of at most.
const LIST_MAX: usize = 1_000;

impl SnapshotStore {
    /// What it has, by the ids of sandboxes, of those after `after`.
    ///
    /// # Errors
    /// If the storage does not say.
    pub async fn list(&self, after: Option<&SandboxId>, limit: u32) -> Result<Vec<Stored>, Error> {
        let step = "list the sandboxes";
        let found = self
            .inner
            .objects
            .list_with_delimiter(Some(&self.inner.prefix));
        let found = found.await.map_err(Error::store(step))?;
        let mut ids: Vec<SandboxId> = found
            .common_prefixes
            .iter()
            .filter_map(|folder| folder.filename()?.parse().ok())
            .filter(|id| after.is_none_or(|after| id > after))
            .collect();
        ids.sort();
        ids.truncate(LIST_MAX.min(usize::try_from(limit).unwrap_or(LIST_MAX)));
        let stored: Vec<Option<Stored>> = futures::stream::iter(ids)
            .map(|id| async move {
                let folder = self.folder_of(&id);
                let found = self.inner.objects.list_with_delimiter(Some(&folder)).await;
                let found = found.map_err(Error::store("list the snapshots of a sandbox"))?;
                let oldest = found.common_prefixes.iter().filter_map(generation_of).min();
                Ok::<_, Error>(oldest.map(|oldest| Stored { id, oldest }))
            })
            .buffered(LOOKS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(stored.into_iter().flatten().collect())
    }

    /// Removes what is not needed. Manifests go first: what is left of one that was cut off is no
    /// snapshot. Nothing is removed if something was written too lately.
    ///
    /// # Errors
    /// If the storage does not do it; some of it may be gone.
    pub async fn drop_through(&self, unneeded: &Unneeded, now: Timestamp) -> Result<(), Error> {
        let folder = self.folder_of(&unneeded.id);
        let listed: Vec<ObjectMeta> = self
            .inner
            .objects
            .list(Some(&folder))
            .try_collect()
            .await
            .map_err(Error::store("list what is to be removed"))?;
        let of = |object: &ObjectMeta| {
            let name = object.location.prefix_match(&folder)?.next()?;
            name.as_ref().parse().ok().map(Generation::new)
        };
        let old: Vec<&ObjectMeta> = listed
            .iter()
            .filter(|object| of(object).is_some_and(|of| of <= unneeded.through))
            .collect();
        if old
            .iter()
            .any(|object| !is_quiet(object, unneeded.quiet_for, now))
        {
            return Ok(());
        }
        let is_manifest = |key: &Key| key.filename() == Some(MANIFEST);
        let keys = old.iter().map(|object| object.location.clone());
        let (manifests, parts): (Vec<Key>, Vec<Key>) = keys.partition(is_manifest);
        for keys in [manifests, parts] {
            futures::stream::iter(keys)
                .map(|key| self.remove(key))
                .buffer_unordered(REMOVALS_AT_ONCE)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    async fn remove(&self, key: Key) -> Result<(), Error> {
        match self.inner.objects.delete(&key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Error::store("remove an object")(error)),
        }
    }
}

fn generation_of(folder: &Key) -> Option<Generation> {
    Some(Generation::new(folder.filename()?.parse().ok()?))
}

/// Whether it was not written for so long.
fn is_quiet(object: &ObjectMeta, quiet_for: Duration, now: Timestamp) -> bool {
    let written = Timestamp::from_micros(object.last_modified.timestamp_micros());
    quiet_for.is_zero() || written.saturating_add(quiet_for) <= now
}
