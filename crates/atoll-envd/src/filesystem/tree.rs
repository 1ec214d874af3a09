//! Directories as clients see them: list, make, move, remove. All of it blocks and runs on helper
//! threads.

use std::fs;
use std::io;
use std::path::Path;

use atoll_proto::filesystem::EntryInfo;
use connectrpc::{ConnectError, ErrorCode};

use super::entry;
use crate::path;
use crate::user::{Names, User};

/// Entries of one listing.
const ENTRIES_MAX: usize = 100_000;

/// What the system says, in the protocol's words.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::ENOTDIR) => "not a directory".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// Describes one path.
pub(crate) fn stat(path: &str) -> Result<EntryInfo, ConnectError> {
    entry::describe(path, &Names::load()).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            ConnectError::not_found(format!("file not found: lstat {path}: {}", reason(&error)))
        }
        _ => ConnectError::internal(format!(
            "error getting file info: lstat {path}: {}",
            reason(&error)
        )),
    })
}

/// Describes what is in a directory, to a depth. Links are not followed, but for the directory
/// itself.
pub(crate) fn list(path: &str, depth: u32) -> Result<Vec<EntryInfo>, ConnectError> {
    let resolved =
        fs::canonicalize(path).map_err(|error| match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::NotFound, _) => {
                ConnectError::not_found(format!("path not found: lstat {path}: {}", reason(&error)))
            }
            (_, Some(libc::ELOOP)) => ConnectError::new(
                ErrorCode::FailedPrecondition,
                format!("cyclic symlink or chain >255 links at \"{path}\""),
            ),
            _ => ConnectError::internal(format!(
                "error resolving symlink: lstat {path}: {}",
                reason(&error)
            )),
        })?;
    if !resolved.is_dir() {
        return Err(ConnectError::invalid_argument(format!(
            "path is not a directory: {}",
            resolved.display()
        )));
    }
    let mut listing = Listing {
        names: Names::load(),
        entries: Vec::new(),
    };
    listing.walk(&resolved, path, depth.max(1))?;
    Ok(listing.entries)
}

struct Listing {
    names: Names,
    entries: Vec<EntryInfo>,
}

impl Listing {
    fn walk(&mut self, real: &Path, shown: &str, depth: u32) -> Result<(), ConnectError> {
        let failed = |error: io::Error| {
            ConnectError::internal(format!(
                "error reading directory {}: {}",
                real.display(),
                reason(&error)
            ))
        };
        let read = match fs::read_dir(real) {
            // Removed by somebody while we walk.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.entries.is_empty() => {
                return Ok(());
            }
            other => other.map_err(failed)?,
        };
        let mut found = Vec::new();
        for item in read {
            let item = item.map_err(failed)?;
            found.push((
                item.file_name(),
                item.file_type().is_ok_and(|kind| kind.is_dir()),
            ));
            if found.len() + self.entries.len() > ENTRIES_MAX {
                return Err(ConnectError::resource_exhausted(format!(
                    "more than {ENTRIES_MAX} entries"
                )));
            }
        }
        found.sort_unstable();
        for (name, is_directory) in found {
            let inner = real.join(&name);
            let Ok(mut entry) = entry::describe(&inner.to_string_lossy(), &self.names) else {
                continue;
            };
            entry.path = path::clean(&format!("{shown}/{}", name.to_string_lossy()));
            let shown = entry.path.clone();
            self.entries.push(entry);
            if is_directory && depth > 1 {
                self.walk(&inner, &shown, depth - 1)?;
            }
        }
        Ok(())
    }
}

/// Makes a directory, which must not be there yet.
pub(crate) fn make(path: &str, user: &User) -> Result<EntryInfo, ConnectError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(ConnectError::already_exists(format!(
                "directory already exists: {path}"
            )));
        }
        Ok(_) => {
            let message = format!("path already exists but it is not a directory: {path}");
            return Err(ConnectError::invalid_argument(message));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(ConnectError::internal(format!(
                "error getting file info: stat {path}: {}",
                reason(&error)
            )));
        }
    }
    ensure(path, user)?;
    stat(path)
}

/// Gives a file another name, over what has that name already.
pub(crate) fn rename(
    source: &str,
    destination: &str,
    user: &User,
) -> Result<EntryInfo, ConnectError> {
    ensure(&path::parent(destination), user)?;
    fs::rename(source, destination).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ConnectError::not_found(format!(
            "source file not found: rename {source} {destination}: {}",
            reason(&error)
        )),
        _ => ConnectError::internal(format!(
            "error renaming: rename {source} {destination}: {}",
            reason(&error)
        )),
    })?;
    stat(destination)
}

/// Removes whatever is there, with all that is in it.
pub(crate) fn remove(path: &str) -> Result<(), ConnectError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ConnectError::internal(format!(
                "error removing file or directory: {path}: {}",
                reason(&error)
            )))
        }
        _ => Ok(()),
    }
}

fn ensure(path: &str, user: &User) -> Result<(), ConnectError> {
    path::ensure_directories(path, user).map_err(|error| ConnectError::internal(error.to_string()))
}
