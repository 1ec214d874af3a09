//! What processes inside a sandbox may do at most: capabilities and resource limits.
//!
//! Capabilities are held in the sandbox's own user namespace, so each reaches only what belongs to
//! it. The set is what makes `apt`, `sudo`, `su`, `chown`, `chroot` and debuggers work for root
//! inside; everything else is removed from the bounding set, so no program started later can have
//! it.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::sys;

/// What root inside keeps.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE);

/// What the supervisor keeps once the sandbox runs: killing it and removing its cgroups.
const SUPERVISOR: CapabilitySet = CapabilitySet::KILL.union(CapabilitySet::DAC_OVERRIDE);

/// Open files of a process, soft and hard, as on an ordinary machine.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// The kernel takes a core size limit of 1 as "not even to a handler program", which would run on
/// the host.
const CORE_BYTES: u64 = 1;

/// Drops everything but the kept set, for this process and all it starts.
pub(crate) fn drop_guest() -> io::Result<()> {
    for capability in 0..64 {
        let is_kept = KEPT.bits() & (1 << capability) != 0;
        if !is_kept && !sys::drop_bounding(capability)? {
            break;
        }
    }
    // The permitted set must not grow at exec: that would clear the parent death signal.
    set_capabilities(
        None,
        CapabilitySets {
            effective: KEPT,
            permitted: KEPT,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

/// Drops what a supervisor does not need any more.
pub(crate) fn drop_supervisor() -> io::Result<()> {
    set_capabilities(
        None,
        CapabilitySets {
            effective: SUPERVISOR,
            permitted: SUPERVISOR,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

/// Sets the resource limits of this process and all it starts; never above what it may.
pub(crate) fn limit_guest() -> io::Result<()> {
    let hard = getrlimit(Resource::Nofile)
        .maximum
        .map_or(OPEN_FILES.1, |now| now.min(OPEN_FILES.1));
    let limits = [
        (Resource::Nofile, OPEN_FILES.0.min(hard), hard),
        (Resource::Core, CORE_BYTES, CORE_BYTES),
    ];
    for (resource, soft, hard) in limits {
        setrlimit(
            resource,
            Rlimit {
                current: Some(soft),
                maximum: Some(hard),
            },
        )?;
    }
    Ok(())
}
