//! Which system calls a sandbox may not make.
//!
//! The list takes away what reaches kernel code that a sandbox has no use for, and every call that
//! makes or enters a namespace or changes mounts. It is a deny list with an upper bound: a call
//! that is newer than the list is unknown to it and answered `ENOSYS`, as an older kernel would.
//! What is left is guarded by the user namespace, the dropped capabilities and the cgroups, as
//! ever.
//!
//! `clone3` answers `ENOSYS`, because its flags are behind a pointer that a filter cannot follow;
//! every C library falls back to `clone`, whose flags are checked. Programs of another architecture
//! (32-bit x86) are killed at their first call.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::sys;

/// The newest call the list was reviewed against: `file_setattr` of Linux 6.17. The number is the
/// same on every architecture.
const NEWEST_REVIEWED_CALL: u32 = 469;

/// Calls that answer `EPERM`, whatever their arguments.
const DENIED: &[c_long] = &[
    // Other kernels, other code in this kernel.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    // Keyrings are not namespaced by all that a sandbox is.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Mounts.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    // Reaching files around the directory tree.
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Namespaces; `clone` and `unshare` are judged by their flags.
    libc::SYS_setns,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Calls that answer `ENOSYS`, so that libraries take their other way.
const ABSENT: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Flags of `clone` and `unshare` that make a namespace.
const NAMESPACE_FLAGS: &[i32] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// `CLONE_NEWTIME`; means something else to `clone`, so it is judged for `unshare` only.
const CLONE_NEWTIME: i32 = 0x80;

/// Execution domains that are let through: Linux, 32-bit Linux, both with a kernel 2.6 version
/// number, both without address randomization (debuggers), and the query.
const PERSONALITIES: &[u64] = &[0, 8, 0x2_0000, 0x2_0008, 0x4_0000, 0x4_0008, 0xffff_ffff];

/// Socket families a sandbox may use: Unix, IPv4, IPv6, netlink, and packet, which fails for want
/// of a capability but is a common probe. Left out above all: vsock, which reaches the hypervisor.
const FAMILIES: &[i32] = &[
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
    libc::AF_PACKET,
];

/// Terminal controls that put input into a terminal: `TIOCSTI`, `TIOCLINUX`.
const TERMINAL_INJECTIONS: &[u64] = &[0x5412, 0x541c];

/// The compiled filters, in the order of installation.
#[derive(Debug)]
pub(crate) struct Filters(Vec<BpfProgram>);

impl Filters {
    /// Compiles them.
    pub(crate) fn compile() -> io::Result<Self> {
        let absent = ABSENT.iter().map(|call| (*call, Vec::new())).collect();
        Ok(Self(vec![
            newest_call_filter(),
            program(absent, libc::ENOSYS)?,
            program(denied_rules()?, libc::EPERM)?,
        ]))
    }

    /// Installs them on this process and all it starts.
    pub(crate) fn install(&self) -> io::Result<()> {
        self.0
            .iter()
            .try_for_each(|program| sys::install_filter(program))
    }
}

/// Answers `ENOSYS` to calls above the newest reviewed one; those of the x32 ABI are among them,
/// because they have a high bit set.
fn newest_call_filter() -> BpfProgram {
    /// Load the word at offset `k` of the call's description; the number is at offset zero.
    const LOAD_WORD: u16 = 0x20;
    /// Jump if the loaded word is greater than `k`.
    const JUMP_IF_GREATER: u16 = 0x25;
    /// End with the action `k`.
    const RETURN: u16 = 0x06;
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        instruction(LOAD_WORD, 0, 0, 0),
        instruction(JUMP_IF_GREATER, 0, 1, NEWEST_REVIEWED_CALL),
        instruction(
            RETURN,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(),
        ),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

fn denied_rules() -> io::Result<BTreeMap<c_long, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<_, _> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let has_flag = |flag: &i32| {
        let flag = u64::from(flag.cast_unsigned());
        rule(&[(0, SeccompCmpOp::MaskedEq(flag), flag)])
    };
    let clone: Vec<_> = NAMESPACE_FLAGS
        .iter()
        .map(has_flag)
        .collect::<io::Result<_>>()?;
    let mut unshare = clone.clone();
    unshare.push(has_flag(&CLONE_NEWTIME)?);
    rules.insert(libc::SYS_clone, clone);
    rules.insert(libc::SYS_unshare, unshare);
    rules.insert(libc::SYS_personality, vec![none_of(PERSONALITIES)?]);
    let families: Vec<u64> = FAMILIES
        .iter()
        .map(|family| u64::from(family.cast_unsigned()))
        .collect();
    rules.insert(libc::SYS_socket, vec![none_of(&families)?]);
    rules.insert(libc::SYS_socketpair, vec![none_of(&families)?]);
    let injections = TERMINAL_INJECTIONS
        .iter()
        .map(|request| rule(&[(1, SeccompCmpOp::Eq, *request)]))
        .collect::<io::Result<_>>()?;
    rules.insert(libc::SYS_ioctl, injections);
    Ok(rules)
}

/// Matches when the first argument is none of these.
fn none_of(values: &[u64]) -> io::Result<SeccompRule> {
    let conditions: Vec<_> = values
        .iter()
        .map(|value| (0, SeccompCmpOp::Ne, *value))
        .collect();
    rule(&conditions)
}

/// Matches when all conditions (argument number, comparison, value) hold. Only the low half of an
/// argument is compared: the kernel ignores the high half of these calls' integers too.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> io::Result<SeccompRule> {
    let conditions = conditions
        .iter()
        .map(|(argument, comparison, value)| {
            SeccompCondition::new(
                *argument,
                SeccompCmpArgLen::Dword,
                comparison.clone(),
                *value,
            )
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::other)?;
    SeccompRule::new(conditions).map_err(io::Error::other)
}

fn program(rules: BTreeMap<c_long, Vec<SeccompRule>>, errno: i32) -> io::Result<BpfProgram> {
    let arch = if cfg!(target_arch = "aarch64") {
        TargetArch::aarch64
    } else {
        TargetArch::x86_64
    };
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        arch,
    )
    .map_err(io::Error::other)?;
    BpfProgram::try_from(filter).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_fit_the_kernel_limit() {
        let filters = Filters::compile().unwrap();
        let length: usize = filters.0.iter().map(Vec::len).sum();
        assert!(length < 4096, "{length} instructions");
    }
}
