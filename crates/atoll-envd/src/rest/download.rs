//! `GET /files`: contents of a file to a client: whole, a range, or packed.
//!
//! The length of a file of `/proc` or `/sys` is not known before it is read; such files are sent
//! without one. Files are read on helper threads, one chunk at a time as the client takes them.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
    VARY,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rustix::fs::FsWord;

use super::encoding::{Accepted, Encoding};
use super::query::FileQuery;
use super::{Refusal, find_user, no_content, resolve};
use crate::filesystem::tree::reason;
use crate::helper;
use crate::inbound::Inbound;
use crate::path;
use crate::server::{self, Agent, Body};

/// Bytes read at once.
const READ_CHUNK: usize = 64 * 1024;

/// Bytes looked at to tell text from other things.
const SNIFF: usize = 512;

/// File systems whose files have no true length: proc, sysfs, cgroup 1 and 2, debugfs, tracefs,
/// securityfs.
const LENGTHLESS: [FsWord; 7] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
];

/// Types by the end of a name.
const TYPES: [(&str, &str); 16] = [
    ("avif", "image/avif"),
    ("css", "text/css; charset=utf-8"),
    ("gif", "image/gif"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("wasm", "application/wasm"),
    ("webp", "image/webp"),
    ("xml", "text/xml; charset=utf-8"),
];

/// An opened file and what can be said of it.
struct Opened {
    file: File,
    /// `None`: not known before it is read.
    length: Option<u64>,
    modified: Option<SystemTime>,
    is_text: bool,
}

/// What to send of a file.
#[derive(Debug, PartialEq, Eq)]
enum Extent {
    All,
    Range { from: u64, length: u64 },
    Unsatisfiable,
}

/// Answers the request.
pub(crate) async fn answer(
    agent: &Arc<Agent>,
    request: Request<Inbound>,
) -> Result<Response<Body>, Refusal> {
    let (head, _) = request.into_parts();
    let query = FileQuery::parse(&head.uri)?;
    query.authorise(&agent.settings, &head.headers, "read")?;
    let user = find_user(agent, query.username.as_deref())?;
    let asked = query.path.as_deref().unwrap_or_default();
    let path = resolve(agent, asked, &user).map_err(|error| {
        Refusal::bad_request(format!(
            "error expanding and resolving path '{asked}': {error}"
        ))
    })?;
    let found = helper::run({
        let path = path.clone();
        move || look(&path)
    });
    found.await??;
    let encoding = choose_encoding(&head.headers)?;
    let opened = helper::run({
        let path = path.clone();
        move || open(&path)
    });
    let opened = opened.await??;
    let mut answer = match encoding {
        Encoding::Gzip => packed(opened),
        Encoding::Identity => plain(opened, &head.headers).await?,
    };
    let headers = answer.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.insert(CONTENT_DISPOSITION, disposition(path::base_name(&path)));
    if let Some(known) = type_by_name(&path) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(known));
    }
    Ok(answer)
}

fn look(path: &str) -> Result<Metadata, Refusal> {
    let found = std::fs::metadata(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => Refusal::new(
            StatusCode::NOT_FOUND,
            format!("path '{path}' does not exist"),
        ),
        _ => Refusal::internal(format!(
            "error checking if path exists '{path}': {}",
            reason(&error)
        )),
    })?;
    if found.is_dir() {
        return Err(Refusal::bad_request(format!(
            "path '{path}' is a directory"
        )));
    }
    // A device or pipe may have no end.
    if !found.is_file() {
        return Err(Refusal::bad_request(format!(
            "path '{path}' is not a regular file"
        )));
    }
    Ok(found)
}

fn choose_encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let accepted = Accepted::parse(
        headers
            .get(ACCEPT_ENCODING)
            .and_then(|value| value.to_str().ok()),
    );
    let refused = |message: String| Refusal::new(StatusCode::NOT_ACCEPTABLE, message);
    let best = accepted
        .best()
        .map_err(|error| refused(format!("error parsing Accept-Encoding: {error}")))?;
    let is_special = [RANGE, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE]
        .iter()
        .any(|name| headers.contains_key(name));
    if !is_special {
        return Ok(best);
    }
    // Ranges and conditions are about the file as it is.
    if !accepted.allows_identity() {
        return Err(refused(
            "identity encoding not acceptable for Range or conditional request".to_owned(),
        ));
    }
    Ok(Encoding::Identity)
}

