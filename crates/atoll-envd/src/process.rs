//! Processes: started for clients, followed by any number of them, reaped here.
//!
//! The agent may be pid 1, so it waits for *any* child; nothing else in the program may wait for
//! one. Starting a process and entering it into the table happen under the table's lock, and the
//! reaper takes the same lock for each exit, so an exit always finds its entry.
//!
//! ```text
//! spawn ──▶ table ──▶ pump (one task: reads output, hands it to followers, tells the end)
//!             ▲         ▲
//! SIGCHLD ──▶ reaper ───┘ exit
//! ```
//!
//! A process ends for its followers when all of its output has been read: as long as a descendant
//! holds the pipe, there may be more. Once it was signalled or its time is over, its exit alone is
//! the end. Output that nobody follows is dropped; a slow follower slows the process.

pub(crate) mod child;
pub(crate) mod output;
pub(crate) mod reaper;
pub(crate) mod service;
pub(crate) mod spawn;
pub(crate) mod status;
pub(crate) mod table;
