//! Control groups, version 1, version 2 and the hybrid of both.
//!
//! A node owns one directory `atoll-<instance>` in every hierarchy it uses. In it each sandbox has
//! a directory named by its cell, and `supervisors` holds the processes that watch over them, which
//! no limit of a sandbox touches:
//!
//! ```text
//!   <hierarchy>/atoll-<instance>/supervisors
//!                               /cell-0007      pid 1 and all it starts
//! ```
//!
//! On version 1 a directory is needed per controller; on version 2 there is one. A hybrid machine
//! has the controllers on version 1. Hierarchies without controllers (`name=systemd`, an empty
//! version 2) are used for supervisors only: a service manager kills what it finds there when the
//! server's unit stops, and the sandboxes are to outlive that.
//!
//! Files only, no daemon. Everything is synchronous and fast, but for the first process that joins
//! a group after a while: the kernel waits for a grace period then, some 10 ms, which is why cells
//! join ahead of the order.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_core::resources::Resources;
use atoll_jail::spec::Setting;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

mod freezer;

/// Controllers a sandbox needs, by their version 1 names.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// Controllers used where present: accounting and freezing are their own on version 1. Version 2
/// freezes without a controller.
const WANTED: [&str; 2] = ["cpuacct", "freezer"];

/// Period of cpu bandwidth limits, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// Smallest cpu quota the kernel takes, in microseconds.
const CPU_QUOTA_MIN_US: u64 = 1000;

/// Processes of one sandbox, threads included.
pub const PIDS_MAX: u32 = 4096;

/// How long a directory may stay busy after its processes were killed.
const REMOVAL_ATTEMPTS: u32 = 500;

/// Pause between attempts.
const REMOVAL_PAUSE: Duration = Duration::from_millis(2);

/// Processes killed in one go, each through a descriptor: few beside the limit of descriptors.
const KILLED_AT_ONCE: usize = 128;

/// What can go wrong with control groups.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine offers no such controller in any hierarchy that is mounted.
    #[error("no `{0}` cgroup controller")]
    NoController(&'static str),
    /// A file or directory refused.
    #[error("cgroup `{path}`")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io {
        path: path.to_owned(),
        source,
    }
}

/// What a sandbox uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time since the group was made, in microseconds.
    pub cpu_us: u64,
    /// Memory in use, page cache and kernel memory included, in bytes.
    pub memory_bytes: u64,
    /// The part of it that is page cache, in bytes.
    pub cache_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    mount: PathBuf,
    /// Of those we use; none for one used for supervisors only.
    controllers: BTreeSet<&'static str>,
}

/// The groups of one node.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    /// `atoll-<instance>`
    name: String,
}

const SUPERVISORS: &str = "supervisors";

impl Cgroups {
    /// Finds the hierarchies and makes this node's directories in them.
    ///
    /// # Errors
    /// If a controller is missing, or a directory cannot be made (not root, read-only).
    pub fn open(instance: &str) -> Result<Self, Error> {
        let path = Path::new("/proc/self/mountinfo");
        let mounts = fs::read_to_string(path).map_err(io_error(path))?;
        Self::open_in(Path::new("/"), &mounts, instance)
    }

    fn open_in(root: &Path, mounts: &str, instance: &str) -> Result<Self, Error> {
        let cgroups = Self {
            hierarchies: find_hierarchies(root, mounts),
            name: format!("atoll-{instance}"),
        };
        for needed in NEEDED {
            if cgroups.hierarchy(needed).is_none() {
                return Err(Error::NoController(needed));
            }
        }
        for hierarchy in &cgroups.hierarchies {
            let parent = hierarchy.mount.join(&cgroups.name);
            make_directory(&parent)?;
            if hierarchy.version == Version::Two {
                for directory in [&hierarchy.mount, &parent] {
                    hierarchy.delegate(directory)?;
                }
            }
            make_directory(&parent.join(SUPERVISORS))?;
        }
        Ok(cgroups)
    }

    /// Keeps all sandboxes together from taking more memory than this, so that those that were
    /// promised more than there is meet each other's limit and not the host's.
    ///
    /// # Errors
    /// If the limit cannot be written.
    pub fn limit_memory(&self, bytes: u64) -> Result<(), Error> {
        let file = match self.version("memory") {
            Some(Version::Two) => "memory.max",
            _ => "memory.limit_in_bytes",
        };
        if let Some(hierarchy) = self.hierarchy("memory") {
            let path = hierarchy.mount.join(&self.name).join(file);
            fs::write(&path, bytes.to_string()).map_err(io_error(&path))?;
        }
        Ok(())
    }

    /// The files a supervisor joins by writing `0`.
    #[must_use]
    pub fn supervisor_procs(&self) -> Vec<PathBuf> {
        self.hierarchies
            .iter()
            .map(|hierarchy| {
                let group = hierarchy.mount.join(&self.name).join(SUPERVISORS);
                group.join("cgroup.procs")
            })
            .collect()
    }

