//! The composition of `dev`: store, control, API, edge and one node in one process, on one port.
//!
//! Every part is the one that also runs alone; here they are joined by the adapters of
//! [`crate::adapters`] instead of a network.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use atoll_api::rest::Api;
use atoll_control::clock::SystemClock;
use atoll_control::random::{Random, SystemRandom};
use atoll_control::request::ImportRequest;
use atoll_control::{ControlPlane, Parts};
use atoll_core::id::{NodeId, TeamId};
use atoll_core::resources::Resources;
use atoll_core::template::TemplateSource;
use atoll_edge::proxy::Edge;
use atoll_edge::table::RouteTable;
use atoll_edge::target::Hosts;
use atoll_node::agent::Agent;
use atoll_store::sqlite::SqliteStore;
use futures::FutureExt;
use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adapters::{HeartbeatsToControl, InProcessNode, NodeDialer, Routes};
use crate::cli::SourceArgs;
use crate::commands::doctor;
use crate::connection::Connection;
use crate::node;

/// The name of a node that is alone.
const NODE_NAME: &str = "local";
/// Name of the template that exists from the first start.
const BASE_TEMPLATE: &str = "base";
/// What a sandbox of `base` takes: E2B's defaults for cpu and memory.
const BASE_RESOURCES: Resources = Resources {
    cpu_millis: 2000,
    memory_mib: 1024,
    disk_mib: 5_120,
};
/// Events of the node that may wait for control.
const NODE_EVENTS_MAX: usize = 4096;
/// How long ending every sandbox may take at the stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the components may take to end after they were told to.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
const DATABASE_FILE: &str = "atoll.db";
const KEY_FILE: &str = "api-key";
const ADMIN_TOKEN_FILE: &str = "admin-token";

/// What a person may set.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) api_key: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) sources: SourceArgs,
}

/// A running Atoll.
#[derive(Debug)]
pub(crate) struct Stack {
    connection: Connection,
    control: ControlPlane,
    data_dir: PathBuf,
    cancel: CancellationToken,
    tasks: TaskTracker,
    _lock: fs::File,
}

impl Stack {
    /// Starts everything, and answers once sandboxes can be made.
    ///
    /// # Errors
    /// What keeps it from starting, with the way to mend it.
    pub(crate) async fn start(options: Options) -> anyhow::Result<Self> {
        check_key(options.api_key.as_deref())?;
        // Before the data directory is made: a port in use should leave nothing behind.
        let listener = listen(options.listen).await?;
        let lock = prepare(&options.data_dir)?;
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let started = Self::assemble(options, listener, lock, cancel.clone(), tasks.clone()).await;
        if started.is_err() {
            // What runs already gives back what it prepared.
            cancel.cancel();
            tasks.close();
            // The error is worth more than a stop that takes too long; the next start cleans up.
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await;
        }
        started
    }

    async fn assemble(
        options: Options,
        listener: TcpListener,
        lock: fs::File,
        cancel: CancellationToken,
        tasks: TaskTracker,
    ) -> anyhow::Result<Self> {
        let address = listener.local_addr()?;
        let data_dir = options.data_dir.canonicalize()?;
        let domain = options
            .domain
            .unwrap_or_else(|| format!("localhost:{}", address.port()));

        let component = |name: &'static str, work: BoxFuture<'static, ()>| {
            let cancel = cancel.clone();
            tasks.spawn(async move {
                work.await;
                if !cancel.is_cancelled() {
                    tracing::error!(name, "a component stopped by itself");
                    cancel.cancel();
                }
            });
        };

        keep_private(&data_dir.join(DATABASE_FILE))?;
        let table = RouteTable::default();
        let (agent, control) = join(
            &data_dir,
            &options.sources,
            table.clone(),
            &component,
            &cancel,
        )
        .await?;
        let key = team_key(&control, &data_dir, options.api_key).await?;
        ensure_base(&control).await?;

        let admin_token = secret_file(&data_dir.join(ADMIN_TOKEN_FILE))?;
        let hosts = Hosts::new(&domain, &[&address.ip().to_string()]);
        let dialer = Arc::new(NodeDialer::new(agent));
        let edge_config = atoll_edge::proxy::Config::new(hosts);
        let edge = Edge::new(edge_config, table, dialer, tasks.clone(), cancel.clone());
        let api_config = atoll_api::rest::Config {
            admin_token: Some(admin_token.clone()),
            default_team: key.team,
            sandbox_domain: Some(domain.clone()),
        };
        let api = Api::new(api_config, control.clone(), tasks.clone()).router();
        let (stop, on) = (cancel.clone(), tasks.clone());
        let serve = atoll_edge::server::serve(listener, edge, Some(api), on, stop);
        component("listener", serve.boxed());

        let url = format!("http://{}", reachable(address));
        let connection = Connection {
            api_url: url.clone(),
            sandbox_url: url,
            api_key: key.text.expose_secret().to_owned(),
            domain,
            pid: std::process::id(),
            admin_token: Some(admin_token.expose_secret().to_owned()),
        };
        connection.publish(&data_dir)?;
        tasks.close();
        Ok(Self {
            connection,
            control,
            data_dir,
            cancel,
            tasks,
            _lock: lock,
        })
    }

