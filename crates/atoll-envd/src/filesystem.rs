//! Files by name: attributes, directories, and what changes in them. Contents are in
//! [`crate::rest`].
//!
//! Everything is done with the agent's own rights and then given to the user of the request, which
//! is what clients of the protocol rely on: it lets them reach any file of their sandbox.

pub(crate) mod entry;
pub(crate) mod service;
pub(crate) mod tree;
pub(crate) mod watch;
pub(crate) mod watchers;
