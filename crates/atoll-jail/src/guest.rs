//! The sandbox's pid 1 before it becomes the guest agent.
//!
//! A copy of the supervisor in new namespaces. It waits for the supervisor at two points and does
//! the steps that only a member of the namespaces can do: mount `/proc` and message queues, name
//! the host, lock itself in. It runs no guest code and reads nothing the guest wrote, up to the
//! exec.
//!
//! ```text
//!   supervisor: map ids, join cgroups ── Mapped ─▶ become root, arm the death signal
//!                                     ◀─ Ready ──
//!   supervisor: build the root        ── Go ─────▶ mount, drop, exec   (socket closes: done)
//!                                     ◀─ Failed ─  or what went wrong
//! ```

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::mount::MountAttrFlags;
use rustix::process::{Gid, Signal, Uid, chdir, set_parent_process_death_signal, setsid, umask};
use rustix::system::sethostname;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use atoll_jail::channel;
use atoll_jail::spec::GuestFile;

use crate::error::{Context, Result, failure};
use crate::mounts::{attach, clone_mount, new_mount};
use crate::privileges;
use crate::seccomp::Filters;
use crate::sys;

/// From the supervisor to pid 1.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order1 {
    /// Ids are mapped, cgroups joined.
    Mapped,
    /// The root file system is in place.
    Go(Go),
}

/// What is left to do, with the values it needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Go {
    pub(crate) hostname: String,
    pub(crate) files: Vec<GuestFile>,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<String>,
}

/// From pid 1 to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It waits for [`Order1::Go`], and dies with the supervisor.
    Ready,
    /// It could not go on.
    Failed(String),
}

/// What pid 1 inherits.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// Socket to the supervisor.
    pub(crate) socket: OwnedFd,
    /// Its standard output and error.
    pub(crate) output: OwnedFd,
    /// The socket the guest agent listens on.
    pub(crate) listener: OwnedFd,
    /// The guest agent's executable.
    pub(crate) agent: OwnedFd,
}

/// Files of `/proc` that show or reach the machine rather than the sandbox. Those that are owned by
/// the host's root are unreadable anyway; this hides them also where a kernel errs.
const HIDDEN_IN_PROC: &[&str] = &[
    "kcore",
    "keys",
    "latency_stats",
    "timer_list",
    "sched_debug",
];

/// Directories of `/proc` that are hidden.
const EMPTY_IN_PROC: &[&str] = &["scsi", "acpi", "asound"];

/// Parts of `/proc` that cannot be written.
const READ_ONLY_IN_PROC: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Runs pid 1 until it is the guest agent. Returns only on failure, which it has reported.
pub(crate) fn run(inherited: &Inherited) {
    let Err(error) = become_agent(inherited);
    // With the supervisor gone there is nobody to tell, and nothing to do but end.
    let _ = channel::send(&inherited.socket, &Answer::Failed(error.to_string()), &[]);
}

