//! The only unsafe code of the helper: system calls that have no safe wrapper.
//!
//! Everything here is called from a process with one thread, which is what makes `clone` without a
//! new stack and the credential calls sound.
#![expect(unsafe_code, reason = "the one module that makes raw system calls")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::Pid;
use seccompiler::sock_filter;

/// The two sides of [`clone_process`].
#[derive(Debug)]
pub(crate) enum Side {
    /// The new process.
    Child,
    /// The caller.
    Parent {
        /// The new process, as the caller sees it.
        pid: Pid,
        /// A handle of it that cannot come to mean another process.
        pidfd: OwnedFd,
    },
}

/// Like `fork`, into the new namespaces named by `namespaces` (`CLONE_NEW*`).
pub(crate) fn clone_process(namespaces: u64) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all fields are integers, for which zero is valid and means "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | u64::from(libc::CLONE_PIDFD.cast_unsigned());
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of everything. The
    // process has one thread, so no lock is held by another one.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    match i32::try_from(pid) {
        Ok(0) => Ok(Side::Child),
        Ok(pid) if pid > 0 => Ok(Side::Parent {
            pid: Pid::from_raw(pid).expect("checked to be positive"),
            // SAFETY: the kernel stored a new descriptor there, owned by nobody else.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the process's present cgroups the roots of a cgroup namespace of its own.
pub(crate) fn unshare_cgroups() -> io::Result<()> {
    // SAFETY: unsafe only for CLONE_FILES, which is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }?;
    Ok(())
}

/// Closes every descriptor from 3 up. To be called first in `main`, before anything owns one.
pub(crate) fn close_inherited() -> io::Result<()> {
    // SAFETY: at the start of the program no object owns a descriptor above 2.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) })
}

/// Marks every descriptor from 3 up close-on-exec.
pub(crate) fn cloexec_all() -> io::Result<()> {
    // SAFETY: changes flags of descriptors only.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
}

/// Takes descriptor 0 as an owned one, leaving descriptor 0 in place as `/dev/null`.
pub(crate) fn take_stdin(null: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: descriptor 0 is open: the program is started with a socket there.
    let stdin = unsafe { BorrowedFd::borrow_raw(0) };
    let owned = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(owned)
}

/// Sets the ids that file system access is judged by. Keeps capabilities only if the secure bit
/// `NO_SETUID_FIXUP` is set.
pub(crate) fn set_fs_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: changes the calling thread's credentials only.
    unsafe { libc::setfsgid(gid) };
    // SAFETY: as above.
    unsafe { libc::setfsuid(uid) };
    // The calls report no failure; an impossible id makes them report the present one.
    // SAFETY: as above.
    let now = unsafe { libc::setfsuid(u32::MAX) };
    if now.cast_unsigned() == uid {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}

/// Layout of the kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `MOUNT_ATTR_RDONLY`
pub(crate) const ATTR_RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`
pub(crate) const ATTR_NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`
pub(crate) const ATTR_NODEV: u64 = 0x4;
/// `MOUNT_ATTR_IDMAP`
const ATTR_IDMAP: u64 = 0x0010_0000;

/// Sets attributes of the mount behind `mount`; with a user namespace, also maps its ids by it.
pub(crate) fn mount_set_attributes(
    mount: BorrowedFd<'_>,
    attributes: u64,
    id_map: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attr = MountAttr {
        attr_set: attributes,
        ..MountAttr::default()
    };
    if let Some(user_namespace) = id_map {
        attr.attr_set |= ATTR_IDMAP;
        attr.userns_fd = u64::from(user_namespace.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the structure and the empty path outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
}

/// Layout of the kernel's `struct sock_fprog`.
#[repr(C)]
struct FilterProgram {
    len: libc::c_ushort,
    filter: *const sock_filter,
}

/// Installs a seccomp filter without `no_new_privs`: the caller holds `CAP_SYS_ADMIN` in its user
/// namespace.
pub(crate) fn install_filter(program: &[sock_filter]) -> io::Result<()> {
    let program = FilterProgram {
        len: u16::try_from(program.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        filter: program.as_ptr(),
    };
    // SAFETY: the program outlives the call, and its length is right.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })
}

/// Removes one capability from the bounding set; `false` if the kernel knows no such capability.
pub(crate) fn drop_bounding(capability: u32) -> io::Result<bool> {
    // SAFETY: changes the calling thread's credentials only.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)) };
    match check(libc::c_long::from(result)) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Gives every signal its default action and unblocks all of them: both survive `exec`.
pub(crate) fn reset_signals() {
    // SAFETY: all-zero is a valid empty signal set.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is a valid place to write to.
    unsafe { libc::sigemptyset(&raw mut none) };
    // SAFETY: the set is valid; no old set is asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default action needs no handler of ours; numbers that cannot be set fail.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Replaces the process by the program behind `file`. Returns only on failure.
pub(crate) fn exec_fd(file: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|text| CStr::as_ptr(text))
            .chain([ptr::null()])
            .collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end in null and outlive the call, as do the texts they point to.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
