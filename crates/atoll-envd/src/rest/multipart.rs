//! `multipart/form-data` (RFC 7578), read as a stream: a part is never held as a whole.

use bytes::{Bytes, BytesMut};

use super::Refusal;
use super::source::Source;

/// Bytes of a boundary (RFC 2046 allows 70).
const BOUNDARY_MAX: usize = 200;

/// Bytes of one part's headers.
const HEADERS_MAX: usize = 16 * 1024;

/// Parts of one body.
const PARTS_MAX: usize = 4096;

/// Reads parts in turn.
pub(crate) struct Multipart {
    source: Source,
    buffer: BytesMut,
    /// Line break and boundary: what ends a part.
    delimiter: Vec<u8>,
    parts: usize,
}

/// How a part presents itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: Option<String>,
    pub(crate) filename: Option<String>,
}

impl Multipart {
    /// Begins, given the content type.
    pub(crate) fn new(content_type: &str, source: Source) -> Result<Self, Refusal> {
        let boundary = parameters(content_type)
            .find_map(|(name, value)| (name == "boundary").then_some(value));
        let boundary =
            boundary.filter(|boundary| !boundary.is_empty() && boundary.len() <= BOUNDARY_MAX);
        let boundary = boundary.ok_or_else(|| {
            Refusal::internal(
                "error parsing multipart form: no multipart boundary param in Content-Type",
            )
        })?;
        // The first boundary needs no line break before it; pretend there was one.
        Ok(Self {
            source,
            buffer: BytesMut::from(&b"\r\n"[..]),
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            parts: 0,
        })
    }

    /// The next part; what is left of the one before is skipped.
    pub(crate) async fn next_part(&mut self) -> Result<Option<Part>, Refusal> {
        while self.next_piece().await?.is_some() {}
        self.need(self.delimiter.len() + 2).await?;
        let _ = self.buffer.split_to(self.delimiter.len());
        if self.buffer.starts_with(b"--") {
            return Ok(None);
        }
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(broken(&format!("more than {PARTS_MAX} parts")));
        }
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            if self.buffer.len() > HEADERS_MAX {
                return Err(broken("headers too long"));
            }
            self.need(self.buffer.len() + 1).await?;
        };
        let headers = self.buffer.split_to(end + 4);
        Ok(Some(Part::parse(&String::from_utf8_lossy(&headers))))
    }

    /// The next piece of the part.
    pub(crate) async fn next_piece(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            match find(&self.buffer, &self.delimiter) {
                Some(0) => return Ok(None),
                Some(end) => return Ok(Some(self.buffer.split_to(end).freeze())),
                // The last bytes may be the begin of the delimiter.
                None if self.buffer.len() >= self.delimiter.len() => {
                    let safe = self.buffer.len() - self.delimiter.len() + 1;
                    return Ok(Some(self.buffer.split_to(safe).freeze()));
                }
                None => self.need(self.buffer.len() + 1).await?,
            }
        }
    }

    async fn need(&mut self, count: usize) -> Result<(), Refusal> {
        while self.buffer.len() < count {
            let piece = self
                .source
                .next()
                .await?
                .ok_or_else(|| broken("unexpected EOF"))?;
            self.buffer.extend_from_slice(&piece);
        }
        Ok(())
    }
}

impl Part {
    fn parse(headers: &str) -> Self {
        let mut part = Self::default();
        for line in headers.split("\r\n") {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            if !name.trim().eq_ignore_ascii_case("content-disposition") {
                continue;
            }
            for (name, value) in parameters(value) {
                match name.as_str() {
                    "name" => part.name = Some(value),
                    "filename" => drop(part.filename.get_or_insert(value)),
                    "filename*" => part.filename = extended(&value).or(part.filename),
                    _ => {}
                }
            }
        }
        part
    }
}

/// The parameters of a header value, after its first word; names in lower case.
fn parameters(value: &str) -> impl Iterator<Item = (String, String)> {
    let mut rest = value.split_once(';').map_or("", |(_, rest)| rest);
    std::iter::from_fn(move || {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_matches([' ', '\t', ';']).to_ascii_lowercase();
        let after = after.trim_start();
        if !after.starts_with('"') {
            let end = after.find(';').unwrap_or(after.len());
            rest = after.get(end + 1..).unwrap_or_default();
            return Some((name, after[..end].trim().to_owned()));
        }
        let mut text = String::new();
        let mut letters = after.char_indices().skip(1);
        rest = "";
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    rest = &after[at + 1..];
                    break;
                }
                // Only quotes and backslashes are quoted so; others are file names of Windows.
                '\\' => match letters.next() {
                    Some((_, quoted @ ('"' | '\\'))) => text.push(quoted),
                    Some((_, other)) => text.extend(['\\', other]),
                    None => {}
                },
                other => text.push(other),
            }
        }
        Some((name, text))
    })
}

/// A value of the form `UTF-8''percent-encoded` (RFC 8187).
fn extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, encoded) = rest.split_once('\'')?;
    // A plus sign is itself here.
    charset
        .eq_ignore_ascii_case("utf-8")
        .then(|| super::query::decode(&encoded.replace('+', "%2B")))?
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| *byte == needle[0]) {
        let at = from + at;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

fn broken(what: &str) -> Refusal {
    Refusal::internal(format!("error reading form: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_headers_are_read() {
        let parse =
            |line: &str| Part::parse(&format!("X: y\r\nContent-Disposition: {line}\r\n\r\n"));
        let named = |name: &str, file: Option<&str>| Part {
            name: Some(name.to_owned()),
            filename: file.map(str::to_owned),
        };
        assert_eq!(
            parse(r#"form-data; name="file"; filename="/a/b;\"c.txt""#),
            named("file", Some(r#"/a/b;"c.txt"#))
        );
        assert_eq!(parse("form-data; name=file"), named("file", None));
        assert_eq!(
            parse("form-data; name=\"file\"; filename*=UTF-8''%C3%A9+.txt"),
            named("file", Some("é+.txt"))
        );
        assert_eq!(parse("form-data"), Part::default());
    }

    #[test]
    fn finds_what_begins_twice() {
        assert_eq!(find(b"a\r\r\n--b", b"\r\n--b"), Some(2));
        assert_eq!(find(b"a\r\n--", b"\r\n--b"), None);
    }
}
