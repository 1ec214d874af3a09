//! One run, from its seed to its verdict.

use std::cell::Cell;
use std::io;
use std::sync::{Arc, Once};
use std::time::Duration;

use atoll_control::view::{Scope, Tenant};
use atoll_core::id::TeamId;
use atoll_core::resources::Resources;
use atoll_core::sandbox::{Sandbox, State};
use atoll_core::template::{BuildStatus, Template};
use atoll_core::time::Clock as _;
use atoll_store::store::Store as _;
use tokio::time::{Instant, sleep, timeout};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::book::Book;
use crate::checks::Checks;
use crate::client::Clients;
use crate::faults::{Faults, pause};
use crate::link::Cable;
use crate::machine::Machine;
use crate::options::Options;
use crate::server::Server;
use crate::store::Database;
use crate::watcher::Watcher;
use crate::world::World;

/// Nodes of the fleet.
const NODES: usize = 3;

/// Sandboxes one node has room for.
const ROOM: u32 = 5;

/// What one sandbox takes.
const SANDBOX: Resources = Resources {
    cpu_millis: 1_000,
    memory_mib: 512,
    disk_mib: 1_024,
};

/// How long after the last fault everything must be at rest.
const REST_AFTER: Duration = Duration::from_secs(60);

/// How long what ends at its own time may be seen on its way.
const PASSING: Duration = Duration::from_secs(5);

/// How long it takes, at most, to end everything when nothing goes wrong.
const END_WITHIN: Duration = Duration::from_secs(30);

/// How long clients may go on with what they began.
const CLIENTS_LIMIT: Duration = Duration::from_secs(300);

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Digest of the whole trace.
    pub hash: u64,
    /// Lines of the whole trace.
    pub lines: u64,
    /// Servers on the one store.
    pub servers: usize,
    /// Virtual time that passed.
    pub virtual_time: Duration,
    /// Creates that were answered well.
    pub creates: u64,
    /// Guarantees that did not hold, the first one first.
    pub violations: Vec<String>,
    /// The end of the trace, or all of it.
    pub trace: Vec<String>,
}

impl Report {
    /// The command that repeats the run with its whole trace.
    #[must_use]
    pub fn command(&self, steps: u32) -> String {
        format!(
            "cargo xtask sim --seed {} --servers {} --steps {steps} --trace",
            self.seed, self.servers
        )
    }
}

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Carries out one run on this thread.
///
/// # Panics
/// If no runtime can be made.
#[must_use]
pub fn run(options: Options) -> Report {
    count_panics();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing from the system");
    let report = runtime.block_on(async {
        let world = World::new(options);
        let log = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::WARN)
            .with_ansi(false)
            .without_time()
            .with_writer(LogToTrace(Arc::clone(&world)))
            .finish();
        let _guard = tracing::subscriber::set_default(log);
        Run::new(world).carry_out().await
    });
    // Tasks of dead servers wait for ever; they end here.
    drop(runtime);
    report
}

/// A panic in a task of the control plane is caught by its runtime: here it counts.
fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with(|panics| panics.set(panics.get() + 1));
            before(info);
        }));
    });
    PANICS.with(|panics| panics.set(0));
}

struct Run {
    world: Arc<World>,
    database: Arc<Database>,
    cables: Vec<Arc<Cable>>,
    tenants: Vec<Tenant>,
}

impl Run {
    fn new(world: Arc<World>) -> Self {
        let total = Resources {
            cpu_millis: SANDBOX.cpu_millis * ROOM,
            memory_mib: SANDBOX.memory_mib * ROOM,
            disk_mib: SANDBOX.disk_mib * ROOM,
        };
        let cables: Vec<_> = (0..NODES)
            .map(|index| {
                let id = format!("node-{index}").parse().expect("it is a slug");
                let machine = Machine::new(Arc::clone(&world), id, total);
                Arc::new(Cable::new(Arc::clone(&world), Arc::new(machine)))
            })
            .collect();
        let book = Book::new(Arc::clone(&world), cables.clone());
        let tenants = ["team-a", "team-b"]
            .map(|team| Tenant {
                team: team.parse().expect("it is a slug"),
                key: team.parse().expect("it is a slug"),
                scope: Scope::Full,
                receipt: None,
            })
            .into();
        Self {
            database: Arc::new(Database::new(book)),
            world,
            cables,
            tenants,
        }
    }

