//! Putting a disk into the storage, and reading it back.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use atoll_core::crash;
use atoll_core::snapshot::{Digest, Snapshot};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path as Key;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutPayload};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::manifest::{Manifest, Part};
use super::{Arc, BTreeMap, Error, MANIFEST, MANIFEST_MAX, Of, PART_BYTES, PARTS_AT_ONCE, PathBuf};
use super::{SnapshotStore, blocking, io, sha256};

/// How a part is compressed: fast, because a node has more to do.
const COMPRESSION: i32 = 1;

/// A disk that nobody writes to.
#[derive(Debug)]
struct Disk {
    path: PathBuf,
    file: File,
    size: u64,
}

impl SnapshotStore {
    /// Makes a snapshot of the disk in this file, which nobody writes to meanwhile, and answers
    /// once all of it was read back. What an earlier attempt left is used. Dropped, it leaves parts
    /// that the next attempt uses.
    ///
    /// # Errors
    /// What went wrong; there is no snapshot then.
    pub async fn upload(&self, of: &Of, file: PathBuf) -> Result<Snapshot, Error> {
        // The semaphore is never closed.
        let _turn = self.inner.uploads.acquire().await.ok();
        crash::reached("node.snapshot.begun");
        let folder = self.folder(&of.id, of.generation);
        let present = Arc::new(self.present(&folder).await?);
        let (disk, places) = blocking(move || Disk::open(file)).await?;
        let disk = Arc::new(disk);
        let parts: Vec<Option<Part>> = futures::stream::iter(places)
            .map(|at| self.put_part(&folder, Arc::clone(&disk), at, Arc::clone(&present)))
            .buffered(PARTS_AT_ONCE)
            .try_collect()
            .await?;
        crash::reached("node.snapshot.parts");
        let parts: Vec<Part> = parts.into_iter().flatten().collect();
        let bytes = parts.iter().map(|part| part.stored).sum();
        let manifest = serde_json::to_vec(&Manifest::new(of, disk.size, parts));
        let manifest = manifest.map_err(|error| disk.error("describe the disk", error.into()))?;
        let digest = sha256(&manifest);
        self.put(&folder.clone().join(MANIFEST), manifest).await?;
        crash::reached("node.snapshot.whole");
        let snapshot = Snapshot {
            store: self.inner.id.clone(),
            generation: of.generation,
            digest,
            bytes,
        };
        self.verify(of, &snapshot).await?;
        crash::reached("node.snapshot.verified");
        Ok(snapshot)
    }

    /// Reads all of a snapshot and compares it with its digests. A part that is not what it should
    /// be is removed, so that the next attempt does not take it for done.
    async fn verify(&self, of: &Of, snapshot: &Snapshot) -> Result<(), Error> {
        let folder = self.folder(&of.id, of.generation);
        let (key, manifest) = self.read_manifest(of, snapshot).await?;
        let parts = manifest.parts.into_iter().map(move |part: Part| {
            let digest = part.digest(&key);
            (folder.clone().join(part.sha256.as_str()), digest)
        });
        futures::stream::iter(parts)
            .map(|(part, digest)| async move {
                let read = self.read_part(part.clone(), digest?).await;
                if let Err(Error::Damaged { .. }) = &read {
                    // One that cannot be removed is found again.
                    drop(self.inner.objects.delete(&part).await);
                }
                read.map(drop)
            })
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect()
            .await
    }

    /// The manifest of a snapshot, if it is the one that was told of.
    pub(super) async fn read_manifest(
        &self,
        of: &Of,
        snapshot: &Snapshot,
    ) -> Result<(Key, Manifest), Error> {
        let key = self.folder(&of.id, of.generation).join(MANIFEST);
        let bytes = self.read(&key, MANIFEST_MAX).await?;
        let found = sha256(&bytes);
        if found != snapshot.digest {
            return Err(Error::damaged(&key, format!("its digest is {found}")));
        }
        let manifest = Manifest::parse(&key, &bytes, of)?;
        Ok((key, manifest))
    }

    /// The parts that are there, with their sizes.
    async fn present(&self, folder: &Key) -> Result<BTreeMap<String, u64>, Error> {
        let found = self.inner.objects.list(Some(folder));
        let named = found.try_filter_map(|object| async move {
            let name = object.location.filename().map(str::to_owned);
            Ok(name.map(|name| (name, object.size)))
        });
        let step = "list the parts that are there";
        named.try_collect().await.map_err(Error::store(step))
    }

    /// Puts one part there; none if it is all zeros.
    async fn put_part(
        &self,
        folder: &Key,
        disk: Arc<Disk>,
        at: u64,
        present: Arc<BTreeMap<String, u64>>,
    ) -> Result<Option<Part>, Error> {
        let packed = blocking(move || disk.pack(at, &present)).await?;
        let Some(Packed { digest, stored }) = packed else {
            return Ok(None);
        };
        let name = digest.to_string();
        let size = match stored {
            Stored::Already(size) => size,
            Stored::New(bytes) => {
                let size = bytes.len() as u64;
                let key = folder.clone().join(name.as_str());
                self.put(&key, bytes).await?;
                size
            }
        };
        Ok(Some(Part {
            at,
            sha256: name,
            stored: size,
        }))
    }

    async fn put(&self, key: &Key, bytes: Vec<u8>) -> Result<(), Error> {
        self.inner.pace.pass(bytes.len() as u64).await;
        let put = self.inner.objects.put(key, PutPayload::from(bytes)).await;
        put.map(drop).map_err(Error::store("write an object"))
    }
}

/// A part that is not all zeros.
struct Packed {
    digest: Digest,
    stored: Stored,
}

enum Stored {
    Already(u64),
    New(Vec<u8>),
}

impl Disk {
    /// Opens it, and says which of its parts hold data.
    fn open(path: PathBuf) -> Result<(Self, BTreeSet<u64>), Error> {
        let io = |source| Error::Io {
            step: "read",
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let places = places(&file).map_err(io)?;
        Ok((Self { path, file, size }, places))
    }

    fn error(&self, step: &'static str, source: io::Error) -> Error {
        Error::Io {
            step,
            path: self.path.clone(),
            source,
        }
    }

    fn pack(&self, at: u64, present: &BTreeMap<String, u64>) -> Result<Option<Packed>, Error> {
        let start = at * PART_BYTES as u64;
        let length = (self.size - start).min(PART_BYTES as u64);
        let mut content = vec![0; usize::try_from(length).unwrap_or(PART_BYTES)];
        let read = self.file.read_exact_at(&mut content, start);
        read.map_err(|error| self.error("read", error))?;
        if content.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let digest = sha256(&content);
        let stored = match present.get(&digest.to_string()) {
            Some(size) => Stored::Already(*size),
            None => {
                let packed = zstd::bulk::compress(&content, COMPRESSION);
                Stored::New(packed.map_err(|error| self.error("compress", error))?)
            }
        };
        Ok(Some(Packed { digest, stored }))
    }
}

/// The parts of a file that hold data.
fn places(file: &File) -> io::Result<BTreeSet<u64>> {
    let mut places = BTreeSet::new();
    let mut end = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(end)) {
            // No more data.
            Err(Errno::NXIO) => return Ok(places),
            other => other?,
        };
        end = seek(file, SeekFrom::Hole(start))?;
        let part = PART_BYTES as u64;
        places.extend(start / part..end.div_ceil(part));
    }
}
