//! What a snapshot consists of, as it stands in the storage.

use atoll_core::snapshot::Digest;
use object_store::path::Path as Key;
use serde::{Deserialize, Serialize};

use super::{Error, Of, PART_BYTES};

/// Format of the manifest; another one is not guessed at.
const VERSION: u32 = 1;

/// The same for the same disk, so that an upload that is done again writes the same.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    v: u32,
    sandbox: String,
    generation: u64,
    template: String,
    build: String,
    /// Bytes of the disk.
    pub(super) size: u64,
    part_bytes: usize,
    pub(super) parts: Vec<Part>,
}

/// A part that is not all zeros.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Part {
    /// Its place among all parts.
    pub(super) at: u64,
    pub(super) sha256: String,
    /// What it takes of the storage.
    pub(super) stored: u64,
}

impl Manifest {
    pub(super) fn new(of: &Of, size: u64, parts: Vec<Part>) -> Self {
        Self {
            v: VERSION,
            sandbox: of.id.to_string(),
            generation: of.generation.get(),
            template: of.template.to_string(),
            build: of.build.to_string(),
            size,
            part_bytes: PART_BYTES,
            parts,
        }
    }

    /// The manifest in these bytes, if it is of this.
    pub(super) fn parse(key: &Key, bytes: &[u8], of: &Of) -> Result<Self, Error> {
        let damaged = |found: String| Error::damaged(key, found);
        let found: Self =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        let expected = Self::new(of, found.size, Vec::new());
        if (found.v, found.part_bytes) != (VERSION, PART_BYTES) {
            return Err(damaged(format!("its format {} is not known", found.v)));
        }
        let names = |of: &Self| {
            let texts = [&of.sandbox, &of.template, &of.build];
            (texts.map(String::clone), of.generation)
        };
        if names(&found) != names(&expected) {
            return Err(damaged(format!(
                "it is of {} {}",
                found.sandbox, found.generation
            )));
        }
        let count = found.size.div_ceil(PART_BYTES as u64);
        if found.parts.iter().any(|part| part.at >= count) {
            return Err(damaged("it has parts beyond its end".to_owned()));
        }
        Ok(found)
    }
}

impl Part {
    pub(super) fn digest(&self, manifest: &Key) -> Result<Digest, Error> {
        let digest = self.sha256.parse();
        digest.map_err(|_| Error::damaged(manifest, "it names a part by no digest"))
    }
}