    /// Makes a cell's directories and answers them.
    ///
    /// # Errors
    /// If one cannot be made; then none is left.
    pub fn create(&self, cell: u32) -> Result<Vec<PathBuf>, Error> {
        let directories = self.directories(cell);
        for directory in &directories {
            if let Err(error) = make_directory(directory) {
                self.remove(cell)?;
                return Err(error);
            }
        }
        Ok(directories)
    }

    /// The writes that put a sandbox's limits in force.
    #[must_use]
    pub fn limits(&self, cell: u32, resources: Resources) -> Vec<Setting> {
        let mut settings = Vec::new();
        let mut set = |controller: &str, file: &str, value: String, is_optional: bool| {
            if let Some(hierarchy) = self.hierarchy(controller) {
                settings.push(Setting {
                    path: self.directory(hierarchy, cell).join(file),
                    value,
                    is_optional,
                });
            }
        };
        let quota = (u64::from(resources.cpu_millis) * CPU_PERIOD_US / 1000).max(CPU_QUOTA_MIN_US);
        let memory = (u64::from(resources.memory_mib) << 20).to_string();
        match self.version("cpu") {
            Some(Version::Two) => set("cpu", "cpu.max", format!("{quota} {CPU_PERIOD_US}"), false),
            _ => set("cpu", "cpu.cfs_quota_us", quota.to_string(), false),
        }
        match self.version("memory") {
            Some(Version::Two) => {
                set("memory", "memory.max", memory, false);
                set("memory", "memory.swap.max", "0".to_owned(), true);
            }
            _ => {
                set("memory", "memory.limit_in_bytes", memory.clone(), false);
                // Memory and swap together: no more than the memory alone. Must come second.
                set("memory", "memory.memsw.limit_in_bytes", memory, true);
            }
        }
        set("pids", "pids.max", PIDS_MAX.to_string(), false);
        settings
    }

    /// What the processes of a cell use.
    ///
    /// # Errors
    /// If the directories are gone.
    pub fn usage(&self, cell: u32) -> Result<Usage, Error> {
        let read = |controller: &str, file: &str| {
            let hierarchy = self.hierarchy(controller);
            let directory = hierarchy.map(|found| self.directory(found, cell));
            let path = directory.unwrap_or_default().join(file);
            fs::read_to_string(&path).map_err(io_error(&path))
        };
        let number = |text: &str| text.trim().parse().unwrap_or(0);
        let field = |text: &str, name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
                .map_or(0, number)
        };
        let (memory_bytes, cache_bytes) = match self.version("memory") {
            Some(Version::Two) => (
                number(&read("memory", "memory.current")?),
                field(&read("memory", "memory.stat")?, "file"),
            ),
            _ => (
                number(&read("memory", "memory.usage_in_bytes")?),
                field(&read("memory", "memory.stat")?, "total_cache"),
            ),
        };
        let cpu_us = match self.version("cpu") {
            Some(Version::Two) => field(&read("cpu", "cpu.stat")?, "usage_usec"),
            _ => number(&read("cpuacct", "cpuacct.usage")?) / 1000,
        };
        Ok(Usage {
            cpu_us,
            memory_bytes,
            cache_bytes,
        })
    }

    /// The cells that have a directory.
    ///
    /// # Errors
    /// If a hierarchy cannot be read.
    pub fn cells(&self) -> Result<BTreeSet<u32>, Error> {
        let mut cells = BTreeSet::new();
        for hierarchy in self
            .hierarchies
            .iter()
            .filter(|h| !h.controllers.is_empty())
        {
            let parent = hierarchy.mount.join(&self.name);
            for entry in fs::read_dir(&parent).map_err(io_error(&parent))?.flatten() {
                let name = entry.file_name();
                let number = name.to_str().and_then(|name| name.strip_prefix("cell-"));
                cells.extend(number.and_then(|number| number.parse::<u32>().ok()));
            }
        }
        Ok(cells)
    }

    /// Kills every process of a cell, waits until they are gone, and removes its directories.
    /// Blocks for a bounded time. A cell without directories is fine.
    ///
    /// # Errors
    /// If a process does not die or a directory cannot be removed.
    pub fn remove(&self, cell: u32) -> Result<(), Error> {
        self.kill_and_thaw(cell);
        for directory in self.directories(cell) {
            remove_group(&directory)?;
        }
        Ok(())
    }

    /// Kills the supervisors that are not in `keep`.
    pub fn kill_supervisors_except(&self, keep: &BTreeSet<i32>) {
        let Some(hierarchy) = self.hierarchy("pids") else {
            return;
        };
        let group = hierarchy.mount.join(&self.name).join(SUPERVISORS);
        kill_members_except(&group, keep);
    }

    /// Removes this node's directories, if no sandbox and no supervisor is left in them.
    pub fn close(&self) {
        for hierarchy in &self.hierarchies {
            let parent = hierarchy.mount.join(&self.name);
            // A failure means that something lives there, which then goes on to.
            let _ = fs::remove_dir(parent.join(SUPERVISORS));
            let _ = fs::remove_dir(parent);
        }
    }

    fn hierarchy(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies
            .iter()
            .find(|hierarchy| hierarchy.controllers.contains(controller))
    }

    fn version(&self, controller: &str) -> Option<Version> {
        self.hierarchy(controller).map(|found| found.version)
    }

    fn directory(&self, hierarchy: &Hierarchy, cell: u32) -> PathBuf {
        let name = format!("cell-{cell:04}");
        hierarchy.mount.join(&self.name).join(name)
    }

    fn directories(&self, cell: u32) -> Vec<PathBuf> {
        self.hierarchies
            .iter()
            .filter(|hierarchy| !hierarchy.controllers.is_empty())
            .map(|hierarchy| self.directory(hierarchy, cell))
            .collect()
    }
}

