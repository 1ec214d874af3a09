//! Container images: choosing the manifest for this machine, checking digests, unpacking layers.
//!
//! Works on an OCI image layout directory (`blobs/sha256/…`), which is also what a pull leaves.
//! Every blob is checked against its digest; layers while they are unpacked, so a layer that does
//! not match fails the build after the fact, when the build directory is thrown away.
//!
//! Source of the formats: OCI image specification (index, manifest, configuration, layout).
//! Docker's own media types differ in name only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::ImageSettings;
use super::tree::Tree;
use super::unpack::{self, Budget, UnpackError};

/// Largest index, manifest or configuration; real ones take some kilobytes.
pub(super) const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;
/// An index may name an index, but not for ever.
pub(super) const MAX_INDEX_DEPTH: usize = 4;
/// The algorithm that everybody uses; others are refused.
const ALGORITHM: &str = "sha256:";

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A document of the image is not as specified.
    #[error("{what} is not a valid document")]
    Malformed {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file of the image cannot be read.
    #[error("read {what}")]
    Read {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A blob is not what its digest says.
    #[error("blob {0} does not match its digest")]
    Digest(String),
    /// A digest of another algorithm, or no digest at all.
    #[error("`{0}` is not a sha256 digest")]
    BadDigest(String),
    /// No variant of the image is for this machine.
    #[error("the image has no variant for linux/{0}")]
    Platform(&'static str),
    /// Indices within indices within indices.
    #[error("the image's index is nested too deeply")]
    Depth,
    /// A layer that cannot be unpacked by anybody without more information.
    #[error("layers of the type `{0}` are not supported")]
    Layer(String),
    /// A layer is refused.
    #[error("unpack layer {digest}")]
    Unpack {
        /// Which.
        digest: String,
        /// Why.
        #[source]
        source: UnpackError,
    },
}

impl OciError {
    /// Whether the image itself is at fault, and not this machine.
    pub(super) fn is_sources_fault(&self) -> bool {
        match self {
            Self::Unpack { source, .. } => source.is_sources_fault(),
            Self::Read { source, .. } => is_missing(source),
            Self::Malformed { .. }
            | Self::Digest(_)
            | Self::BadDigest(_)
            | Self::Platform(_)
            | Self::Depth
            | Self::Layer(_) => true,
        }
    }
}

/// Whether a named file or directory is not there, or is something else.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

/// A pointer to a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    #[serde(default)]
    pub(super) size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An image's parts.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// A manifest, or a list of them for several machines.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Document {
    Index { manifests: Vec<Descriptor> },
    Manifest(Manifest),
}

#[derive(Debug, Default, Deserialize)]
struct Configuration {
    config: Option<RunSettings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RunSettings {
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

/// Unpacks the image of a layout directory into the tree.
pub(super) fn import_layout(
    layout: &Path,
    tree: &Tree,
    budget: &mut Budget,
    log: &dyn Fn(&str),
) -> Result<ImageSettings, OciError> {
    let path = layout.join("index.json");
    let mut document = parse(&read_bounded(&path, "index.json")?, "index.json")?;
    for _ in 0..MAX_INDEX_DEPTH {
        match document {
            Document::Index { manifests } => {
                let digest = choose(&manifests)?.digest.clone();
                document = parse(&read_blob(layout, &digest)?, &digest)?;
            }
            Document::Manifest(manifest) => {
                return unpack_image(layout, &manifest, tree, budget, log);
            }
        }
    }
    Err(OciError::Depth)
}

/// Unpacks the layers of a manifest, whose blobs are all in the layout, and reads what the image
/// asks for.
pub(super) fn unpack_image(
    layout: &Path,
    manifest: &Manifest,
    tree: &Tree,
    budget: &mut Budget,
    log: &dyn Fn(&str),
) -> Result<ImageSettings, OciError> {
    let text = read_blob(layout, &manifest.config.digest)?;
    let configuration: Configuration =
        serde_json::from_slice(&text).map_err(|source| OciError::Malformed {
            what: "the image's configuration".to_owned(),
            source,
        })?;
    for (number, layer) in manifest.layers.iter().enumerate() {
        log(&format!(
            "unpacking layer {} of {}",
            number + 1,
            manifest.layers.len()
        ));
        if !layer.media_type.is_empty() && !is_tar(&layer.media_type) {
            return Err(OciError::Layer(layer.media_type.clone()));
        }
        unpack_layer(layout, &layer.digest, tree, budget)?;
    }
    Ok(settings(configuration.config.unwrap_or_default()))
}

/// The entry for this machine.
pub(super) fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, OciError> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = |descriptor: &&Descriptor| match &descriptor.platform {
        Some(platform) => platform.os == "linux" && platform.architecture == architecture,
        None => false,
    };
    let any = manifests.iter().find(|entry| entry.platform.is_none());
    let chosen = manifests.iter().find(fits).or(any);
    chosen.ok_or(OciError::Platform(architecture))
}

/// Where a layout keeps a blob. The digest comes from a stranger's document, so it is checked to be
/// one.
pub(super) fn blob_path(layout: &Path, digest: &str) -> Result<PathBuf, OciError> {
    let hex = digest.strip_prefix(ALGORITHM).unwrap_or_default();
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if hex.len() == 64 && hex.bytes().all(is_hex) {
        Ok(layout.join("blobs/sha256").join(hex))
    } else {
        Err(OciError::BadDigest(digest.chars().take(80).collect()))
    }
}

pub(super) fn parse(text: &[u8], what: &str) -> Result<Document, OciError> {
    serde_json::from_slice(text).map_err(|source| OciError::Malformed {
        what: what.to_owned(),
        source,
    })
}

fn read_bounded(path: &Path, what: &str) -> Result<Vec<u8>, OciError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        File::open(path)?
            .take(MAX_DOCUMENT)
            .read_to_end(&mut text)?;
        Ok(text)
    };
    read().map_err(|source| OciError::Read {
        what: what.to_owned(),
        source,
    })
}

