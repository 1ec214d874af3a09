//! The few system calls that need `unsafe`: what a child does between fork and exec, and taking
//! over a file descriptor.

#![expect(unsafe_code, reason = "the one module of the crate that may")]

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Gid, Uid};
use tokio::io::unix::AsyncFd;

/// Signals that are reset in a child: all but the real-time ones.
const LAST_CLASSIC_SIGNAL: libc::c_int = 31;

/// Memory that the allocator keeps at its top before giving it back, in bytes.
const TRIM_THRESHOLD: libc::c_int = 256 * 1024;

/// Allocations from this size on get their own mapping and so vanish when freed, in bytes.
const MMAP_THRESHOLD: libc::c_int = 256 * 1024;

/// Makes the allocator prefer a small footprint to speed.
pub(crate) fn keep_memory_small() {
    for (option, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD),
        (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD),
    ] {
        // SAFETY: mallopt takes two integers and touches only the allocator's own settings.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Takes over a descriptor that was open when the program started.
///
/// # Errors
/// If there is no such descriptor.
pub(crate) fn take_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag of the descriptor table, whatever the number.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, was given to this program on its command line, and is taken
    // once, at start.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

/// Lets tasks wait for a descriptor.
///
/// # Errors
/// If there is no runtime or the descriptor cannot be polled.
pub(crate) fn watch_descriptor(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays open, and stays the same descriptor, as long as the AsyncFd that
    // owns it.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}

/// What a child makes of itself before it becomes the program.
#[derive(Debug)]
pub(crate) struct Becoming {
    /// Real, effective and saved.
    pub(crate) uid: Uid,
    /// Real, effective and saved.
    pub(crate) gid: Gid,
    /// Supplementary.
    pub(crate) groups: Vec<Gid>,
    /// Entered with the user's own rights.
    pub(crate) cwd: CString,
    /// Whether standard input is a terminal to be controlled by.
    pub(crate) terminal: bool,
    /// For `/proc/self/oom_score_adj`, as text.
    pub(crate) oom_score: &'static [u8],
}

/// Makes the command start its program as described.
pub(crate) fn become_before_exec(command: &mut Command, becoming: Becoming) {
    // SAFETY: the closure runs in the child between fork and exec and makes only system calls on
    // values prepared before.
    unsafe { command.pre_exec(move || becoming.apply()) };
}

impl Becoming {
    /// Async-signal-safe: no allocation, no locks.
    fn apply(&self) -> io::Result<()> {
        reset_signals();
        // Best effort: /proc may not be mounted, and a lower score than the agent's own may be
        // refused.
        if let Ok(file) = rustix::fs::open(
            c"/proc/self/oom_score_adj",
            rustix::fs::OFlags::WRONLY,
            rustix::fs::Mode::empty(),
        ) {
            let _ = rustix::io::write(&file, self.oom_score);
        }
        rustix::process::setsid()?;
        if self.terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        // Not root: there is nothing to drop, and asking would be refused.
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_groups(&self.groups)?;
            rustix::thread::set_thread_res_gid(self.gid, self.gid, self.gid)?;
            rustix::thread::set_thread_res_uid(self.uid, self.uid, self.uid)?;
        }
        rustix::process::chdir(self.cwd.as_c_str())?;
        Ok(())
    }
}

fn reset_signals() {
    for signal in 1..=LAST_CLASSIC_SIGNAL {
        // SAFETY: SIG_DFL is a valid disposition; for the two signals that cannot be changed the
        // call just fails.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero sigset_t is the empty set on Linux.
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set lives across the call and the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut()) };
}
