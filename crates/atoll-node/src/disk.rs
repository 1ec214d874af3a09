//! The writable layer of a sandbox: an ext4 file system of fixed size in a sparse file.
//!
//! The file is the limit: a sandbox that fills its disk gets `ENOSPC` and nobody else notices.
//! Quotas would be cheaper, but need file systems or kernel options that an ordinary machine lacks.
//!
//! A file becomes a file system by copying an empty one that was formatted once for each size: only
//! its metadata holds data, about a hundred kilobytes. It is mounted detached, belonging to no
//! mount namespace, so nothing else on the host sees it and it goes away with its last user; the
//! loop device lets go by itself then. What remains after a crash is the file alone.
//!
//! No journal, no barriers: what runs does not survive its machine. What is paused does: its disk
//! is synced as a whole, and is a [`kept`] one when its processes are gone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags, SeekFrom, flock, ioctl_ficlone, open, seek};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::sys;

pub mod kept;

/// Block size of the file system and of the loop device; equal, so that writes need no reading.
const BLOCK_BYTES: u32 = 4096;

/// Where the programs for file systems are.
const PROGRAMS: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// Smallest disk, in MiB: below, ext4 has hardly any room for data.
const MIN_MIB: u32 = 16;

/// How often a free loop device may be snatched away by somebody else.
const LOOP_ATTEMPTS: u32 = 64;

/// What can go wrong with a disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The formatting program is missing or failed.
    #[error("format a disk with mkfs.ext4: {0}")]
    Format(String),
    /// The checking program is missing or found damage.
    #[error("check a disk with e2fsck: {0}")]
    Check(String),
    /// The system refused a step.
    #[error("{step} of disk `{path}`")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The disk's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A ready disk. Dropping it unmounts it and removes its file, unless [`Disk::install`] was called.
#[derive(Debug)]
pub struct Disk {
    path: Option<PathBuf>,
    mount: OwnedFd,
}

