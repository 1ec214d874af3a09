//! The body of an upload, piece by piece, unpacked if it came packed.

use std::io::Write;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;

use super::Refusal;
use crate::inbound::Inbound;

/// Packed bytes unpacked at once. They become at most a thousand times as many, so this bounds
/// memory.
const UNPACK_STEP: usize = 1024;

/// A body that is read once.
pub(crate) struct Source {
    body: Inbound,
    unpack: Option<Unpack>,
}

struct Unpack {
    decoder: MultiGzDecoder<Vec<u8>>,
    packed: Bytes,
    is_finished: bool,
}

impl Source {
    pub(crate) fn new(headers: &HeaderMap, body: Inbound) -> Result<Self, Refusal> {
        let header = headers
            .get(CONTENT_ENCODING)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let encoding = header
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let unpack = match encoding.as_str() {
            "" | "identity" => None,
            "gzip" => Some(Unpack {
                decoder: MultiGzDecoder::new(Vec::new()),
                packed: Bytes::new(),
                is_finished: false,
            }),
            _ => {
                let message = format!("unsupported Content-Encoding: {header}, supported: [gzip]");
                return Err(Refusal::bad_request(format!(
                    "error decompressing request body: {message}"
                )));
            }
        };
        Ok(Self { body, unpack })
    }

    /// The next piece; never empty.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            if let Some(unpack) = &mut self.unpack {
                if let Some(piece) = unpack.step()? {
                    return Ok(Some(piece));
                }
                if unpack.is_finished {
                    return Ok(None);
                }
            }
            let frame = match self.body.frame().await {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    return Err(Refusal::internal(format!("error writing file: {error}")));
                }
                None => match &mut self.unpack {
                    Some(unpack) => {
                        unpack.finish()?;
                        continue;
                    }
                    None => return Ok(None),
                },
            };
            match &mut self.unpack {
                Some(unpack) => unpack.packed = frame,
                None if frame.is_empty() => {}
                None => return Ok(Some(frame)),
            }
        }
    }
}

impl Unpack {
    fn step(&mut self) -> Result<Option<Bytes>, Refusal> {
        while !self.packed.is_empty() {
            let part = self.packed.split_to(UNPACK_STEP.min(self.packed.len()));
            self.decoder
                .write_all(&part)
                .map_err(|error| refused(&error))?;
            if let Some(piece) = self.take() {
                return Ok(Some(piece));
            }
        }
        Ok(self.take())
    }

    fn finish(&mut self) -> Result<(), Refusal> {
        self.is_finished = true;
        self.decoder.try_finish().map_err(|error| refused(&error))
    }

    fn take(&mut self) -> Option<Bytes> {
        let unpacked = std::mem::take(self.decoder.get_mut());
        (!unpacked.is_empty()).then(|| Bytes::from(unpacked))
    }
}

fn refused(error: &std::io::Error) -> Refusal {
    Refusal::bad_request(format!("error decompressing request body: {error}"))
}
