//! Joins the parts of a fleet with Consul: what each is registered as, and how sandboxes are.
//!
//! | service | what | where |
//! |---|---|---|
//! | `atoll-server` | a server | the agent of its machine, with a check that the server passes |
//! | `atoll-node` | a node | the same |
//! | `atoll-sandbox` | a sandbox | the catalog, below a node for each of ours |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use atoll_control::discovery::{Change, Config, Directory, Found, Registration};
use atoll_control::view::HealthStatus;
use atoll_control::{ControlPlane, HealthProbe, Verdict};
use atoll_core::id::NodeId;
use atoll_discovery::Target;
use atoll_discovery::consul::{self, Consul, Entry, Holder, Presence, Pulse, Service};
use tokio::sync::watch;

use crate::VERSION;
use crate::cli::discovery::ConsulArgs;
use crate::components::Components;
use crate::secrets;

/// In the meta data of what holds sandboxes: whose they are.
const INSTALLATION: &str = "atoll-installation";
/// What the name of such a holder has of the installation's.
const SHORT: usize = 8;
/// The component of health that says whether the server is registered.
const REGISTRATION: &str = "registration of the server";
const TEAM: &str = "team-";
const TEMPLATE: &str = "template-";

/// Consul, and the names that are used there.
#[derive(Debug, Clone)]
pub(crate) struct Discovery {
    consul: Consul,
    prefix: String,
    interval: Duration,
}

impl Discovery {
    /// What the command line names; none if it names nothing.
    ///
    /// # Errors
    /// If what is named is none, or a file of it cannot be read.
    pub(crate) fn open(arguments: &ConsulArgs) -> anyhow::Result<Option<Self>> {
        let Some(url) = &arguments.consul_addr else {
            return Ok(None);
        };
        let prefix = arguments.consul_prefix.clone();
        let is_label = |text: &str| {
            let is_of_names = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            !text.is_empty() && text.bytes().all(|byte| is_of_names(byte) || byte == b'-')
        };
        anyhow::ensure!(
            is_label(&prefix),
            "`{prefix}` is no prefix of services' names: write lower-case letters, digits and `-`"
        );
        let authorities = arguments.consul_ca.as_deref().map(|path| {
            fs::read(path).with_context(|| format!("read the certificates `{}`", path.display()))
        });
        let target = Target {
            url: url.clone(),
            token: secrets::consul_token(arguments)?,
            authorities: authorities.transpose()?,
        };
        let consul = Consul::new(&target, arguments.consul_datacenter.clone());
        Ok(Some(Self {
            consul: consul.context("Consul")?,
            prefix,
            interval: Duration::from_secs(arguments.consul_interval_s),
        }))
    }

    fn service(&self, kind: &str) -> String {
        format!("{}-{kind}", self.prefix)
    }

    /// Registers the server at `authority`, and keeps its sandboxes registered.
    ///
    /// # Errors
    /// If the store does not answer.
    pub(crate) async fn announce_server(
        &self,
        control: &ControlPlane,
        authority: &str,
        components: &Components,
    ) -> anyhow::Result<()> {
        let installation = control.installation().await?;
        let (address, port) = split(authority)?;
        let meta = [
            ("version", VERSION.to_owned()),
            ("url", format!("http://{authority}")),
            (INSTALLATION, installation.clone()),
        ];
        let service = Service {
            id: format!("{}-{}", self.service("server"), authority.replace(':', "-")),
            name: self.service("server"),
            address,
            port,
            tags: Vec::new(),
            meta: meta.map(|(key, value)| (key.to_owned(), value)).into(),
        };
        let asked = control.clone();
        let pulse = move || {
            let control = asked.clone();
            async move { pulse(&control).await }
        };
        let problem = self.keep(service, pulse, components);
        control.health_watch(Arc::new(Registered(problem)));
        let directory = ConsulDirectory {
            consul: self.consul.clone(),
            service: self.service("sandbox"),
            holder: format!("{}-{}-", self.prefix, &installation[..SHORT]),
            installation,
        };
        let config = Config {
            authority: authority.to_owned(),
            interval: self.interval,
        };
        control.discovery_keep(Arc::new(directory), config)?;
        Ok(())
    }

