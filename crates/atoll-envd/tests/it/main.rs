//! The agent's program over HTTP, on a port of its own, with files in a directory of its own.
//!
//! As root it changes to other users; without root every test runs as whoever runs it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod files;
mod http;
mod process;
mod setup;
mod tree;
mod world;
