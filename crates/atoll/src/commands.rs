//! What each subcommand does, one module a group.

pub(crate) mod audit;
pub(crate) mod config;
pub(crate) mod database;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod key;
pub(crate) mod nodes;
pub(crate) mod run;
pub(crate) mod sandbox;
pub(crate) mod schedule;
pub(crate) mod team;
pub(crate) mod template;
pub(crate) mod webhook;