    /// Registers a node at `authority`.
    ///
    /// # Errors
    /// If that is none.
    pub(crate) fn announce_node(
        &self,
        node: &NodeId,
        authority: &str,
        components: &Components,
    ) -> anyhow::Result<()> {
        let (address, port) = split(authority)?;
        let meta = [
            ("version", VERSION.to_owned()),
            ("url", format!("http://{authority}")),
            ("node", node.to_string()),
        ];
        let service = Service {
            id: format!("{}-{node}", self.service("node")),
            name: self.service("node"),
            address,
            port,
            tags: Vec::new(),
            meta: meta.map(|(key, value)| (key.to_owned(), value)).into(),
        };
        drop(self.keep(service, || async { Pulse::Passing }, components));
        Ok(())
    }

    /// Keeps a service registered. Tells why it is not.
    fn keep<F, P>(
        &self,
        service: Service,
        pulse: F,
        components: &Components,
    ) -> watch::Receiver<Option<String>>
    where
        F: Fn() -> P + Send + Sync + 'static,
        P: Future<Output = Pulse> + Send + 'static,
    {
        let presence = Presence::new(self.consul.clone(), service);
        let problem = presence.problem();
        components.start("presence", presence.keep(pulse, components.cancel()));
        problem
    }
}

/// Whether the server itself is registered, as its health.
#[derive(Debug)]
struct Registered(watch::Receiver<Option<String>>);

#[async_trait]
impl HealthProbe for Registered {
    fn name(&self) -> String {
        REGISTRATION.to_owned()
    }

    async fn check(&self) -> Verdict {
        let problem = self.0.borrow().clone();
        problem.map_or_else(Verdict::healthy, |why| {
            Verdict::degraded(format!("Consul: {why}"))
        })
    }
}

/// How the server does. One without nodes still has to be found by them.
async fn pulse(control: &ControlPlane) -> Pulse {
    let health = control.health_recent().await;
    let ailing = health
        .components
        .iter()
        .find(|part| part.status != HealthStatus::Healthy && part.name != REGISTRATION);
    match (health.status, ailing) {
        (HealthStatus::Healthy, _) | (_, None) => Pulse::Passing,
        (_, Some(part)) => Pulse::Warning(format!("{}: {}", part.name, part.detail)),
    }
}

