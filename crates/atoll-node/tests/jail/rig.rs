//! A node agent with the jail driver on this machine, and a client of the guest agents in it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atoll_core::id::{BuildId, Generation, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{CallOutcome, NodeEvent, ObservedSandbox};
use atoll_core::resources::Resources;
use atoll_core::sandbox::SandboxSpec;
use atoll_core::template::TemplateSource;
use atoll_core::time::{Clock, Timestamp};
use atoll_node::agent::{self, Agent};
use atoll_node::driver::jail::{Config as JailConfig, JailDriver};
use atoll_node::image::{self, TemplateStore};
use atoll_node::net::{self, cidr::Cidr};
use tempfile::TempDir;
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a sandbox gets unless a test wants something else.
pub(crate) const SIZE: Resources = Resources {
    cpu_millis: 2000,
    memory_mib: 512,
    disk_mib: 512,
};

/// Longest wait for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

static WORLDS: AtomicU32 = AtomicU32::new(0);
static SANDBOXES: AtomicU32 = AtomicU32::new(0);
static GUESTS: OnceCell<PathBuf> = OnceCell::const_new();
static TEMPLATES: OnceCell<TemplateStore> = OnceCell::const_new();

/// What survives a node's death: its directory and its name on the machine.
pub(crate) struct World {
    pub(crate) directory: Directory,
    pub(crate) instance: String,
    guests: PathBuf,
}

/// The directory of a world: removed at its end by the process that made it.
pub(crate) enum Directory {
    Own(TempDir),
    Borrowed(PathBuf),
}

impl Directory {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Own(directory) => directory.path(),
            Self::Borrowed(path) => path,
        }
    }
}

/// A node that serves.
pub(crate) struct Node<'a> {
    pub(crate) agent: Agent,
    pub(crate) events: mpsc::Receiver<NodeEvent>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
    pub(crate) world: &'a World,
}

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the clock of the tests")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp::from_micros(i64::try_from(since.unwrap().as_micros()).unwrap())
    }
}