    pub(crate) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits for a component to stop by itself, which none should.
    pub(crate) async fn failed(&self) {
        self.cancel.cancelled().await;
    }

    /// Ends the sandboxes and stops every component.
    ///
    /// # Errors
    /// If sandboxes are left; the next start removes them.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        Connection::withdraw(&self.data_dir);
        let ended = self.control.sandboxes_end_all(SHUTDOWN_TIMEOUT).await;
        self.cancel.cancel();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(tasks = self.tasks.len(), "components cut at shutdown");
        }
        match ended {
            Ok(0) => Ok(()),
            Ok(left) => bail!("{left} sandboxes are left over; the next start removes them"),
            Err(error) => {
                Err(error).context("sandboxes may be left over; the next start removes them")
            }
        }
    }
}

/// Starts the node and the control plane, and makes them known to each other.
async fn join(
    data_dir: &Path,
    sources: &SourceArgs,
    table: RouteTable,
    component: &(dyn Fn(&'static str, BoxFuture<'static, ()>) + Sync),
    cancel: &CancellationToken,
) -> anyhow::Result<(Agent, ControlPlane)> {
    let (events, node_events) = mpsc::channel(NODE_EVENTS_MAX);
    let id: NodeId = NODE_NAME.parse()?;
    let folder = data_dir.join("node");
    let agent = node::start(
        id.clone(),
        &folder,
        BASE_RESOURCES.disk_mib,
        sources,
        events,
    )
    .await
    .context("start the node")?;
    let (running, stop) = (agent.clone(), cancel.clone());
    component("node", async move { running.run(stop).await }.boxed());

    let control = open_control(data_dir, table).await?;
    let client = Arc::new(InProcessNode::new(id, agent.clone()));
    control
        .node_join(client, node_events)
        .await
        .context("join the node")?;
    let (running, stop) = (control.clone(), cancel.clone());
    component("control", async move { running.run(stop).await }.boxed());
    let (beating, stop) = (agent.clone(), cancel.clone());
    let sink = HeartbeatsToControl::new(control.clone());
    component(
        "heartbeats",
        async move { beating.beat(&sink, stop).await }.boxed(),
    );
    Ok((agent, control))
}

/// Refuses what is no key before anything is made. The message leaves the text out: it may be a
/// secret of something else.
fn check_key(given: Option<&str>) -> anyhow::Result<()> {
    let is_key = |text: &str| {
        text.strip_prefix("e2b_").is_some_and(|body| {
            body.len() == 40 && body.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    anyhow::ensure!(
        given.is_none_or(is_key),
        "the given API key is none: it must be `e2b_` followed by 40 hexadecimal digits"
    );
    Ok(())
}

/// Makes the data directory, takes it for this process, and checks that the driver can work.
fn prepare(data_dir: &Path) -> anyhow::Result<fs::File> {
    let complaints = doctor::complaints(&atoll_node::doctor::jail_checks(data_dir));
    if !complaints.is_empty() {
        bail!(
            "this machine cannot run sandboxes yet:\n  {}",
            complaints.join("\n  ")
        );
    }
    let shown = data_dir.display();
    let mut builder = fs::DirBuilder::new();
    // Sandboxes' own ids must pass through on their way to their files.
    builder
        .recursive(true)
        .mode(0o711)
        .create(data_dir)
        .with_context(|| {
            format!("the data directory `{shown}` cannot be made; choose another with --data-dir")
        })?;
    let path = data_dir.join("lock");
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let lock = lock.with_context(|| {
        format!("the data directory `{shown}` cannot be written; choose another with --data-dir")
    })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another atoll uses the data directory `{shown}`; stop it, or choose another \
             with --data-dir"
        ),
        Err(fs::TryLockError::Error(error)) => Err(error).context(format!("lock `{shown}`")),
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => anyhow::anyhow!(
                "{address} is in use; stop what listens there, or choose another with --listen"
            ),
            ErrorKind::AddrNotAvailable => anyhow::anyhow!(
                "{address} is no address of this machine; choose another with --listen"
            ),
            _ => anyhow::Error::new(error).context(format!("listen on {address}")),
        })
}