fn become_agent(inherited: &Inherited) -> Result<Infallible> {
    match receive(inherited)? {
        Order1::Mapped => {}
        Order1::Go(_) => return Err(failure("wait", "out of order")),
    }
    become_root()?;
    let proc = new_mount(
        "proc",
        &[],
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    let queues = new_mount(
        "mqueue",
        &[],
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    let filters = Filters::compile().context("compile filters")?;
    channel::send(&inherited.socket, &Answer::Ready, &[]).context("report")?;
    let Order1::Go(go) = receive(inherited)? else {
        return Err(failure("wait", "out of order"));
    };
    chdir("/").context("enter root")?;
    mount_proc(&proc)?;
    place_boot_id(&proc)?;
    attach(queues.as_fd(), CWD, "/dev/mqueue").context("attach mqueue")?;
    sethostname(go.hostname.as_bytes()).context("set host name")?;
    umask(Mode::from_raw_mode(0o022));
    go.files.iter().try_for_each(place_file)?;
    redirect_output(inherited)?;
    privileges::limit_guest().context("set limits")?;
    sys::reset_signals();
    filters.install().context("install filters")?;
    privileges::drop_guest().context("drop capabilities")?;
    exec(inherited, &go)
}

/// Waits for the supervisor. A closed socket means that it died: nothing must start then.
fn receive(inherited: &Inherited) -> Result<Order1> {
    let received = channel::receive(&inherited.socket).context("wait")?;
    let (signal, _) = received.ok_or_else(|| failure("wait", "the supervisor is gone"))?;
    Ok(signal)
}

fn become_root() -> Result<()> {
    set_thread_groups(&[]).context("drop groups")?;
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(gid, gid, gid).context("become group 0")?;
    set_thread_res_uid(uid, uid, uid).context("become user 0")?;
    // Changing ids clears it, so it comes after. A supervisor that died before is noticed by the
    // next receive.
    set_parent_process_death_signal(Some(Signal::KILL)).context("arm the death signal")?;
    setsid().context("make session")?;
    sys::unshare_cgroups().context("make cgroup namespace")
}

fn mount_proc(proc: &OwnedFd) -> Result<()> {
    match fs::create_dir("/proc") {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).context("make /proc");
        }
        _ => {}
    }
    attach(proc.as_fd(), CWD, "/proc").context("attach /proc")?;
    for name in READ_ONLY_IN_PROC {
        cover(proc, name, proc, name, sys::ATTR_RDONLY)?;
    }
    let dev = open("/dev", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context("open /dev")?;
    for name in HIDDEN_IN_PROC {
        cover(proc, name, &dev, "null", sys::ATTR_RDONLY)?;
    }
    // An empty directory that is at hand: terminals' multiplexer apart, nothing lies in mqueue.
    for name in EMPTY_IN_PROC {
        cover(
            proc,
            name,
            &dev,
            "mqueue",
            sys::ATTR_RDONLY | sys::ATTR_NOSUID,
        )?;
    }
    Ok(())
}

/// Gives this life of the sandbox a boot id of its own: programs tell reboots by it, and the
/// machine's would tell which sandboxes share a machine.
fn place_boot_id(proc: &OwnedFd) -> Result<()> {
    const NAME: &str = "boot_id";
    let dev = open("/dev", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context("open /dev")?;
    let path = Path::new("/dev").join(NAME);
    let id = fs::read("/proc/sys/kernel/random/uuid").context("draw a boot id")?;
    fs::write(&path, id).context("write the boot id")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).context("protect the boot id")?;
    cover(
        proc,
        "sys/kernel/random/boot_id",
        &dev,
        NAME,
        sys::ATTR_RDONLY,
    )?;
    // The mount keeps the file.
    fs::remove_file(&path).context("hide the boot id")
}

/// Mounts `source` over `/proc/<name>`, if that exists.
fn cover(
    proc: &OwnedFd,
    name: &str,
    source_directory: &OwnedFd,
    source: &str,
    attributes: u64,
) -> Result<()> {
    let step = || format!("cover /proc/{name}");
    if let Err(Errno::NOENT) = rustix::fs::accessat(
        proc,
        name,
        rustix::fs::Access::EXISTS,
        rustix::fs::AtFlags::empty(),
    ) {
        return Ok(());
    }
    let mount = clone_mount(source_directory, source).with_context(step)?;
    sys::mount_set_attributes(mount.as_fd(), attributes, None).with_context(step)?;
    attach(mount.as_fd(), proc, name).with_context(step)
}

/// Replaces what is there, also a symbolic link, which need not lead anywhere.
fn place_file(file: &GuestFile) -> Result<()> {
    let step = || format!("place `{}`", file.path.display());
    match fs::remove_file(&file.path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(step);
        }
        _ => {}
    }
    if let Some(parent) = file.path.parent().filter(|path| *path != Path::new("/")) {
        fs::create_dir_all(parent).with_context(step)?;
    }
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&file.path)
        .with_context(step)?;
    out.write_all(file.content.as_bytes()).with_context(step)
}

fn redirect_output(inherited: &Inherited) -> Result<()> {
    let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).context("redirect input")?;
    rustix::stdio::dup2_stdout(&inherited.output).context("redirect output")?;
    rustix::stdio::dup2_stderr(&inherited.output).context("redirect errors")
}

fn exec(inherited: &Inherited, go: &Go) -> Result<Infallible> {
    let listener = inherited.listener.as_raw_fd().to_string();
    let argv = ["envd".to_owned()]
        .into_iter()
        .chain(go.arguments.iter().cloned())
        .map(|argument| CString::new(argument.replace("{listen_fd}", &listener)))
        .collect::<std::result::Result<Vec<_>, _>>()
        .context("arguments")?;
    let env = go
        .environment
        .iter()
        .map(|entry| CString::new(entry.as_str()))
        .collect::<std::result::Result<Vec<_>, _>>()
        .context("environment")?;
    sys::cloexec_all().context("close descriptors")?;
    fcntl_setfd(&inherited.listener, FdFlags::empty()).context("pass the listener")?;
    Err(sys::exec_fd(inherited.agent.as_fd(), &argv, &env)).context("start the guest agent")
}
