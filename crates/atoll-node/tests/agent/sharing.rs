//! Two agents that share a storage: what one paused goes on on the other, and nothing that is not
//! exactly that.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atoll_core::id::{Generation, SandboxId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{CallOutcome, NodeEvent, NodeInfo, ObservedSandbox, ObservedState, Refusal};
use atoll_core::resources::Resources;
use atoll_core::sandbox::SandboxSpec;
use atoll_core::snapshot::{STORE_LABEL, Snapshot, Unneeded};
use atoll_node::agent::{Agent, Config};
use atoll_node::image::{self, TemplateStore};
use atoll_node::snapshot::{self, SnapshotStore};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounting::StoppedClock;
use crate::pretend::{FILE, Machine, PretendDriver};

/// Longest wait for what follows an order.
const LIMIT: Duration = Duration::from_secs(10);

const SIZE: Resources = Resources {
    cpu_millis: 1000,
    memory_mib: 128,
    disk_mib: 100,
};

struct Node {
    directory: PathBuf,
    agent: Agent,
    machine: Arc<Machine>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    _events: mpsc::Receiver<NodeEvent>,
}

async fn store(world: &Path, node: &str, fresh: &str) -> SnapshotStore {
    let shared = world.join("shared");
    std::fs::create_dir_all(&shared).unwrap();
    let config = snapshot::Config {
        url: format!("file://{}", shared.display()),
        options: Vec::new(),
        mib_per_second: None,
    };
    let store = SnapshotStore::open(&config, &world.join(node), fresh.parse().unwrap()).await;
    store.unwrap()
}

impl Node {
    async fn start(world: &Path, name: &str, machine: &Arc<Machine>) -> Self {
        let directory = world.join(name);
        let config = Config {
            node: name.parse().unwrap(),
            info: NodeInfo::default(),
            data_dir: directory.clone(),
            total: Resources {
                cpu_millis: 4000,
                memory_mib: 4096,
                disk_mib: 4096,
            },
            max_sandboxes: 4,
            usage_interval: Duration::from_secs(60),
            snapshots: Some(store(world, name, name).await),
        };
        let dir = directory.join("templates");
        let templates = TemplateStore::open(image::Config { dir, sudo: None }).unwrap();
        let driver = Arc::new(PretendDriver(Arc::clone(machine)));
        let (sender, events) = mpsc::channel(64);
        let agent = Agent::start(config, driver, templates, Arc::new(StoppedClock), sender);
        let agent = agent.await.unwrap();
        let (served, cancel) = (agent.clone(), CancellationToken::new());
        let (tasks, token) = (TaskTracker::new(), cancel.clone());
        tasks.spawn(async move { served.run(token).await });
        tasks.close();
        Self {
            directory,
            agent,
            machine: Arc::clone(machine),
            cancel,
            tasks,
            _events: events,
        }
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.tasks.wait().await;
    }

    fn seen(&self) -> Option<ObservedSandbox> {
        self.agent.report().sandboxes.into_iter().next()
    }

