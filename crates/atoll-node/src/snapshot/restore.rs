//! Making a disk of what the storage has.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use atoll_core::crash;
use atoll_core::snapshot::Snapshot;
use futures::{StreamExt as _, TryStreamExt as _};

use super::manifest::Part;
use super::{Arc, Error, Of, PART_BYTES, PARTS_AT_ONCE, PathBuf, SnapshotStore, blocking, io};

impl SnapshotStore {
    /// Makes the file `to`, which is not there yet, of a snapshot. When this returns, every byte of
    /// it was compared and would survive the machine's end.
    ///
    /// # Errors
    /// What went wrong, with the name of the part if one is damaged; nothing may be started over
    /// the file then.
    pub async fn restore(&self, of: &Of, snapshot: &Snapshot, to: PathBuf) -> Result<(), Error> {
        if snapshot.store != self.inner.id {
            return Err(Error::Damaged {
                part: snapshot.store.to_string(),
                found: format!("this node's storage is {}", self.inner.id),
            });
        }
        let (key, manifest) = self.read_manifest(of, snapshot).await?;
        let folder = self.folder(&of.id, of.generation);
        let (size, path) = (manifest.size, to.clone());
        let file = blocking(move || make(&path, size).map_err(failed("make", &path)));
        let file = Arc::new(file.await?);
        let to = Arc::new(to);
        futures::stream::iter(manifest.parts)
            .map(Ok::<Part, Error>)
            .try_for_each_concurrent(PARTS_AT_ONCE, |part: Part| {
                let (file, to) = (Arc::clone(&file), Arc::clone(&to));
                let place = folder.clone().join(part.sha256.as_str());
                let digest = part.digest(&key);
                async move {
                    let content = self.read_part(place, digest?).await?;
                    let start = part.at * PART_BYTES as u64;
                    let write = move || {
                        let written = file.write_all_at(&content, start);
                        written.map_err(failed("write", &to))
                    };
                    blocking(write).await
                }
            })
            .await?;
        blocking(move || file.sync_all().map_err(failed("sync", &to))).await?;
        crash::reached("node.ensure.fetched");
        Ok(())
    }
}

fn failed<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

fn make(path: &Path, size: u64) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.set_len(size)?;
    Ok(file)
}
