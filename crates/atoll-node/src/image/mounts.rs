//! Letting go of what is mounted below a directory that is to be removed.
//!
//! A tool that was killed half-way may leave its mounts, and a removal that enters them would take
//! the host's own files with it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

/// Where the kernel lists this process's mounts (proc(5), `mountinfo`).
const MOUNTS: &str = "/proc/self/mountinfo";
/// Which field of a line names the mount point.
const MOUNT_POINT_FIELD: usize = 4;

/// Detaches every mount at or below the directory, the last made first.
pub(super) fn detach_below(directory: &Path) -> io::Result<()> {
    let directory = match directory.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let list = fs::read(MOUNTS)?;
    for point in points_below(&list, &directory).into_iter().rev() {
        match unmount(&point, UnmountFlags::DETACH) {
            // It went with the one above it, or somebody was faster.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn points_below(list: &[u8], directory: &Path) -> Vec<PathBuf> {
    let lines = list.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(MOUNT_POINT_FIELD)?;
        Some(PathBuf::from(unescape(field)))
    });
    points
        .filter(|point| point.starts_with(directory))
        .collect()
}

/// Spaces, tabs, line ends and backslashes stand there as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let code = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn mounts_below_are_found_by_whole_names() {
        let list = b"36 35 98:0 / /data/.partial/a rw - tmpfs tmpfs rw\n\
            37 36 98:0 / /data/.partial/a/with\\040space/proc rw - proc proc rw\n\
            38 35 98:0 / /data/.partial/ab rw - tmpfs tmpfs rw\n";
        let points = points_below(list, Path::new("/data/.partial/a"));
        let expected = ["/data/.partial/a", "/data/.partial/a/with space/proc"];
        assert_eq!(points, expected.map(PathBuf::from));
        assert_eq!(unescape(b"a\\134b").as_bytes(), b"a\\b");
    }
}
