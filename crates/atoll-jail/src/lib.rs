//! What a node and the `atoll-jail` helper say to each other.
//!
//! The helper is one small single-threaded process per sandbox, the *supervisor*. It works in two
//! steps, because the first one costs milliseconds and needs to know nothing about the sandbox:
//!
//! ```text
//!   node                        supervisor                      pid 1 of the sandbox
//!    │ spawn, socket on stdin       │                                  │
//!    │── Prepare + fds ────────────▶│ clone into new namespaces ──────▶│ waits
//!    │◀───────────────── Prepared ──│                                  │
//!    │        (kept in a pool until a sandbox is ordered)              │
//!    │── Start + disk ─────────────▶│ root file system, limits ───────▶│ drops rights, execs envd
//!    │◀────────────────── Started ──│
//!    ╎ closes the socket            │ serves <dir>/ctl.sock until pid 1 ends, writes exit.json
//! ```
//!
//! Until `Started` the supervisor lives only as long as the node's end of the socket; afterwards it
//! outlives the node, which finds it again through the control socket.
//!
//! This library holds the messages and the socket framing only. It decides nothing: which cgroup
//! files exist, which uid range is free, what the limits are is the node's business.
#![deny(unsafe_code)]

pub mod channel;
pub mod spec;