    async fn carry_out(self) -> Report {
        let began = Instant::now();
        let world = Arc::clone(&self.world);
        self.prepare().await;
        let clients = Arc::new(Clients::new(Arc::clone(&world), self.tenants.clone()));
        let teams: Vec<TeamId> = self.tenants.iter().map(|one| one.team.clone()).collect();
        let mut checks = Checks::new(
            Arc::clone(&world),
            Arc::clone(&self.database),
            self.cables.clone(),
            teams,
        );
        let mut faults = Faults::new(
            Arc::clone(&world),
            Arc::clone(&self.database),
            self.cables.clone(),
        );
        let watcher = Arc::new(Watcher::new(Arc::clone(&world)));
        let mut servers = vec![None; world.options.servers];
        for _ in 0..world.options.steps {
            sleep(pause(&world)).await;
            faults.step(&mut servers).await;
            let live: Vec<_> = servers.iter().flatten().cloned().collect();
            if let Some(server) = live.first() {
                watcher.attach(server);
                clients.act(&live[world.one_of(live.len())]);
            }
            checks.look(&live).await;
            self.judge_panics();
            if world.is_violated() {
                break;
            }
        }
        if !world.is_violated() {
            faults.cease(&mut servers).await;
            let live: Vec<_> = servers.iter().flatten().cloned().collect();
            if let Some(server) = live.first() {
                watcher.attach(server);
                self.come_to_rest(&live, &mut checks, &clients).await;
                watcher.judge(&self.database.book.entries());
            }
        }
        let mut trace = world.trace();
        Report {
            seed: world.options.seed,
            servers: world.options.servers,
            hash: trace.hash(),
            lines: trace.lines(),
            virtual_time: began.elapsed(),
            creates: clients.creates(),
            violations: world.take_violations(),
            trace: trace.take(),
        }
    }

    /// What an operator would have made: two teams and a template.
    async fn prepare(&self) {
        let (tables, now) = (&self.database.tables, self.world.now());
        for tenant in &self.tenants {
            let made = tables.team_ensure(&tenant.team, tenant.team.as_str(), now);
            made.await.expect("memory does not fail");
        }
        let template = Template {
            id: "base".parse().expect("it is an id"),
            build: "build".parse().expect("it is a slug"),
            team: None,
            names: vec!["base".to_owned()],
            is_public: true,
            resources: SANDBOX,
            status: BuildStatus::Ready,
            envd_version: "0.6.13".to_owned(),
            created_at: now,
            updated_at: now,
        };
        let made = tables.template_insert(&template);
        made.await.expect("memory does not fail");
    }

    fn judge_panics(&self) {
        let panics = PANICS.with(Cell::get);
        if panics > 0 {
            self.world.violate(format_args!("{panics} tasks panicked"));
        }
    }

    /// Without faults everything comes to rest and agrees; then everything is ended, and nothing
    /// is left over.
    async fn come_to_rest(&self, servers: &[Arc<Server>], checks: &mut Checks, clients: &Clients) {
        self.look_for(REST_AFTER, servers, checks).await;
        self.expect_rest(servers, checks, "a minute after the last fault")
            .await;
        if timeout(CLIENTS_LIMIT, self.end_all(servers, checks, clients))
            .await
            .is_err()
        {
            self.world.violate("not everything could be ended");
        }
        self.look_for(END_WITHIN, servers, checks).await;
        let left = checks.rows().await.len();
        if left > 0 {
            self.world
                .violate(format_args!("{left} rows are left over at the end"));
        }
        self.expect_rest(servers, checks, "at the end").await;
        checks.judge_history().await;
        self.judge_panics();
        for server in servers {
            server.crash();
        }
    }

    /// Ends what runs; then, as there is room now, resumes everything that is paused and ends it.
    async fn end_all(&self, servers: &[Arc<Server>], checks: &Checks, clients: &Clients) {
        let owned = |row: Sandbox| {
            let is_owner = |tenant: &Tenant| tenant.team == row.team;
            let team = self.tenants.iter().position(is_owner);
            (team.unwrap_or(0), row)
        };
        let rows: Vec<_> = checks.rows().await.into_iter().map(owned).collect();
        let (paused, running): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .partition(|(_, row)| row.state == State::Paused);
        let any = || &servers[self.world.one_of(servers.len())];
        for (team, row) in running {
            clients.kill_one(any(), team, &row.id).await;
        }
        for (team, row) in paused {
            clients.resume_and_kill(any(), team, &row.id).await;
        }
    }

    async fn look_for(&self, time: Duration, servers: &[Arc<Server>], checks: &mut Checks) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.world.is_violated() {
            sleep(Duration::from_millis(500)).await;
            checks.look(servers).await;
        }
    }

    async fn expect_rest(&self, servers: &[Arc<Server>], checks: &Checks, when: &str) {
        let until = Instant::now() + PASSING;
        while let Some(why) = unrest_of(servers, checks).await {
            if Instant::now() > until {
                self.world.violate(format_args!("no rest {when}: {why}"));
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn unrest_of(servers: &[Arc<Server>], checks: &Checks) -> Option<String> {
    for (index, server) in servers.iter().enumerate() {
        if let Some(why) = checks.unrest(server).await {
            return Some(format!("server {index}: {why}"));
        }
    }
    None
}

/// Writes the control plane's own warnings into the trace. What it logs as an error is a defect.
#[derive(Clone)]
struct LogToTrace(Arc<World>);

impl io::Write for LogToTrace {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        let line = line.trim();
        if line.starts_with("ERROR") {
            self.0.violate(line);
        } else {
            self.0.note(line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogToTrace {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
