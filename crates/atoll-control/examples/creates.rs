//! How fast the control plane makes sandboxes, with a node that answers at once: what the control
//! plane and its store cost by themselves.
//!
//! ```text
//! cargo run --release -p atoll-control --example creates -- [creates] [live] [churn]
//! ```
//!
//! Prints creates per second and latencies at several concurrencies, on a fresh SQLite file and in
//! memory, with the ratio of the two (which, unlike the rates, can be compared between machines),
//! and the cost of one synced write of the disk below. Then, with `live` sandboxes, the time of a
//! page of 100; then, after `churn` creates and deletes, memory and the time to open the store.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a program for people, run by hand"
)]

use std::collections::BTreeMap;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use atoll_control::clock::SystemClock;
use atoll_control::config::Config;
use atoll_control::node_client::NodeClient;
use atoll_control::random::SystemRandom;
use atoll_control::request::{CreateRequest, ImportRequest, ListQuery, Order};
use atoll_control::route_publisher::RoutePublisher;
use atoll_control::view::Tenant;
use atoll_control::{ControlPlane, Parts};
use atoll_core::id::{BuildId, Generation, NodeId, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{CallOutcome, NodeReport, ObservedSandbox, ObservedState};
use atoll_core::resources::Resources;
use atoll_core::route::RouteUpdate;
use atoll_core::sandbox::{OnTimeout, SandboxSpec};
use atoll_core::template::TemplateSource;
use atoll_store::memory::MemStore;
use atoll_store::sqlite::SqliteStore;
use atoll_store::store::Store;
use secrecy::SecretString;
use tokio::sync::mpsc;

const KEY: &str = "e2b_0123456789abcdef0123456789abcdef01234567";

/// Requests under way at once, one row of the table each.
const CONCURRENCIES: [usize; 3] = [1, 16, 64];

/// Pages timed for the median.
const PAGES: usize = 50;

#[derive(Debug)]
struct InstantNode(NodeId);

#[async_trait]
impl NodeClient for InstantNode {
    fn node(&self) -> &NodeId {
        &self.0
    }

    async fn ensure(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        CallOutcome::Done(ObservedSandbox {
            id: spec.id.clone(),
            generation: spec.generation,
            state: ObservedState::Running,
            resources: spec.resources,
            started_at: None,
            detail: None,
        })
    }

    async fn remove(&self, _: &SandboxId, _: Generation) -> CallOutcome<()> {
        CallOutcome::Done(())
    }

    async fn update_network(
        &self,
        _: &SandboxId,
        _: Generation,
        _: &NetworkPolicy,
    ) -> CallOutcome<()> {
        CallOutcome::Done(())
    }

    async fn report(&self) -> CallOutcome<NodeReport> {
        CallOutcome::Done(NodeReport {
            node: self.0.clone(),
            total: Resources {
                cpu_millis: u32::MAX,
                memory_mib: u32::MAX,
                disk_mib: u32::MAX,
            },
            allocated: Resources::default(),
            sandboxes: Vec::new(),
        })
    }

    async fn import_template(
        &self,
        _: &TemplateId,
        _: &BuildId,
        _: &TemplateSource,
    ) -> CallOutcome<()> {
        CallOutcome::Done(())
    }

    async fn remove_template(&self, _: &TemplateId, _: &BuildId) -> CallOutcome<()> {
        CallOutcome::Done(())
    }
}

#[derive(Debug)]
struct NoEdge;

impl RoutePublisher for NoEdge {
    fn publish(&self, _: RouteUpdate) {}
}

/// A control plane whose background tasks do not run: full passes would find the node, which
/// remembers nothing, empty.
async fn start(store: Arc<dyn Store>) -> (ControlPlane, Tenant) {
    let mut config = Config::development("0.6.13");
    config.team_limits.concurrent_sandboxes = u32::MAX;
    let parts = Parts {
        store,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        routes: Arc::new(NoEdge),
    };
    let control = ControlPlane::open(config, parts).await.unwrap();
    let key = SecretString::from(KEY);
    control.bootstrap(Some(key)).await.unwrap();
    let (_, events) = mpsc::channel(1);
    let node = InstantNode("node".parse().unwrap());
    control.node_join(Arc::new(node), events).await.unwrap();
    let base = ImportRequest {
        name: "base".to_owned(),
        source: TemplateSource::Host,
        resources: Resources {
            cpu_millis: 1,
            memory_mib: 64,
            disk_mib: 1,
        },
        is_public: true,
    };
    control.template_ensure_global(base).await.unwrap();
    let tenant = control.authenticate(KEY).await.unwrap();
    (control, tenant)
}

async fn sqlite(path: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(path).await.unwrap())
}

fn request() -> CreateRequest {
    CreateRequest {
        template: "base".to_owned(),
        timeout: Duration::from_secs(3_600),
        metadata: BTreeMap::new(),
        env: BTreeMap::new(),
        network: NetworkPolicy::default(),
        is_secured: true,
        on_timeout: OnTimeout::Kill,
        auto_resume: false,
        idempotency_key: None,
        fingerprint: String::new(),
    }
}

