//! How a server finds nodes.
//!
//! A node joins its servers by itself. One that cannot, because it knows another address of the
//! server or none, is found here: what it would ask a server with is part of its registration, and
//! the server takes it in as if it had asked.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use atoll_api::rest::Api;
use atoll_control::ControlPlane;
use atoll_core::node::NodeState;
use atoll_discovery::consul::Instance;
use atoll_proto::orchestrator::RegisterNodeRequest;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bytes of one value of meta data. Consul takes 512.
const VALUE_MAX: usize = 480;

/// Values that a request may be written in. Consul takes 64 together.
const VALUES_MAX: usize = 56;

/// How often there is a look for nodes that did not join: one that does so by itself has joined
/// before the second.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// A node that was not reached is dialled again after this.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Nodes that are dialled at a time.
const DIALS_MAX: usize = 8;

/// A node's request as meta data.
///
/// # Errors
/// If it is too long.
pub(super) fn written(
    request: &RegisterNodeRequest,
) -> anyhow::Result<impl Iterator<Item = (String, String)> + use<>> {
    let text = serde_json::to_string(request)?;
    let mut values = vec![String::new()];
    for character in text.chars() {
        let last = values.last().map_or(0, String::len);
        if last + character.len_utf8() > VALUE_MAX {
            values.push(String::new());
        }
        if let Some(value) = values.last_mut() {
            value.push(character);
        }
    }
    anyhow::ensure!(
        values.len() <= VALUES_MAX,
        "what the node says of itself is too long for Consul: {} bytes",
        text.len()
    );
    let named = values.into_iter().enumerate();
    Ok(named.map(|(number, value)| (format!("join-{number:02}"), value)))
}

/// What a node wrote.
///
/// # Errors
/// If it is none.
fn read(meta: &BTreeMap<String, String>) -> anyhow::Result<RegisterNodeRequest> {
    let parts = meta.iter().filter(|(key, _)| key.starts_with("join-"));
    let text: String = parts.map(|(_, value)| value.as_str()).collect();
    serde_json::from_str(&text).context("it does not say how it would join")
}

/// Takes in nodes that are registered and did not join.
pub(super) struct Admission {
    api: Api,
    control: ControlPlane,
    told: watch::Receiver<Vec<Instance>>,
    /// Who was not reached, and when that was tried.
    missed: BTreeMap<String, Instant>,
}

impl Admission {
    pub(super) const fn new(
        api: Api,
        control: ControlPlane,
        told: watch::Receiver<Vec<Instance>>,
    ) -> Self {
        Self {
            api,
            control,
            told,
            missed: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let looking = async {
            loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                self.look().await;
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = looking => {}
        }
    }

    async fn look(&mut self) {
        let instances = self.told.borrow().clone();
        self.missed
            .retain(|id, _| instances.iter().any(|instance| instance.id == *id));
        let dials: Vec<_> = instances
            .into_iter()
            .filter(|instance| !instance.is_critical && self.is_due(instance))
            .map(|instance| admit(self.api.clone(), instance))
            .collect();
        let mut dials = futures::stream::iter(dials).buffer_unordered(DIALS_MAX);
        while let Some((id, outcome)) = dials.next().await {
            match outcome {
                Ok(()) => {
                    tracing::info!(id, "took in a node that Consul knows");
                    self.missed.remove(&id);
                }
                Err(error) => {
                    let before = self.missed.insert(id.clone(), Instant::now());
                    let error = format!("{error:#}");
                    if before.is_none() {
                        tracing::warn!(id, error, "a node that Consul knows is not taken in");
                    } else {
                        tracing::debug!(id, error, "a node that Consul knows is not taken in");
                    }
                }
            }
        }
    }

    /// Whether the node is none of ours, or is not heard any more, and was not tried just now.
    fn is_due(&self, instance: &Instance) -> bool {
        let id = instance.meta.get("node").and_then(|id| id.parse().ok());
        let Some(id) = id else {
            return false;
        };
        let is_heard = self.control.node_get(&id).is_ok_and(|node| {
            // One that its operator removed stays away until it joins by itself.
            node.state == NodeState::Left
                || (node.has_joined && !matches!(node.state, NodeState::Suspect | NodeState::Lost))
        });
        let missed = self.missed.get(&instance.id);
        !is_heard && missed.is_none_or(|at| at.elapsed() >= RETRY_AFTER)
    }
}

async fn admit(api: Api, instance: Instance) -> (String, anyhow::Result<()>) {
    let outcome = async {
        let request = read(&instance.meta)?;
        api.node_admit(request).await.map_err(anyhow::Error::msg)
    };
    let outcome = outcome.await;
    (instance.id, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_any_length_is_read_as_it_was_written() {
        for tags in [0, 1, 64] {
            let tag = |number: usize| (format!("tag-{number}"), "wört".repeat(20));
            let request = RegisterNodeRequest {
                node_id: "n1".to_owned(),
                address: "http://10.0.0.7:3001".to_owned(),
                incarnation: "abc".to_owned(),
                tags: (0..tags).map(tag).collect(),
                ..RegisterNodeRequest::default()
            };
            let meta: BTreeMap<_, _> = written(&request).unwrap().collect();
            assert!(meta.values().all(|value| value.len() <= VALUE_MAX));
            assert_eq!(read(&meta).unwrap(), request);
        }
    }

    #[test]
    fn what_says_nothing_is_no_request() {
        assert!(read(&BTreeMap::new()).is_err());
    }
}
