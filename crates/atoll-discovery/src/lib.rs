//! Clients of what other machines are found by: Consul's HTTP API.
//!
//! This crate knows the wire of each and nothing of Atoll: what is registered, when and why is the
//! control plane's; `atoll` joins the two.
//!
//! Invariants:
//! - Every call has a deadline, and every answer a largest size.
//! - Nothing here is needed: who calls keeps what it last knew, and goes on without.
#![forbid(unsafe_code)]

pub mod consul;
mod http;

pub use http::{Error, Target};
