//! What uploaders attach to files: `X-Metadata-KEY` headers, kept as extended attributes named
//! `user.e2b.KEY`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use http::HeaderMap;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// The names of our attributes begin so.
const PREFIX: &str = "user.e2b.";

const HEADER_PREFIX: &str = "x-metadata-";

/// Bytes of a key: the kernel's limit for names less the prefix.
const KEY_MAX: usize = 255 - PREFIX.len();

/// Bytes of all names, with prefix, and values of one file: what an inode of ext4 surely holds.
const TOTAL_MAX: usize = 4096;

/// Bytes read of an attribute list (the kernel's own limit) and of one value.
const LIST_MAX: usize = 64 * 1024;
const VALUE_MAX: usize = 4096;

/// Key and value.
pub(crate) type Metadata = BTreeMap<String, String>;

/// Why metadata is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("metadata key \"{0}\" exceeds {KEY_MAX} bytes")]
    LongKey(String),
    #[error("metadata {label} contains non-printable-ASCII byte 0x{byte:02x} at offset {offset}")]
    Byte {
        label: String,
        byte: u8,
        offset: usize,
    },
    #[error("total metadata size {0} exceeds {TOTAL_MAX} bytes")]
    TooMuch(usize),
}

/// Reads the headers of an upload. Of a repeated header the first counts.
pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Metadata, Invalid> {
    let mut all = Metadata::new();
    let mut total = 0;
    for name in headers.keys() {
        let Some(key) = name
            .as_str()
            .strip_prefix(HEADER_PREFIX)
            .filter(|key| !key.is_empty())
        else {
            continue;
        };
        let value = headers
            .get(name)
            .map(http::HeaderValue::as_bytes)
            .unwrap_or_default();
        if key.len() > KEY_MAX {
            return Err(Invalid::LongKey(key.to_owned()));
        }
        check("key", key.as_bytes())?;
        check(&format!("value for key \"{key}\""), value)?;
        total += PREFIX.len() + key.len() + value.len();
        all.insert(key.to_owned(), String::from_utf8_lossy(value).into_owned());
    }
    if total > TOTAL_MAX {
        return Err(Invalid::TooMuch(total));
    }
    Ok(all)
}

fn check(label: &str, bytes: &[u8]) -> Result<(), Invalid> {
    match bytes.iter().position(|byte| !(0x20..=0x7e).contains(byte)) {
        Some(offset) => Err(Invalid::Byte {
            label: label.to_owned(),
            byte: bytes[offset],
            offset,
        }),
        None => Ok(()),
    }
}

/// What is attached to a path. Empty where the file system has no attributes.
pub(crate) fn read(path: &str) -> io::Result<Metadata> {
    let mut list = vec![0; 1024];
    let count = loop {
        match rustix::fs::listxattr(path, &mut list) {
            Ok(count) => break count,
            Err(Errno::RANGE) if list.len() < LIST_MAX => list.resize(LIST_MAX, 0),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Metadata::new()),
            Err(error) => return Err(error.into()),
        }
    };
    let mut all = Metadata::new();
    for name in ours(&list[..count]) {
        let mut value = vec![0; VALUE_MAX];
        if let Ok(length) = rustix::fs::getxattr(path, name, &mut value) {
            let key = name.strip_prefix(PREFIX).unwrap_or_default();
            all.insert(
                key.to_owned(),
                String::from_utf8_lossy(&value[..length]).into_owned(),
            );
        }
    }
    Ok(all)
}

/// Attaches exactly this to a file. Does nothing where the file system has no attributes.
pub(crate) fn replace(file: &File, metadata: &Metadata) -> io::Result<()> {
    let mut list = vec![0; LIST_MAX];
    let count = match rustix::fs::flistxattr(file, &mut list) {
        Ok(count) => count,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in ours(&list[..count]) {
        if !metadata.contains_key(name.strip_prefix(PREFIX).unwrap_or_default()) {
            match rustix::fs::fremovexattr(file, name) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    for (key, value) in metadata {
        match rustix::fs::fsetxattr(
            file,
            format!("{PREFIX}{key}"),
            value.as_bytes(),
            XattrFlags::empty(),
        ) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn ours(list: &[u8]) -> impl Iterator<Item = &str> {
    list.split(|byte| *byte == 0)
        .filter_map(|name| std::str::from_utf8(name).ok())
        .filter(|name| name.starts_with(PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_checked() {
        let parse = |name: &str, value: &[u8]| {
            let mut headers = HeaderMap::new();
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.insert(name, http::HeaderValue::from_bytes(value).unwrap());
            from_headers(&headers)
        };
        assert_eq!(parse("X-Metadata-Author", b"me").unwrap()["author"], "me");
        assert!(parse("Other", b"me").unwrap().is_empty());
        assert!(matches!(
            parse("X-Metadata-A", b"\xc3\xa9"),
            Err(Invalid::Byte { offset: 0, .. })
        ));
        assert!(matches!(
            parse(&format!("X-Metadata-{}", "k".repeat(247)), b""),
            Err(Invalid::LongKey(_))
        ));
        assert!(matches!(
            parse("X-Metadata-A", &[b'x'; 4096]),
            Err(Invalid::TooMuch(_))
        ));
    }
}