impl World {
    /// None if this machine cannot run sandboxes, which it says.
    pub(crate) async fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        // Shown with RUST_LOG=atoll_node=debug and --nocapture.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let guests = GUESTS
            .get_or_init(|| async { tokio::task::spawn_blocking(guest_programs).await.unwrap() })
            .await
            .clone();
        let number = WORLDS.fetch_add(1, Ordering::Relaxed) % 256;
        Some(Self {
            directory: Directory::Own(tempfile::tempdir().unwrap()),
            instance: format!("t{:x}x{number:x}", std::process::id() & 0xfffff),
            guests,
        })
    }

    /// The world of another process.
    pub(crate) async fn existing(instance: String, directory: PathBuf) -> Self {
        let guests = tokio::task::spawn_blocking(guest_programs).await.unwrap();
        let dir = templates_dir();
        let sudo = None;
        let store = TemplateStore::open(image::Config { dir, sudo }).unwrap();
        assert!(TEMPLATES.set(store).is_ok());
        Self {
            directory: Directory::Borrowed(directory),
            instance,
            guests,
        }
    }

    /// Makes the templates now, for [`World::existing`] elsewhere.
    pub(crate) async fn prepare_templates(&self) {
        TEMPLATES.get_or_init(|| templates(&self.guests)).await;
    }

    /// The cells in which something runs.
    pub(crate) fn cells_with_processes(&self) -> Vec<String> {
        let group = format!("/sys/fs/cgroup/pids/atoll-{}", self.instance);
        let cells = std::fs::read_dir(group).into_iter().flatten().flatten();
        let used = cells.filter(|cell| {
            let procs = std::fs::read_to_string(cell.path().join("cgroup.procs"));
            procs.is_ok_and(|procs| !procs.is_empty())
        });
        used.map(|cell| cell.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with("cell-"))
            .collect()
    }

    pub(crate) async fn node(&self) -> Node<'_> {
        self.node_with(|_, _| {}).await
    }

    pub(crate) async fn node_with(
        &self,
        change: impl FnOnce(&mut agent::Config, &mut JailConfig),
    ) -> Node<'_> {
        let base = self.directory.path();
        let mut config = agent::Config {
            info: atoll_core::node::NodeInfo::default(),
            node: "test".parse().unwrap(),
            data_dir: base.join("node"),
            total: Resources {
                cpu_millis: 2_000_000,
                memory_mib: 2_000_000,
                disk_mib: 2_000_000,
            },
            max_sandboxes: 1000,
            usage_interval: Duration::from_secs(5),
            snapshots: None,
        };
        let mut jail = JailConfig {
            instance: self.instance.clone(),
            data_dir: base.join("node"),
            supervisor: self.guests.join("atoll-jail"),
            guest_agent: self.guests.join("atoll-envd"),
            nameservers: vec![IpAddr::from([8, 8, 8, 8])],
            ready_cells: 4,
            ready_disks: 4,
            usual_disk_mib: SIZE.disk_mib,
        };
        change(&mut config, &mut jail);
        let templates = TEMPLATES
            .get_or_init(|| templates(&self.guests))
            .await
            .clone();
        let pool = net::Pool::start(net::Config {
            instance: self.instance.clone(),
            run_dir: base.join("net"),
            ranges: ranges(),
            resolvers: vec![std::net::Ipv4Addr::new(8, 8, 8, 8)],
            denied: Vec::new(),
            ready: 4,
            max_slots: 512,
        })
        .await
        .unwrap();
        let driver = JailDriver::open(jail, pool, templates.clone())
            .await
            .unwrap();
        let (sender, events) = mpsc::channel(1024);
        let agent = Agent::start(
            config,
            Arc::new(driver),
            templates,
            Arc::new(SystemClock),
            sender,
        )
        .await
        .unwrap();
        let cancel = CancellationToken::new();
        let (served, token) = (agent.clone(), cancel.clone());
        let task =
            tokio_util::task::TaskTracker::new().spawn(async move { served.run(token).await });
        Node {
            agent,
            events,
            cancel,
            task,
            world: self,
        }
    }

    /// What of this node is on the machine now: cgroups, namespaces, links, loop devices,
    /// processes, mounts. Empty when nothing is left.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        let name = format!("atoll-{}", self.instance);
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let group = hierarchy.path().join(&name);
            if group.exists() {
                found.push(group.display().to_string());
            }
        }
        let directory = self.directory.path().to_str().unwrap();
        let links = output("ip", &["-o", "link"]);
        let link = format!("at{}-", self.instance);
        found.extend(lines_with(&links, &link));
        let rules = output("nft", &["list", "ruleset"]);
        found.extend(lines_with(&rules, &link));
        found.extend(lines_with(&rules, &name));
        let loops = output("losetup", &["--list", "--noheadings"]);
        found.extend(lines_with(&loops, directory));
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        found.extend(lines_with(&mounts, directory));
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let command =
                std::fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
            found.extend(lines_with(&command, &name));
        }
        found
    }

    /// Waits until nothing is left on the machine, and no file of a sandbox in the directory.
    pub(crate) async fn assert_clean(&self) {
        until("no trace is left", || {
            let traces = self.traces();
            if traces.is_empty() {
                Ok(())
            } else {
                Err(traces.join("\n"))
            }
        })
        .await;
        let sandboxes = self.directory.path().join("node/sandboxes");
        let left: Vec<_> = std::fs::read_dir(sandboxes).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        let disks = std::fs::read_dir(self.directory.path().join("node/disks")).unwrap();
        let left: Vec<_> = disks
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("new-"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Takes down what a failed test left.
impl Drop for World {
    fn drop(&mut self) {
        if matches!(self.directory, Directory::Borrowed(_)) {
            return;
        }
        let name = format!("atoll-{}", self.instance);
        let groups: Vec<_> = std::fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .flatten()
            .map(|hierarchy| hierarchy.path().join(&name))
            .filter(|group| group.exists())
            .collect();
        for group in &groups {
            for cell in std::fs::read_dir(group).unwrap().flatten() {
                let procs = cell.path().join("cgroup.procs");
                for pid in std::fs::read_to_string(procs).unwrap_or_default().lines() {
                    output("kill", &["-9", pid]);
                }
                // The frozen do not die.
                let state = cell.path().join("freezer.state");
                if state.exists() {
                    let _ = std::fs::write(state, "THAWED");
                }
            }
        }
        for group in &groups {
            let cells = std::fs::read_dir(group).unwrap().flatten();
            for path in cells.map(|cell| cell.path()).chain([group.clone()]) {
                for _ in 0..100 {
                    if !path.is_dir() || std::fs::remove_dir(&path).is_ok() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
        let link = format!("at{}-", self.instance);
        for line in lines_with(&output("ip", &["-o", "link"]), &link) {
            let name = line.split([':', '@']).nth(1).unwrap().trim();
            output("ip", &["link", "del", name]);
        }
        output("nft", &["delete", "table", "inet", &name]);
        // Without this, other tests run out of ranges.
        let range = std::fs::read_to_string(self.directory.path().join("net/range"));
        if let Ok(range) = range {
            output("ip", &["route", "del", "blackhole", range.trim()]);
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        for line in lines_with(&mounts, self.directory.path().to_str().unwrap()) {
            output("umount", &["-l", line.split(' ').nth(1).unwrap()]);
        }
    }
}

impl Node<'_> {
    /// Makes a sandbox that must succeed.
    pub(crate) async fn create(&self) -> SandboxId {
        let spec = spec();
        self.ensure(&spec).await;
        spec.id
    }

    pub(crate) async fn ensure(&self, spec: &SandboxSpec) -> ObservedSandbox {
        match self.agent.ensure(spec).await {
            CallOutcome::Done(observed) => observed,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn remove(&self, id: &SandboxId) {
        self.remove_of(id, Generation::FIRST).await;
    }

    pub(crate) async fn remove_of(&self, id: &SandboxId, generation: Generation) {
        let removed = self.agent.remove(id, generation).await;
        assert_eq!(removed, CallOutcome::Done(()), "{id}");
    }

    /// Pauses a sandbox, which must succeed.
    pub(crate) async fn pause(&self, spec: &SandboxSpec, keep_memory: bool) -> ObservedSandbox {
        let paused = self.agent.pause(&spec.id, spec.generation, keep_memory);
        match paused.await {
            CallOutcome::Done(observed) => observed,
            other => panic!("{other:?}"),
        }
    }

    /// Resumes a sandbox under the next generation, which must succeed; the order has it then.
    pub(crate) async fn resume(&self, spec: &mut SandboxSpec) -> ObservedSandbox {
        spec.generation = Generation::new(spec.generation.get() + 1);
        match self.agent.resume(spec).await {
            CallOutcome::Done(observed) => observed,
            other => panic!("{other:?}"),
        }
    }

    /// Ends the node but not its sandboxes, as a restart does.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }

    /// Waits for an event that is wanted, passing over others.
    pub(crate) async fn event<T>(&mut self, pick: impl Fn(NodeEvent) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = pick(self.events.recv().await.unwrap()) {
                    return found;
                }
            }
        };
        tokio::time::timeout(LIMIT, wait).await.unwrap()
    }

    /// The host's number of the sandbox's pid 1, and of its supervisor.
    pub(crate) fn processes_of(&self, id: &SandboxId) -> (u32, u32) {
        let name = format!("atoll-{}", self.world.instance);
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let read = |file| std::fs::read_to_string(process.path().join(file));
            let Ok(status) = read("status") else { continue };
            let in_cell = read("cgroup").is_ok_and(|text| text.contains(&format!("{name}/cell-")));
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.map(|line| line.trim().to_owned()).unwrap_or_default()
            };
            let root = process.path().join("root/etc/hostname");
            if in_cell
                && field("NSpid:").ends_with("\t1")
                && std::fs::read_to_string(root).is_ok_and(|text| text.trim() == id.as_str())
            {
                return (
                    field("Pid:").parse().unwrap(),
                    field("PPid:").parse().unwrap(),
                );
            }
        }
        panic!("no process of {id}");
    }
}

/// Address ranges small enough for all tests at once; which come first depends on the process.
fn ranges() -> Vec<Cidr> {
    let first = std::process::id() % 32;
    let range = |number: u32| {
        let third = u8::try_from((first + number) % 32 * 8).unwrap();
        Cidr::new(std::net::Ipv4Addr::new(10, 213, third, 0), 21)
    };
    (0..32).map(range).collect()
}

pub(crate) fn base_template() -> (TemplateId, BuildId) {
    ("base".parse().unwrap(), "b1".parse().unwrap())
}

/// One store for all tests, with the base template, made anew by each run: that takes seconds.
async fn templates(guests: &Path) -> TemplateStore {
    let dir = templates_dir();
    let _ = std::fs::remove_dir_all(&dir);
    let sudo = Some(guests.join("atoll-envd"));
    let store = TemplateStore::open(image::Config { dir, sudo }).unwrap();
    let (template, build) = base_template();
    let log = Arc::new(|_: &str| {});
    let source = TemplateSource::Host;
    store.build(&template, &build, &source, log).await.unwrap();
    store
}

fn templates_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("jail-templates")
}

/// An order for a new sandbox.
pub(crate) fn spec() -> SandboxSpec {
    spec_named(&format!(
        "isandbox{}",
        SANDBOXES.fetch_add(1, Ordering::Relaxed)
    ))
}

pub(crate) fn spec_named(id: &str) -> SandboxSpec {
    let (template, build) = base_template();
    SandboxSpec {
        id: id.parse().unwrap(),
        generation: Generation::FIRST,
        team: "team".parse().unwrap(),
        template,
        build,
        resources: SIZE,
        env: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
        network: NetworkPolicy::default(),
        access_token: None,
        snapshot: None,
    }
}

/// Waits for a condition; its error says how it stands.
pub(crate) async fn until(what: &str, condition: impl Fn() -> Result<(), String>) {
    let start = tokio::time::Instant::now();
    loop {
        match condition() {
            Ok(()) => return,
            Err(status) if start.elapsed() > LIMIT => panic!("not in time: {what}:\n{status}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

fn lines_with(text: &str, part: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.contains(part));
    lines.map(str::to_owned).collect()
}

/// The folder with the static guest programs: `ATOLL_GUEST_DIR`, or built now.
pub(crate) fn guest_programs() -> PathBuf {
    if let Some(directory) = std::env::var_os("ATOLL_GUEST_DIR") {
        return directory.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap();
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("guest");
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .args([
            "build",
            "--quiet",
            "--profile",
            "guest",
            "--target",
            &target,
        ])
        .args(["--package", "atoll-envd", "--package", "atoll-jail"])
        .arg("--target-dir")
        .arg(&built)
        .status()
        .unwrap();
    assert!(status.success(), "the guest programs do not build");
    built.join(target).join("guest")
}
