//! Unpacking of archives and image layers into a [`Tree`].
//!
//! Layers of one image are unpacked one after the other into the same tree. A layer takes back what
//! lower ones brought by entries of special names (OCI image specification, "Layer Filesystem
//! Changeset"): `.wh.NAME` removes `NAME`, `.wh..wh..opq` everything that was in the directory
//! before.
//!
//! Archives come from strangers, so: paths that lead outside are refused (`..` here, links by the
//! tree), sizes and counts are bounded, device nodes are left out (a sandbox has its own `/dev`),
//! and of the extended attributes only those are taken that cannot steer overlayfs.

use std::collections::HashSet;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tar::{Archive, Entry, EntryType};

use super::guard::Guard;
use super::tree::{Extra, Meta, Tree, clean};

const WHITEOUT_PREFIX: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
const XATTR_KEY: &str = "SCHILY.xattr.";
/// File capabilities, which `ping` and the like need. Those of overlayfs (`trusted.overlay.`,
/// `user.overlay.`) would let an archive point at other layers' files, and nothing needs the rest.
const XATTRS: [&str; 1] = ["security.capability"];

/// Bounds of one template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of content, unpacked, of all layers together.
    pub max_bytes: u64,
    /// Entries of all layers together.
    pub max_entries: u64,
}

impl Default for Limits {
    /// Several times the largest images in common use.
    fn default() -> Self {
        Self {
            max_bytes: 32 << 30,
            max_entries: 4_000_000,
        }
    }
}

/// Why something cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// More content than allowed.
    #[error("it unpacks to more than {0} bytes (limit `max_bytes`)")]
    TooLarge(u64),
    /// More entries than allowed.
    #[error("it has more than {0} entries (limit `max_entries`)")]
    TooMany(u64),
    /// An entry could not be written, or was refused.
    #[error("entry `{path}`")]
    Entry {
        /// The entry's name.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive is damaged, or its compression is.
    #[error("the archive is damaged")]
    Damaged(#[source] io::Error),
}

impl UnpackError {
    /// Whether the archive or directory is at fault, and not this machine.
    pub(super) fn is_sources_fault(&self) -> bool {
        match self {
            Self::TooLarge(_) | Self::TooMany(_) | Self::Damaged(_) => true,
            Self::Entry { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::PermissionDenied
            ),
        }
    }
}

/// What is left of the [`Limits`].
#[derive(Debug)]
pub(super) struct Budget {
    limits: Limits,
    bytes: u64,
    entries: u64,
}

impl Budget {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            bytes: limits.max_bytes,
            entries: limits.max_entries,
        }
    }

    pub(super) fn take_entry(&mut self) -> Result<(), UnpackError> {
        let left = self.entries.checked_sub(1);
        self.entries = left.ok_or(UnpackError::TooMany(self.limits.max_entries))?;
        Ok(())
    }

    /// Takes what a file says it holds, before any of it is written.
    pub(super) fn take_bytes(&mut self, bytes: u64) -> Result<(), UnpackError> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or(UnpackError::TooLarge(self.limits.max_bytes))?;
        Ok(())
    }
}

/// Reads an archive that may be compressed with gzip or zstd, told apart by their first bytes.
pub(super) fn decompress<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let mut start = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut start)?;
    let (is_gzip, is_zstd) = (start.starts_with(&GZIP), start.starts_with(&ZSTD));
    let whole = io::Cursor::new(start).chain(reader);
    Ok(if is_gzip {
        Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::new(whole)))
    } else if is_zstd {
        Box::new(zstd::stream::read::Decoder::new(whole)?)
    } else {
        Box::new(whole)
    })
}

