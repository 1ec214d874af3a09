//! The agent's own promises, with a driver that only pretends: no root, no processes.
#![expect(clippy::unwrap_used, reason = "tests")]

mod accounting;
mod pretend;
mod sharing;
