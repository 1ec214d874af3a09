//! Consul's HTTP API, as far as a fleet needs it.
//!
//! Processes are services of the agent of their machine, with a check that they keep passing
//! ([`Presence`]). Sandboxes are too many for that and come and go too fast: they are entries of
//! the catalog under nodes of their own, which no agent owns, written many in one transaction
//! ([`Entry`]). Both are found by [`watch`].

mod catalog;
mod presence;
mod watch;

use std::time::Duration;

use reqwest::Method;

pub use self::catalog::{Change, Entry, Holder, OPERATIONS_MAX};
pub use self::presence::{Presence, Pulse, Service};
pub use self::watch::{Instance, watch};
use crate::http::{Answer, Call, Error, Http, Target};

/// How long a call may take that waits for nothing.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The header in which a token is shown.
const TOKEN_HEADER: &str = "x-consul-token";

/// A client of one agent.
#[derive(Debug, Clone)]
pub struct Consul {
    http: Http,
    datacenter: Option<String>,
}

impl Consul {
    /// A client of the agent at `target`; what it asks for is of `datacenter`, the agent's unless
    /// given. Connects at the first call.
    ///
    /// # Errors
    /// If the target is none.
    pub fn new(target: &Target, datacenter: Option<String>) -> Result<Self, Error> {
        Ok(Self {
            http: Http::new(target, TOKEN_HEADER)?,
            datacenter,
        })
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, Error> {
        let call = Call {
            method,
            path,
            query,
            body,
            timeout: CALL_TIMEOUT,
        };
        self.http.send(call).await
    }

    /// A query of the catalog, in the datacenter.
    fn scoped<'a>(&'a self, query: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let datacenter = self.datacenter.as_deref().map(|name| ("dc", name));
        query.iter().copied().chain(datacenter).collect()
    }
}

fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Malformed(error.to_string()))
}
