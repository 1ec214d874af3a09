//! Waits for every child there is: those of clients, and as pid 1 also orphans.

use std::io;
use std::sync::Arc;

use rustix::process::{WaitOptions, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::status::End;
use super::table::Table;

/// Listens for the deaths of children. To be made before the first child is started.
#[derive(Debug)]
pub(crate) struct Reaper {
    deaths: Signal,
    table: Arc<Table>,
}

impl Reaper {
    pub(crate) fn new(table: Arc<Table>) -> io::Result<Self> {
        Ok(Self {
            deaths: signal(SignalKind::child())?,
            table,
        })
    }

    /// Reaps until the agent ends. One signal may stand for many deaths.
    pub(crate) async fn run(mut self) {
        loop {
            while self.table.reap_one(wait_for_any) {}
            if self.deaths.recv().await.is_none() {
                return;
            }
        }
    }
}

fn wait_for_any() -> Option<(u32, End)> {
    let (pid, status) = wait(WaitOptions::NOHANG).ok().flatten()?;
    Some((
        u32::try_from(pid.as_raw_nonzero().get()).ok()?,
        End::from_wait(status.as_raw()),
    ))
}
