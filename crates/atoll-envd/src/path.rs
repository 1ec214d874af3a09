//! Paths as clients give them: absolute, from the home directory, or relative to the working
//! directory.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::user::User;

/// Mode of directories made on the way to a file.
const DIRECTORY_MODE: u32 = 0o755;

/// Why a path cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "failed to expand path '{path}' for user '{user}': cannot expand user-specific home dir"
    )]
    OtherHome { path: String, user: String },
    #[error("path contains a NUL byte")]
    Nul,
}

/// The absolute path that a client means. Only relative ones are cleaned of `.` and `..`.
///
/// An empty path means the working directory of `/init`, else the user's home.
pub(crate) fn resolve(path: &str, user: &User, workdir: Option<&str>) -> Result<String, Error> {
    let path = if path.is_empty() {
        workdir.unwrap_or_default()
    } else {
        path
    };
    if path.contains('\0') {
        return Err(Error::Nul);
    }
    let expanded = match path.strip_prefix('~') {
        Some("") => user.home.clone(),
        Some(rest) if rest.starts_with('/') => clean(&format!("{}/{rest}", user.home)),
        Some(_) => {
            return Err(Error::OtherHome {
                path: path.to_owned(),
                user: user.name.clone(),
            });
        }
        None => path.to_owned(),
    };
    if expanded.starts_with('/') {
        return Ok(expanded);
    }
    // Relative paths start at the home directory, also where a working directory is set.
    Ok(clean(&format!("/{}/{expanded}", user.home)))
}

/// An absolute path without empty, `.` and `..` parts, by its text alone.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The last part of a path; `/` for the root.
pub(crate) fn base_name(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit('/').next() {
        Some("") | None => "/",
        Some(name) => name,
    }
}

/// The directory that a path is in.
pub(crate) fn parent(path: &str) -> String {
    Path::new(path).parent().map_or_else(
        || "/".to_owned(),
        |parent| parent.to_string_lossy().into_owned(),
    )
}

/// Why directories could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnsureError {
    #[error("failed to stat directory: {0}")]
    Stat(io::Error),
    #[error("failed to create directory: {0}")]
    Create(io::Error),
    #[error("failed to chown directory: {0}")]
    Chown(io::Error),
    #[error("path is a file: {0}")]
    IsFile(String),
}

impl EnsureError {
    /// Whether the file system is full.
    pub(crate) fn is_out_of_space(&self) -> bool {
        match self {
            Self::Stat(error) | Self::Create(error) | Self::Chown(error) => is_out_of_space(error),
            Self::IsFile(_) => false,
        }
    }
}

/// Whether an operation failed for want of blocks, inodes or quota.
pub(crate) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Makes a directory and those above it that are missing, all owned by the user.
pub(crate) fn ensure_directories(path: &str, user: &User) -> Result<(), EnsureError> {
    let cleaned = clean(path);
    let ends = cleaned
        .match_indices('/')
        .skip(1)
        .map(|(at, _)| at)
        .chain([cleaned.len()]);
    for end in ends {
        let step = &cleaned[..end];
        match std::fs::metadata(step) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(EnsureError::IsFile(step.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_directory(step).map_err(EnsureError::Create)?;
                std::os::unix::fs::chown(step, Some(user.uid), Some(user.gid))
                    .map_err(EnsureError::Chown)?;
            }
            Err(error) => return Err(EnsureError::Stat(error)),
        }
    }
    Ok(())
}

fn make_directory(path: &str) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User {
            name: "user".to_owned(),
            uid: 1000,
            gid: 1000,
            home: "/home/user".to_owned(),
            shell: String::new(),
        }
    }

    #[test]
    fn resolves_as_clients_expect() {
        for (path, workdir, wanted) in [
            ("", None, "/home/user"),
            ("", Some("/work"), "/work"),
            ("a/b", Some("/work"), "/home/user/a/b"),
            ("../x", None, "/home/x"),
            ("~", None, "/home/user"),
            ("~/x", None, "/home/user/x"),
            ("/a/../b", None, "/a/../b"),
        ] {
            assert_eq!(resolve(path, &user(), workdir).unwrap(), wanted, "{path}");
        }
        assert!(resolve("~other/x", &user(), None).is_err());
        assert!(resolve("/a\0b", &user(), None).is_err());
    }

    #[test]
    fn names_and_parents() {
        assert_eq!(base_name("/tmp/"), "tmp");
        assert_eq!(base_name("/"), "/");
        assert_eq!(clean("/a//b/./../c/"), "/a/c");
        assert_eq!(parent("/a/b"), "/a");
        assert_eq!(parent("/a"), "/");
    }
}
