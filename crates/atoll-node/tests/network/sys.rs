//! The one call of these tests that the compiler cannot check.
#![expect(
    unsafe_code,
    reason = "changing namespaces is unsafe to threads that share them"
)]

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Puts the calling thread, and those it starts later, into new network and mount namespaces.
pub(crate) fn enter_fresh_namespaces() -> rustix::io::Result<()> {
    let fresh = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    // SAFETY: file descriptors and the file system context stay shared; only namespaces change.
    unsafe { unshare_unsafe(fresh) }
}
