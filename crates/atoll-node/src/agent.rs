//! The node agent: runs sandboxes on one machine on somebody's orders, and knows what runs.
//!
//! ```text
//!   ensure / pause / resume / remove / update_network / report / dial
//!          │
//!       Agent ── one entry per sandbox ──▶ owner task ──▶ driver instance
//!          │            (admission)         (ledger record, usage, end)
//!          └──────────── NodeEvent ◀───────────┘
//! ```
//!
//! Invariants:
//! - One task owns a sandbox from the order to the last file; nothing else changes it.
//! - `ensure` is idempotent by (id, generation). An order of an older generation than one seen for
//!   the id, removals included, is refused. A newer one removes the older sandbox first.
//! - Allocations never exceed the total: room is taken before anything is made and given back after
//!   everything is gone. A paused sandbox holds what it keeps, and takes the rest again to go on.
//! - Whatever happens to this process, the next start adopts what lives, keeps what is paused and
//!   removes the rest.
//! - Callers may drop their future at any time: the work goes on to its end.
//!
//! Not here: how a sandbox is made (the driver), when one expires (control).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_core::id::{BuildId, Generation, NodeId, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{
    CallOutcome, NodeEvent, NodeInfo, NodeReport, ObservedSandbox, ObservedState, Refusal,
};
use atoll_core::resources::Resources;
use atoll_core::sandbox::SandboxSpec;
use atoll_core::snapshot::STORE_LABEL;
use atoll_core::template::TemplateSource;
use atoll_core::time::Clock;
use rustix::fs::{FlockOperation, flock};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::owner::{Command, Owner};
use self::remembered::Remembered;
use self::room::Hold;
use crate::driver::{Capabilities, Driver, Instance};
use crate::image::{self, TemplateStore};
use crate::ledger::{self, Ledger, Record, Stage};
use crate::machine::Meter;
use crate::processor;
use crate::snapshot::SnapshotStore;

pub mod heartbeat;
mod owner;
mod pausing;
mod recovery;
mod remembered;
mod room;
mod storing;

/// How long a removal is waited for. It goes on afterwards; the caller is told that it does not
/// know.
const REMOVE_LIMIT: Duration = Duration::from_secs(20);

/// Where the ledger is, in the agent's directory.
pub const SANDBOXES_FOLDER: &str = "sandboxes";

/// Orders that may wait for one sandbox's owner.
const COMMAND_QUEUE: usize = 16;

