//! A disk whose sandbox does not run: the file is all there is, until it is mounted again.
//!
//! A disk's file is locked as long as it is behind a loop device, by the very descriptor that the
//! device holds: the kernel lets go of the lock when the file system is unmounted and written, no
//! matter who ended how. So a lock that can be had says that the file is nobody's, and taking it is
//! what makes it ours. Mounting a file twice would destroy it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{Error, PROGRAMS, copy_sparse, mount};

/// How often a file that is still mounted is tried again, [`BUSY_PAUSE`] apart. Ten seconds in all:
/// the kernel writes what is left in memory first, which was synced a moment ago.
const BUSY_ATTEMPTS: u32 = 2000;

/// Pause between two attempts.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Where ext4 tells how it was left, from the start of the file: `s_state` of the superblock.
const STATE_OFFSET: u64 = 1024 + 0x3a;

/// `EXT4_VALID_FS` and no `EXT4_ERROR_FS`: unmounted, without an error.
const STATE_CLEAN: u16 = 1;

/// Exit codes of `e2fsck` up to this one say that the file system is whole.
const E2FSCK_CORRECTED: i32 = 1;

/// So much of what `e2fsck` says is told on.
const WORDS_MAX: usize = 40;

/// Waits until nothing has the disk mounted any more, and makes its file durable. Blocks for a
/// bounded time.
///
/// # Errors
/// If it stays mounted or the file cannot be synced.
pub fn settle(path: &Path) -> Result<(), Error> {
    let file = claim(path)?;
    file.sync_all().map_err(error("sync the file", path))
}

/// Makes the file durable, as it is now, mounted or not.
///
/// # Errors
/// If the system refuses.
pub fn sync(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(error("sync the file", path))
}

/// Copies a disk that nobody writes to now, mounted or not, and makes the copy clean and durable.
/// Blocks for as long as it takes to copy what is on it. On failure there is no copy.
///
/// # Errors
/// If the system refuses, or the disk is damaged.
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let copied = copy_sparse(from, to)
        .map_err(error("copy the file", from))
        .and_then(|file| {
            if !is_clean(&file).map_err(error("read the file", to))? {
                repair(to)?;
            }
            file.sync_all().map_err(error("sync the file", to))
        });
    if copied.is_err() {
        // It may not even be there.
        let _ = std::fs::remove_file(to);
    }
    copied
}

/// Mounts a kept disk, detached, with all that is on it. Blocks for a bounded time.
///
/// # Errors
/// If it is mounted already and stays so, or is damaged beyond repair.
pub fn reopen(path: &Path) -> Result<OwnedFd, Error> {
    let file = claim(path)?;
    if !is_clean(&file).map_err(error("read the file", path))? {
        repair(path)?;
    }
    mount(&file).map_err(error("mount the file", path))
}

/// Opens the file once nobody has it mounted.
fn claim(path: &Path) -> Result<File, Error> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(error("open the file", path))?;
    for _ in 0..BUSY_ATTEMPTS {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(BUSY_PAUSE),
            Err(errno) => return Err(error("lock the file", path)(errno.into())),
        }
    }
    Err(error("unmount the file", path)(
        io::ErrorKind::TimedOut.into(),
    ))
}

fn is_clean(file: &File) -> io::Result<bool> {
    let mut state = [0; 2];
    file.read_exact_at(&mut state, STATE_OFFSET)?;
    Ok(u16::from_le_bytes(state) == STATE_CLEAN)
}

/// Repairs what a machine that went down left: what is safe to repair without asking.
fn repair(path: &Path) -> Result<(), Error> {
    let output = Command::new("e2fsck")
        .env("PATH", PROGRAMS)
        .arg("-p")
        .arg(path)
        .output()
        .map_err(|error| Error::Check(error.to_string()))?;
    match output.status.code() {
        Some(code) if code <= E2FSCK_CORRECTED => Ok(()),
        _ => {
            let words = String::from_utf8_lossy(&output.stdout);
            let words = words.split_whitespace().take(WORDS_MAX);
            Err(Error::Check(words.collect::<Vec<_>>().join(" ")))
        }
    }
}

fn error<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_left_unclean_is_repaired_and_a_broken_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        super::super::format(&path, 16).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        assert!(is_clean(&file).unwrap());
        let mut debugger = Command::new("debugfs");
        debugger.env("PATH", PROGRAMS).args(["-w", "-R", "dirty"]);
        assert!(debugger.arg(&path).output().unwrap().status.success());
        assert!(!is_clean(&file).unwrap());
        repair(&path).unwrap();
        assert!(is_clean(&file).unwrap());
        // Without its superblocks it is nothing.
        file.write_all_at(&vec![0; 16 << 20], 0).unwrap();
        let error = repair(&path).unwrap_err();
        assert!(matches!(error, Error::Check(_)), "{error}");
    }
}