#[derive(Debug)]
struct Measured {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

/// Makes `count` sandboxes with `concurrency` under way, each ended at once if `is_churn`.
async fn drive(
    control: &ControlPlane,
    tenant: &Tenant,
    concurrency: usize,
    count: usize,
    is_churn: bool,
) -> Measured {
    let began = Instant::now();
    let workers: Vec<_> = (0..concurrency)
        .map(|_| {
            let (control, tenant) = (control.clone(), tenant.clone());
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(count / concurrency);
                for _ in 0..count / concurrency {
                    let sent = Instant::now();
                    let made = control.sandbox_create(&tenant, request()).await.unwrap();
                    took.push(sent.elapsed());
                    if is_churn {
                        let id = &made.sandbox.id;
                        control.sandbox_kill(&tenant, id).await.unwrap();
                    }
                }
                took
            })
        })
        .collect();
    let mut took = Vec::with_capacity(count);
    for worker in workers {
        took.extend(worker.await.unwrap());
    }
    let seconds = began.elapsed().as_secs_f64();
    took.sort_unstable();
    Measured {
        per_second: f64::from(u32::try_from(took.len()).unwrap()) / seconds,
        p50: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
    }
}

async fn compare_stores(count: usize) {
    println!("clients    sqlite/s      p50      p99    memory/s    ratio");
    for concurrency in CONCURRENCIES {
        let directory = tempfile::tempdir().unwrap();
        let store = sqlite(&directory.path().join("atoll.db")).await;
        let (control, tenant) = start(Arc::clone(&store)).await;
        let durable = drive(&control, &tenant, concurrency, count, false).await;
        store.close().await;
        let (control, tenant) = start(Arc::new(MemStore::default())).await;
        let memory = drive(&control, &tenant, concurrency, count, false).await;
        println!(
            "{concurrency:7} {:11.0} {:6} µs {:6} µs {:11.0} {:8.3}",
            durable.per_second,
            durable.p50.as_micros(),
            durable.p99.as_micros(),
            memory.per_second,
            durable.per_second / memory.per_second,
        );
    }
}

/// The median time to write a few pages and sync them: no durable create can be faster than this.
fn synced_write() -> Duration {
    const PAGES_WRITTEN: usize = 6 * 4_096;
    let mut file = tempfile::tempfile().unwrap();
    let mut took: Vec<_> = (0..200)
        .map(|_| {
            file.seek(SeekFrom::Start(0)).unwrap();
            file.write_all(&[7; PAGES_WRITTEN]).unwrap();
            let began = Instant::now();
            file.sync_data().unwrap();
            began.elapsed()
        })
        .collect();
    took.sort_unstable();
    took[took.len() / 2]
}

async fn list_pages(control: &ControlPlane, tenant: &Tenant) -> Duration {
    let query = ListQuery {
        states: Vec::new(),
        metadata: BTreeMap::new(),
        template: None,
        order: Order::Descending,
        started_after: None,
        cursor: None,
        limit: 100,
    };
    let mut took = Vec::with_capacity(PAGES);
    for _ in 0..PAGES {
        let began = Instant::now();
        let page = control.sandbox_list(tenant, &query).await.unwrap();
        took.push(began.elapsed());
        assert_eq!(page.items.len(), 100);
    }
    took.sort_unstable();
    took[PAGES / 2]
}

/// Resident memory of this process, in MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|number| number.parse().ok())
        .unwrap();
    kib / 1_024
}

async fn live(count: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("atoll.db");
    let store = sqlite(&path).await;
    let (control, tenant) = start(Arc::clone(&store)).await;
    let made = drive(&control, &tenant, 64, count, false).await;
    let page = list_pages(&control, &tenant).await;
    println!(
        "{count} live: {:.0} creates/s, page of 100 in {} µs, {} MiB",
        made.per_second,
        page.as_micros(),
        resident_mib()
    );
    store.close().await;
}

async fn churn(count: usize) {
    /// Looks at memory on the way.
    const STEPS: usize = 8;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("atoll.db");
    let store = sqlite(&path).await;
    let (control, tenant) = start(Arc::clone(&store)).await;
    for step in 1..=STEPS {
        let made = drive(&control, &tenant, 64, count / STEPS, true).await;
        println!(
            "{:7} made and ended: {:.0} pairs/s, {} MiB, file {} MiB",
            step * count / STEPS,
            made.per_second,
            resident_mib(),
            std::fs::metadata(&path).unwrap().len() >> 20
        );
    }
    store.close().await;
    drop((control, store));
    let began = Instant::now();
    let store = sqlite(&path).await;
    let (_control, _) = start(Arc::clone(&store)).await;
    println!("opened again in {} ms", began.elapsed().as_millis());
    store.close().await;
}

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|text| text.parse::<usize>().unwrap());
    let count = numbers.next().unwrap_or(8_000);
    println!("one synced write: {} µs", synced_write().as_micros());
    if count > 0 {
        compare_stores(count).await;
    }
    if let Some(count) = numbers.next().filter(|count| *count > 0) {
        live(count).await;
    }
    if let Some(count) = numbers.next() {
        churn(count).await;
    }
}
