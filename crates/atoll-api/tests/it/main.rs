//! The API as clients meet it, on a real control plane with a node that only pretends to run
//! sandboxes. Every answer is checked against the specifications.
#![expect(clippy::unwrap_used, reason = "tests")]

mod access;
mod admin;
mod audit;
mod bad_input;
mod contract;
mod decisions;
mod events;
mod explain;
mod isolation;
mod limits;
mod lists;
mod node;
mod nodes;
mod pause;
mod places;
mod rpc;
mod sandboxes;
mod scheduling;
mod spec;
mod teams;
mod templates;
mod watch;
mod world;
