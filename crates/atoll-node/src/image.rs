//! Templates on a node: read-only layers on disk, from which root file systems are put together.
//!
//! ```text
//! <data dir>/<template id>/<build id>/   one build, complete as soon as it is there
//!     template.json                      how its layers are mounted, and what the image asked for
//!     root/ usr/ …                       layers, with the owners that a sandbox sees
//!     disk.img                           of a snapshot only: the writable layer to start with
//! <data dir>/.partial/<name>/            builds under way and removals; swept at start
//! ```
//!
//! Invariants:
//! - A build is made under `.partial` and renamed when it is complete and on disk: a crash leaves
//!   nothing half-made that [`TemplateStore::resolve`] finds.
//! - Layers are never changed afterwards. Files belong to the ids that a sandbox sees (root is 0);
//!   each sandbox sees them through ID-mapped mounts.
//! - Nothing of an archive is written outside its layer (module `tree`), and sizes are bounded.
//!
//! Not done here: mounting, and refusing to remove a template in use, which the caller knows.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_core::id::{BuildId, TemplateId};
use atoll_core::template::TemplateSource;
use serde::{Deserialize, Serialize};

mod account;
pub mod debian;
mod directory;
mod guard;
mod host;
mod mounts;
pub mod oci;
pub mod registry;
mod setup;
mod snapshot;
mod tree;
pub mod unpack;

use self::debian::DebianError;
use self::oci::OciError;
use self::registry::{PullError, Registries};
use self::snapshot::Snapshot;
pub use self::snapshot::SnapshotError;
use self::tree::Tree;
use self::unpack::{Budget, Limits, UnpackError};

/// The file that describes a build. Written last.
const METADATA_FILE: &str = "template.json";
/// Where builds are made and removed.
const PARTIAL_DIR: &str = ".partial";
/// The layer of an imported template.
const ROOT_LAYER: &str = "root";
/// What [`Error::Io`] says was being done where the named source cannot be opened.
const OPEN_SOURCE: &str = "open";
/// Version of [`METADATA_FILE`]; a build of another version does not resolve.
const FORMAT: u32 = 1;

/// Takes lines that tell a person how a build goes on.
pub type Log = Arc<dyn Fn(&str) + Send + Sync>;

/// A root file system: overlay mounts in the order in which they are made, `/` first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFs {
    /// The mounts.
    pub mounts: Vec<OverlayMount>,
    /// Environment that the image sets.
    pub environment: BTreeMap<String, String>,
    /// Directory in which the image's programs start.
    pub working_dir: Option<PathBuf>,
    /// User that the image's programs run as.
    pub user: Option<String>,
    /// The writable layer to start with a copy of, of a snapshot; otherwise an empty one.
    pub disk: Option<PathBuf>,
}

/// One overlay of a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayMount {
    /// Where, inside the sandbox.
    pub mount_point: PathBuf,
    /// Read-only layers on the node, the uppermost first; at least one.
    pub lower_dirs: Vec<PathBuf>,
}

/// How a store works.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where templates are kept.
    pub dir: PathBuf,
    /// A static program that acts as `sudo` when started under that name; it stands in where the
    /// host has none.
    pub sudo: Option<PathBuf>,
}

/// How templates are imported from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct ImportConfig {
    /// Bounds of one template.
    pub limits: Limits,
    /// Registries that are not simply asked anonymously over HTTPS.
    pub registries: Registries,
    /// Where Debian packages come from; otherwise from the host's own mirror.
    pub debian_mirror: Option<String>,
}

