//! The control plane: the use cases of Atoll, the reconciler that makes them true, the node
//! registry, and the background work that keeps promises (deadlines, synchronisation, retention).
//!
//! The idea: a request writes intent to the store, wakes the reconciler of that one sandbox, and
//! waits for the outcome with a bound. After a crash the reconciler finds the same intent and
//! carries on, so the path of a request and the path of a repair are one path.
//!
//! Invariants:
//! - Nothing acts on an intent that is not committed.
//! - One task at a time drives a sandbox; handlers write only its intent fields.
//! - A node's silence is never taken for a refusal: the same node is asked again.
//! - Every wait, queue, map and page has a named limit.
//!
//! What it does not do: it knows no HTTP, no JSON of the API, no SQL, and starts no process.
#![forbid(unsafe_code)]

pub mod audit;
mod backlog;
mod bus;
mod catalog;
pub mod clock;
pub mod config;
mod corrections;
mod deadlines;
pub mod discovery;
mod error;
mod events;
mod executor;
mod exhausted;
pub mod fleet;
mod gate;
mod guard;
mod key;
pub mod limit;
mod lock;
pub mod metrics;
pub mod node_client;
mod node_events;
mod placement;
mod progress;
pub mod random;
mod reconciler;
mod reference;
mod registry;
pub mod request;
pub mod route_publisher;
pub mod rpc_node;
mod servers;
mod service;
mod shared;
mod tasks;
mod tokens;
mod usage;
pub mod view;
pub mod webhooks;

pub use bus::{EventHandler, EventStream, HandlerError};
pub use error::{Error, Result, code};
pub use service::health::{HealthProbe, Verdict};
pub use service::resource::UsageOf;
pub use service::schedule::{DryRan, DryRun};
pub use service::{ControlPlane, Parts, TrafficAccess};