fn split(authority: &str) -> anyhow::Result<(String, u16)> {
    let parts = authority.rsplit_once(':');
    let (host, port) = parts.with_context(|| format!("`{authority}` has no port"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse();
    let port = port.with_context(|| format!("`{authority}` has no port"))?;
    Ok((host.to_owned(), port))
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The sandboxes of one installation in Consul's catalog.
#[derive(Debug)]
struct ConsulDirectory {
    consul: Consul,
    installation: String,
    /// The service that each sandbox is one of.
    service: String,
    /// What the names of what holds them begin with; the node's follows.
    holder: String,
}

impl ConsulDirectory {
    fn holder(&self, node: &NodeId) -> String {
        format!("{}{node}", self.holder)
    }

    fn entry(&self, of: &Registration) -> Result<Entry, String> {
        let (address, port) = split(&of.authority).map_err(|error| error.to_string())?;
        Ok(Entry {
            id: of.sandbox.to_string(),
            service: self.service.clone(),
            tags: vec![
                format!("{TEAM}{}", of.team),
                format!("{TEMPLATE}{}", of.template),
            ],
            address,
            port,
            meta: BTreeMap::from([("node".to_owned(), of.node.to_string())]),
        })
    }

    /// What an entry says; none if we write none like it.
    fn registration(&self, node: &NodeId, entry: &Entry) -> Option<Registration> {
        let tag = |prefix: &str| entry.tags.iter().find_map(|tag| tag.strip_prefix(prefix));
        let of = Registration {
            sandbox: entry.id.parse().ok()?,
            node: node.clone(),
            authority: join(&entry.address, entry.port),
            team: tag(TEAM)?.parse().ok()?,
            template: tag(TEMPLATE)?.parse().ok()?,
        };
        (self.entry(&of).ok()? == *entry).then_some(of)
    }
}

#[async_trait]
impl Directory for ConsulDirectory {
    async fn nodes(&self) -> Result<BTreeSet<NodeId>, String> {
        let holders = self.consul.holders(INSTALLATION, &self.installation).await;
        let holders = holders.map_err(|error| error.to_string())?;
        let nodes = holders.iter().filter_map(|name| {
            let node = name.strip_prefix(&self.holder)?;
            node.parse().ok()
        });
        Ok(nodes.collect())
    }

    async fn registered(&self, node: &NodeId) -> Result<Vec<Found>, String> {
        let entries = self.consul.entries(&self.holder(node)).await;
        let entries = entries.map_err(|error| error.to_string())?;
        let found = entries.into_iter().map(|entry| Found {
            registration: self.registration(node, &entry),
            id: entry.id,
        });
        Ok(found.collect())
    }

    async fn apply(&self, changes: &[Change]) -> Result<(), String> {
        // What is put below a holder needs it; what is removed does not.
        let mut holders = BTreeMap::new();
        let mut puts = Vec::with_capacity(changes.len());
        for change in changes {
            match change {
                Change::Register(of) => {
                    let entry = self.entry(of)?;
                    let holder = self.holder(&of.node);
                    let meta = (INSTALLATION.to_owned(), self.installation.clone());
                    holders.insert(
                        holder.clone(),
                        Holder {
                            name: holder.clone(),
                            address: entry.address.clone(),
                            meta: BTreeMap::from([meta]),
                        },
                    );
                    puts.push(consul::Change::Put { holder, entry });
                }
                Change::Remove { node, id } => puts.push(consul::Change::Remove {
                    holder: self.holder(node),
                    id: id.clone(),
                    service: self.service.clone(),
                }),
            }
        }
        let holders = holders.into_values().map(consul::Change::Hold);
        let all: Vec<_> = holders.chain(puts).collect();
        let committed = self.consul.commit(&all).await;
        committed.map_err(|error| error.to_string())
    }

    async fn release(&self, node: &NodeId) -> Result<(), String> {
        let release = [consul::Change::Release(self.holder(node))];
        let committed = self.consul.commit(&release).await;
        committed.map_err(|error| error.to_string())
    }
}

/// A full transaction fits what Consul takes: each change may need its holder.
const _: () = assert!(2 * atoll_control::discovery::CHANGES_MAX <= consul::OPERATIONS_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_of_a_sandbox_is_read_again_and_what_was_changed_is_not() {
        let arguments = ConsulArgs {
            consul_addr: Some("http://127.0.0.1:8500".to_owned()),
            consul_prefix: "atoll".to_owned(),
            ..ConsulArgs::default()
        };
        let discovery = Discovery::open(&arguments).unwrap().unwrap();
        let directory = ConsulDirectory {
            consul: discovery.consul.clone(),
            service: discovery.service("sandbox"),
            holder: "atoll-12345678-".to_owned(),
            installation: "12345678".to_owned(),
        };
        for authority in ["10.0.0.7:3001", "[fd00::7]:3001"] {
            let of = Registration {
                sandbox: "iabcdefghijklmnopqrs".parse().unwrap(),
                node: "n1".parse().unwrap(),
                authority: authority.to_owned(),
                team: "7a52f4e3-6a3c-4a1e-9d0a-0a1b2c3d4e5f".parse().unwrap(),
                template: "seeded0000000000000".parse().unwrap(),
            };
            let entry = directory.entry(&of).unwrap();
            assert_eq!(
                directory.registration(&of.node, &entry),
                Some(of.clone()),
                "{entry:?}"
            );
            let mut changed = entry;
            changed.tags.push("by-hand".to_owned());
            assert_eq!(directory.registration(&of.node, &changed), None);
        }
    }

    #[test]
    fn a_prefix_is_part_of_a_host_name() {
        for wrong in ["", "Atoll", "a.b", "a_b"] {
            let arguments = ConsulArgs {
                consul_addr: Some("http://127.0.0.1:8500".to_owned()),
                consul_prefix: wrong.to_owned(),
                ..ConsulArgs::default()
            };
            assert!(Discovery::open(&arguments).is_err(), "{wrong}");
        }
    }
}