/// What can go wrong with templates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This kind of source is not supported here.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// An image cannot be used.
    #[error("import the image `{image}`")]
    Image {
        /// Which.
        image: String,
        /// Why.
        #[source]
        source: OciError,
    },
    /// An image cannot be pulled.
    #[error("pull the image `{image}`")]
    Pull {
        /// Which.
        image: String,
        /// Why.
        #[source]
        source: PullError,
    },
    /// A Debian suite cannot be made.
    #[error("make the Debian suite `{suite}`")]
    Debian {
        /// Which.
        suite: String,
        /// Why.
        #[source]
        source: DebianError,
    },
    /// An archive or image cannot be unpacked.
    #[error("unpack `{path}`")]
    Unpack {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// The machine refused a step.
    #[error("{action} `{path}`")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether the one who named the source can mend it: it is missing, malformed or refused.
    /// Otherwise this machine, or a server it needs, is at fault.
    #[must_use]
    pub fn is_sources_fault(&self) -> bool {
        match self {
            Self::Image { source, .. } => source.is_sources_fault(),
            Self::Pull { source, .. } => source.is_sources_fault(),
            Self::Debian { source, .. } => source.is_sources_fault(),
            Self::Unpack { source, .. } => source.is_sources_fault(),
            Self::Io { action, source, .. } => {
                *action == OPEN_SOURCE && source.kind() != io::ErrorKind::PermissionDenied
            }
            Self::Unsupported(_) => false,
        }
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// What [`METADATA_FILE`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Metadata {
    format: u32,
    mounts: Vec<Mount>,
    #[serde(flatten)]
    image: ImageSettings,
    /// Of a snapshot only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot: Option<Snapshot>,
}

/// What an image asks of whoever runs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ImageSettings {
    environment: BTreeMap<String, String>,
    working_dir: Option<PathBuf>,
    user: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mount {
    mount_point: PathBuf,
    /// The uppermost first.
    layers: Vec<Layer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Layer {
    /// A folder of the build.
    Own(PathBuf),
    /// A directory of the host.
    Host(PathBuf),
}

/// The templates of a node; clones are the same store.
#[derive(Debug, Clone)]
pub struct TemplateStore {
    config: Arc<Config>,
    import: Arc<ImportConfig>,
    /// Tells concurrent work in [`PARTIAL_DIR`] apart.
    counter: Arc<AtomicU64>,
}

impl TemplateStore {
    /// Opens the store and removes what a crash left half-made.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub fn open(config: Config) -> Result<Self, Error> {
        let store = Self {
            config: Arc::new(config),
            import: Arc::default(),
            counter: Arc::default(),
        };
        let partial = store.partial_dir();
        fs::create_dir_all(&partial).map_err(Error::io("make the directory", &partial))?;
        // Layers hold set-id programs, which no user of the host may reach.
        let only_root = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&store.config.dir, only_root)
            .map_err(Error::io("close to others", &store.config.dir))?;
        store.sweep()?;
        Ok(store)
    }

    /// The same store, importing as `import` says.
    #[must_use]
    pub fn with_import(mut self, import: ImportConfig) -> Self {
        self.import = Arc::new(import);
        self
    }

    /// The root file system of a build, if it is here and complete.
    #[must_use]
    pub fn resolve(&self, template: &TemplateId, build: &BuildId) -> Option<RootFs> {
        let dir = self.build_dir(template, build);
        let metadata = read_metadata(&dir)?;
        let locate = |layer| match layer {
            Layer::Own(name) => dir.join(name),
            Layer::Host(path) => path,
        };
        let mounts = metadata.mounts.into_iter().map(|mount| OverlayMount {
            mount_point: mount.mount_point,
            lower_dirs: mount.layers.into_iter().map(locate).collect(),
        });
        Some(RootFs {
            mounts: mounts.collect(),
            environment: metadata.image.environment,
            working_dir: metadata.image.working_dir,
            user: metadata.image.user,
            disk: metadata.snapshot.map(|_| dir.join(snapshot::DISK_FILE)),
        })
    }

    /// Makes a build. One that is here already is left as it is.
    ///
    /// # Errors
    /// If the source cannot be read, is refused, or the machine refuses; nothing is left then.
    pub async fn build(
        &self,
        template: &TemplateId,
        build: &BuildId,
        source: &TemplateSource,
        log: Log,
    ) -> Result<(), Error> {
        if self.resolve(template, build).is_some() {
            return Ok(());
        }
        let partial = self.partial("build");
        let made = self.make(&partial, source, log).await;
        let placed = match made {
            Ok(()) => self.place(&partial, template, build),
            Err(error) => Err(error),
        };
        if placed.is_err() {
            // The first error is the one to report; the next sweep finds what stays now.
            let _ = blocking(move || remove_dir(&partial)).await;
        }
        placed
    }

    /// Removes a build; that there is none is success. Sandboxes that run from it break.
    ///
    /// # Errors
    /// If the machine refuses. The build does not resolve any more in any case but the first
    /// step's.
    pub async fn remove(&self, template: &TemplateId, build: &BuildId) -> Result<(), Error> {
        let dir = self.build_dir(template, build);
        let doomed = self.partial("remove");
        blocking(move || {
            match fs::rename(&dir, &doomed) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other.map_err(Error::io("remove", &dir))?,
            }
            if let Some(parent) = dir.parent() {
                // Fails as long as the template has other builds.
                let _ = fs::remove_dir(parent);
            }
            remove_dir(&doomed)
        })
        .await
    }

    /// Every complete build.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<(TemplateId, BuildId)>, Error> {
        let mut found = Vec::new();
        for template in names(&self.config.dir)? {
            let Ok(id) = template.parse::<TemplateId>() else {
                continue;
            };
            for build in names(&self.config.dir.join(&template))? {
                let Ok(build) = build.parse::<BuildId>() else {
                    continue;
                };
                if self.resolve(&id, &build).is_some() {
                    found.push((id.clone(), build));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes what builds and removals left half-done. Only for a time when none is under way.
    ///
    /// # Errors
    /// If the machine refuses.
    pub fn sweep(&self) -> Result<(), Error> {
        let partial = self.partial_dir();
        for name in names(&partial)? {
            remove_dir(&partial.join(name))?;
        }
        Ok(())
    }

    async fn make(&self, partial: &Path, source: &TemplateSource, log: Log) -> Result<(), Error> {
        let make_dir = || fs::create_dir(partial);
        make_dir().map_err(Error::io("make the directory", partial))?;
        if let TemplateSource::Image(image) = source {
            return self.make_from_image(partial, image, log).await;
        }
        let partial = partial.to_owned();
        let (config, import) = (Arc::clone(&self.config), Arc::clone(&self.import));
        let source = source.clone();
        blocking(move || {
            let work = Work {
                config: &config,
                import: &import,
                partial: &partial,
                log: &*log,
            };
            work.make(&source)
        })
        .await
    }

    async fn make_from_image(&self, partial: &Path, image: &str, log: Log) -> Result<(), Error> {
        let layout = partial.join("download");
        let (registries, limit) = (&self.import.registries, self.import.limits.max_bytes);
        let manifest = registry::pull(image, registries, &layout, limit, &*log)
            .await
            .map_err(|source| Error::Pull {
                image: image.to_owned(),
                source,
            })?;
        let (config, import) = (Arc::clone(&self.config), Arc::clone(&self.import));
        let (partial, image) = (partial.to_owned(), image.to_owned());
        blocking(move || {
            let work = Work {
                config: &config,
                import: &import,
                partial: &partial,
                log: &*log,
            };
            work.import(|root, budget| {
                let settings = oci::unpack_image(&layout, &manifest, root, budget, &*log);
                let settings = settings.map_err(|source| Error::Image { image, source })?;
                remove_dir(&layout)?;
                Ok(settings)
            })
        })
        .await
    }

    /// Moves a complete build to where it resolves.
    fn place(&self, partial: &Path, template: &TemplateId, build: &BuildId) -> Result<(), Error> {
        let dir = self.build_dir(template, build);
        let parent = self.config.dir.join(template.as_str());
        fs::create_dir_all(&parent).map_err(Error::io("make the directory", &parent))?;
        if self.resolve(template, build).is_some() {
            // Somebody made the same build meanwhile.
            return remove_dir(partial);
        }
        // Of another format, or damaged.
        remove_dir(&dir)?;
        fs::rename(partial, &dir).map_err(Error::io("put in place", &dir))
    }

    fn build_dir(&self, template: &TemplateId, build: &BuildId) -> PathBuf {
        self.config.dir.join(template.as_str()).join(build.as_str())
    }

    fn partial_dir(&self) -> PathBuf {
        self.config.dir.join(PARTIAL_DIR)
    }

    fn partial(&self, purpose: &str) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        self.partial_dir().join(format!("{purpose}-{number}"))
    }
}

/// One build under way, on a thread that may block.
struct Work<'a> {
    config: &'a Config,
    import: &'a ImportConfig,
    /// Where it is made.
    partial: &'a Path,
    log: &'a (dyn Fn(&str) + Send + Sync),
}