/// How the agent is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this node is.
    pub node: NodeId,
    /// What its operator says of it.
    pub info: NodeInfo,
    /// Directory for the ledger, its own. The driver may have the same one.
    pub data_dir: PathBuf,
    /// What there is to give to sandboxes; [`machine_resources`] is a fair start.
    pub total: Resources,
    /// Most sandboxes at a time.
    pub max_sandboxes: usize,
    /// Time between usage samples of one sandbox.
    pub usage_interval: Duration,
    /// Where the files of paused sandboxes are kept for other nodes, too; none: nowhere.
    pub snapshots: Option<SnapshotStore>,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses the same directory.
    #[error("another node agent uses `{0}`")]
    InUse(PathBuf),
    /// A file or directory refused.
    #[error("{step} `{path}`")]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The ledger cannot be used.
    #[error("use the ledger")]
    Ledger(#[source] ledger::Error),
    /// The driver cannot be used.
    #[error("use the driver")]
    Driver(#[source] crate::driver::Error),
}

/// Why a sandbox cannot be connected to that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sandbox is paused")]
pub struct Paused;

/// What the owner of a sandbox publishes.
#[derive(Debug, Clone)]
struct View {
    observed: ObservedSandbox,
    /// Why it was never made, where that is so.
    refusal: Option<Refusal>,
    instance: Option<Arc<dyn Instance>>,
}

#[derive(Debug)]
struct Entry {
    generation: Generation,
    template: TemplateId,
    build: BuildId,
    /// What it takes of the total when it runs.
    size: Resources,
    /// How much of that it holds now.
    hold: Hold,
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<SandboxId, Entry>,
    allocated: Resources,
    /// Sandboxes that ended by themselves, until control removes them.
    ended: Remembered<ObservedSandbox>,
    /// The newest removed generation of each id.
    removed: Remembered<Generation>,
    is_closing: bool,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    driver: Arc<dyn Driver>,
    templates: TemplateStore,
    ledger: Ledger,
    clock: Arc<dyn Clock>,
    meter: Meter,
    events: mpsc::Sender<NodeEvent>,
    state: Mutex<State>,
    tracker: TaskTracker,
    cancel: CancellationToken,
    /// Keeps other agents out of the directory.
    _lock: std::fs::File,
}

/// The agent; clones are the same agent.
#[derive(Debug, Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

impl Agent {
    /// Takes over the directory: adopts the sandboxes that live and removes what else an earlier
    /// run left. When this returns, the agent serves.
    ///
    /// # Errors
    /// If the directory is in use or the driver cannot clean up.
    pub async fn start(
        config: Config,
        driver: Arc<dyn Driver>,
        templates: TemplateStore,
        clock: Arc<dyn Clock>,
        events: mpsc::Sender<NodeEvent>,
    ) -> Result<Self, Error> {
        ledger::make_private(&config.data_dir).map_err(Error::Ledger)?;
        let lock = lock_directory(&config.data_dir)?;
        let ledger = Ledger::open(config.data_dir.join(SANDBOXES_FOLDER)).map_err(Error::Ledger)?;
        let agent = Self {
            inner: Arc::new(Inner {
                meter: Meter::new(config.data_dir.clone()),
                config,
                driver,
                templates,
                ledger,
                clock,
                events,
                state: Mutex::default(),
                tracker: TaskTracker::new(),
                cancel: CancellationToken::new(),
                _lock: lock,
            }),
        };
        agent.recover().await?;
        Ok(agent)
    }

    /// Who this node is.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.inner.config.node
    }

    /// What its operator says of it, and what it found of its machine and its driver.
    #[must_use]
    pub fn info(&self) -> NodeInfo {
        let driver = &self.inner.driver;
        let mut info = self.inner.config.info.clone();
        let described = &mut info.descriptor;
        processor::ARCHITECTURE.clone_into(&mut described.architecture);
        described.cpu_features = processor::features();
        if let Some(store) = &self.inner.config.snapshots {
            let (label, id) = (STORE_LABEL.to_owned(), store.id().to_string());
            described.labels.insert(label, id);
        }
        described.drivers = BTreeMap::from([(driver.name().to_owned(), driver.version())]);
        info
    }

    /// What the driver can do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.inner.driver.capabilities()
    }

    /// Serves until cancelled, then stops the owners and gives back what is prepared. Sandboxes
    /// live on, unless [`Self::shutdown_sandboxes`] ended them before.
    pub async fn run(&self, cancel: CancellationToken) {
        cancel.cancelled().await;
        self.inner.lock().is_closing = true;
        self.inner.cancel.cancel();
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
        self.inner.driver.close().await;
    }

    /// Makes the sandbox run. Answers once its guest agent is initialised, or with a refusal that
    /// left nothing behind.
    pub async fn ensure(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        loop {
            let mut view = match self.admit(spec) {
                Admission::Owned(view) => view,
                Admission::Refused(refusal) => return CallOutcome::Refused(refusal),
                Admission::Superseded(older) => match self.remove(&spec.id, older).await {
                    CallOutcome::Done(()) => continue,
                    CallOutcome::Refused(refusal) => return CallOutcome::Refused(refusal),
                    CallOutcome::Unknown(why) => return CallOutcome::Unknown(why),
                },
            };
            let settled = view
                .wait_for(|view| view.observed.state != ObservedState::Starting)
                .await
                .map(|view| view.clone());
            return match settled {
                Ok(view) if view.observed.state == ObservedState::Exited => {
                    CallOutcome::Refused(view.refusal.unwrap_or_else(|| {
                        Refusal::Failed(view.observed.detail.unwrap_or_default())
                    }))
                }
                Ok(view) => CallOutcome::Done(view.observed),
                Err(_) => CallOutcome::Unknown("the node is stopping".to_owned()),
            };
        }
    }

    /// Removes the sandbox with all that it holds. An absent one is `Done`.
    pub async fn remove(&self, id: &SandboxId, generation: Generation) -> CallOutcome<()> {
        let (commands, mut view) = {
            let mut state = self.inner.lock();
            if let Some(entry) = state.entries.get(id)
                && entry.generation > generation
            {
                return CallOutcome::Refused(Refusal::StaleGeneration {
                    ordered: generation,
                    known: entry.generation,
                });
            }
            let newest = state.removed.values.get(id).copied();
            if newest.is_none_or(|newest| newest < generation) {
                state.removed.insert(id, generation);
            }
            state.ended.remove(id);
            match state.entries.get(id) {
                None => return CallOutcome::Done(()),
                Some(entry) => (entry.commands.clone(), entry.view.clone()),
            }
        };
        // The owner ends when the sandbox is gone, and drops its side of the view then.
        let gone = async {
            let _ = commands.send(Command::Remove(generation)).await;
            while view.changed().await.is_ok() {}
        };
        if timeout(REMOVE_LIMIT, gone).await.is_err() {
            return CallOutcome::Unknown("the removal still goes on".to_owned());
        }
        if self.inner.lock().entries.contains_key(id) {
            // The owner stopped without removing it, because the agent stops.
            return CallOutcome::Unknown("the removal did not finish".to_owned());
        }
        CallOutcome::Done(())
    }

    /// Replaces the egress policy of a running sandbox.
    pub async fn update_network(
        &self,
        id: &SandboxId,
        generation: Generation,
        policy: &NetworkPolicy,
    ) -> CallOutcome<()> {
        let (reply, answer) = oneshot::channel();
        let commands = {
            let state = self.inner.lock();
            match state.entries.get(id) {
                None => return CallOutcome::Refused(Refusal::UnknownSandbox),
                Some(entry) if entry.generation != generation => {
                    return CallOutcome::Refused(Refusal::StaleGeneration {
                        ordered: generation,
                        known: entry.generation,
                    });
                }
                Some(entry) => entry.commands.clone(),
            }
        };
        let command = Command::UpdateNetwork(policy.clone(), reply);
        if commands.send(command).await.is_err() {
            return CallOutcome::Refused(Refusal::UnknownSandbox);
        }
        match answer.await {
            Ok(Ok(())) => CallOutcome::Done(()),
            Ok(Err(refusal)) => CallOutcome::Refused(refusal),
            Err(_) => CallOutcome::Refused(Refusal::UnknownSandbox),
        }
    }

    /// Makes a template build usable here. Idempotent by (template, build); takes as long as it
    /// takes.
    pub async fn import_template(
        &self,
        template: &TemplateId,
        build: &BuildId,
        source: &TemplateSource,
    ) -> CallOutcome<()> {
        let of = (template.clone(), build.clone());
        let log = Arc::new(move |line: &str| {
            tracing::info!(template = %of.0, build = %of.1, line, "template build");
        });
        let store = &self.inner.templates;
        match store.build(template, build, source, log).await {
            Ok(()) => CallOutcome::Done(()),
            Err(image::Error::Unsupported(what)) => {
                CallOutcome::Refused(Refusal::Unsupported(what))
            }
            Err(error) if error.is_sources_fault() => {
                CallOutcome::Refused(Refusal::BadSource(owner::Chain(&error).to_string()))
            }
            Err(error) => CallOutcome::Refused(owner::failed(&error)),
        }
    }

    /// Removes a template build, unless a sandbox or a snapshot needs it. An absent one is `Done`.
    pub async fn remove_template(&self, template: &TemplateId, build: &BuildId) -> CallOutcome<()> {
        let in_use = {
            let state = self.inner.lock();
            let uses = |entry: &&Entry| entry.template == *template && entry.build == *build;
            state.entries.values().filter(uses).count()
        };
        if in_use > 0 {
            let why = format!("{in_use} sandboxes run from it");
            return CallOutcome::Refused(Refusal::Failed(why));
        }
        match self.inner.templates.snapshots_of(template, build) {
            Ok(snapshots) if snapshots.is_empty() => {}
            Ok(snapshots) => {
                let why = format!("{} snapshots need its layers", snapshots.len());
                return CallOutcome::Refused(Refusal::Failed(why));
            }
            Err(error) => return CallOutcome::Refused(owner::failed(&error)),
        }
        match self.inner.templates.remove(template, build).await {
            Ok(()) => CallOutcome::Done(()),
            Err(error) => CallOutcome::Refused(owner::failed(&error)),
        }
    }

    /// Everything the node runs, and what ended since control last removed it.
    #[must_use]
    pub fn report(&self) -> NodeReport {
        let state = self.inner.lock();
        let mut sandboxes = state.ended.values.clone();
        for (id, entry) in &state.entries {
            let mut observed = entry.view.borrow().observed.clone();
            observed.resources = entry.hold.of(entry.size);
            sandboxes.insert(id.clone(), observed);
        }
        NodeReport {
            node: self.inner.config.node.clone(),
            total: self.inner.config.total,
            allocated: state.allocated,
            sandboxes: sandboxes.into_values().collect(),
        }
    }

    /// Connects to a port inside a running sandbox.
    ///
    /// # Errors
    /// `NotFound` if there is no such sandbox in this generation, [`Paused`] (a `HostUnreachable`)
    /// if it is paused, `ConnectionRefused` if nothing listens.
    pub async fn dial(
        &self,
        id: &SandboxId,
        generation: Generation,
        port: u16,
    ) -> io::Result<TcpStream> {
        let (instance, state) = {
            let state = self.inner.lock();
            let entry = state.entries.get(id);
            let entry = entry.filter(|entry| entry.generation == generation);
            let view = entry.map(|entry| entry.view.borrow());
            view.map_or((None, None), |view| {
                (view.instance.clone(), Some(view.observed.state))
            })
        };
        match (instance, state) {
            (Some(instance), _) => instance.dial(port).await,
            (None, Some(ObservedState::Paused)) => {
                Err(io::Error::new(io::ErrorKind::HostUnreachable, Paused))
            }
            (None, _) => Err(io::Error::new(io::ErrorKind::NotFound, "no such sandbox")),
        }
    }

    /// Removes every sandbox, all at once, and accepts no more. For an operator who wants them gone
    /// with the server.
    pub async fn shutdown_sandboxes(&self) {
        let all: Vec<_> = {
            let mut state = self.inner.lock();
            state.is_closing = true;
            let known = state.entries.iter();
            known
                .map(|(id, entry)| (id.clone(), entry.generation))
                .collect()
        };
        let removals = all.iter().map(|(id, generation)| async move {
            if let CallOutcome::Unknown(why) = self.remove(id, *generation).await {
                tracing::warn!(sandbox = %id, why, "a sandbox was not removed in time");
            }
        });
        futures::future::join_all(removals).await;
    }

    /// Finds or makes the entry of an order.
    fn admit(&self, spec: &SandboxSpec) -> Admission {
        let mut state = self.inner.lock();
        let stale = |known| {
            Admission::Refused(Refusal::StaleGeneration {
                ordered: spec.generation,
                known,
            })
        };
        if let Some(removed) = state.removed.values.get(&spec.id)
            && *removed >= spec.generation
        {
            return stale(*removed);
        }
        if let Some(entry) = state.entries.get(&spec.id) {
            return match entry.generation.cmp(&spec.generation) {
                std::cmp::Ordering::Equal => Admission::Owned(entry.view.clone()),
                std::cmp::Ordering::Greater => stale(entry.generation),
                std::cmp::Ordering::Less => Admission::Superseded(entry.generation),
            };
        }
        if let Some(ended) = state.ended.values.get(&spec.id)
            && ended.generation == spec.generation
        {
            let detail = ended.detail.clone().unwrap_or_default();
            return Admission::Refused(Refusal::Failed(format!("it ended: {detail}")));
        }
        match self.inner.reserve(&mut state, spec.resources) {
            Err(refusal) => Admission::Refused(refusal),
            Ok(()) => {
                let record = Record {
                    id: spec.id.clone(),
                    generation: spec.generation,
                    born: spec.generation,
                    template: spec.template.clone(),
                    build: spec.build.clone(),
                    resources: spec.resources,
                    stage: Stage::Starting,
                    started_at: None,
                    snapshot: None,
                };
                let (owner, view) = self.inner.own(&mut state, record, None);
                let spec = spec.clone();
                let span = tracing::info_span!(
                    "node.start",
                    node = %self.inner.config.node,
                    sandbox = %spec.id,
                    generation = spec.generation.get(),
                );
                self.inner.tracker.spawn(owner.create_and_run(spec, span));
                Admission::Owned(view)
            }
        }
    }
}

