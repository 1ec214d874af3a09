//! Pulling images from registries into an OCI layout directory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncWrite;

use super::oci::{self, Descriptor, Document, Manifest, OciError};

/// A registry that does not answer is given up for the next mirror.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Longest silence in the middle of a download.
const READ_LIMIT: Duration = Duration::from_secs(60);
const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Registries by host name, with a port where one is used: `docker.io`, `127.0.0.1:5000`.
pub type Registries = BTreeMap<String, Registry>;

/// How a registry is reached. One that is not configured is asked anonymously over HTTPS.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Hosts that have the same content, asked first and in this order.
    pub mirrors: Vec<String>,
    /// No TLS.
    pub is_plain_http: bool,
    /// User name and password.
    pub login: Option<(String, SecretString)>,
}

/// Why an image cannot be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// No such form of reference.
    #[error("`{0}` is not an image reference")]
    Reference(String),
    /// The registry refused or failed, and so did its mirrors; the last answer.
    #[error("pull from {registry}")]
    Registry {
        /// Who was asked last.
        registry: String,
        /// What it said.
        #[source]
        source: Box<OciDistributionError>,
    },
    /// The layers together are larger than allowed.
    #[error("its layers take more than {0} bytes (limit `max_bytes`)")]
    TooLarge(u64),
    /// The image's documents are refused.
    #[error(transparent)]
    Image(#[from] OciError),
    /// The download cannot be kept.
    #[error("keep the download")]
    Io(#[from] io::Error),
}

impl PullError {
    /// Whether the reference or the image is at fault, and not this machine. A registry that does
    /// not answer is part of the reference: whoever named it can name another.
    pub(super) fn is_sources_fault(&self) -> bool {
        match self {
            Self::Reference(_) | Self::TooLarge(_) | Self::Registry { .. } => true,
            Self::Image(error) => error.is_sources_fault(),
            Self::Io(_) => false,
        }
    }
}

/// Pulls an image for this machine into `layout`, and returns its manifest.
pub(super) async fn pull(
    image: &str,
    registries: &Registries,
    layout: &Path,
    max_bytes: u64,
    log: &(dyn Fn(&str) + Send + Sync),
) -> Result<Manifest, PullError> {
    let reference: Reference = image
        .parse()
        .map_err(|_| PullError::Reference(image.chars().take(200).collect()))?;
    tokio::fs::create_dir_all(layout.join("blobs/sha256")).await?;
    let own = registries.get(reference.registry());
    let mirrors = own.map_or(&[][..], |own| &own.mirrors);
    for mirror in mirrors {
        let mut mirrored = reference.clone();
        mirrored.set_mirror_registry(mirror.clone());
        match pull_from(&mirrored, registries, layout, max_bytes, log).await {
            Err(PullError::Registry { registry, source }) => {
                log(&format!("mirror {registry} failed: {source}"));
            }
            other => return other,
        }
    }
    pull_from(&reference, registries, layout, max_bytes, log).await
}

async fn pull_from(
    reference: &Reference,
    registries: &Registries,
    layout: &Path,
    max_bytes: u64,
    log: &(dyn Fn(&str) + Send + Sync),
) -> Result<Manifest, PullError> {
    let host = reference.resolve_registry();
    let plain = registries
        .iter()
        .filter(|(_, registry)| registry.is_plain_http);
    let client = Client::new(ClientConfig {
        protocol: ClientProtocol::HttpsExcept(plain.map(|(host, _)| host.clone()).collect()),
        connect_timeout: Some(CONNECT_LIMIT),
        read_timeout: Some(READ_LIMIT),
        ..ClientConfig::default()
    });
    let login = registries
        .get(host)
        .or_else(|| registries.get(reference.registry()));
    let auth = match login.and_then(|registry| registry.login.as_ref()) {
        // Only to whom they belong: a mirror does not get the origin's password.
        Some((name, password)) if registries.contains_key(host) => {
            RegistryAuth::Basic(name.clone(), password.expose_secret().to_owned())
        }
        _ => RegistryAuth::Anonymous,
    };
    let failed = |source| PullError::Registry {
        registry: host.to_owned(),
        source: Box::new(source),
    };
    log(&format!("pulling {reference} from {host}"));
    let mut wanted = reference.clone();
    for _ in 0..oci::MAX_INDEX_DEPTH {
        let answer = client.pull_manifest_raw(&wanted, &auth, &ACCEPTED).await;
        let (text, digest) = answer.map_err(failed)?;
        match oci::parse(&text, &digest)? {
            Document::Index { manifests } => {
                wanted = wanted.clone_with_digest(oci::choose(&manifests)?.digest.clone());
            }
            Document::Manifest(manifest) => {
                let total: u64 = manifest
                    .layers
                    .iter()
                    .fold(0, |sum, layer| sum.saturating_add(layer.size));
                if total > max_bytes || manifest.config.size > oci::MAX_DOCUMENT {
                    return Err(PullError::TooLarge(max_bytes));
                }
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    download(&client, &wanted, blob, layout, log)
                        .await
                        .map_err(|error| match error {
                            BlobError::Registry(source) => failed(*source),
                            BlobError::Own(own) => own,
                        })?;
                }
                return Ok(manifest);
            }
        }
    }
    Err(OciError::Depth.into())
}

enum BlobError {
    Registry(Box<OciDistributionError>),
    Own(PullError),
}

async fn download(
    client: &Client,
    reference: &Reference,
    blob: &Descriptor,
    layout: &Path,
    log: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), BlobError> {
    let own = |error: PullError| BlobError::Own(error);
    let path = oci::blob_path(layout, &blob.digest).map_err(|error| own(error.into()))?;
    log(&format!(
        "downloading {} ({} bytes)",
        blob.digest, blob.size
    ));
    let file = tokio::fs::File::create(&path).await;
    let mut bounded = Bounded {
        inner: file.map_err(|error| own(error.into()))?,
        left: blob.size,
    };
    let descriptor = OciDescriptor {
        media_type: blob.media_type.clone(),
        digest: blob.digest.clone(),
        ..OciDescriptor::default()
    };
    client
        .pull_blob(reference, &descriptor, &mut bounded)
        .await
        .map_err(|error| BlobError::Registry(Box::new(error)))
}

/// A file that takes no more than what the manifest announced.
struct Bounded {
    inner: tokio::fs::File,
    left: u64,
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if u64::try_from(bytes.len()).is_ok_and(|len| len > self.left) {
            return Poll::Ready(Err(io::Error::other(
                "the registry sends more than its manifest says",
            )));
        }
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        if let Poll::Ready(Ok(len)) = &written {
            self.left = self
                .left
                .saturating_sub(u64::try_from(*len).unwrap_or(u64::MAX));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