impl Disk {
    /// Moves the file to its sandbox's directory, where it stays, and answers the mount.
    ///
    /// # Errors
    /// If the file cannot be moved; the disk is gone then.
    pub fn install(mut self, to: &Path) -> Result<OwnedFd, Error> {
        if let Some(from) = self.path.take()
            && let Err(source) = fs::rename(&from, to)
        {
            self.path = Some(from);
            return Err(Error::Io {
                step: "move the file",
                path: to.to_owned(),
                source,
            });
        }
        self.mount.try_clone().map_err(|source| Error::Io {
            step: "share the mount",
            path: to.to_owned(),
            source,
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What cannot be removed is removed at the next start.
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes disks in one directory, which is its own.
#[derive(Debug)]
pub struct DiskMaker {
    directory: PathBuf,
    next: AtomicU64,
    /// Held while a size is formatted for the first time.
    formatting: Mutex<()>,
}

impl DiskMaker {
    /// Takes over the directory and removes what an earlier run left there.
    ///
    /// # Errors
    /// If it cannot be made or emptied.
    pub fn open(directory: PathBuf) -> Result<Self, Error> {
        let error = |step| {
            let path = directory.clone();
            move |source| Error::Io { step, path, source }
        };
        fs::create_dir_all(&directory).map_err(error("make the directory"))?;
        for entry in fs::read_dir(&directory)
            .map_err(error("read the directory"))?
            .flatten()
        {
            if entry.file_name().to_string_lossy().starts_with("new-") {
                fs::remove_file(entry.path()).map_err(error("empty the directory"))?;
            }
        }
        Ok(Self {
            directory,
            next: AtomicU64::new(0),
            formatting: Mutex::new(()),
        })
    }

    /// Makes a disk of `mib` MiB. Blocks for some milliseconds.
    ///
    /// # Errors
    /// If the system refuses, or `mkfs.ext4` is missing.
    pub fn make(&self, mib: u32) -> Result<Disk, Error> {
        let mib = mib.max(MIN_MIB);
        let blank = self.blank(mib)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("new-{number}.img"));
        let error = |step| {
            let path = path.clone();
            move |source| Error::Io { step, path, source }
        };
        let file = copy_sparse(&blank, &path).map_err(error("copy the file"))?;
        // Held by the loop device from here on; see `kept`.
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .map_err(error("lock the file"))?;
        match mount(&file) {
            Ok(mount) => Ok(Disk {
                path: Some(path),
                mount,
            }),
            Err(source) => {
                let _ = fs::remove_file(&path);
                Err(error("mount the file")(source))
            }
        }
    }

    /// The formatted empty file of a size, made at its first use.
    fn blank(&self, mib: u32) -> Result<PathBuf, Error> {
        let path = self.directory.join(format!("blank-{mib}.img"));
        let _guard = self
            .formatting
            .lock()
            .map_err(|_| Error::Format("an earlier attempt ended in the middle".to_owned()))?;
        if path.exists() {
            return Ok(path);
        }
        let temporary = self.directory.join(format!("new-blank-{mib}.img"));
        format(&temporary, mib)?;
        fs::rename(&temporary, &path).map_err(|source| Error::Io {
            step: "keep the blank",
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }
}

fn format(path: &Path, mib: u32) -> Result<(), Error> {
    let file = File::create(path).and_then(|file| file.set_len(u64::from(mib) << 20));
    file.map_err(|source| Error::Io {
        step: "make the blank",
        path: path.to_owned(),
        source,
    })?;
    let output = Command::new("mkfs.ext4")
        // The program is in sbin, which is not on everybody's path.
        .env("PATH", PROGRAMS)
        .args(["-q", "-F", "-m", "0", "-b", "4096", "-I", "256"])
        .args(["-O", "^has_journal,^resize_inode"])
        // The inode tables stay holes in the file; nothing initialises them later either.
        .args(["-E", "lazy_itable_init=1,nodiscard"])
        .arg(path)
        .output()
        .map_err(|error| Error::Format(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        let words = String::from_utf8_lossy(&output.stderr);
        Err(Error::Format(words.trim().to_owned()))
    }
}

/// Copies a file: at once where its file system shares data between files, otherwise the parts of
/// it that hold data.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<File> {
    let source = File::open(from)?;
    let length = source.metadata()?.len();
    let target = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to)?;
    if ioctl_ficlone(&target, &source).is_ok() {
        return Ok(target);
    }
    target.set_len(length)?;
    let mut end = 0;
    loop {
        let mut start = match seek(&source, SeekFrom::Data(end)) {
            // No more data.
            Err(Errno::NXIO) => return Ok(target),
            other => other?,
        };
        end = seek(&source, SeekFrom::Hole(start))?;
        let mut to = start;
        while start < end {
            let length = usize::try_from(end - start).map_err(io::Error::other)?;
            let copied = rustix::fs::copy_file_range(
                &source,
                Some(&mut start),
                &target,
                Some(&mut to),
                length,
            )?;
            if copied == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Mounts the file system in `file`, detached.
fn mount(file: &File) -> io::Result<OwnedFd> {
    let (device, name) = attach_loop(file)?;
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", &*name)?;
    // Deleted data leaves the host's disk too.
    for flag in ["discard", "noinit_itable", "nobarrier"] {
        fsconfig_set_flag(context.as_fd(), flag)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOATIME;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // The mount holds the device from here on.
    drop(device);
    Ok(mount)
}

fn attach_loop(file: &File) -> io::Result<(OwnedFd, String)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let control = open("/dev/loop-control", flags, Mode::empty())?;
    for _ in 0..LOOP_ATTEMPTS {
        let name = format!("/dev/loop{}", sys::loop_free(control.as_fd())?);
        let device = open(&*name, flags, Mode::empty())?;
        let configured = sys::loop_configure(device.as_fd(), file.as_fd(), BLOCK_BYTES, true)
            .or_else(|error| match error.raw_os_error() {
                // The file's own file system may not do direct I/O.
                Some(libc::EINVAL) => {
                    sys::loop_configure(device.as_fd(), file.as_fd(), BLOCK_BYTES, false)
                }
                _ => Err(error),
            });
        match configured {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            other => return other.map(|()| (device, name)),
        }
    }
    Err(io::Error::other("no free loop device"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_data_and_the_holes_of_the_original() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b"));
        let original = File::create(&from).unwrap();
        original.set_len(8 << 20).unwrap();
        rustix::io::pwrite(&original, b"middle", 4 << 20).unwrap();
        copy_sparse(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&to).unwrap());
        assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
    }
}
