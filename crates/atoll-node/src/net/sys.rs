//! The one unsafe system call of this part.
#![expect(
    unsafe_code,
    reason = "unshare(2) has no safe wrapper that is not deprecated"
)]

use std::io;

use rustix::thread::UnshareFlags;

/// Moves the calling thread into a new network namespace.
///
/// # Errors
/// As unshare(2): no privilege, or no more namespaces allowed.
pub(super) fn unshare_network() -> io::Result<()> {
    // SAFETY: CLONE_NEWNET affects only the calling thread's view of the network; no memory, file
    // descriptor table or file system state that other threads rely on is split off.
    // JUSTIFICATION: rustix keeps a safe `unshare`, but has deprecated it.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}
