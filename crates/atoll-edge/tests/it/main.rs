//! The edge between real clients and real servers, over loopback.
#![expect(clippy::unwrap_used, reason = "tests")]

mod admission;
mod early;
mod stream;
mod tunnel;
mod wake;
mod world;
