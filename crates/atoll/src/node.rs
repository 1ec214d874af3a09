//! The composition of a node: network slots, templates, the jail driver and the agent, on one data
//! directory. `dev` has it in its own process; a machine of a fleet runs it alone.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atoll_control::clock::SystemClock;
use atoll_control::random::{Random, SystemRandom};
use atoll_core::id::NodeId;
use atoll_core::node::NodeEvent;
use atoll_core::resources::Resources;
use atoll_node::agent::{self, Agent};
use atoll_node::driver::jail::{self, JailDriver};
use atoll_node::image::registry::Registries;
use atoll_node::image::{self, TemplateStore};
use atoll_node::net;
use tokio::sync::mpsc;

use crate::cli::SourceArgs;
use crate::cli::machine::{MachineArgs, SANDBOXES_MAX};
use crate::{guest, shared_storage};

/// What a sandbox of `base` takes: E2B's defaults for cpu and memory. Disks of this size are kept
/// ready.
pub(crate) const BASE_RESOURCES: Resources = Resources {
    cpu_millis: 2000,
    memory_mib: 1024,
    disk_mib: 5_120,
};
/// How much more than the machine has is promised. CPU is shared by weight, so promising it twice
/// only slows; an idle sandbox uses a hundredth of the memory it may, and disks are sparse files.
/// These let some 200 default sandboxes live on a small machine; memory is what runs out first.
const CPU_RATIO: f64 = 256.0;
const MEMORY_RATIO: f64 = 16.0;
const DISK_RATIO: f64 = 32.0;
/// Prepared network slots, supervisors and disks: a burst of this many creates waits for none.
const READY: usize = 24;
/// Time between usage samples of one sandbox, as E2B takes them.
const USAGE_INTERVAL: Duration = Duration::from_secs(5);
/// Random bytes that tell this node from others on the same machine.
const INSTANCE_BYTES: usize = 3;
/// The node's part of the data directory.
pub(crate) const FOLDER: &str = "node";
/// The network's part of the node's.
pub(crate) const NET_FOLDER: &str = "net";

/// Starts the node `id` in the data directory: takes its part of it over, adopts the sandboxes that
/// live, and answers when orders can come.
///
/// # Errors
/// What the machine lacks or refuses.
pub(crate) async fn start(
    id: NodeId,
    data_dir: &Path,
    machine: &MachineArgs,
    events: mpsc::Sender<NodeEvent>,
) -> anyhow::Result<Agent> {
    let info = machine.info()?;
    let data_dir = &data_dir.join(FOLDER);
    fs::create_dir_all(data_dir).with_context(|| format!("make `{}`", data_dir.display()))?;
    let instance = instance(data_dir)?;
    let guest_agent = install(data_dir, "atoll-envd", guest::ENVD)?;
    let supervisor = install(data_dir, "atoll-jail", guest::JAIL)?;
    let resolvers = net::resolver::choose(&[]);
    let given = &machine.given;
    let max_sandboxes = given.sandboxes_max.map_or(SANDBOXES_MAX, i64::from);
    let max_sandboxes = usize::try_from(max_sandboxes)?;
    let net = net::Pool::start(net::Config {
        instance: instance.clone(),
        run_dir: data_dir.join(NET_FOLDER),
        ranges: Vec::new(),
        resolvers: resolvers.clone(),
        denied: Vec::new(),
        ready: READY,
        max_slots: u32::try_from(max_sandboxes + READY)?,
    });
    let net = net.await.context("prepare the network")?;
    let templates = TemplateStore::open(image::Config {
        dir: data_dir.join("templates"),
        sudo: Some(guest_agent.clone()),
    });
    let templates = templates
        .context("open the templates")?
        .with_import(import_config(&machine.sources));
    let driver = jail::Config {
        instance,
        data_dir: data_dir.to_owned(),
        supervisor,
        guest_agent,
        nameservers: resolvers.into_iter().map(IpAddr::V4).collect(),
        ready_cells: READY,
        ready_disks: READY,
        usual_disk_mib: BASE_RESOURCES.disk_mib,
    };
    let driver = JailDriver::open(driver, net, templates.clone()).await;
    let driver = Arc::new(driver.context("open the jail driver")?);
    let total = agent::machine_resources(
        data_dir,
        given.overcommit_cpu.unwrap_or(CPU_RATIO),
        given.overcommit_memory.unwrap_or(MEMORY_RATIO),
        given.overcommit_disk.unwrap_or(DISK_RATIO),
    )?;
    let config = agent::Config {
        node: id,
        data_dir: data_dir.to_owned(),
        info,
        total,
        max_sandboxes,
        usage_interval: USAGE_INTERVAL,
        snapshots: shared_storage::open(&machine.shared, data_dir).await?,
    };
    let clock = Arc::new(SystemClock);
    Ok(Agent::start(config, driver, templates, clock, events).await?)
}

fn import_config(sources: &SourceArgs) -> image::ImportConfig {
    let mut registries = Registries::new();
    for (registry, host) in &sources.mirrors {
        let entry = registries.entry(registry.clone()).or_default();
        entry.mirrors.push(host.clone());
    }
    for host in &sources.plain_http {
        registries.entry(host.clone()).or_default().is_plain_http = true;
    }
    image::ImportConfig {
        registries,
        debian_mirror: sources.debian_mirror.clone(),
        ..image::ImportConfig::default()
    }
}

/// What tells this node's namespaces, cgroups and rules from those of others on the machine; the
/// same at every start.
fn instance(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join("instance");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut random = [0; INSTANCE_BYTES];
            SystemRandom.fill(&mut random);
            let text = hex::encode(random);
            fs::write(&path, &text).with_context(|| format!("write `{}`", path.display()))?;
            Ok(text)
        }
        Err(error) => Err(error).context(format!("read `{}`", path.display())),
    }
}

/// Writes a guest binary where the driver finds it. One that runs keeps its own file: the new one
/// takes over the name, not the contents.
fn install(data_dir: &Path, name: &str, contents: &[u8]) -> anyhow::Result<PathBuf> {
    let folder = data_dir.join("bin");
    let path = folder.join(name);
    if fs::read(&path).is_ok_and(|present| present == contents) {
        return Ok(path);
    }
    let write = || {
        fs::create_dir_all(&folder)?;
        let temporary = path.with_extension("new");
        fs::write(&temporary, contents)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
        fs::rename(&temporary, &path)
    };
    write().with_context(|| format!("write `{}`", path.display()))?;
    Ok(path)
}
