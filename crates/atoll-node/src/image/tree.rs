//! A root file system under construction, written through file descriptors.
//!
//! Every path is resolved inside the tree as if the tree were `/` (`openat2` with
//! `RESOLVE_IN_ROOT`), so neither `..` nor a symbolic link that an archive brought along can lead a
//! write outside. Owners and modes are set explicitly and never depend on the process's umask.
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// Deepest path that is followed while removing; deeper trees are refused rather than recursed
/// into.
const MAX_DEPTH: usize = 512;

/// Owner and mode of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Permission bits, with set-id and sticky.
    pub(super) mode: u32,
}

impl Meta {
    /// Owned by root.
    pub(super) const fn root(mode: u32) -> Self {
        Self {
            uid: 0,
            gid: 0,
            mode,
        }
    }
}

/// What files can have beside owner and mode.
#[derive(Debug, Default)]
pub(super) struct Extra {
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    /// Time of the last change, in seconds since the epoch. Compiled Python depends on it.
    pub(super) modified: Option<i64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

/// A place to write to: an open directory and a name in it.
struct Place {
    dir: OwnedFd,
    name: OsString,
}

impl Tree {
    /// Opens the directory at `path`, which must exist.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    /// Makes a directory and those above it; an existing one gets the owner and mode too.
    pub(super) fn dir(&self, path: impl AsRef<Path>, meta: Meta) -> io::Result<()> {
        let path = clean(path.as_ref())?;
        let dir = self.ensure_dir(&path, 0)?;
        set_meta(&reopen(&dir)?, meta)
    }

    /// Writes a file; whatever stood there, a link for instance, is replaced and not followed.
    pub(super) fn file(
        &self,
        path: impl AsRef<Path>,
        meta: Meta,
        content: impl AsRef<[u8]>,
    ) -> io::Result<()> {
        self.file_from(path, meta, &mut content.as_ref(), &Extra::default())
    }

