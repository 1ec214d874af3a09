//! What a node needs of a way to run sandboxes.
//!
//! A driver makes instances; an instance is one running sandbox. The agent owns everything that is
//! the same for all drivers: the ledger, admission, generations, the guest agent's initialisation.
//!
//! Invariants every driver keeps:
//! - An error from [`Driver::create`] leaves nothing behind that a later [`Driver::sweep`] would
//!   not remove.
//! - An instance outlives the process that made it, and [`Driver::adopt`] finds it again.
//! - Nothing of an instance is left after [`Instance::release`] but the files in its directory,
//!   from which [`Driver::restore`] can make another one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::network::NetworkPolicy;
use atoll_core::sandbox::SandboxSpec;
use atoll_core::scheduler::constraint::Version;
use tokio::net::TcpStream;

use crate::image::RootFs;
use crate::ledger::Record;

pub mod jail;

/// What a driver can do beyond running sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Stop a sandbox and let it go on later, with its processes or with its files alone.
    pub pause: bool,
    /// Keep a copy of a sandbox's files that other sandboxes can start from.
    pub snapshot: bool,
}

/// Why a driver did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template build is not on this machine.
    #[error("the template build is not on this machine")]
    UnknownTemplate,
    /// The driver lacks this ability.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// The machine has no more of something.
    #[error("no room: {0}")]
    NoRoom(String),
    /// A step failed.
    #[error("{step}")]
    Failed {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn failed<E>(step: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::Failed {
            step,
            source: source.into(),
        }
    }
}

/// What an instance uses, as counters and gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time so far, in microseconds.
    pub cpu_us: u64,
    /// Memory, caches included, in bytes.
    pub memory_bytes: u64,
    /// The part that is page cache, in bytes.
    pub cache_bytes: u64,
    /// Writable disk in use, in bytes.
    pub disk_used_bytes: u64,
    /// Size of the writable disk, in bytes.
    pub disk_total_bytes: u64,
}

/// How long the steps of a create took, in order.
pub type Timings = Vec<(String, Duration)>;

/// What an image asks of whoever runs programs in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageDefaults {
    /// Environment of every process, below what the sandbox's creator sets.
    pub environment: BTreeMap<String, String>,
    /// The user that is meant when none is named.
    pub user: Option<String>,
    /// The directory that is meant when none is named.
    pub working_dir: Option<PathBuf>,
}

impl From<RootFs> for ImageDefaults {
    fn from(root: RootFs) -> Self {
        Self {
            environment: root.environment,
            user: root.user,
            working_dir: root.working_dir,
        }
    }
}

/// A sandbox that was made.
#[derive(Debug)]
pub struct Created {
    /// The sandbox.
    pub instance: Arc<dyn Instance>,
    /// What its image asks.
    pub defaults: ImageDefaults,
    /// Where the time went.
    pub timings: Timings,
}

/// A way to run sandboxes.
#[async_trait]
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// Its name in settings and logs.
    fn name(&self) -> &'static str;

    /// Its version: that of this build, unless it drives something with versions of its own.
    fn version(&self) -> Version {
        env!("CARGO_PKG_VERSION").parse().unwrap_or_default()
    }

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Runs a sandbox; `directory` exists, is the sandbox's own, and is kept until it is released.
    /// Answers when the guest agent was started; the agent's socket is connectable then.
    async fn create(&self, spec: &SandboxSpec, directory: &Path) -> Result<Created, Error>;

    /// Runs a sandbox again, from the files that a released instance left in `directory`. On
    /// failure they are still there.
    async fn restore(&self, spec: &SandboxSpec, directory: &Path) -> Result<Created, Error> {
        let _ = (spec, directory);
        Err(Error::Unsupported("resume"))
    }

    /// The one file in `directory` that has everything a released instance left there that
    /// [`Driver::restore`] needs, also on another machine; none if there is no such file.
    fn files(&self, directory: &Path) -> Option<PathBuf> {
        let _ = directory;
        None
    }

    /// Copies the files of a sandbox in `directory`, which stands still or does not run, to the
    /// file `to`, from which a template build starts others.
    async fn copy_files(&self, directory: &Path, to: &Path) -> Result<(), Error> {
        let _ = (directory, to);
        Err(Error::Unsupported("snapshot"))
    }

    /// What the image of a sandbox asks.
    ///
    /// # Errors
    /// If the template build is gone.
    fn defaults(&self, record: &Record) -> Result<ImageDefaults, Error> {
        let _ = record;
        Ok(ImageDefaults::default())
    }

    /// Makes what a released instance left in `directory` survive the machine's end. Ends in
    /// bounded time.
    async fn settle(&self, directory: &Path) -> Result<(), Error> {
        let _ = directory;
        Err(Error::Unsupported("pause"))
    }

    /// Takes over a sandbox of an earlier run; none if it does not live. One that was paused may be
    /// found going: a resume was cut off.
    async fn adopt(
        &self,
        record: &Record,
        directory: &Path,
    ) -> Result<Option<Arc<dyn Instance>>, Error>;

    /// Removes what earlier runs left, but for the adopted instances given. Called once, after
    /// the adoptions and before the first create.
    async fn sweep(&self, live: &[Arc<dyn Instance>]) -> Result<(), Error>;

    /// Gives back what is prepared. Sandboxes live on.
    async fn close(&self);
}

/// One running sandbox.
#[async_trait]
pub trait Instance: Send + Sync + std::fmt::Debug {
    /// Its number on this machine, unique among the living.
    fn number(&self) -> u32;

    /// Processes of the host that belong to it but are not inside it.
    fn helpers(&self) -> BTreeSet<i32>;

    /// Resolves when its processes are gone, with a text on how it ended.
    async fn ended(&self) -> String;

    /// Begins to end it. Idempotent.
    fn kill(&self);

    /// Frees all it holds, by force if need be. Ends in bounded time.
    async fn release(&self) -> Result<(), Error>;

    /// What it uses.
    fn usage(&self) -> Result<Usage, Error>;

    /// Connects to a port inside.
    async fn dial(&self, port: u16) -> io::Result<TcpStream>;

    /// Puts another egress policy in force.
    async fn update_network(&self, policy: &NetworkPolicy) -> Result<(), Error>;

    /// Stops it, keeping its processes, and makes its files survive the machine's end. On failure
    /// it goes on. Idempotent; ends in bounded time.
    async fn pause(&self) -> Result<(), Error> {
        Err(Error::Unsupported("pause"))
    }

    /// Lets it go on. Idempotent.
    async fn resume(&self) -> Result<(), Error> {
        Err(Error::Unsupported("resume"))
    }
}