fn read_blob(layout: &Path, digest: &str) -> Result<Vec<u8>, OciError> {
    let text = read_bounded(&blob_path(layout, digest)?, digest)?;
    check(digest, Sha256::new_with_prefix(&text))?;
    Ok(text)
}

fn check(digest: &str, hasher: Sha256) -> Result<(), OciError> {
    let actual = format!("{ALGORITHM}{}", hex::encode(hasher.finalize()));
    if actual == digest {
        Ok(())
    } else {
        Err(OciError::Digest(digest.to_owned()))
    }
}

fn unpack_layer(
    layout: &Path,
    digest: &str,
    tree: &Tree,
    budget: &mut Budget,
) -> Result<(), OciError> {
    let path = blob_path(layout, digest)?;
    let file = File::open(path).map_err(|source| OciError::Read {
        what: digest.to_owned(),
        source,
    })?;
    let mut reader = Hashing {
        inner: io::BufReader::new(file),
        hasher: Sha256::new(),
    };
    unpack::unpack(&mut reader, tree, budget).map_err(|source| OciError::Unpack {
        digest: digest.to_owned(),
        source,
    })?;
    check(digest, reader.hasher)
}

/// Layers are tar archives, compressed or not; the compression is recognised by content.
fn is_tar(media_type: &str) -> bool {
    let is_encrypted = media_type.contains("encrypted");
    media_type.contains("tar") && !is_encrypted
}

fn settings(run: RunSettings) -> ImageSettings {
    let pairs = run.env.unwrap_or_default();
    let environment: BTreeMap<String, String> = pairs
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let non_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
    ImageSettings {
        environment,
        working_dir: non_empty(run.working_dir).map(PathBuf::from),
        user: non_empty(run.user),
    }
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..len]);
        Ok(len)
    }
}