/// What an order meets.
enum Admission {
    /// An owner of this generation.
    Owned(watch::Receiver<View>),
    /// An owner of an older generation.
    Superseded(Generation),
    Refused(Refusal),
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the entry of a sandbox and the owner that goes with it.
    fn own(
        self: &Arc<Self>,
        state: &mut State,
        record: Record,
        instance: Option<Arc<dyn Instance>>,
    ) -> (Owner, watch::Receiver<View>) {
        let observed = ObservedSandbox {
            id: record.id.clone(),
            generation: record.generation,
            state: match record.stage {
                Stage::Starting => ObservedState::Starting,
                Stage::Running => ObservedState::Running,
                Stage::Paused { .. } => ObservedState::Paused,
            },
            resources: Hold::from(record.stage).of(record.resources),
            started_at: record.started_at,
            detail: None,
            snapshot: record.snapshot.clone(),
        };
        let (publish, view) = watch::channel(View {
            observed,
            refusal: None,
            instance,
        });
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let entry = Entry {
            generation: record.generation,
            template: record.template.clone(),
            build: record.build.clone(),
            size: record.resources,
            hold: Hold::from(record.stage),
            commands,
            view: view.clone(),
        };
        state.entries.insert(record.id.clone(), entry);
        let owner = Owner::new(Arc::clone(self), record, inbox, publish);
        (owner, view)
    }