    /// Like [`Self::file`], with content from a reader, and more about the file.
    pub(super) fn file_from(
        &self,
        path: impl AsRef<Path>,
        meta: Meta,
        content: &mut dyn Read,
        extra: &Extra,
    ) -> io::Result<()> {
        let place = self.vacate(path.as_ref())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&place.dir, &place.name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(fd);
        io::copy(content, &mut file)?;
        file.flush()?;
        set_meta(file.as_fd(), meta)?;
        // After the change of owner, which clears file capabilities.
        for (name, value) in &extra.xattrs {
            rustix::fs::fsetxattr(&file, name.as_str(), value, XattrFlags::empty())?;
        }
        if let Some(seconds) = extra.modified {
            let time = Timespec {
                tv_sec: seconds,
                tv_nsec: 0,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::futimens(&file, &times)?;
        }
        Ok(())
    }

    /// Makes a symbolic link in place of whatever stood there.
    pub(super) fn symlink(
        &self,
        path: impl AsRef<Path>,
        target: impl AsRef<Path>,
        (uid, gid): (u32, u32),
    ) -> io::Result<()> {
        let place = self.vacate(path.as_ref())?;
        rustix::fs::symlinkat(target.as_ref(), &place.dir, &place.name)?;
        rustix::fs::chownat(
            &place.dir,
            &place.name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(())
    }

    /// Makes `path` another name of `target`, which is itself not followed.
    pub(super) fn hard_link(
        &self,
        path: impl AsRef<Path>,
        target: impl AsRef<Path>,
    ) -> io::Result<()> {
        let source = self.place(target.as_ref())?;
        let place = self.vacate(path.as_ref())?;
        rustix::fs::linkat(
            &source.dir,
            &source.name,
            &place.dir,
            &place.name,
            AtFlags::empty(),
        )?;
        Ok(())
    }

    /// Makes a named pipe in place of whatever stood there.
    pub(super) fn fifo(&self, path: impl AsRef<Path>, meta: Meta) -> io::Result<()> {
        let place = self.vacate(path.as_ref())?;
        rustix::fs::mknodat(
            &place.dir,
            &place.name,
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )?;
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        let flags = AtFlags::empty();
        rustix::fs::chownat(&place.dir, &place.name, Some(uid), Some(gid), flags)?;
        let mode = Mode::from_raw_mode(meta.mode);
        Ok(rustix::fs::chmodat(&place.dir, &place.name, mode, flags)?)
    }

    /// Removes what is at `path`, with everything in it. That there is nothing is success.
    pub(super) fn remove(&self, path: impl AsRef<Path>) -> io::Result<()> {
        match self.place(path.as_ref()) {
            Ok(place) => remove_all(&place.dir, &place.name, 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes everything in the directory at `path` that `is_kept` does not name. What is kept
    /// stays with the directories above it.
    pub(super) fn empty(&self, path: &Path, is_kept: &dyn Fn(&Path) -> bool) -> io::Result<()> {
        match self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(dir) => empty_except(&dir, path, is_kept, 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads a text file of at most `limit` bytes, following links inside the tree. `None` if there
    /// is none, or it is no regular file.
    pub(super) fn read(&self, path: &str, limit: u64) -> io::Result<Option<String>> {
        let fd = match self.resolve(Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let file = File::from(fd);
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).is_ok_and(|len| len > limit) {
            return Err(io::Error::other(format!(
                "`/{path}` is larger than {limit} bytes"
            )));
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Whether `path` leads to something, following links inside the tree.
    pub(super) fn exists(&self, path: &str) -> bool {
        self.resolve(Path::new(path), OFlags::PATH).is_ok()
    }

    /// What `path` itself is, links not followed.
    pub(super) fn kind(&self, path: &Path) -> Option<FileType> {
        let place = self.place(path).ok()?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(&place.dir, &place.name, flags).ok()?;
        Some(FileType::from_raw_mode(stat.st_mode))
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = clean(path)?;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &path
        };
        Ok(rustix::fs::openat2(
            &self.root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?)
    }

    /// Opens a directory, making it and those above it where they are missing.
    fn ensure_dir(&self, path: &Path, depth: usize) -> io::Result<OwnedFd> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match self.resolve(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let parent = self.ensure_dir(path.parent().unwrap_or_else(|| Path::new("")), depth + 1)?;
        let name = path.file_name().unwrap_or_default();
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        set_meta(&reopen(&made)?, Meta::root(0o755))?;
        Ok(made)
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let path = clean(path)?;
        let name = path.file_name().ok_or(Errno::EXIST)?.to_owned();
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        let dir = self.resolve(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Place { dir, name })
    }

    /// A place whose parents exist and where nothing stands.
    fn vacate(&self, path: &Path) -> io::Result<Place> {
        let path = clean(path)?;
        let name = path.file_name().ok_or(Errno::EXIST)?.to_owned();
        let dir = self.ensure_dir(path.parent().unwrap_or_else(|| Path::new("")), 0)?;
        remove_all(&dir, &name, 0)?;
        Ok(Place { dir, name })
    }
}

/// Makes a path relative to the tree and refuses `..`.
pub(super) fn clean(path: &Path) -> io::Result<PathBuf> {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("`{}` leads outside the root file system", path.display()),
                ));
            }
        }
    }
    Ok(cleaned)
}

/// A descriptor that may be changed through, from one that only names the directory.
fn reopen(dir: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, ".", flags, Mode::empty())?)
}

fn set_meta(fd: impl AsFd, meta: Meta) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    rustix::fs::fchown(&fd, Some(uid), Some(gid))?;
    // After the change of owner, which clears the set-id bits.
    Ok(rustix::fs::fchmod(
        fd,
        Mode::from_raw_mode(meta.mode & 0o7777),
    )?)
}

fn remove_all(dir: &OwnedFd, name: &OsStr, depth: usize) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    empty(
        &rustix::fs::openat(dir, name, flags, Mode::empty())?,
        depth + 1,
    )?;
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

fn empty(dir: &OwnedFd, depth: usize) -> io::Result<()> {
    for name in entries(dir)? {
        remove_all(dir, &name, depth)?;
    }
    Ok(())
}

fn empty_except(
    dir: &OwnedFd,
    path: &Path,
    is_kept: &dyn Fn(&Path) -> bool,
    depth: usize,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    for name in entries(dir)? {
        let inner = path.join(&name);
        if !is_kept(&inner) {
            remove_all(dir, &name, depth)?;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, &name, flags, Mode::empty()) {
            Ok(inner_dir) => empty_except(&inner_dir, &inner, is_kept, depth + 1)?,
            // A kept file or link.
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn entries(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn too_deep() -> io::Error {
    io::Error::other(format!("directories are nested deeper than {MAX_DEPTH}"))
}
