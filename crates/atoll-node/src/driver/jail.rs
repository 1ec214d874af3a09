//! The built-in driver: namespaces, overlayfs, cgroups and seccomp, with one supervisor process for
//! each sandbox. It isolates with what the host's kernel offers, so it is for code that is your own
//! or half trusted.
//!
//! What takes long is done ahead. A *cell* is everything of a sandbox that does not depend on what
//! will run in it: a network slot, cgroups, and a supervisor whose pid 1 waits in its namespaces. A
//! create takes a cell and a disk from their stores, hands the supervisor the template's layers and
//! the limits, and is done when pid 1 has become the guest agent.
//!
//! The number of a cell is that of its network slot. Cgroups and the range of user ids follow from
//! it, so whoever knows the number finds everything.
//!
//! Memory of a cell that waits is that of one small process; [`Config::ready_cells`] of them wait.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::network::NetworkPolicy;
use atoll_core::sandbox::SandboxSpec;
use atoll_jail::spec::{CONTROL_SOCKET, EXIT_FILE, Prepare, Start, UID_COUNT};
use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::instance::Jailed;
use self::stock::Stock;
use self::supervisor::Waiting;
use crate::cgroup::Cgroups;
use crate::disk::{Disk, DiskMaker, kept};
use crate::driver::{Capabilities, Created, Driver, Error, ImageDefaults, Instance, Timings};
use crate::guest_client::GUEST_AGENT_PORT;
use crate::image::{RootFs, TemplateStore};
use crate::ledger::{Record, make_private};
use crate::net::{self, Slot};
use crate::rootfs::{guest_files, overlays};

mod instance;
pub mod reach;
mod stock;
mod supervisor;

/// First user id of the host that belongs to a sandbox: far above what distributions and directory
/// services give out, and leaving room for every network slot below 2^31.
pub const UID_BASE: u32 = 1_879_048_192;

/// How long a create waits for a prepared cell or disk.
const STOCK_LIMIT: Duration = Duration::from_secs(15);

/// Sizes of disk that are kept ready. Others are made when they are asked for, which takes some
/// milliseconds more.
const MAX_READY_SIZES: usize = 4;

/// One part in so many of the machine's memory is kept from all sandboxes together, for the host
/// and the node itself.
const HOST_MEMORY_SHARE: u64 = 16;

/// At least so much is kept, in bytes.
const HOST_MEMORY_MIN: u64 = 512 << 20;

/// Name of the disk inside the sandbox directory.
const DISK_FILE: &str = "disk.img";

/// The one file that a sandbox is given anew when it is restored; others may have been changed
/// inside.
const RESOLVER_FILE: &str = "/etc/resolv.conf";

/// Environment of the guest agent itself; sandboxes' variables come with its initialisation.
const AGENT_ENVIRONMENT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How the driver is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Tells this node apart from others on the machine; see [`net::Config::instance`].
    pub instance: String,
    /// Directory for disks and the staging directory, on a file system with room for the disks.
    pub data_dir: PathBuf,
    /// The supervisor's executable, `atoll-jail`.
    pub supervisor: PathBuf,
    /// The guest agent's executable, `atoll-envd`: static, readable and executable by everybody.
    pub guest_agent: PathBuf,
    /// Resolvers that sandboxes use.
    pub nameservers: Vec<IpAddr>,
    /// Cells to keep ready.
    pub ready_cells: usize,
    /// Disks to keep ready of each recently used size.
    pub ready_disks: usize,
    /// Disk size to keep ready from the start, in MiB.
    pub usual_disk_mib: u32,
}

