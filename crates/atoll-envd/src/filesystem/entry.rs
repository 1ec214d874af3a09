//! What a client learns about a file.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use atoll_proto::filesystem::{EntryInfo, FileType};
use buffa_types::google::protobuf::Timestamp;

use crate::path;
use crate::rest::metadata;
use crate::user::Names;

/// The permission bits of a mode.
const PERMISSIONS: u32 = 0o777;

/// Describes a path. A symbolic link is described as itself, but with the type and mode of what it
/// leads to.
///
/// # Errors
/// If there is nothing, or it cannot be looked at.
pub(crate) fn describe(path: &str, names: &Names) -> io::Result<EntryInfo> {
    let own = fs::symlink_metadata(path)?;
    let is_link = own.file_type().is_symlink();
    let target = is_link.then(|| {
        fs::canonicalize(path).map_or_else(
            |_| path.to_owned(),
            |target| target.to_string_lossy().into_owned(),
        )
    });
    let counted = if is_link {
        fs::metadata(path).ok()
    } else {
        Some(own.clone())
    };
    Ok(EntryInfo {
        name: path::base_name(path).to_owned(),
        r#type: counted
            .as_ref()
            .map_or(FileType::FILE_TYPE_UNSPECIFIED, type_of)
            .into(),
        path: path.to_owned(),
        size: i64::try_from(own.len()).unwrap_or(i64::MAX),
        mode: counted
            .as_ref()
            .map_or(0, |counted| counted.mode() & PERMISSIONS),
        permissions: permissions(&own),
        owner: names.user(own.uid()),
        group: names.group(own.gid()),
        modified_time: Timestamp {
            seconds: own.mtime(),
            nanos: i32::try_from(own.mtime_nsec()).unwrap_or_default(),
            ..Timestamp::default()
        }
        .into(),
        symlink_target: target,
        // Best effort: everything else about the file is still true.
        metadata: metadata::read(path)
            .unwrap_or_default()
            .into_iter()
            .collect(),
        ..EntryInfo::default()
    })
}

fn type_of(metadata: &Metadata) -> FileType {
    let kind = metadata.file_type();
    if kind.is_file() {
        FileType::FILE_TYPE_FILE
    } else if kind.is_dir() {
        FileType::FILE_TYPE_DIRECTORY
    } else {
        FileType::FILE_TYPE_UNSPECIFIED
    }
}

/// The mode in the letters of the protocol, which differ from those of `ls` for all that is not a
/// plain file.
fn permissions(metadata: &Metadata) -> String {
    let kind = metadata.file_type();
    let mode = metadata.mode();
    let letters = [
        (kind.is_dir(), 'd'),
        (kind.is_symlink(), 'L'),
        (kind.is_block_device() || kind.is_char_device(), 'D'),
        (kind.is_fifo(), 'p'),
        (kind.is_socket(), 'S'),
        (mode & libc::S_ISUID != 0, 'u'),
        (mode & libc::S_ISGID != 0, 'g'),
        (kind.is_char_device(), 'c'),
        (mode & libc::S_ISVTX != 0, 't'),
    ];
    let mut text: String = letters
        .iter()
        .filter(|(is_set, _)| *is_set)
        .map(|(_, letter)| *letter)
        .collect();
    if text.is_empty() {
        text.push('-');
    }
    for (place, letter) in "rwxrwxrwx".chars().enumerate() {
        text.push(if mode & (0o400 >> place) != 0 {
            letter
        } else {
            '-'
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_those_of_the_protocol() {
        for (path, wanted) in [
            ("/", "drwxr-xr-x"),
            ("/tmp", "dtrwxrwxrwx"),
            ("/dev/null", "Dcrw-rw-rw-"),
            ("/proc/self", "Lrwxrwxrwx"),
        ] {
            assert_eq!(
                permissions(&fs::symlink_metadata(path).unwrap()),
                wanted,
                "{path}"
            );
        }
    }

    #[test]
    fn a_link_shows_where_it_leads() {
        let entry = describe("/proc/self", &Names::default()).unwrap();
        assert_eq!(
            entry.symlink_target.as_deref(),
            Some(format!("/proc/{}", std::process::id()).as_str())
        );
        assert_eq!(entry.r#type, FileType::FILE_TYPE_DIRECTORY);
        assert_eq!(entry.owner, entry.group);
    }
}
