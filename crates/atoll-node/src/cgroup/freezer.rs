//! Stops all processes of a cell where they are, and lets them go on.
//!
//! Version 1 has a hierarchy for it, version 2 a file in every group. A frozen process keeps its
//! memory, its files and its connections, and runs not one instruction. On version 1 it does not
//! even die before it is thawed, so whoever ends a frozen cell kills first and thaws then: what is
//! inside gets no turn in between.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Cgroups, Error, Version, io_error, kill_members};

/// How often the group is asked whether all its processes stand still, [`FREEZE_PAUSE`] apart. Ten
/// seconds in all: a fork bomb at its limit of processes stops in well under one.
const FREEZE_ATTEMPTS: u32 = 10_000;

/// Pause between two of them.
const FREEZE_PAUSE: Duration = Duration::from_millis(1);

/// The files of one version.
struct Files {
    /// Where the wish is written.
    order: &'static str,
    /// Where it is told what is the case.
    state: &'static str,
    frozen: &'static str,
    thawed: &'static str,
    /// The line of `state` that says that everything stands still.
    is_frozen: &'static str,
}

const ONE: Files = Files {
    order: "freezer.state",
    state: "freezer.state",
    frozen: "FROZEN",
    thawed: "THAWED",
    is_frozen: "FROZEN",
};

const TWO: Files = Files {
    order: "cgroup.freeze",
    state: "cgroup.events",
    frozen: "1",
    thawed: "0",
    is_frozen: "frozen 1",
};

impl Cgroups {
    /// Whether this machine can freeze a cell.
    #[must_use]
    pub fn can_freeze(&self) -> bool {
        self.hierarchy("freezer").is_some()
    }

    /// Stops every process of a cell. Blocks until all stand still, for a bounded time.
    ///
    /// # Errors
    /// If they do not stop in time or the directory is gone; then they go on.
    pub fn freeze(&self, cell: u32) -> Result<(), Error> {
        self.freeze_within(cell, FREEZE_ATTEMPTS)
    }

    fn freeze_within(&self, cell: u32, attempts: u32) -> Result<(), Error> {
        let (files, directory) = self.freezer(cell)?;
        for _ in 0..attempts {
            // Written each time: version 1 goes over the processes that are there at a write, and
            // looks for those that came later at the next one.
            if let Err(error) = write(&directory.join(files.order), files.frozen) {
                self.thaw(cell)?;
                return Err(error);
            }
            if is_frozen(files, &directory) {
                return Ok(());
            }
            std::thread::sleep(FREEZE_PAUSE);
        }
        self.thaw(cell)?;
        Err(io_error(&directory)(io::ErrorKind::TimedOut.into()))
    }

    /// Lets the processes of a cell go on. A cell that is gone is fine.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn thaw(&self, cell: u32) -> Result<(), Error> {
        let (files, directory) = self.freezer(cell)?;
        match write(&directory.join(files.order), files.thawed) {
            Err(Error::Io { source, .. })
                // A directory that goes away while it is open answers the second.
                if source.kind() == io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(libc::ENODEV) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Whether every process of a cell stands still.
    #[must_use]
    pub fn is_frozen(&self, cell: u32) -> bool {
        self.freezer(cell)
            .is_ok_and(|(files, directory)| is_frozen(files, &directory))
    }

    /// Kills the processes of a cell that may be frozen, and thaws what is left to die.
    pub(super) fn kill_and_thaw(&self, cell: u32) {
        if let Ok((_, directory)) = self.freezer(cell) {
            kill_members(&directory);
            // What cannot be thawed cannot be removed either, which then says so.
            let _ = self.thaw(cell);
        }
    }

    fn freezer(&self, cell: u32) -> Result<(&'static Files, PathBuf), Error> {
        let hierarchy = self
            .hierarchy("freezer")
            .ok_or(Error::NoController("freezer"))?;
        let files = match hierarchy.version {
            Version::One => &ONE,
            Version::Two => &TWO,
        };
        Ok((files, self.directory(hierarchy, cell)))
    }
}

fn is_frozen(files: &Files, directory: &Path) -> bool {
    let state = fs::read_to_string(directory.join(files.state)).unwrap_or_default();
    state.lines().any(|line| line == files.is_frozen)
}

/// Writes to a file that exists: what looks like a group but has no such file is none.
fn write(path: &Path, value: &str) -> Result<(), Error> {
    let written = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    written.map_err(io_error(path))
}

#[cfg(test)]
mod tests;