/// What cells and sandboxes use together.
#[derive(Debug)]
struct Shared {
    config: Config,
    cgroups: Cgroups,
    net: net::Pool,
    disks: DiskMaker,
    guest_agent: File,
    staging: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub struct JailDriver {
    shared: Arc<Shared>,
    templates: TemplateStore,
    cells: Arc<Stock<Cell>>,
    ready_disks: Mutex<BTreeMap<u32, Arc<Stock<Disk>>>>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

/// A prepared cell; see the module.
#[derive(Debug)]
struct Cell {
    slot: Slot,
    supervisor: Waiting,
    guest_pid: i32,
}

impl JailDriver {
    /// Opens everything the driver needs. Prepares nothing yet: that begins with [`Driver::sweep`].
    ///
    /// # Errors
    /// If the machine lacks something or the directories cannot be used.
    pub async fn open(
        config: Config,
        net: net::Pool,
        templates: TemplateStore,
    ) -> Result<Self, Error> {
        let shared = blocking(move || Shared::open(config, net)).await?;
        let ready_cells = shared.config.ready_cells;
        Ok(Self {
            shared: Arc::new(shared),
            templates,
            cells: Arc::new(Stock::new(ready_cells)),
            ready_disks: Mutex::new(BTreeMap::new()),
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
        })
    }

    fn spawn_stocks(&self) {
        let shared = Arc::clone(&self.shared);
        let (cells, cancel) = (Arc::clone(&self.cells), self.cancel.clone());
        self.tracker.spawn(async move {
            let make = || Cell::prepare(Arc::clone(&shared));
            cells.fill(make, cancel).await;
        });
        self.disk_stock(self.shared.config.usual_disk_mib);
    }

    /// The store of disks of a size; none for a size beyond those kept.
    fn disk_stock(&self, mib: u32) -> Option<Arc<Stock<Disk>>> {
        let mut stocks = self
            .ready_disks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(stock) = stocks.get(&mib) {
            return Some(Arc::clone(stock));
        }
        if stocks.len() >= MAX_READY_SIZES || self.cancel.is_cancelled() {
            return None;
        }
        let stock = Arc::new(Stock::new(self.shared.config.ready_disks));
        stocks.insert(mib, Arc::clone(&stock));
        let (shared, filled) = (Arc::clone(&self.shared), Arc::clone(&stock));
        let cancel = self.cancel.clone();
        self.tracker.spawn(async move {
            let make = || make_disk(Arc::clone(&shared), mib);
            filled.fill(make, cancel).await;
        });
        Some(stock)
    }

    /// A disk that starts as a snapshot's, which must be of the wanted size.
    async fn copy_disk(
        &self,
        from: PathBuf,
        to: PathBuf,
        spec: &SandboxSpec,
    ) -> Result<OwnedFd, Error> {
        let wanted = u64::from(spec.resources.disk_mib) << 20;
        blocking(move || {
            let length = std::fs::metadata(&from).map(|metadata| metadata.len());
            if length.map_err(Error::failed("find the snapshot's disk"))? != wanted {
                return Err(Error::Unsupported(
                    "a disk of another size than the snapshot's",
                ));
            }
            let opened = kept::copy(&from, &to).and_then(|()| kept::reopen(&to));
            opened.map_err(Error::failed("copy the snapshot's disk"))
        })
        .await
    }

    async fn take_disk(&self, mib: u32) -> Result<Disk, Error> {
        match self.disk_stock(mib) {
            Some(stock) => stock
                .take(STOCK_LIMIT)
                .await
                .map_err(Error::failed("prepare a disk")),
            None => make_disk(Arc::clone(&self.shared), mib)
                .await
                .map_err(Error::failed("make a disk")),
        }
    }

    /// Takes a cell that is still alive: the machine may have killed one that waited.
    async fn take_cell(&self) -> Result<Cell, Error> {
        loop {
            let taken = self.cells.take(STOCK_LIMIT).await;
            let mut cell = taken.map_err(Error::failed("prepare a cell"))?;
            if !cell.supervisor.is_gone() {
                return Ok(cell);
            }
            self.shared.discard(cell).await;
        }
    }

    fn start_order(&self, spec: &SandboxSpec, root: &RootFs, cell: u32, directory: &Path) -> Start {
        let shared = &self.shared;
        let hostname = spec.id.to_string();
        Start {
            sandbox: spec.id.to_string(),
            generation: spec.generation.get(),
            directory: directory.to_owned(),
            overlays: overlays(root),
            settings: shared.cgroups.limits(cell, spec.resources),
            files: guest_files(&hostname, &shared.config.nameservers),
            hostname,
            arguments: ["--init", "--listen-fd", "{listen_fd}"]
                .map(str::to_owned)
                .to_vec(),
            environment: vec![AGENT_ENVIRONMENT.to_owned()],
        }
    }

    /// Runs the sandbox in the cell; on failure the cell is used up.
    async fn run(
        &self,
        cell: Cell,
        spec: &SandboxSpec,
        order: Start,
        disk: OwnedFd,
        directory: &Path,
        laps: &mut Laps,
    ) -> Result<Jailed, Error> {
        let Cell {
            slot,
            supervisor,
            guest_pid,
        } = cell;
        let started = async {
            // A fresh slot has the default policy.
            if !has_default_egress(&spec.network) {
                let applied = self.shared.net.apply(&slot, &spec.network).await;
                applied.map_err(Error::failed("apply network policy"))?;
            }
            laps.end("network");
            let started = supervisor.start(guest_pid, order, disk.as_fd()).await;
            started.map_err(Error::failed("start the sandbox"))
        };
        match started.await {
            Ok((handles, steps)) => {
                laps.end("start");
                laps.insert(steps);
                let shared = Arc::clone(&self.shared);
                let directory = directory.to_owned();
                Ok(Jailed::new(shared, slot, handles, directory, false))
            }
            Err(error) => {
                self.shared.free(slot).await;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Driver for JailDriver {
    fn name(&self) -> &'static str {
        "jail"
    }

    fn capabilities(&self) -> Capabilities {
        let can_freeze = self.shared.cgroups.can_freeze();
        Capabilities {
            pause: can_freeze,
            snapshot: can_freeze,
        }
    }

    async fn create(&self, spec: &SandboxSpec, directory: &Path) -> Result<Created, Error> {
        let mut laps = Laps::start();
        let root = self
            .templates
            .resolve(&spec.template, &spec.build)
            .ok_or(Error::UnknownTemplate)?;
        let path = directory.join(DISK_FILE);
        let disk = match root.disk.clone() {
            Some(snapshot) => self.copy_disk(snapshot, path, spec).await?,
            None => {
                let disk = self.take_disk(spec.resources.disk_mib).await?;
                let installed = disk.install(&path);
                installed.map_err(Error::failed("install the disk"))?
            }
        };
        laps.end("disk");
        let cell = self.take_cell().await?;
        laps.end("cell");
        let order = self.start_order(spec, &root, cell.slot.index, directory);
        let instance = self
            .run(cell, spec, order, disk, directory, &mut laps)
            .await?;
        Ok(Created {
            instance: Arc::new(instance),
            defaults: root.into(),
            timings: laps.done,
        })
    }

    async fn restore(&self, spec: &SandboxSpec, directory: &Path) -> Result<Created, Error> {
        let mut laps = Laps::start();
        let root = self
            .templates
            .resolve(&spec.template, &spec.build)
            .ok_or(Error::UnknownTemplate)?;
        let owned = directory.to_owned();
        let disk = blocking(move || reopen(&owned)).await?;
        laps.end("disk");
        let cell = self.take_cell().await?;
        laps.end("cell");
        let mut order = self.start_order(spec, &root, cell.slot.index, directory);
        order
            .files
            .retain(|file| file.path == Path::new(RESOLVER_FILE));
        let instance = self
            .run(cell, spec, order, disk, directory, &mut laps)
            .await?;
        Ok(Created {
            instance: Arc::new(instance),
            defaults: root.into(),
            timings: laps.done,
        })
    }

    fn files(&self, directory: &Path) -> Option<PathBuf> {
        Some(directory.join(DISK_FILE))
    }

    async fn copy_files(&self, directory: &Path, to: &Path) -> Result<(), Error> {
        let (from, to) = (directory.join(DISK_FILE), to.to_owned());
        blocking(move || kept::copy(&from, &to).map_err(Error::failed("copy the disk"))).await
    }

    fn defaults(&self, record: &Record) -> Result<ImageDefaults, Error> {
        let root = self.templates.resolve(&record.template, &record.build);
        root.map(Into::into).ok_or(Error::UnknownTemplate)
    }

    async fn settle(&self, directory: &Path) -> Result<(), Error> {
        let disk = directory.join(DISK_FILE);
        blocking(move || kept::settle(&disk).map_err(Error::failed("settle the disk"))).await
    }

    async fn adopt(
        &self,
        record: &Record,
        directory: &Path,
    ) -> Result<Option<Arc<dyn Instance>>, Error> {
        let found = supervisor::find(directory)
            .await
            .map_err(Error::failed("ask a supervisor"))?;
        let Some((status, handles)) = found else {
            return Ok(None);
        };
        let is_same =
            status.sandbox == record.id.as_str() && status.generation == record.born.get();
        if !is_same {
            return Ok(None);
        }
        let slot = self
            .shared
            .net
            .adopt(status.cell)
            .map_err(Error::failed("adopt a network slot"))?;
        let shared = Arc::clone(&self.shared);
        let instance = Jailed::new(shared, slot, handles, directory.to_owned(), true);
        Ok(Some(Arc::new(instance)))
    }

    async fn sweep(&self, live: &[Arc<dyn Instance>]) -> Result<(), Error> {
        let keep: BTreeSet<u32> = live.iter().map(|instance| instance.number()).collect();
        let helpers: BTreeSet<i32> = live
            .iter()
            .flat_map(|instance| instance.helpers())
            .collect();
        let (shared, kept) = (Arc::clone(&self.shared), keep.clone());
        // Cgroups before network slots: a slot's number is given out again once the slot is gone.
        blocking(move || shared.sweep_cgroups(&kept, &helpers)).await?;
        let slots = self.shared.net.sweep(&keep);
        if slots > 0 {
            tracing::info!(slots, "took down network slots of an earlier run");
        }
        self.spawn_stocks();
        Ok(())
    }

    async fn close(&self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        let ends = self
            .cells
            .drain()
            .into_iter()
            .map(|cell| self.shared.discard(cell));
        futures::future::join_all(ends).await;
        let stocks = std::mem::take(
            &mut *self
                .ready_disks
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        drop(stocks);
        if let Err(error) = self.shared.net.close().await {
            tracing::warn!(error = %error, "the network pool did not close");
        }
        self.shared.cgroups.close();
    }
}

impl Shared {
    fn open(config: Config, net: net::Pool) -> Result<Self, Error> {
        let cgroups = Cgroups::open(&config.instance).map_err(Error::failed("open cgroups"))?;
        let memory = rustix::system::sysinfo();
        let memory = u64::from(memory.mem_unit) * memory.totalram;
        let kept = (memory / HOST_MEMORY_SHARE).max(HOST_MEMORY_MIN);
        cgroups
            .limit_memory(memory.saturating_sub(kept).max(HOST_MEMORY_MIN))
            .map_err(Error::failed("limit the sandboxes' memory"))?;
        let staging = config.data_dir.join("staging");
        make_private(&staging).map_err(Error::failed("make the staging directory"))?;
        let disks = DiskMaker::open(config.data_dir.join("disks"))
            .map_err(Error::failed("open the disk directory"))?;
        let guest_agent = seal_program(&config.guest_agent)
            .map_err(Error::failed("load the guest agent's executable"))?;
        Ok(Self {
            config,
            cgroups,
            net,
            disks,
            guest_agent,
            staging,
        })
    }

    fn sweep_cgroups(&self, keep: &BTreeSet<u32>, helpers: &BTreeSet<i32>) -> Result<(), Error> {
        let cells = self
            .cgroups
            .cells()
            .map_err(Error::failed("list cgroups"))?;
        self.cgroups.kill_supervisors_except(helpers);
        for cell in cells.difference(keep) {
            tracing::info!(cell, "removing what an earlier run left");
            self.cgroups
                .remove(*cell)
                .map_err(Error::failed("remove cgroups"))?;
        }
        Ok(())
    }

    async fn discard(self: &Arc<Self>, cell: Cell) {
        cell.supervisor.end().await;
        self.free(cell.slot).await;
    }

    /// Frees the number of a cell whose supervisor is gone or on its way out.
    async fn free(self: &Arc<Self>, slot: Slot) {
        let (shared, index) = (Arc::clone(self), slot.index);
        let removed = blocking(move || {
            shared
                .cgroups
                .remove(index)
                .map_err(Error::failed("remove cgroups"))
        });
        match removed.await {
            Ok(()) => self.net.release(&slot),
            // The number stays in use until the next start: two sandboxes must not share one.
            Err(error) => tracing::warn!(cell = index, error = %error, "a cell was not removed"),
        }
    }
}

impl Cell {
    async fn prepare(shared: Arc<Shared>) -> Result<Self, CellError> {
        let slot = shared.net.acquire().await.map_err(CellError::Slot)?;
        match Self::prepare_in(&shared, &slot).await {
            Ok((supervisor, guest_pid)) => Ok(Self {
                slot,
                supervisor,
                guest_pid,
            }),
            Err(error) => {
                shared.free(slot).await;
                Err(error)
            }
        }
    }

    async fn prepare_in(shared: &Arc<Shared>, slot: &Slot) -> Result<(Waiting, i32), CellError> {
        let (made, index) = (Arc::clone(shared), slot.index);
        let created = blocking(move || {
            made.cgroups
                .create(index)
                .map_err(Error::failed("make cgroups"))
        });
        let cgroups = created.await.map_err(CellError::Cgroups)?;
        let net = File::open(&slot.netns_path).map_err(CellError::Supervisor)?;
        let order = Prepare {
            cell: index,
            uid_base: UID_BASE + index * UID_COUNT,
            staging: shared.staging.clone(),
            listen_port: GUEST_AGENT_PORT,
            own_procs: shared.cgroups.supervisor_procs(),
            cgroups,
        };
        Waiting::prepare(
            &shared.config.supervisor,
            order,
            net.as_fd(),
            shared.guest_agent.as_fd(),
        )
        .await
        .map_err(CellError::Supervisor)
    }
}

/// Why a cell could not be prepared.
#[derive(Debug, thiserror::Error)]
enum CellError {
    #[error("no network slot: {0}")]
    Slot(net::Error),
    #[error("no cgroups: {0}")]
    Cgroups(Error),
    #[error("no supervisor: {0}")]
    Supervisor(io::Error),
}

/// Measures the steps of a create.
#[derive(Debug)]
struct Laps {
    last: Instant,
    done: Timings,
}

impl Laps {
    fn start() -> Self {
        Self {
            last: Instant::now(),
            done: Vec::new(),
        }
    }

    fn end(&mut self, step: &str) {
        let now = Instant::now();
        self.done.push((step.to_owned(), now - self.last));
        self.last = now;
    }

    /// Adds steps that are part of the last one.
    fn insert(&mut self, steps: Vec<(String, u64)>) {
        let micros = |(step, micros)| (format!("start/{step}"), Duration::from_micros(micros));
        self.done.extend(steps.into_iter().map(micros));
    }
}

/// Copies a program into sealed memory, once for all sandboxes: what they see of it (through
/// `/proc/1/exe`) is no file of the host, and nothing that happens to the file changes it.
fn seal_program(path: &Path) -> io::Result<File> {
    let memory = memfd_create("envd", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut program = File::from(memory);
    io::copy(&mut File::open(path)?, &mut program)?;
    fchmod(&program, Mode::from_raw_mode(0o555))?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&program, seals)?;
    Ok(program)
}

/// Whether a policy allows the egress that every fresh slot has.
fn has_default_egress(policy: &NetworkPolicy) -> bool {
    policy.internet_access && policy.allow_out.is_empty() && policy.deny_out.is_empty()
}

/// Mounts the disk of a sandbox that does not run, and removes what its supervisor left beside it.
fn reopen(directory: &Path) -> Result<OwnedFd, Error> {
    let disk = kept::reopen(&directory.join(DISK_FILE));
    let disk = disk.map_err(Error::failed("open the disk"))?;
    for name in [CONTROL_SOCKET, EXIT_FILE] {
        match std::fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::failed("remove what an earlier run left")(error));
            }
            _ => {}
        }
    }
    Ok(disk)
}

async fn make_disk(shared: Arc<Shared>, mib: u32) -> Result<Disk, Error> {
    blocking(move || shared.disks.make(mib).map_err(Error::failed("make a disk"))).await
}

/// Runs a step that blocks on the system, off the runtime's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::failed("run a blocking step")(error)),
    }
}
