//! Real sandboxes on this machine: what they are, what they withstand, and what is left of them.
//!
//! Needs root; without it every test says so and passes.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod crash;
mod guest;
mod hostile;
mod life;
mod many;
mod pause;
mod rig;
mod snapshot;
