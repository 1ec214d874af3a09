//! The engines that the fleet stands on: PostgreSQL, Redis and Consul, each on its own machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::network::{Site, check};
use crate::process::Process;

const POSTGRES_PORT: u16 = 5432;
const REDIS_PORT: u16 = 6379;
const CONSUL_PORT: u16 = 8500;
/// PostgreSQL refuses to run as root.
const POSTGRES_USER: &str = "postgres";
const LOOK_EACH: Duration = Duration::from_millis(100);
/// How long a service may take until it takes connections.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Where Debian keeps the programs of PostgreSQL.
fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    found.retain(|path| path.join("initdb").exists());
    found.sort();
    found.pop()
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// What is missing of the engines, by the names of their packages.
pub(crate) fn missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if postgres_programs().is_none() {
        missing.push("postgresql");
    }
    if !is_installed("redis-server") {
        missing.push("redis-server");
    }
    missing
}

/// Whether there is a Consul; a fleet can be without.
pub(crate) fn has_consul() -> bool {
    is_installed("consul")
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Service {
    site: Site,
    port: u16,
    kind: Kind,
    process: Process,
}

#[derive(Debug)]
enum Kind {
    Postgres { programs: PathBuf, data: PathBuf },
    Redis { data: PathBuf },
    Consul { data: PathBuf },
}

impl Service {
    /// A new, empty database.
    pub(crate) fn postgres(site: Site, folder: &Path) -> Result<Self> {
        let programs = postgres_programs().context("there is no PostgreSQL")?;
        let data = folder.join("postgres");
        std::fs::create_dir(&data)?;
        let mut owner = Command::new("chown");
        check(owner.arg(POSTGRES_USER).arg(&data), "own a folder")?;
        let mut initdb = as_postgres(Command::new("setpriv"));
        initdb
            .arg(programs.join("initdb"))
            .args(["--auth", "trust", "--encoding", "UTF8"]);
        check(
            initdb
                .args(["--username", POSTGRES_USER, "--pgdata"])
                .arg(&data),
            "initdb",
        )?;
        std::fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhost all all 10.77.0.0/16 trust\n",
        )?;
        let kind = Kind::Postgres { programs, data };
        Ok(Self::new(site, POSTGRES_PORT, kind, folder, "postgres"))
    }

    pub(crate) fn redis(site: Site, folder: &Path) -> Result<Self> {
        let data = folder.join("redis");
        std::fs::create_dir(&data)?;
        Ok(Self::new(
            site,
            REDIS_PORT,
            Kind::Redis { data },
            folder,
            "redis",
        ))
    }

    pub(crate) fn consul(site: Site, folder: &Path) -> Result<Self> {
        let data = folder.join("consul");
        std::fs::create_dir(&data)?;
        Ok(Self::new(
            site,
            CONSUL_PORT,
            Kind::Consul { data },
            folder,
            "consul",
        ))
    }

    fn new(site: Site, port: u16, kind: Kind, folder: &Path, name: &str) -> Self {
        Self {
            process: Process::new(name, &folder.join("logs")),
            site,
            port,
            kind,
        }
    }

    /// The address a server is given.
    pub(crate) fn url(&self) -> String {
        let at = format!("{}:{}", self.site.address, self.port);
        match &self.kind {
            Kind::Postgres { .. } => format!("postgres://{POSTGRES_USER}@{at}/atoll"),
            Kind::Redis { .. } => format!("redis://{at}"),
            Kind::Consul { .. } => format!("http://{at}"),
        }
    }

    fn command(&self) -> Command {
        let address = self.site.address.to_string();
        let port = self.port.to_string();
        match &self.kind {
            Kind::Postgres { programs, data } => {
                let mut command = as_postgres(self.site.command("setpriv"));
                command.arg(programs.join("postgres")).arg("-D").arg(data);
                command.args(["-h", &address, "-p", &port, "-k"]).arg(data);
                command.args(["-c", "max_connections=200"]);
                command
            }
            Kind::Redis { data } => {
                let mut command = self.site.command("redis-server");
                command.args(["--bind", &address, "--port", &port]);
                command
                    .args(["--protected-mode", "no", "--save", "", "--dir"])
                    .arg(data);
                command
            }
            Kind::Consul { data } => {
                let mut command = self.site.command("consul");
                command.args(["agent", "-server", "-bootstrap", "-client", &address]);
                command.args(["-bind", &address, "-data-dir"]).arg(data);
                command.args(["-log-level", "warn"]);
                command
            }
        }
    }

    /// Starts it, and waits until it takes connections.
    pub(crate) async fn start(&mut self) -> Result<()> {
        self.process.start(self.command())?;
        let since = Instant::now();
        let address = (self.site.address, self.port);
        loop {
            let connecting = timeout(Duration::from_secs(1), TcpStream::connect(address));
            if matches!(connecting.await, Ok(Ok(_))) {
                return Ok(());
            }
            ensure!(
                since.elapsed() < READY_LIMIT && self.process.is_running(),
                "{} is not ready:\n{}",
                self.site.name,
                self.process.last_words(20)
            );
            sleep(LOOK_EACH).await;
        }
    }

    /// Makes the database for the servers.
    pub(crate) async fn create_database(&self) -> Result<()> {
        let Kind::Postgres { programs, .. } = &self.kind else {
            return Ok(());
        };
        let address = self.site.address.to_string();
        let since = Instant::now();
        loop {
            let mut command = Command::new(programs.join("createdb"));
            command.args(["-h", &address, "-U", POSTGRES_USER, "atoll"]);
            // It takes connections before it is ready to do anything with them.
            match check(&mut command, "make the database") {
                Err(_) if since.elapsed() < READY_LIMIT => sleep(LOOK_EACH).await,
                made => return made,
            }
        }
    }

    /// Ends it as it would at a restart in a hurry: no connection is waited for.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let signal = match self.kind {
            Kind::Postgres { .. } => Signal::QUIT,
            Kind::Redis { .. } | Kind::Consul { .. } => Signal::KILL,
        };
        self.process.stop(signal).await
    }
}

fn as_postgres(mut command: Command) -> Command {
    command.args([
        "--reuid",
        POSTGRES_USER,
        "--regid",
        POSTGRES_USER,
        "--clear-groups",
    ]);
    // The folder of whoever started this may be closed to it.
    command.current_dir("/");
    command
}