impl Work<'_> {
    fn make(&self, source: &TemplateSource) -> Result<(), Error> {
        match source {
            TemplateSource::Host => self.make_from_host(),
            TemplateSource::Directory(path) => self.import(|root, budget| {
                let copied = directory::copy(path, root, budget);
                copied.map_err(unpack_error(path))?;
                Ok(ImageSettings::default())
            }),
            TemplateSource::Tar(path) => self.import(|root, budget| {
                let file = fs::File::open(path).map_err(Error::io(OPEN_SOURCE, path))?;
                let unpacked = unpack::unpack(io::BufReader::new(file), root, budget);
                unpacked.map_err(unpack_error(path))?;
                Ok(ImageSettings::default())
            }),
            TemplateSource::OciLayout(path) => self.import(|root, budget| {
                let imported = oci::import_layout(path, root, budget, &self.log);
                imported.map_err(|source| Error::Image {
                    image: path.display().to_string(),
                    source,
                })
            }),
            TemplateSource::Debian { suite, packages } => self.import(|root, budget| {
                self.make_debian(suite, packages, root, budget)?;
                Ok(ImageSettings::default())
            }),
            TemplateSource::Image(_) => {
                unreachable!("images are pulled before a blocking thread takes over")
            }
        }
    }

    fn make_from_host(&self) -> Result<(), Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let host = host::Host {
            root: Path::new("/"),
            path: std::env::split_paths(&path).collect(),
            sudo: self.config.sudo.as_deref(),
        };
        let mounts = host::build(&host, self.partial, self.log)
            .map_err(Error::io("make the root file system in", self.partial))?;
        finish(self.partial, mounts, ImageSettings::default())
    }

    fn make_debian(
        &self,
        suite: &str,
        packages: &[String],
        root: &Tree,
        budget: &mut Budget,
    ) -> Result<(), Error> {
        let scratch = self.partial.join("scratch");
        fs::create_dir(&scratch).map_err(Error::io("make the directory", &scratch))?;
        let mirror = self.import.debian_mirror.as_deref();
        debian::import(suite, packages, mirror, &scratch, root, budget, self.log).map_err(
            |source| Error::Debian {
                suite: suite.to_owned(),
                source,
            },
        )?;
        remove_dir(&scratch)
    }

    /// Makes a template of one layer that `fill` writes, adds what sandboxes rely on, and describes
    /// it.
    fn import(
        &self,
        fill: impl FnOnce(&Tree, &mut Budget) -> Result<ImageSettings, Error>,
    ) -> Result<(), Error> {
        let path = self.partial.join(ROOT_LAYER);
        let make = || -> io::Result<Tree> {
            fs::create_dir(&path)?;
            Tree::open(&path)
        };
        let root = make().map_err(Error::io("make the layer", &path))?;
        let settings = fill(&root, &mut Budget::new(self.import.limits))?;
        setup::complete(&root, self.config.sudo.as_deref())
            .map_err(Error::io("add the user and system directories to", &path))?;
        let mounts = vec![Mount {
            mount_point: "/".into(),
            layers: vec![Layer::Own(ROOT_LAYER.into())],
        }];
        finish(self.partial, mounts, settings)
    }
}