    /// Waits until it says that others can go on with the sandbox.
    async fn snapshot(&self) -> Snapshot {
        let begun = tokio::time::Instant::now();
        loop {
            let seen = self.seen();
            if let Some(snapshot) = seen.as_ref().and_then(|seen| seen.snapshot.clone()) {
                return snapshot;
            }
            assert!(begun.elapsed() < LIMIT, "{seen:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("sandboxes/i1").join(FILE)
    }

    /// Makes a sandbox that wrote something, and keeps its files.
    async fn pause(&self, generation: u64) {
        let done = self.agent.ensure(&spec(generation, None)).await;
        assert!(matches!(done, CallOutcome::Done(_)), "{done:?}");
        std::fs::write(self.file(), big()).unwrap();
        let generation = Generation::new(generation);
        let paused = self.agent.pause(&id(), generation, false).await;
        assert!(matches!(paused, CallOutcome::Done(_)), "{paused:?}");
    }
}

fn id() -> SandboxId {
    "i1".parse().unwrap()
}

/// Some parts, one of them of zeros, the last one short.
fn big() -> Vec<u8> {
    let mut content = vec![0_u8; (9 << 20) + 5];
    for (at, byte) in content.iter_mut().enumerate() {
        if !(4 << 20..8 << 20).contains(&at) {
            *byte = u8::try_from(at % 251).unwrap();
        }
    }
    content
}

fn spec(generation: u64, snapshot: Option<Snapshot>) -> SandboxSpec {
    SandboxSpec {
        id: id(),
        generation: Generation::new(generation),
        team: "t".parse().unwrap(),
        template: "base".parse().unwrap(),
        build: "b".parse().unwrap(),
        resources: SIZE,
        env: std::collections::BTreeMap::new(),
        network: NetworkPolicy::default(),
        access_token: None,
        snapshot,
    }
}

/// The objects of the storage, but for the one that says who it is.
fn objects(world: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![world.join("shared")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("store.json") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

async fn drop_all(node: &Node, through: u64) {
    let unneeded = Unneeded {
        id: id(),
        through: Generation::new(through),
        quiet_for: Duration::ZERO,
    };
    let dropped = node.agent.drop_snapshots(&unneeded).await;
    assert_eq!(dropped, CallOutcome::Done(()));
}

#[tokio::test]
async fn what_one_node_paused_goes_on_on_another() {
    let world = tempfile::tempdir().unwrap();
    let first = Node::start(world.path(), "n1", &Arc::default()).await;
    let second = Node::start(world.path(), "n2", &Arc::default()).await;
    let label = |node: &Node| node.agent.info().descriptor.labels[STORE_LABEL].clone();
    assert_eq!(
        label(&first),
        label(&second),
        "they know that they share it"
    );

    first.pause(3).await;
    let snapshot = first.snapshot().await;
    assert_eq!(snapshot.generation, Generation::new(3));
    assert_eq!(objects(world.path()).len(), 3, "two parts and the manifest");
    // It says the same after a restart, and nothing is stored again.
    let (before, machine) = (objects(world.path()), Arc::clone(&first.machine));
    first.stop().await;
    let first = Node::start(world.path(), "n1", &machine).await;
    assert_eq!(first.seen().unwrap().snapshot, Some(snapshot.clone()));
    assert_eq!(objects(world.path()), before);

    let done = second.agent.ensure(&spec(4, Some(snapshot))).await;
    let CallOutcome::Done(seen) = done else {
        panic!("{done:?}");
    };
    assert_eq!(
        (seen.state, seen.generation),
        (ObservedState::Running, Generation::new(4))
    );
    assert!(std::fs::read(second.file()).unwrap() == big());

    // What is there of it is listed, and goes when it is not needed.
    let listed = second.agent.list_snapshots(None, 10).await;
    let CallOutcome::Done(listed) = listed else {
        panic!("{listed:?}");
    };
    assert_eq!(
        (&listed[0].id, listed[0].oldest),
        (&id(), Generation::new(3))
    );
    drop_all(&second, 2).await;
    assert_eq!(objects(world.path()), before, "what is newer stays");
    drop_all(&second, 3).await;
    assert_eq!(objects(world.path()).len(), 0);
    let listed = second.agent.list_snapshots(Some(&id()), 10).await;
    assert_eq!(listed, CallOutcome::Done(Vec::new()));
    first.stop().await;
    second.stop().await;
}

/// A flipped bit, a part that is missing, another manifest: none of them starts anything, and the
/// refusal names what is wrong.
#[tokio::test]
async fn what_is_not_what_was_stored_is_refused() {
    let world = tempfile::tempdir().unwrap();
    let first = Node::start(world.path(), "n1", &Arc::default()).await;
    let second = Node::start(world.path(), "n2", &Arc::default()).await;
    first.pause(3).await;
    let snapshot = first.snapshot().await;
    let mut generation = 4;
    for path in objects(world.path()) {
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [Some(flipped), Some(whole[1..].to_vec()), None] {
            match damaged {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let outcome = second
                .agent
                .ensure(&spec(generation, Some(snapshot.clone())))
                .await;
            let CallOutcome::Refused(Refusal::BadSnapshot(text)) = outcome else {
                panic!("{path:?}: {outcome:?}");
            };
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(text.contains(name), "{text}");
            assert_eq!(second.machine.count_living(), 0);
            assert!(!second.file().exists());
            generation += 1;
        }
        std::fs::write(&path, whole).unwrap();
    }
    // Another sandbox's is none of this one's, whole as it is.
    let mut other = spec(1, Some(snapshot.clone()));
    other.build = "other".parse().unwrap();
    let outcome = second.agent.ensure(&other).await;
    assert!(
        matches!(outcome, CallOutcome::Refused(Refusal::BadSnapshot(_))),
        "{outcome:?}"
    );
    let outcome = second.agent.ensure(&spec(generation, Some(snapshot))).await;
    assert!(matches!(outcome, CallOutcome::Done(_)), "{outcome:?}");
    first.stop().await;
    second.stop().await;
}

/// What an upload left that was cut off is used by the next one, unless it is damaged: then it is
/// stored again. Only after all was read back is it told of.
#[tokio::test]
async fn an_upload_that_was_cut_off_is_carried_on() {
    let world = tempfile::tempdir().unwrap();
    let first = Node::start(world.path(), "n1", &Arc::default()).await;
    first.pause(3).await;
    let snapshot = first.snapshot().await;
    let all = objects(world.path());
    let manifest = all
        .iter()
        .find(|path| path.ends_with("manifest.json"))
        .unwrap();
    std::fs::remove_file(manifest).unwrap();
    let part = all
        .iter()
        .find(|path| !path.ends_with("manifest.json"))
        .unwrap();
    let whole = std::fs::read(part).unwrap();
    std::fs::write(part, &whole[1..]).unwrap();
    // The node forgets that it had stored it.
    let machine = Arc::clone(&first.machine);
    let record = first.directory.join("sandboxes/i1/record.json");
    first.stop().await;
    let mut row: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    row.as_object_mut().unwrap().remove("snapshot");
    std::fs::write(&record, row.to_string()).unwrap();
    let first = Node::start(world.path(), "n1", &machine).await;
    assert_eq!(first.snapshot().await, snapshot);
    assert_eq!(objects(world.path()), all);
    assert!(std::fs::read(part).unwrap() == whole);
    first.stop().await;
}

/// A resume does not wait for an upload, and an upload does not outlive it: what is told of is of
/// the newest pause.
#[tokio::test]
async fn a_resume_ends_an_upload() {
    let world = tempfile::tempdir().unwrap();
    let first = Node::start(world.path(), "n1", &Arc::default()).await;
    first.pause(3).await;
    let resumed = first.agent.resume(&spec(4, None)).await;
    assert!(matches!(resumed, CallOutcome::Done(_)), "{resumed:?}");
    assert_eq!(first.seen().unwrap().snapshot, None);
    let paused = first.agent.pause(&id(), Generation::new(4), false).await;
    assert!(matches!(paused, CallOutcome::Done(_)), "{paused:?}");
    assert_eq!(first.snapshot().await.generation, Generation::new(4));
    first.stop().await;
}

/// A storage that is away keeps no node from starting that saw it before; one that was never seen
/// is no storage.
#[tokio::test]
async fn a_storage_is_known_again_while_it_is_away() {
    let world = tempfile::tempdir().unwrap();
    let known = store(world.path(), "n1", "one").await;
    assert_eq!(store(world.path(), "n2", "two").await.id(), known.id());
    let identity = world.path().join("shared/store.json");
    std::fs::remove_file(&identity).unwrap();
    std::fs::create_dir(&identity).unwrap();
    assert_eq!(store(world.path(), "n1", "three").await.id(), known.id());
    let config = snapshot::Config {
        url: format!("file://{}", world.path().join("missing").display()),
        options: Vec::new(),
        mib_per_second: None,
    };
    let fresh = || "fresh".parse().unwrap();
    let missing = SnapshotStore::open(&config, world.path(), fresh()).await;
    assert!(missing.is_err(), "a mount that is missing is not made");
    for url in [
        "",
        "file://relative",
        "s3://",
        "http://h/b",
        "s3://user@b/p",
    ] {
        let config = snapshot::Config {
            url: url.to_owned(),
            ..config.clone()
        };
        let opened = SnapshotStore::open(&config, world.path(), fresh()).await;
        assert!(opened.is_err(), "{url}");
    }
}
