//! The data plane: carries HTTP traffic from clients to the ports of sandboxes.
//!
//! ```text
//!  client ──HTTP/1.1, h2c──▶ server ──▶ proxy ──▶ pool ──HTTP/1.1──▶ port in the sandbox
//!                              │          │         └─ dialer, from the composition
//!                              │          └─ target (who is meant), table (where it runs)
//!                              └─ what is no sandbox traffic: the fallback service (the API)
//! ```
//!
//! The idea: one request is decided by three small pure steps (whom it names, whether a route
//! exists, whether it may pass), then streamed in both directions without being kept anywhere.
//!
//! Invariants:
//! - A sandbox without a route is never dialled, and a route of an older generation never replaces
//!   a newer one.
//! - No body is buffered: what a slow reader does not take, the sender does not send.
//! - A request reaches a sandbox at most once: it is sent again only if no byte of it left.
//! - When a route is withdrawn, what still streams through it ends.
//!
//! Not here: TLS (terminate it in front), the guest agent's own access token (the guest checks it),
//! how a paused sandbox is woken (that is the [`wake::Waker`]), and how a node is reached (that is
//! the [`dial::Dialer`]; [`remote`] has the one for nodes on machines of their own).
#![forbid(unsafe_code)]

pub mod answer;
pub mod body;
pub mod dial;
mod forward;
pub mod limit;
mod linger;
pub mod metrics;
mod pool;
pub mod proxy;
pub mod remote;
pub mod server;
pub mod table;
pub mod target;
mod tunnel;
pub mod wake;