impl Hierarchy {
    /// Lets the children of a version 2 directory have the controllers.
    fn delegate(&self, directory: &Path) -> Result<(), Error> {
        let path = directory.join("cgroup.subtree_control");
        for controller in &self.controllers {
            // `freezer` and `cpuacct` are no controllers on version 2.
            if NEEDED.contains(controller) {
                fs::write(&path, format!("+{controller}")).map_err(io_error(&path))?;
            }
        }
        Ok(())
    }
}

/// Reads mount information: each line has the mount point as fifth field, and after a lone `-` the
/// type, the source, and the options, where version 1 names its controllers.
fn find_hierarchies(root: &Path, mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((place, kind)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = place.split(' ').nth(4) else {
            continue;
        };
        let mount = root.join(point.trim_start_matches('/'));
        let mut kind = kind.split(' ');
        let (version, names) = match kind.next() {
            Some("cgroup") => (
                Version::One,
                kind.nth(1).unwrap_or_default().replace(',', " "),
            ),
            Some("cgroup2") => {
                let file = mount.join("cgroup.controllers");
                (Version::Two, fs::read_to_string(file).unwrap_or_default())
            }
            _ => continue,
        };
        let controllers: BTreeSet<_> = NEEDED
            .into_iter()
            .chain(WANTED)
            .filter(|wanted| names.split_whitespace().any(|name| name == *wanted))
            .filter(|wanted| !found.iter().any(|other| other.controllers.contains(wanted)))
            .collect();
        let is_bare = version == Version::Two || names.contains("name=systemd");
        if !controllers.is_empty() || is_bare {
            found.push(Hierarchy {
                version,
                mount,
                controllers,
            });
        }
    }
    let has_freezer = |hierarchy: &Hierarchy| hierarchy.controllers.contains("freezer");
    if !found.iter().any(has_freezer)
        && let Some(second) = found.iter_mut().find(|h| h.version == Version::Two)
    {
        second.controllers.insert("freezer");
    }
    found
}

fn make_directory(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(io_error(path)),
    }
}

fn processes(group: &Path) -> Vec<i32> {
    fs::read_to_string(group.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect()
}

fn kill_members(group: &Path) {
    kill_members_except(group, &BTreeSet::new());
}

/// Kills the processes of a group. Each is held by a handle while the group is asked a second time
/// whether it is in it: its number may have come to mean another one.
fn kill_members_except(group: &Path, keep: &BTreeSet<i32>) {
    let mut found = processes(group);
    found.retain(|pid| !keep.contains(pid));
    for some in found.chunks(KILLED_AT_ONCE) {
        let open = |pid: &i32| {
            let handle = pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok()?;
            Some((*pid, handle))
        };
        let handles: Vec<_> = some.iter().filter_map(open).collect();
        let members: BTreeSet<i32> = processes(group).into_iter().collect();
        for (pid, handle) in handles {
            if members.contains(&pid) {
                // It may be gone by now, which is what is wanted.
                let _ = pidfd_send_signal(&handle, Signal::KILL);
            }
        }
    }
}

fn remove_group(directory: &Path) -> Result<(), Error> {
    if let Ok(entries) = fs::read_dir(directory) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_group(&entry.path())?;
            }
        }
    }
    let mut attempts = 0;
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) if attempts >= REMOVAL_ATTEMPTS => {
                return Err(io_error(directory)(source));
            }
            Err(_) => {}
        }
        attempts += 1;
        kill_members(directory);
        std::thread::sleep(REMOVAL_PAUSE);
    }
}

#[cfg(test)]
mod tests;
