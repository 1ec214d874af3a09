//! A process as a service of its machine's agent, with a check that it keeps passing itself: it
//! works whatever protects the process's own port, and a process that hangs is noticed.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::sync::watch as moving;
use tokio_util::sync::CancellationToken;

use super::{Consul, encode};
use crate::http::Error;

/// How long a process may be silent before it counts as critical: three beats.
const TTL: Duration = Duration::from_secs(15);

/// How often a process says how it does, and comes back where it was forgotten.
const BEAT: Duration = Duration::from_secs(5);

/// A process that is critical for so long is forgotten. Long enough for a machine to start anew.
const FORGET_AFTER: Duration = Duration::from_secs(10 * 60);

/// How long saying goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Characters of what a process says of itself.
const OUTPUT_MAX: usize = 512;

/// What a process is registered as.
#[derive(Debug, Clone)]
pub struct Service {
    /// Unique among all services of the agent.
    pub id: String,
    /// The service's name.
    pub name: String,
    /// The host at which it is reached.
    pub address: String,
    /// The port at which it is reached.
    pub port: u16,
    /// What it can be selected by.
    pub tags: Vec<String>,
    /// More of it.
    pub meta: BTreeMap<String, String>,
}

/// How a process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulse {
    /// It works.
    Passing,
    /// It works in part.
    Warning(String),
    /// It does not work.
    Critical(String),
}

impl Pulse {
    const fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Passing => ("passing", ""),
            Self::Warning(why) => ("warning", why.as_str()),
            Self::Critical(why) => ("critical", why.as_str()),
        }
    }
}

/// Keeps one process registered.
#[derive(Debug)]
pub struct Presence {
    consul: Consul,
    service: Service,
    problem: moving::Sender<Option<String>>,
}

impl Presence {
    /// The service, to be registered through `consul`.
    #[must_use]
    pub fn new(consul: Consul, service: Service) -> Self {
        Self {
            consul,
            service,
            problem: moving::Sender::new(Some("it was not tried yet".to_owned())),
        }
    }

    /// Why the process is not registered; none: it is.
    #[must_use]
    pub fn problem(&self) -> moving::Receiver<Option<String>> {
        self.problem.subscribe()
    }

    /// Registers the process and says how it does until `cancel`; then deregisters it. While
    /// Consul does not answer it is tried again: nothing else depends on it.
    pub async fn keep<F, P>(self, pulse: F, cancel: CancellationToken)
    where
        F: Fn() -> P,
        P: Future<Output = Pulse>,
    {
        let name = &self.service.name;
        let beats = async {
            let mut is_told = false;
            loop {
                let outcome = self.beat(&pulse().await).await;
                match &outcome {
                    Ok(()) if is_told => tracing::info!(service = name, "registered again"),
                    Ok(()) => {}
                    Err(error) if is_told => {
                        tracing::debug!(service = name, %error, "not registered");
                    }
                    Err(error) => tracing::warn!(service = name, %error, "not registered"),
                }
                is_told = outcome.is_err();
                let problem = outcome.err().map(|error| error.to_string());
                self.problem.send_replace(problem);
                tokio::time::sleep(BEAT).await;
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = beats => {}
        }
        let path = ["v1", "agent", "service", "deregister", &self.service.id];
        let goodbye = self.consul.call(Method::PUT, &path, &[], None);
        let outcome = tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await;
        if !matches!(outcome, Ok(Ok(_))) {
            tracing::debug!(service = self.service.name, "not deregistered");
        }
    }

    /// Says how the process does; where nobody knows of it, it is registered.
    async fn beat(&self, pulse: &Pulse) -> Result<(), Error> {
        let (status, output) = pulse.parts();
        let output: String = output.chars().take(OUTPUT_MAX).collect();
        let check = self.check();
        let path = ["v1", "agent", "check", "update", &check];
        let body = encode(&json!({"Status": status, "Output": output}))?;
        let answer = self.consul.call(Method::PUT, &path, &[], Some(body));
        match answer.await?.granted() {
            Ok(_) => Ok(()),
            // Whatever its reason: registering answers with the right one.
            Err(_) => self.register(status).await,
        }
    }

    async fn register(&self, status: &str) -> Result<(), Error> {
        let Service {
            id,
            name,
            address,
            port,
            tags,
            meta,
        } = &self.service;
        let body = encode(&json!({
            "ID": id,
            "Name": name,
            "Address": address,
            "Port": port,
            "Tags": tags,
            "Meta": meta,
            "Check": {
                "CheckID": self.check(),
                "Name": format!("{name} says that it lives"),
                "TTL": format!("{}s", TTL.as_secs()),
                "Status": status,
                "DeregisterCriticalServiceAfter": format!("{}s", FORGET_AFTER.as_secs()),
            },
        }))?;
        let path = ["v1", "agent", "service", "register"];
        let query = [("replace-existing-checks", "true")];
        let answer = self.consul.call(Method::PUT, &path, &query, Some(body));
        answer.await?.granted().map(drop)
    }

    fn check(&self) -> String {
        format!("{}-lives", self.service.id)
    }
}
