//! The messages. All of them are trusted: the socket's other end is the node, never the guest.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Number of user and group ids a sandbox has.
pub const UID_COUNT: u32 = 65_536;

/// At most this many overlay mounts make up one root file system.
pub const MAX_OVERLAYS: usize = 8;

/// At most this many read-only layers lie under one overlay mount. The kernel's own limit is 500;
/// this one keeps the mount options within one page.
pub const MAX_LAYERS: usize = 128;

/// Name of the control socket inside the sandbox directory.
pub const CONTROL_SOCKET: &str = "ctl.sock";

/// Name of the file inside the sandbox directory on which the supervisor holds a lock as long as it
/// lives.
pub const LOCK_FILE: &str = "lock";

/// Name of the file inside the sandbox directory that tells how pid 1 ended.
pub const EXIT_FILE: &str = "exit.json";

/// First message to the supervisor: make the namespaces.
///
/// File descriptors: the network namespace, the guest agent's executable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// Number of the cell; told again in [`Status`].
    pub cell: u32,
    /// Host id of the sandbox's root; [`UID_COUNT`] ids follow it.
    pub uid_base: u32,
    /// An empty directory of the host. Covered inside the sandbox's mount namespace while the root
    /// file system is built, untouched on the host.
    pub staging: PathBuf,
    /// Port on which the guest agent listens; the socket exists before the agent does.
    pub listen_port: u16,
    /// The `cgroup.procs` files that the supervisor itself joins.
    pub own_procs: Vec<PathBuf>,
    /// The sandbox's cgroup directories, which exist: pid 1 joins each, and they are removed at
    /// the end.
    pub cgroups: Vec<PathBuf>,
}

/// Second message: run this sandbox in the prepared namespaces.
///
/// File descriptors: the writable disk, a detached mount. It is empty, or has what an earlier run
/// over the same number of overlays left on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Id of the sandbox, for [`Status`].
    pub sandbox: String,
    /// Generation of the sandbox, for [`Status`].
    pub generation: u64,
    /// The sandbox directory: lock, control socket and exit file go there.
    pub directory: PathBuf,
    /// Host name inside.
    pub hostname: String,
    /// The root file system; the first mount is at `/`.
    pub overlays: Vec<Overlay>,
    /// Limits, as values to write to cgroup files, in this order.
    pub settings: Vec<Setting>,
    /// Small files to place into the root file system.
    pub files: Vec<GuestFile>,
    /// Arguments of the guest agent after its name. `{listen_fd}` stands for the number of the
    /// listening socket.
    pub arguments: Vec<String>,
    /// Environment of the guest agent, `NAME=value`.
    pub environment: Vec<String>,
}

/// One overlay mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Where it is mounted inside, absolute.
    pub mount_point: PathBuf,
    /// Read-only layers of the host, the uppermost first.
    pub lower_dirs: Vec<PathBuf>,
}

/// A value for a cgroup file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The file.
    pub path: PathBuf,
    /// What is written to it, in one write.
    pub value: String,
    /// Whether a failure is passed over (a file that only some kernels have).
    pub is_optional: bool,
}

/// A file made inside before the guest agent starts, mode 0644, owned by root. Replaces what the
/// template has there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFile {
    /// Absolute path inside.
    pub path: PathBuf,
    /// Content.
    pub content: String,
}

/// What the node sends over the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// See [`Prepare`].
    Prepare(Prepare),
    /// See [`Start`].
    Start(Start),
}

/// What the supervisor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The namespaces exist and pid 1 waits.
    Prepared {
        /// Process id of pid 1, seen from the host.
        pid: i32,
    },
    /// pid 1 became the guest agent. File descriptors as with [`Status`].
    Started {
        /// Microseconds spent by step, in order.
        steps: Vec<(String, u64)>,
    },
    /// It did not work; everything is being released.
    Failed {
        /// What was being done, with the system's words for the reason.
        message: String,
    },
}

/// A request on the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Answered by [`Status`].
    Status,
    /// Kill the sandbox. Answered by [`Status`] when the signal was sent; the supervisor exits when
    /// everything is gone.
    Stop,
    /// Write what the sandbox's disk holds in memory to its file. Answered by [`Status`] when that
    /// is done; a connection that closes instead says that it failed.
    Sync,
}

/// What runs. File descriptors: pidfd of the supervisor, pidfd of pid 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Id of the sandbox.
    pub sandbox: String,
    /// Its generation.
    pub generation: u64,
    /// Number of its cell.
    pub cell: u32,
    /// Process id of pid 1, seen from the host.
    pub pid: i32,
}

/// How pid 1 ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Number of the signal that killed it, if one did.
    pub signal: Option<i32>,
    /// Whether the end was ordered by [`Request::Stop`].
    pub is_ordered: bool,
    /// The last output of the guest agent, cut to a bounded length. Written by the guest: not to
    /// be trusted.
    pub tail: String,
}
