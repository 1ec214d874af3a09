//! Who offers a service, as it changes: blocking queries.

use std::collections::BTreeMap;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use reqwest::Method;
use serde::Deserialize;
use tokio::sync::watch as moving;
use tokio_util::sync::CancellationToken;

use super::Consul;
use crate::http::{Call, Error};

/// How long a query waits for a change. Consul adds up to a sixteenth of it, so that not all
/// queries end at once.
const WAIT: Duration = Duration::from_secs(60);

/// How long a query may take altogether.
const WAIT_TIMEOUT: Duration = Duration::from_secs(75);

/// The shortest time between two queries: what changes all the time is looked at so often.
const INTERVAL_MIN: Duration = Duration::from_millis(250);

/// The shortest and the longest time between attempts while Consul does not answer.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// One that offers a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// The host at which it is reached.
    pub address: String,
    /// The port at which it is reached.
    pub port: u16,
    /// What it can be selected by.
    pub tags: Vec<String>,
    /// More of it.
    pub meta: BTreeMap<String, String>,
    /// Whether a check of it is critical.
    pub is_critical: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthRow {
    node: NodeRow,
    service: ServiceRow,
    #[serde(default)]
    checks: Vec<CheckRow>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodeRow {
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceRow {
    #[serde(rename = "ID")]
    id: String,
    address: String,
    port: u16,
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CheckRow {
    status: String,
}

impl From<HealthRow> for Instance {
    fn from(row: HealthRow) -> Self {
        let HealthRow {
            node,
            service,
            checks,
        } = row;
        Self {
            id: service.id,
            address: if service.address.is_empty() {
                node.address
            } else {
                service.address
            },
            port: service.port,
            tags: service.tags.unwrap_or_default(),
            meta: service.meta.unwrap_or_default(),
            is_critical: checks.iter().any(|check| check.status == "critical"),
        }
    }
}

/// Tells who offers `service` as that changes, until `cancel`. While Consul does not answer, what
/// was told last stands.
pub async fn watch(
    consul: Consul,
    service: String,
    told: moving::Sender<Vec<Instance>>,
    cancel: CancellationToken,
) {
    let watching = async {
        let mut index = 0;
        let mut waits = delays();
        let mut is_answered = true;
        loop {
            let pause = match consul.instances(&service, index).await {
                Ok((instances, next)) => {
                    if !is_answered {
                        tracing::info!(service, "Consul answers again");
                    }
                    is_answered = true;
                    waits = delays();
                    index = following(index, next);
                    told.send_if_modified(|before| {
                        let is_new = *before != instances;
                        *before = instances;
                        is_new
                    });
                    INTERVAL_MIN
                }
                Err(error) => {
                    if is_answered {
                        tracing::warn!(service, %error, "no answer: the last one stands");
                    }
                    is_answered = false;
                    // It may come back as another one, whose index is anywhere.
                    index = 0;
                    waits.next().unwrap_or(RETRY.1)
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = watching => {}
    }
}

/// What to wait for next: an index that went back is of a state that began anew, and none below
/// one would not wait.
const fn following(before: u64, next: u64) -> u64 {
    if next < before {
        0
    } else if next == 0 {
        1
    } else {
        next
    }
}

fn delays() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(RETRY.0)
        .with_max_delay(RETRY.1)
        .with_jitter()
        .without_max_times()
        .build()
}

impl Consul {
    /// Who offers a service once that is newer than `index`, and what index that is.
    async fn instances(&self, service: &str, index: u64) -> Result<(Vec<Instance>, u64), Error> {
        let (after, wait) = (index.to_string(), format!("{}s", WAIT.as_secs()));
        let query = [("index", after.as_str()), ("wait", wait.as_str())];
        let call = Call {
            method: Method::GET,
            path: &["v1", "health", "service", service],
            query: &self.scoped(&query),
            body: None,
            timeout: WAIT_TIMEOUT,
        };
        let answer = self.http.send(call).await?.granted()?;
        let rows: Vec<HealthRow> = answer.read()?;
        let instances = rows.into_iter().map(Instance::from).collect();
        Ok((instances, answer.index.unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_goes_back_begins_anew_and_none_is_below_one() {
        assert_eq!(following(0, 7), 7);
        assert_eq!(following(7, 7), 7);
        assert_eq!(following(9, 7), 0);
        assert_eq!(following(0, 0), 1);
    }
}
