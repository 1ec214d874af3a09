//! A bound on what an archive's own bookkeeping may take in memory.
//!
//! Long names and extended headers are entries whose content a tar reader keeps in memory, whatever
//! size they claim. This reader follows the archive's structure as it passes through, and ends with
//! an error at a bookkeeping entry larger than any real one.
//!
//! Source of the format: POSIX pax, and tar(5) for GNU's additions.

use std::io::{self, Read};

/// Largest extended header or long name. Real ones take some hundred bytes; extended attributes may
/// be 64 KiB each.
const MAX_BOOKKEEPING: u64 = 1024 * 1024;
const BLOCK: usize = 512;
/// Where the header has the type, the size, and, in GNU's sparse format, whether more headers
/// follow.
const TYPE_AT: usize = 156;
const SIZE_AT: std::ops::Range<usize> = 124..136;
const SPARSE_MORE_AT: usize = 482;
const SPARSE_BLOCK_MORE_AT: usize = 504;

enum Expect {
    Header,
    /// Further header blocks of a sparse file, whose content follows them.
    SparseHeader {
        content: u64,
    },
    /// Content that is passed over; in blocks.
    Content {
        blocks: u64,
    },
    /// The content of an extended header, which may give the next entry's size.
    Extended {
        bytes: u64,
    },
}

/// Passes an archive through; see the module.
pub(super) struct Guard<R> {
    inner: R,
    expect: Expect,
    /// The block being followed, up to its full length.
    block: Vec<u8>,
    extended: Vec<u8>,
    /// A size from an extended header, which takes the place of the next header's.
    next_size: Option<u64>,
}

impl<R: Read> Guard<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            expect: Expect::Header,
            block: Vec::with_capacity(BLOCK),
            extended: Vec::new(),
            next_size: None,
        }
    }

    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let wanted = (BLOCK - self.block.len()).min(bytes.len());
            self.block.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if self.block.len() == BLOCK {
                let block = std::mem::take(&mut self.block);
                self.expect = self.next(&block)?;
                self.block = block;
                self.block.clear();
            }
        }
        Ok(())
    }

    fn next(&mut self, block: &[u8]) -> io::Result<Expect> {
        match self.expect {
            Expect::Header => self.header(block),
            Expect::SparseHeader { content } if block[SPARSE_BLOCK_MORE_AT] != 0 => {
                Ok(Expect::SparseHeader { content })
            }
            Expect::SparseHeader { content } => Ok(pass_over(content)),
            Expect::Content { blocks } if blocks > 1 => Ok(Expect::Content { blocks: blocks - 1 }),
            Expect::Content { .. } => Ok(Expect::Header),
            Expect::Extended { bytes } => {
                let len = usize::try_from(bytes).map_or(BLOCK, |bytes| bytes.min(BLOCK));
                self.extended.extend_from_slice(&block[..len]);
                let left = bytes.saturating_sub(512);
                if left > 0 {
                    return Ok(Expect::Extended { bytes: left });
                }
                self.next_size = size_record(&self.extended);
                self.extended.clear();
                Ok(Expect::Header)
            }
        }
    }

    fn header(&mut self, block: &[u8]) -> io::Result<Expect> {
        let own = number(&block[SIZE_AT]);
        let kind = block[TYPE_AT];
        if matches!(kind, b'x' | b'g' | b'L' | b'K') && own > MAX_BOOKKEEPING {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("an extended header is larger than {MAX_BOOKKEEPING} bytes"),
            ));
        }
        match kind {
            b'x' if own > 0 => Ok(Expect::Extended { bytes: own }),
            b'g' | b'L' | b'K' => Ok(pass_over(own)),
            _ => {
                let size = self.next_size.take().unwrap_or(own);
                if kind == b'S' && block[SPARSE_MORE_AT] != 0 {
                    return Ok(Expect::SparseHeader { content: size });
                }
                // Links and directories have no content, whatever size they state.
                let has_content = !matches!(kind, b'1'..=b'6');
                Ok(if has_content {
                    pass_over(size)
                } else {
                    Expect::Header
                })
            }
        }
    }
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.follow(&buffer[..len])?;
        Ok(len)
    }
}

fn pass_over(bytes: u64) -> Expect {
    match bytes.div_ceil(512) {
        0 => Expect::Header,
        blocks => Expect::Content { blocks },
    }
}

/// A number of a header: octal digits, or big-endian with the highest bit set (GNU).
fn number(field: &[u8]) -> u64 {
    if field[0] & 0x80 != 0 {
        let digits = field[field.len() - 8..].iter();
        return digits.fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    }
    field
        .iter()
        .filter(|byte| (b'0'..=b'7').contains(*byte))
        .fold(0, |sum, byte| sum << 3 | u64::from(byte - b'0'))
}

/// The `size` record of an extended header. Records are `LENGTH KEY=VALUE\n`.
fn size_record(mut bytes: &[u8]) -> Option<u64> {
    while let Some(space) = bytes.iter().position(|byte| *byte == b' ') {
        let len: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..len)?;
        if let Some(value) = record.strip_prefix(b"size=") {
            return std::str::from_utf8(value).ok()?.trim_end().parse().ok();
        }
        bytes = &bytes[len..];
    }
    None
}
