//! Joins the parts of a fleet with Consul: what each is registered as, and how sandboxes are.
//!
//! | service | what | where |
//! |---|---|---|
//! | `atoll-server` | a server | the agent of its machine, with a check that the server passes |
//! | `atoll-node` | a node | the same |
//! | `atoll-sandbox` | a sandbox | the catalog, below a node for each of ours |

mod directory;
mod nodes;
mod servers;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use atoll_api::rest::Api;
use atoll_control::discovery::Config;
use atoll_control::view::HealthStatus;
use atoll_control::{ControlPlane, HealthProbe, Verdict};
use atoll_discovery::Target;
use atoll_discovery::consul::{Consul, Instance, Presence, Pulse, Service};
use atoll_proto::orchestrator::RegisterNodeRequest;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::directory::ConsulDirectory;
use crate::VERSION;
use crate::cli::discovery::ConsulArgs;
use crate::components::Components;
use crate::secrets;

/// In the meta data of what holds sandboxes: whose they are.
const INSTALLATION: &str = "atoll-installation";
/// In the meta data of a server: where it is joined.
const URL: &str = "url";
/// The component of health that says whether the server is registered.
const REGISTRATION: &str = "registration of the server";

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

    /// Registers the server at `authority`, keeps its sandboxes registered, and takes nodes in
    /// that are found, if there is an `api` that they may join.
    ///
    /// # Errors
    /// If the store does not answer.
    pub(crate) async fn serve(
        &self,
        control: &ControlPlane,
        api: Option<&Api>,
        authority: &str,
        components: &Components,
    ) -> anyhow::Result<()> {
        let installation = control.installation().await?;
        let (address, port) = split(authority)?;
        let meta = [
            ("version", VERSION.to_owned()),
            (URL, format!("http://{authority}")),
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
        let consul = self.consul.clone();
        let service = self.service("sandbox");
        let directory = ConsulDirectory::new(consul, service, &self.prefix, installation);
        let config = Config {
            authority: authority.to_owned(),
            interval: self.interval,
        };
        control.discovery_keep(Arc::new(directory), config)?;
        if let Some(api) = api {
            self.admit_nodes(api, control, components);
        }
        Ok(())
    }

    /// Registers a node that would join a server so, at `authority`.
    ///
    /// # Errors
    /// If that is none.
    pub(crate) fn announce_node(
        &self,
        request: &RegisterNodeRequest,
        authority: &str,
        components: &Components,
    ) -> anyhow::Result<()> {
        let node = &request.node_id;
        let (address, port) = split(authority)?;
        let meta = [("version", VERSION.to_owned()), ("node", node.clone())];
        let meta = meta.map(|(key, value)| (key.to_owned(), value)).into_iter();
        let service = Service {
            id: format!("{}-{node}", self.service("node")),
            name: self.service("node"),
            address,
            port,
            tags: Vec::new(),
            meta: meta.chain(nodes::written(request)?).collect(),
        };
        drop(self.keep(service, || async { Pulse::Passing }, components));
        Ok(())
    }

    /// Has a server take in the nodes that are registered and did not join it.
    fn admit_nodes(&self, api: &Api, control: &ControlPlane, components: &Components) {
        let told = self.watch("node", components);
        let admission = nodes::Admission::new(api.clone(), control.clone(), told);
        components.start("admission", admission.run(components.cancel()));
    }

    /// Calls `join` with each server that is registered, and with each that comes; the token that
    /// it answers with is cancelled when that server is gone for long.
    pub(crate) fn follow_servers<J>(&self, join: J, components: &Components)
    where
        J: Fn(http::Uri) -> CancellationToken + Send + 'static,
    {
        let told = self.watch("server", components);
        components.start("servers", servers::follow(told, join, components.cancel()));
    }

    /// Who offers a service, as that changes.
    fn watch(&self, kind: &str, components: &Components) -> watch::Receiver<Vec<Instance>> {
        let (told, instances) = watch::channel(Vec::new());
        let (consul, cancel) = (self.consul.clone(), components.cancel());
        let watching = atoll_discovery::consul::watch(consul, self.service(kind), told, cancel);
        components.start("watch", watching);
        instances
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

#[cfg(test)]
mod tests {
    use super::*;

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
