//! How a node finds its servers.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_discovery::consul::Instance;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{INSTALLATION, URL};

/// A server that is not registered for so long, while others are, is given up. Until then the node
/// goes on saying that it lives there: a registration may be lost, and the server be well.
const FORGET_AFTER: Duration = Duration::from_secs(10 * 60);

/// How often there is a look for such servers.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Servers that one node is a member of; more are not joined.
const SERVERS_MAX: usize = 32;

/// Joins servers as they come, and leaves those that are gone, until `cancel`.
pub(super) async fn follow<J>(
    mut told: watch::Receiver<Vec<Instance>>,
    join: J,
    cancel: CancellationToken,
) where
    J: Fn(http::Uri) -> CancellationToken,
{
    let mut known = Known::default();
    loop {
        let instances = told.borrow_and_update().clone();
        known.see(&instances, Instant::now(), &join);
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            changed = told.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

/// The servers that were registered.
#[derive(Debug, Default)]
struct Known {
    /// Those of one store, which all of them must be of.
    installation: Option<String>,
    servers: BTreeMap<String, Server>,
    is_strange_told: bool,
}

#[derive(Debug)]
struct Server {
    seen: Instant,
    membership: CancellationToken,
}

impl Known {
    fn see(
        &mut self,
        instances: &[Instance],
        now: Instant,
        join: &impl Fn(http::Uri) -> CancellationToken,
    ) {
        for instance in instances {
            let (Some(url), Some(of)) = (instance.meta.get(URL), instance.meta.get(INSTALLATION))
            else {
                tracing::debug!(id = instance.id, "a server does not say what it is");
                continue;
            };
            if self.installation.get_or_insert_with(|| of.clone()) != of {
                if !self.is_strange_told {
                    tracing::warn!(
                        server = url,
                        "a server of another installation is registered under this prefix, and is \
                         not joined: give each installation a prefix of its own"
                    );
                }
                self.is_strange_told = true;
                continue;
            }
            if let Some(server) = self.servers.get_mut(url) {
                server.seen = now;
            } else if self.servers.len() < SERVERS_MAX
                && let Ok(uri) = url.parse()
            {
                tracing::info!(server = url, "found a server");
                let membership = join(uri);
                let server = Server {
                    seen: now,
                    membership,
                };
                self.servers.insert(url.clone(), server);
            }
        }
        // A Consul that lost everything says nothing of anybody.
        if instances.is_empty() {
            return;
        }
        self.servers.retain(|url, server| {
            let is_kept = now.saturating_duration_since(server.seen) < FORGET_AFTER;
            if !is_kept {
                tracing::info!(server = url, "a server is gone");
                server.membership.cancel();
            }
            is_kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16, installation: &str) -> Instance {
        let meta = [
            (URL, format!("http://127.0.0.1:{port}")),
            (INSTALLATION, installation.to_owned()),
        ];
        Instance {
            id: port.to_string(),
            address: "127.0.0.1".to_owned(),
            port,
            tags: Vec::new(),
            meta: meta.map(|(key, value)| (key.to_owned(), value)).into(),
            is_critical: false,
        }
    }

    /// Each server is joined once; one that is gone is left after long, and never because nobody
    /// is registered.
    #[test]
    fn servers_are_joined_as_they_come_and_left_late() {
        let joined = std::sync::Mutex::new(Vec::new());
        let join = |uri: http::Uri| {
            let token = CancellationToken::new();
            joined.lock().unwrap().push((uri, token.clone()));
            token
        };
        let mut known = Known::default();
        let now = Instant::now();
        known.see(&[server(1, "a"), server(2, "a")], now, &join);
        known.see(
            &[server(1, "a"), server(2, "a"), server(3, "b")],
            now,
            &join,
        );
        let tokens: Vec<_> = joined.lock().unwrap().clone();
        assert_eq!(tokens.len(), 2, "another installation's is not joined");
        let late = now + FORGET_AFTER;
        known.see(&[], late, &join);
        assert!(tokens.iter().all(|(_, token)| !token.is_cancelled()));
        known.see(&[server(2, "a")], late, &join);
        assert!(tokens[0].1.is_cancelled());
        assert!(!tokens[1].1.is_cancelled());
        known.see(&[server(1, "a"), server(2, "a")], late, &join);
        assert_eq!(joined.lock().unwrap().len(), 3);
    }
}