    /// Ends an entry whose sandbox is gone, and remembers it if it ended by itself.
    fn forget(&self, id: &SandboxId, ended: Option<ObservedSandbox>) {
        let mut state = self.lock();
        if let Some(entry) = state.entries.remove(id) {
            let rest = state.allocated.checked_sub(entry.hold.of(entry.size));
            state.allocated = rest.expect("what was allocated is given back once");
        }
        // Unless control removed it in the meantime: then it knows.
        if let Some(mut ended) = ended
            && state
                .removed
                .values
                .get(id)
                .is_none_or(|removed| *removed < ended.generation)
        {
            ended.resources = Resources::default();
            state.ended.insert(id, ended);
        }
    }

    fn tell(&self, event: NodeEvent) {
        // A full queue means that control does not keep up; the next report tells it the same.
        if let Err(error) = self.events.try_send(event) {
            tracing::debug!(error = %error, "an event was not delivered");
        }
    }
}

fn lock_directory(directory: &std::path::Path) -> Result<std::fs::File, Error> {
    let path = directory.join("node.lock");
    let error = |step| {
        let path = path.clone();
        move |source| Error::Io { step, path, source }
    };
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(error("open"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse(directory.to_owned())),
        Err(errno) => Err(error("lock")(errno.into())),
    }
}

/// What a machine can give to sandboxes: its own amounts times the ratios, by which more is
/// promised than there is, on the experience that few sandboxes use all they may.
///
/// # Errors
/// If the machine does not tell.
pub fn machine_resources(
    data_dir: &std::path::Path,
    cpu_ratio: f64,
    memory_ratio: f64,
    disk_ratio: f64,
) -> io::Result<Resources> {
    let cores = std::thread::available_parallelism()?.get();
    let memory = rustix::system::sysinfo();
    let memory_bytes = u128::from(memory.totalram) * u128::from(memory.mem_unit);
    let disk = rustix::fs::statvfs(data_dir)?;
    let disk_bytes = u128::from(disk.f_bavail) * u128::from(disk.f_frsize);
    Ok(Resources {
        cpu_millis: scaled(cores as u128 * 1000, cpu_ratio),
        memory_mib: scaled(memory_bytes >> 20, memory_ratio),
        disk_mib: scaled(disk_bytes >> 20, disk_ratio),
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an estimate; the conversion saturates"
)]
fn scaled(amount: u128, ratio: f64) -> u32 {
    (amount as f64 * ratio.max(0.0)) as u32
}
