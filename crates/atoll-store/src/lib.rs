//! Durable state: what control intends, and the history of what happened.
//!
//! One trait, [`store::Store`], and one suite of tests that every implementation passes. This is
//! the only crate that contains SQL. What servers share beside it, and can do without, is the
//! [`cache`]; its Redis commands are here, too.
#![forbid(unsafe_code)]

pub mod backup;
pub mod cache;
mod descriptor_row;
pub mod memory;
pub mod metrics;
pub mod migration;
mod policy_row;
pub mod postgres;
mod queries;
mod row;
mod sql;
pub mod sqlite;
pub mod store;
pub mod webhook;

#[cfg(test)]
mod contract;
