//! Copies of paused sandboxes' files in storage that several nodes share.
//!
//! A node makes one after a pause that keeps only files, reads it back, and only then tells of it.
//! Control notes it with the sandbox; from then on any node with the same storage can go on with
//! the sandbox, whatever becomes of the one that made it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::id::{Generation, SandboxId, StoreId};
use crate::sandbox::Sandbox;

/// Name of the label by which a node says what storage it shares with others, as the storage's id.
pub const STORE_LABEL: &str = "atoll/snapshot-store";

/// A copy that was read back and found whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it lies.
    pub store: StoreId,
    /// The placement under which the sandbox was paused.
    pub generation: Generation,
    /// Digest of its manifest, which names the digest of every part.
    pub digest: Digest,
    /// What it takes of the storage.
    pub bytes: u64,
}

/// What a storage has of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Which.
    pub id: SandboxId,
    /// The oldest placement that something is there of.
    pub oldest: Generation,
}

/// What of a sandbox a storage need not have any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unneeded {
    /// Which sandbox.
    pub id: SandboxId,
    /// All of this placement and of those before it.
    pub through: Generation,
    /// Only if nothing was written of it for so long: it may be somebody's who is not known yet.
    pub quiet_for: Duration,
}

/// How long something must have lain there of a sandbox that is not known, before it goes: long
/// enough to notice that the store was restored from an older copy.
pub const UNKNOWN_KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// What of that is not needed any more, if anything is.
///
/// Needed is what is noted with the sandbox and what may be on its way to that: of the placement
/// that it is kept under, or would be.
#[must_use]
pub fn unneeded(row: Option<&Sandbox>, stored: &Stored) -> Option<Unneeded> {
    let all = |quiet_for| {
        Some(Unneeded {
            id: stored.id.clone(),
            through: Generation::MAX,
            quiet_for,
        })
    };
    let Some(row) = row else {
        return all(UNKNOWN_KEPT_FOR);
    };
    if row.ended.is_some() {
        return all(Duration::ZERO);
    }
    let noted = row.snapshot.as_ref().map(|snapshot| snapshot.generation);
    let kept = row.kept.map(|kept| kept.generation);
    let needed = noted.or(kept).unwrap_or(row.generation);
    (stored.oldest < needed).then(|| Unneeded {
        id: stored.id.clone(),
        through: needed.before(),
        quiet_for: Duration::ZERO,
    })
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// A text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 digits of base 16")]
pub struct InvalidDigest;

impl Digest {
    /// From its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let mut bytes = [0; 32];
        // Signs would pass for digits below.
        let is_plain = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        for (index, byte) in bytes.iter_mut().enumerate().filter(|_| is_plain) {
            let digits = text.get(2 * index..2 * index + 2).ok_or(InvalidDigest)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidDigest)?;
        }
        is_plain.then_some(Self(bytes)).ok_or(InvalidDigest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = Digest::new(std::array::from_fn(|index| {
            u8::try_from(index).unwrap() * 8
        }));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for wrong in [
            "",
            "00",
            &"g0".repeat(32),
            &"+1".repeat(32),
            &"0".repeat(65),
        ] {
            assert_eq!(wrong.parse::<Digest>(), Err(InvalidDigest), "{wrong}");
        }
    }
}