fn open(path: &str) -> Result<Opened, Refusal> {
    let failed = |error: io::Error| {
        Refusal::internal(format!("error opening file '{path}': {}", reason(&error)))
    };
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let magic = rustix::fs::fstatfs(&file)
        .map_err(|error| failed(error.into()))?
        .f_type;
    let is_lengthless = metadata.len() == 0 || LENGTHLESS.contains(&magic);
    let mut is_text = true;
    if !is_lengthless {
        let mut begin = [0; SNIFF];
        let count = file.read(&mut begin).map_err(failed)?;
        file.rewind().map_err(failed)?;
        is_text = !begin[..count]
            .iter()
            .any(|byte| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f));
    }
    Ok(Opened {
        length: (!is_lengthless).then_some(metadata.len()),
        modified: metadata.modified().ok(),
        file,
        is_text,
    })
}

fn packed(opened: Opened) -> Response<Body> {
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut answer = Response::new(body(Reading {
        file: Some(opened.file),
        left: None,
        encoder: Some(encoder),
    }));
    answer
        .headers_mut()
        .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    answer.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    answer
}

async fn plain(mut opened: Opened, asked: &HeaderMap) -> Result<Response<Body>, Refusal> {
    // The protocol's dates have whole seconds.
    let modified = opened.modified.map(whole_seconds);
    if is_unchanged(asked, modified) {
        let mut answer = no_content();
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        set_modified(answer.headers_mut(), modified);
        return Ok(answer);
    }
    let extent = match opened.length {
        Some(length) if may_range(asked, modified) => extent(asked, length),
        _ => Extent::All,
    };
    let (status, from, length) = match extent {
        Extent::All => (StatusCode::OK, 0, opened.length),
        Extent::Range { from, length } => (StatusCode::PARTIAL_CONTENT, from, Some(length)),
        Extent::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0, Some(0)),
    };
    if from > 0 {
        let mut file = opened.file;
        let sought = helper::run(move || file.seek(SeekFrom::Start(from)).map(|_| file)).await?;
        opened.file = sought.map_err(|error| {
            Refusal::internal(format!("error reading file: {}", reason(&error)))
        })?;
    }
    let total = opened.length.unwrap_or_default();
    let mut answer = match length {
        Some(0) => Response::new(server::empty()),
        left => Response::new(body(Reading {
            file: Some(opened.file),
            left,
            encoder: None,
        })),
    };
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let content_type = if opened.is_text {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    let range = match extent {
        Extent::All => None,
        Extent::Range { from, length } => {
            Some(format!("bytes {from}-{}/{total}", from + length - 1))
        }
        Extent::Unsatisfiable => Some(format!("bytes */{total}")),
    };
    if let Some(Ok(range)) = range.map(HeaderValue::try_from) {
        headers.insert(CONTENT_RANGE, range);
    }
    set_modified(headers, modified);
    Ok(answer)
}

