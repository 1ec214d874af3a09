//! The control plane against a real store file and a node that runs nothing.
#![expect(clippy::unwrap_used, reason = "tests")]

mod audit;
mod discovery;
mod events;
mod fake_node;
mod faults;
mod foresight;
mod lifecycle;
mod listing;
mod moving;
mod nodes;
mod partitions;
mod pause;
mod quotas;
mod replicas;
mod restart;
mod shared;
mod tenancy;
mod webhooks;
mod world;
