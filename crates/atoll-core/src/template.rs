//! Templates: named root file systems from which sandboxes start.

use crate::id::{BuildId, TeamId, TemplateId};
use crate::resources::Resources;
use crate::time::Timestamp;

/// Where a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BuildStatus {
    /// Accepted, not begun.
    Waiting,
    /// Under way.
    Building,
    /// Sandboxes can start from it.
    Ready,
    /// It ended without a usable result.
    Failed,
}

/// A template with its newest build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its identity.
    pub id: TemplateId,
    /// The build that sandboxes start from.
    pub build: BuildId,
    /// Who owns it. None: global, usable by every team (`base`).
    pub team: Option<TeamId>,
    /// Names it answers to, lower case: `base`.
    pub names: Vec<String>,
    /// Whether other teams may start it.
    pub is_public: bool,
    /// What each sandbox made from it takes.
    pub resources: Resources,
    /// Where its build stands.
    pub status: BuildStatus,
    /// Version of the guest agent it was made for.
    pub envd_version: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// What a template's root file system is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateSource {
    /// The host's own system directories.
    Host,
    /// A directory on the node.
    Directory(std::path::PathBuf),
    /// A tar archive on the node, plain, gzip or zstd.
    Tar(std::path::PathBuf),
    /// An OCI image layout directory on the node.
    OciLayout(std::path::PathBuf),
    /// An image reference, pulled from its registry.
    Image(String),
    /// A Debian suite, made with mmdebstrap, with more packages by name.
    Debian {
        /// `bookworm`, `trixie`, …
        suite: String,
        /// Packages beyond the minimal set.
        packages: Vec<String>,
    },
}
