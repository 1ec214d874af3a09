//! The pure domain of Atoll: identities, sandboxes, their lifecycle, nodes, placement and the
//! reconcile plan.
//!
//! Invariant: nothing here performs I/O, reads a clock, draws randomness or depends on an async
//! runtime. Whatever this crate decides is a function of its arguments, which is what lets the
//! simulator and the property tests drive the real decisions.
#![forbid(unsafe_code)]

pub mod breaker;
pub mod correction;
pub mod crash;
pub mod descriptor;
pub mod error;
pub mod event;
pub mod heartbeat;
pub mod id;
pub mod lifecycle;
pub mod network;
pub mod node;
pub mod quota;
pub mod reconcile;
pub mod resources;
pub mod route;
pub mod sandbox;
pub mod scheduler;
pub mod snapshot;
pub mod template;
pub mod time;