/// A file on its way to a client.
struct Reading {
    /// `None` once all was read.
    file: Option<File>,
    left: Option<u64>,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

fn body(reading: Reading) -> Body {
    let pieces = stream::try_unfold(reading, |reading| async move {
        let step = helper::run(move || reading.step())
            .await
            .map_err(io::Error::other)?;
        Ok::<_, io::Error>(step?.map(|(piece, reading)| (Frame::data(piece), reading)))
    });
    StreamBody::new(pieces).map_err(Into::into).boxed_unsync()
}

impl Reading {
    /// Reads until there is something to send. An error ends the connection: the client sees that
    /// there is more.
    fn step(mut self) -> io::Result<Option<(Bytes, Self)>> {
        while let Some(file) = &mut self.file {
            let wanted = self.left.map_or(READ_CHUNK, |left| {
                usize::try_from(left).unwrap_or(READ_CHUNK).min(READ_CHUNK)
            });
            let mut buffer = vec![0; wanted];
            let count = if wanted == 0 {
                0
            } else {
                file.read(&mut buffer)?
            };
            buffer.truncate(count);
            if let Some(left) = &mut self.left {
                if count == 0 && *left > 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= u64::try_from(count).unwrap_or(u64::MAX).min(*left);
            }
            if count == 0 || self.left == Some(0) {
                self.file = None;
            }
            let piece = match &mut self.encoder {
                None => buffer,
                Some(encoder) => {
                    encoder.write_all(&buffer)?;
                    if self.file.is_none() {
                        encoder.try_finish()?;
                    }
                    std::mem::take(encoder.get_mut())
                }
            };
            if !piece.is_empty() {
                return Ok(Some((Bytes::from(piece), self)));
            }
        }
        Ok(None)
    }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn set_modified(headers: &mut HeaderMap, modified: Option<SystemTime>) {
    if let Some(Ok(text)) =
        modified.map(|time| HeaderValue::try_from(httpdate::fmt_http_date(time)))
    {
        headers.insert(LAST_MODIFIED, text);
    }
}

fn date(headers: &HeaderMap, name: http::HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

fn is_unchanged(asked: &HeaderMap, modified: Option<SystemTime>) -> bool {
    if let Some(tags) = asked.get(IF_NONE_MATCH) {
        return tags.as_bytes() == b"*";
    }
    let since = date(asked, IF_MODIFIED_SINCE);
    since
        .zip(modified)
        .is_some_and(|(since, modified)| modified <= since)
}

fn may_range(asked: &HeaderMap, modified: Option<SystemTime>) -> bool {
    !asked.contains_key(IF_RANGE) || (modified.is_some() && date(asked, IF_RANGE) == modified)
}

/// What a `Range` header asks of a file. Several ranges at once are answered with all of it, as RFC
/// 9110 allows.
fn extent(asked: &HeaderMap, total: u64) -> Extent {
    let Some(text) = asked.get(RANGE).and_then(|value| value.to_str().ok()) else {
        return Extent::All;
    };
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Extent::Unsatisfiable;
    };
    if last.contains(',') {
        return Extent::All;
    }
    let from = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(from), _) => from,
        (Err(_), Ok(suffix)) if first.trim().is_empty() && suffix > 0 => {
            total.saturating_sub(suffix)
        }
        _ => return Extent::Unsatisfiable,
    };
    let is_suffix = first.trim().is_empty();
    let end = match last.trim() {
        "" => total,
        _ if is_suffix => total,
        text => match text.parse::<u64>() {
            Ok(last) if last >= from => last.saturating_add(1).min(total),
            _ => return Extent::Unsatisfiable,
        },
    };
    if from >= total {
        return Extent::Unsatisfiable;
    }
    Extent::Range {
        from,
        length: end - from,
    }
}

fn type_by_name(path: &str) -> Option<&'static str> {
    let (_, end) = path::base_name(path).rsplit_once('.')?;
    TYPES
        .iter()
        .find(|(known, _)| end.eq_ignore_ascii_case(known))
        .map(|(_, name)| *name)
}

/// The name that a browser should give the file.
fn disposition(name: &str) -> HeaderValue {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let text = if !name.is_empty() && name.bytes().all(is_token) {
        format!("inline; filename={name}")
    } else if name.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        format!(
            "inline; filename=\"{}\"",
            name.replace('\\', "\\\\").replace('"', "\\\"")
        )
    } else {
        let encoded: String = name
            .bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect();
        format!("inline; filename*=utf-8''{encoded}")
    };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("inline"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, wanted) in [
            ("bytes=0-4", Extent::Range { from: 0, length: 5 }),
            ("bytes=5-", Extent::Range { from: 5, length: 5 }),
            ("bytes=-3", Extent::Range { from: 7, length: 3 }),
            (
                "bytes=-30",
                Extent::Range {
                    from: 0,
                    length: 10,
                },
            ),
            ("bytes=8-100", Extent::Range { from: 8, length: 2 }),
            ("bytes=0-1,3-4", Extent::All),
            ("bytes=10-", Extent::Unsatisfiable),
            ("bytes=4-2", Extent::Unsatisfiable),
            ("bytes=-0", Extent::Unsatisfiable),
            ("lines=1-2", Extent::Unsatisfiable),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, HeaderValue::from_static(text));
            assert_eq!(extent(&headers, 10), wanted, "{text}");
        }
    }

    #[test]
    fn names_are_quoted_as_needed() {
        assert_eq!(disposition("a.txt"), "inline; filename=a.txt");
        assert_eq!(disposition("a \"b\""), r#"inline; filename="a \"b\"""#);
        assert_eq!(disposition("é"), "inline; filename*=utf-8''%C3%A9");
    }
}
