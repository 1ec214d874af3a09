//! Sandboxes in Consul's catalog.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use atoll_control::discovery::{Change, Directory, Found, Registration};
use atoll_core::id::NodeId;
use atoll_discovery::consul::{self, Consul, Entry, Holder};

use super::{INSTALLATION, join, split};

/// What the name of what holds sandboxes has of the installation's.
const SHORT: usize = 8;
/// What tags begin with.
const TEAM: &str = "team-";
const TEMPLATE: &str = "template-";

/// The sandboxes of one installation in Consul's catalog.
#[derive(Debug)]
pub(super) struct ConsulDirectory {
    consul: Consul,
    installation: String,
    /// The service that each sandbox is one of.
    service: String,
    /// What the names of what holds them begin with; the node's follows.
    holder: String,
}

impl ConsulDirectory {
    /// The sandboxes of `installation`, as services of this name below nodes whose names begin
    /// with `prefix`.
    pub(super) fn new(consul: Consul, service: String, prefix: &str, installation: String) -> Self {
        let short: String = installation.chars().take(SHORT).collect();
        Self {
            consul,
            service,
            holder: format!("{prefix}-{short}-"),
            installation,
        }
    }

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
    use crate::cli::discovery::ConsulArgs;
    use crate::discovery::Discovery;

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
}