fn unpack_error(path: &Path) -> impl FnOnce(UnpackError) -> Error {
    let path = path.to_owned();
    move |source| Error::Unpack { path, source }
}

/// Describes a build, and brings it to the disk before it is put in place.
fn finish(partial: &Path, mounts: Vec<Mount>, image: ImageSettings) -> Result<(), Error> {
    let metadata = Metadata {
        format: FORMAT,
        mounts,
        image,
        snapshot: None,
    };
    write_metadata(partial, &metadata)
}

/// How a build is mounted, if it is complete and of our format.
fn read_metadata(dir: &Path) -> Option<Metadata> {
    let text = fs::read(dir.join(METADATA_FILE)).ok()?;
    let metadata: Metadata = serde_json::from_slice(&text).ok()?;
    (metadata.format == FORMAT).then_some(metadata)
}

fn write_metadata(partial: &Path, metadata: &Metadata) -> Result<(), Error> {
    let path = partial.join(METADATA_FILE);
    let text = serde_json::to_vec_pretty(metadata).map_err(io::Error::other);
    text.and_then(|text| fs::write(&path, text))
        .map_err(Error::io("write", &path))?;
    let sync = || -> io::Result<()> { Ok(rustix::fs::syncfs(fs::File::open(partial)?)?) };
    sync().map_err(Error::io("bring to disk", partial))
}

/// Removes a directory with all below it; what is mounted there is let go of first, never entered.
fn remove_dir(path: &Path) -> Result<(), Error> {
    mounts::detach_below(path).map_err(Error::io("unmount what is mounted below", path))?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Names in a directory that are text.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    };
    read().map_err(Error::io("read", dir))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Io {
            action: "run a blocking step in",
            path: PathBuf::new(),
            source: io::Error::other(error),
        }),
    }
}
