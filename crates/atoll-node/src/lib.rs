//! The node agent: what runs sandboxes on one machine.
//!
//! [`agent`] takes the orders and keeps the [`ledger`]; a [`driver`] makes the sandboxes, out of
//! [`net`] slots, [`disk`]s, [`cgroup`]s and the layers of a [`rootfs`]; [`guest_client`] wakes the
//! guest agent inside; [`snapshot`]s let other machines go on with what is paused; [`doctor`] tells
//! what a machine offers. [`relay`] puts all of it on a network, in a process that outlives the
//! agent: orders go to the agent's [`rpc`], connections to sandboxes.
//!
//! Architecture invariant: this crate knows no store and no control plane. It acts on orders that
//! carry a generation, refuses older ones, and keeps what it runs when nobody orders anything.
#![deny(unsafe_code)]

mod accept;
pub mod agent;
pub mod cgroup;
pub mod disk;
pub mod doctor;
pub mod driver;
pub mod guest_client;
pub mod image;
pub mod ledger;
pub mod machine;
pub mod metrics;
pub mod net;
mod processor;
pub mod relay;
pub mod rootfs;
pub mod rpc;
pub mod snapshot;
mod sys;
pub mod traceparent;
