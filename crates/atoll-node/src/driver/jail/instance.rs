//! One sandbox that the jail driver runs.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use atoll_core::network::NetworkPolicy;
use atoll_jail::spec::{EXIT_FILE, Exit};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::supervisor::{self, Handles};
use super::{DISK_FILE, Shared, blocking};
use crate::disk::kept;
use crate::driver::{Error, Instance, Usage};
use crate::net::Slot;

/// How long a killed sandbox may take to be gone before its supervisor is killed too.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How much of an exit file is read: more than the supervisor writes.
const EXIT_MAX_BYTES: u64 = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Jailed {
    shared: Arc<Shared>,
    slot: Slot,
    handles: Handles,
    directory: PathBuf,
    /// Whether its processes may be frozen. Once it is released, its cell is another sandbox's.
    may_be_frozen: AtomicBool,
}

impl Jailed {
    pub(super) fn new(
        shared: Arc<Shared>,
        slot: Slot,
        handles: Handles,
        directory: PathBuf,
        may_be_frozen: bool,
    ) -> Self {
        Self {
            shared,
            slot,
            handles,
            directory,
            may_be_frozen: AtomicBool::new(may_be_frozen),
        }
    }

    /// Stops every process, and only then writes the disk: nothing can follow.
    async fn freeze_and_sync(&self) -> Result<(), Error> {
        self.may_be_frozen.store(true, Ordering::SeqCst);
        let (shared, cell) = (Arc::clone(&self.shared), self.slot.index);
        blocking(move || shared.cgroups.freeze(cell).map_err(Error::failed("freeze"))).await?;
        supervisor::sync(&self.directory)
            .await
            .map_err(Error::failed("write the disk"))?;
        let disk = self.directory.join(DISK_FILE);
        blocking(move || kept::sync(&disk).map_err(Error::failed("sync the disk"))).await
    }

    fn thaw(&self) -> Result<(), Error> {
        if self.may_be_frozen.load(Ordering::SeqCst) {
            let thawed = self.shared.cgroups.thaw(self.slot.index);
            thawed.map_err(Error::failed("thaw"))?;
            self.may_be_frozen.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn supervisor_ended(&self) {
        // A process handle is readable once the process is gone, and stays so. An error here would
        // be one of the runtime; the sandbox is then taken for ended and removed.
        let _ = self.handles.supervisor.readable().await;
    }

    fn exit(&self) -> Option<Exit> {
        let path = self.directory.join(EXIT_FILE);
        let length = std::fs::symlink_metadata(&path).ok()?.len();
        if length > EXIT_MAX_BYTES {
            return None;
        }
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}

#[async_trait]
impl Instance for Jailed {
    fn number(&self) -> u32 {
        self.slot.index
    }

    fn helpers(&self) -> BTreeSet<i32> {
        BTreeSet::from([self.handles.supervisor_pid])
    }

    async fn ended(&self) -> String {
        self.supervisor_ended().await;
        let Some(exit) = self.exit() else {
            return "its supervisor was killed".to_owned();
        };
        let how = match (exit.code, exit.signal) {
            (Some(code), _) => format!("the guest agent exited with {code}"),
            (None, Some(signal)) => format!("the guest agent was killed by signal {signal}"),
            (None, None) => "the guest agent ended".to_owned(),
        };
        match exit.tail.trim().lines().next_back() {
            Some(last) => format!("{how}: {last}"),
            None => how,
        }
    }

    fn kill(&self) {
        // Its only failure is that the process is gone. With pid 1 everything inside dies.
        let _ = pidfd_send_signal(&self.handles.guest, Signal::KILL);
        // Only now: the frozen do not die, and must not run either. A failure shows when the cgroup
        // cannot be removed.
        let _ = self.thaw();
    }

    async fn release(&self) -> Result<(), Error> {
        self.kill();
        if timeout(END_LIMIT, self.supervisor_ended()).await.is_err() {
            tracing::warn!(cell = self.slot.index, "a supervisor did not end by itself");
            let _ = pidfd_send_signal(self.handles.supervisor.get_ref(), Signal::KILL);
        }
        let (shared, cell) = (Arc::clone(&self.shared), self.slot.index);
        // Removed by the supervisor already, unless that was killed.
        blocking(move || {
            shared
                .cgroups
                .remove(cell)
                .map_err(Error::failed("remove cgroups"))
        })
        .await?;
        self.shared.net.release(&self.slot);
        Ok(())
    }

    fn usage(&self) -> Result<Usage, Error> {
        let cgroup = self
            .shared
            .cgroups
            .usage(self.slot.index)
            .map_err(Error::failed("read cgroups"))?;
        // A magic link to the sandbox's root directory: nothing of the path is the guest's.
        let root = format!("/proc/{}/root", self.handles.guest_pid);
        let disk = rustix::fs::statvfs(root)
            .map_err(io::Error::from)
            .map_err(Error::failed("read disk usage"))?;
        Ok(Usage {
            cpu_us: cgroup.cpu_us,
            memory_bytes: cgroup.memory_bytes,
            cache_bytes: cgroup.cache_bytes,
            disk_used_bytes: disk.f_blocks.saturating_sub(disk.f_bfree) * disk.f_frsize,
            disk_total_bytes: disk.f_blocks * disk.f_frsize,
        })
    }

    async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        self.shared.net.dial(&self.slot, port).await
    }

    async fn update_network(&self, policy: &NetworkPolicy) -> Result<(), Error> {
        self.shared
            .net
            .apply(&self.slot, policy)
            .await
            .map_err(Error::failed("apply network policy"))
    }

    async fn pause(&self) -> Result<(), Error> {
        if !self.shared.cgroups.can_freeze() {
            return Err(Error::Unsupported("pause without a freezer cgroup"));
        }
        if self.shared.cgroups.is_frozen(self.slot.index) {
            // What is frozen was synced, or was thawed again.
            return Ok(());
        }
        let paused = self.freeze_and_sync().await;
        if paused.is_err() {
            self.thaw()?;
        }
        paused
    }

    async fn resume(&self) -> Result<(), Error> {
        self.thaw()
    }
}
