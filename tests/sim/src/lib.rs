//! The whole control plane in a simulated world: every run follows from one number.
//!
//! ```text
//!   clients ──▶ ControlPlane ──▶ SimStore ──▶ MemStore       what was answered survives crashes
//!                    │  └──────▶ Edge                        routes, as an edge has them
//!                    └─ Link ──▶ Machine (one per node)      what runs, and the node's ledger
//! ```
//!
//! Everything happens on one thread, in virtual time, with one seeded generator: messages are
//! delayed, lost, doubled and overtaken, nodes and the server die and come back, the store fails
//! before or after its commit, and the wall clock jumps. After every step the guarantees of the
//! design are checked. The same seed gives the same trace, line by line.
//!
//! A server dies by being cut off: from that instant none of its calls to the store, the nodes or
//! the edge returns or has an effect, wherever its tasks stand. That is a crash at any await that
//! the world can see.
//!
//! What is simulated stands in for what other tests run for real: the node's model follows
//! `atoll_node::agent`, the store's failures those of a database behind a connection.
#![forbid(unsafe_code)]

mod book;
mod checks;
mod client;
mod edge;
mod faults;
mod incarnation;
mod link;
mod machine;
pub mod options;
pub mod run;
mod server;
mod store;
mod trace;
mod watcher;
mod world;
