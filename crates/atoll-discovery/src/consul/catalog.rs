//! Entries of the catalog that no agent owns.
//!
//! They lie under holders: nodes of the catalog that are no machines of Consul's. An agent only
//! tidies up below its own name, so nobody but us changes what is there.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::{Consul, encode};
use crate::http::Error;

/// Operations of one transaction: Consul takes no more.
pub const OPERATIONS_MAX: usize = 64;

/// Marks nodes that Consul itself does not look after.
const EXTERNAL: (&str, &str) = ("external-node", "true");

/// A node of the catalog that holds entries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Holder {
    /// Its name in the catalog.
    #[serde(rename = "Node")]
    pub name: String,
    /// The host that names below it resolve to.
    #[serde(rename = "Address")]
    pub address: String,
    /// What it is found by.
    #[serde(rename = "Meta")]
    pub meta: BTreeMap<String, String>,
}

/// One service below a holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry {
    /// Unique below the holder.
    #[serde(rename = "ID")]
    pub id: String,
    /// The service's name.
    pub service: String,
    /// What it can be selected by.
    #[serde(deserialize_with = "or_nothing")]
    pub tags: Vec<String>,
    /// Where it is reached.
    pub address: String,
    /// On which port.
    pub port: u16,
    /// More of it.
    #[serde(deserialize_with = "or_nothing")]
    pub meta: BTreeMap<String, String>,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The holder is there, as it is here.
    Hold(Holder),
    /// The entry is there, as it is here. Its holder must be.
    Put {
        /// The holder's name.
        holder: String,
        /// What is put there.
        entry: Entry,
    },
    /// There is no such entry.
    Remove {
        /// The holder's name.
        holder: String,
        /// The entry's id.
        id: String,
        /// The entry's service.
        service: String,
    },
    /// The holder and everything below it is gone.
    Release(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Held {
    #[serde(deserialize_with = "or_nothing")]
    services: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
struct Named {
    #[serde(rename = "Node")]
    name: String,
}

/// Consul says `null` where it has nothing.
fn or_nothing<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Consul {
    /// The names of the holders that have this in their meta data.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn holders(&self, key: &str, value: &str) -> Result<Vec<String>, Error> {
        let wanted = format!("{key}:{value}");
        let query = [("node-meta", wanted.as_str())];
        let query = self.scoped(&query);
        let path = ["v1", "catalog", "nodes"];
        let answer = self.call(Method::GET, &path, &query, None).await?;
        let nodes: Vec<Named> = answer.granted()?.read()?;
        Ok(nodes.into_iter().map(|node| node.name).collect())
    }

    /// What is below a holder; nothing below one that is not there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn entries(&self, holder: &str) -> Result<Vec<Entry>, Error> {
        let path = ["v1", "catalog", "node", holder];
        let query = self.scoped(&[]);
        let answer = self.call(Method::GET, &path, &query, None).await?;
        let held: Option<Held> = answer.granted()?.read()?;
        Ok(held.map_or_else(Vec::new, |held| held.services.into_values().collect()))
    }

    /// Makes all of the changes, or none: at most [`OPERATIONS_MAX`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn commit(&self, changes: &[Change]) -> Result<(), Error> {
        let operations: Vec<_> = changes.iter().map(operation).collect();
        let path = ["v1", "txn"];
        let body = Some(encode(&operations)?);
        let query = self.scoped(&[]);
        let answer = self.call(Method::PUT, &path, &query, body).await?;
        answer.granted().map(drop)
    }
}

fn operation(change: &Change) -> serde_json::Value {
    use serde_json::json;

    match change {
        Change::Hold(holder) => {
            let mut holder = holder.clone();
            let (key, value) = EXTERNAL;
            holder.meta.insert(key.to_owned(), value.to_owned());
            json!({"Node": {"Verb": "set", "Node": holder}})
        }
        Change::Put { holder, entry } => {
            json!({"Service": {"Verb": "set", "Node": holder, "Service": entry}})
        }
        Change::Remove {
            holder,
            id,
            service,
        } => json!({"Service": {
            "Verb": "delete", "Node": holder, "Service": {"ID": id, "Service": service},
        }}),
        Change::Release(name) => json!({"Node": {"Verb": "delete", "Node": {"Node": name}}}),
    }
}
