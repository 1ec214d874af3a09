//! Durable state: what control intends, and the history of what happened.
#![forbid(unsafe_code)]

pub mod store;