/// The address clients on this machine use: an unspecified one is no destination.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::from(([127, 0, 0, 1], address.port()));
    }
    address
}

async fn open_control(data_dir: &Path, table: RouteTable) -> anyhow::Result<ControlPlane> {
    let store = SqliteStore::open(&data_dir.join(DATABASE_FILE))
        .await
        .context("open the store")?;
    let parts = Parts {
        store: Arc::new(store),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        routes: Arc::new(Routes::new(table)),
    };
    let config = atoll_control::config::Config::development(atoll_proto::ENVD_VERSION);
    ControlPlane::open(config, parts)
        .await
        .context("open the control plane")
}

/// The default team and a key of it.
struct TeamKey {
    team: TeamId,
    text: SecretString,
}

/// The key of the default team: the given one, the one of an earlier start, or a new one. It is
/// kept in a file of root's, because the store only has its hash.
async fn team_key(
    control: &ControlPlane,
    data_dir: &Path,
    given: Option<String>,
) -> anyhow::Result<TeamKey> {
    let path = data_dir.join(KEY_FILE);
    let kept = match fs::read_to_string(&path) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).context(format!("read `{}`", path.display())),
    };
    let wanted = given.or(kept).map(SecretString::from);
    let bootstrapped = control
        .bootstrap(wanted.clone())
        .await
        .context("make the default team")?;
    let Some(key) = wanted.or(bootstrapped.key) else {
        bail!(
            "the team's key was made earlier and `{}` is gone; give one with --api-key",
            path.display()
        );
    };
    write_secret(&path, &key)?;
    Ok(TeamKey {
        team: bootstrapped.team,
        text: key,
    })
}

async fn ensure_base(control: &ControlPlane) -> anyhow::Result<()> {
    let request = ImportRequest {
        name: BASE_TEMPLATE.to_owned(),
        source: TemplateSource::Host,
        resources: BASE_RESOURCES,
        is_public: true,
    };
    control
        .template_ensure_global(request)
        .await
        .context("make the template `base`")?;
    Ok(())
}

/// The secret in this file; made at the first call.
fn secret_file(path: &Path) -> anyhow::Result<SecretString> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(SecretString::from(text.trim())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut random = [0; 32];
            SystemRandom.fill(&mut random);
            let secret = SecretString::from(hex::encode(random));
            write_secret(path, &secret)?;
            Ok(secret)
        }
        Err(error) => Err(error).context(format!("read `{}`", path.display())),
    }
}

/// Makes the database a file of root's alone, before there is anything in it: others may pass
/// through the data directory. The store's companion files get the mode of the database.
fn keep_private(path: &Path) -> anyhow::Result<()> {
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    file.and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o600)))
        .with_context(|| format!("write `{}`", path.display()))
}

fn write_secret(path: &Path, secret: &SecretString) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("write `{}`", path.display()))?;
    file.write_all(secret.expose_secret().as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_are_taken_as_keys() {
        check_key(None).unwrap();
        check_key(Some("e2b_00112233445566778899aabbccddeeff00112233")).unwrap();
        for wrong in [
            "",
            "e2b_",
            "e2b_xyz",
            "00112233445566778899aabbccddeeff00112233",
        ] {
            let error = check_key(Some(wrong)).unwrap_err().to_string();
            assert!(error.contains("40 hexadecimal"), "{error}");
        }
    }

    #[test]
    fn the_database_is_private_also_where_an_older_one_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DATABASE_FILE);
        fs::write(&path, "kept").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        keep_private(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    }
}