/// Unpacks one archive over what the tree holds. Reads it to its end, so that a caller who checks a
/// digest has seen every byte.
pub(super) fn unpack(
    mut reader: impl Read,
    tree: &Tree,
    budget: &mut Budget,
) -> Result<(), UnpackError> {
    let decompressed = decompress(&mut reader).map_err(UnpackError::Damaged)?;
    let mut archive = Archive::new(Guard::new(decompressed));
    let mut layer = Layer {
        tree,
        written: HashSet::new(),
    };
    for entry in archive.entries().map_err(UnpackError::Damaged)? {
        let entry = entry.map_err(UnpackError::Damaged)?;
        budget.take_entry()?;
        // Of every kind: content that is only skipped costs time.
        budget.take_bytes(entry.size())?;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&entry.path_bytes()));
        let name = path.display().to_string();
        layer
            .write(entry, &path)
            .map_err(|source| UnpackError::Entry { path: name, source })?;
    }
    drop(archive);
    io::copy(&mut reader, &mut io::sink()).map_err(UnpackError::Damaged)?;
    Ok(())
}

/// One layer while it is unpacked.
struct Layer<'a> {
    tree: &'a Tree,
    /// What this layer brought, with all directories above: whiteouts concern only lower layers.
    written: HashSet<PathBuf>,
}

impl Layer<'_> {
    fn write<R: Read>(&mut self, mut entry: Entry<'_, R>, path: &Path) -> io::Result<()> {
        let path = clean(path)?;
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        match name.as_deref() {
            Some(OPAQUE) => {
                let written = &self.written;
                return self.tree.empty(parent, &|inner| written.contains(inner));
            }
            Some(name) if name.starts_with(WHITEOUT_PREFIX) => {
                let doomed = parent.join(&name[WHITEOUT_PREFIX.len()..]);
                if self.written.contains(&doomed) {
                    return Ok(());
                }
                return self.tree.remove(doomed);
            }
            _ => {}
        }
        for above in path.ancestors() {
            if !self.written.insert(above.to_owned()) {
                break;
            }
        }
        let kind = entry.header().entry_type();
        let meta = meta(entry.header())?;
        match kind {
            EntryType::Directory => self.directory(&path, meta),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let extra = extra(&mut entry)?;
                self.tree.file_from(path, meta, &mut entry, &extra)
            }
            EntryType::Symlink => {
                let target = link_target(&entry)?;
                self.tree.symlink(path, target, (meta.uid, meta.gid))
            }
            EntryType::Link => self.tree.hard_link(path, clean(&link_target(&entry)?)?),
            EntryType::Fifo => self.tree.fifo(path, meta),
            // Device nodes, and whatever formats add.
            _ => Ok(()),
        }
    }

    /// A directory takes the place of anything that is not one, a link to a directory included.
    fn directory(&self, path: &Path, meta: Meta) -> io::Result<()> {
        let found = self.tree.kind(path);
        if found.is_some_and(|kind| kind != rustix::fs::FileType::Directory) {
            self.tree.remove(path)?;
        }
        self.tree.dir(path, meta)
    }
}

fn meta(header: &tar::Header) -> io::Result<Meta> {
    let id = |number: io::Result<u64>| -> io::Result<u32> {
        u32::try_from(number?).map_err(|_| io::Error::other("its owner's id has more than 32 bits"))
    };
    Ok(Meta {
        uid: id(header.uid())?,
        gid: id(header.gid())?,
        mode: header.mode()? & 0o7777,
    })
}

fn link_target<R: Read>(entry: &Entry<'_, R>) -> io::Result<PathBuf> {
    let target = entry.link_name_bytes();
    let target = target.ok_or_else(|| io::Error::other("a link without a target"))?;
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(&target)))
}

fn extra<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Extra> {
    let mut extra = Extra {
        modified: i64::try_from(entry.header().mtime()?).ok(),
        xattrs: Vec::new(),
    };
    if let Some(records) = entry.pax_extensions()? {
        for record in records {
            let record = record?;
            let name = record
                .key()
                .ok()
                .and_then(|key| key.strip_prefix(XATTR_KEY));
            if let Some(name) = name.filter(|name| XATTRS.contains(name)) {
                extra
                    .xattrs
                    .push((name.to_owned(), record.value_bytes().to_vec()));
            }
        }
    }
    Ok(extra)
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "a skipped test says why")]
mod tests;
