//! A template from a directory of the node.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::tree::{Extra, Meta, Tree};
use super::unpack::{Budget, UnpackError};

/// The attribute of file capabilities.
const CAPABILITY: &str = "security.capability";
/// The kernel's limit for the value of [`CAPABILITY`] is below this.
const MAX_CAPABILITY_LEN: usize = 64;

/// Copies what lies below `source` into the tree: owners, modes, links. Sockets, device nodes and
/// other file systems mounted below are left out.
pub(super) fn copy(source: &Path, tree: &Tree, budget: &mut Budget) -> Result<(), UnpackError> {
    let failed = |source_error| UnpackError::Entry {
        path: source.display().to_string(),
        source: source_error,
    };
    let device = fs::metadata(source).map_err(failed)?.dev();
    let mut copier = Copier {
        source,
        tree,
        device,
        linked: HashMap::new(),
    };
    // An explicit stack: a deep tree must not overflow the thread's.
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        budget.take_entry()?;
        let metadata = fs::symlink_metadata(source.join(&path));
        let metadata = metadata.map_err(|error| entry_error(&path, error))?;
        if metadata.is_file() {
            budget.take_bytes(metadata.len())?;
        }
        let below = copier.entry(&path, &metadata);
        pending.extend(below.map_err(|error| entry_error(&path, error))?);
    }
    Ok(())
}

fn entry_error(path: &Path, source: io::Error) -> UnpackError {
    UnpackError::Entry {
        path: path.display().to_string(),
        source,
    }
}

struct Copier<'a> {
    source: &'a Path,
    tree: &'a Tree,
    device: u64,
    /// First names of files that have several, by inode.
    linked: HashMap<u64, PathBuf>,
}

impl Copier<'_> {
    /// Copies one entry and returns what lies below it.
    fn entry(&mut self, path: &Path, metadata: &fs::Metadata) -> io::Result<Vec<PathBuf>> {
        let meta = Meta {
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode() & 0o7777,
        };
        let kind = metadata.file_type();
        let from = self.source.join(path);
        if kind.is_dir() {
            self.tree.dir(path, meta)?;
            if metadata.dev() != self.device {
                return Ok(Vec::new());
            }
            let below = fs::read_dir(&from)?;
            return below
                .map(|entry| Ok(path.join(entry?.file_name())))
                .collect();
        }
        if kind.is_symlink() {
            let target = fs::read_link(&from)?;
            self.tree.symlink(path, target, (meta.uid, meta.gid))?;
        } else if kind.is_file() {
            self.file(path, &from, metadata, meta)?;
        } else if kind.is_fifo() {
            self.tree.fifo(path, meta)?;
        }
        Ok(Vec::new())
    }

    fn file(
        &mut self,
        path: &Path,
        from: &Path,
        metadata: &fs::Metadata,
        meta: Meta,
    ) -> io::Result<()> {
        if metadata.nlink() > 1 {
            if let Some(first) = self.linked.get(&metadata.ino()) {
                return self.tree.hard_link(path, first);
            }
            self.linked.insert(metadata.ino(), path.to_owned());
        }
        let mut file = fs::File::open(from)?;
        let mut value = [0; MAX_CAPABILITY_LEN];
        let mut extra = Extra {
            xattrs: Vec::new(),
            modified: Some(metadata.mtime()),
        };
        // Absent, as a rule.
        if let Ok(len) = rustix::fs::fgetxattr(&file, CAPABILITY, &mut value) {
            extra
                .xattrs
                .push((CAPABILITY.to_owned(), value[..len].to_vec()));
        }
        self.tree.file_from(path, meta, &mut file, &extra)
    }
}
