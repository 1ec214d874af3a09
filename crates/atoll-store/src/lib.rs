//! Durable state: what control intends, and the history of what happened.
//!
//! One trait, [`store::Store`], and one suite of tests that every implementation passes. This is
//! the only crate that contains SQL.
#![forbid(unsafe_code)]

pub mod backup;
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
