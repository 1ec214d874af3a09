//! The guest binaries this binary carries; the node writes them to its data directory.

/// The guest agent, a static executable.
pub(crate) const ENVD: &[u8] = include_bytes!(env!("ATOLL_ENVD_PATH"));
/// The jail helper, a static executable.
pub(crate) const JAIL: &[u8] = include_bytes!(env!("ATOLL_JAIL_PATH"));
