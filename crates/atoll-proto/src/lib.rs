//! The messages and services of `spec/proto` in Rust.
//!
//! The types are generated at build time and have no logic. The JSON names, the field numbers and
//! the paths (`/process.Process/Start`) are what clients use, so the generated types are the wire
//! and nothing else; a crate that needs a domain type converts at its own border. What the parts of
//! a fleet say to each other is for several crates of ours, so its conversions are here, in
//! [`node_domain`]; a heartbeat becomes its message here too.
//!
//! The feature `client` adds the clients of the services; servers do without. The feature
//! `orchestrator` adds the orchestrator's service and `node` what the parts of a fleet say to each
//! other, which the guest agent does not need.

#![forbid(unsafe_code)]

mod generated {
    #![allow(
        warnings,
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated code follows the rules of its generator"
    )]
    include!(concat!(env!("OUT_DIR"), "/protocols.rs"));
}

#[cfg(feature = "orchestrator")]
mod orchestrated {
    #![allow(
        warnings,
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated code follows the rules of its generator"
    )]
    include!(concat!(env!("OUT_DIR"), "/orchestrator.rs"));
}

#[cfg(feature = "node")]
pub mod join_token;
#[cfg(feature = "node")]
pub mod node_domain;

#[cfg(all(feature = "node", feature = "orchestrator"))]
mod orchestrator_domain;

#[cfg(feature = "node")]
mod fleet {
    #![allow(
        warnings,
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated code follows the rules of its generator"
    )]
    include!(concat!(env!("OUT_DIR"), "/node.rs"));
}

#[cfg(feature = "node")]
pub use fleet::atoll::node::v1 as node;
#[cfg(feature = "node")]
pub use fleet::atoll::node::v1::__buffa::oneof as node_oneof;
pub use generated::filesystem::__buffa::oneof as filesystem_oneof;
pub use generated::process::__buffa::oneof as process_oneof;
pub use generated::{filesystem, process};
#[cfg(feature = "orchestrator")]
pub use orchestrated::atoll::orchestrator::v1 as orchestrator;
#[cfg(feature = "orchestrator")]
pub use orchestrated::atoll::orchestrator::v1::__buffa::oneof as orchestrator_oneof;
#[cfg(feature = "orchestrator")]
pub use orchestrated::google::rpc as google_rpc;

/// The descriptors of the orchestrator's service and of everything it uses, as a
/// `google.protobuf.FileDescriptorSet`: what server reflection tells.
#[cfg(feature = "orchestrator")]
pub const ORCHESTRATOR_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/orchestrator.fds.bin"));

/// Names of the connections into sandboxes, which are no messages: an HTTP/1.1 upgrade of
/// `GET /tunnel/<sandbox>/<generation>/<port>` on the node's port.
pub mod tunnel {
    /// What stands before the sandbox's id in the path.
    pub const PATH_PREFIX: &str = "/tunnel/";
    /// What the connection is upgraded to.
    pub const PROTOCOL: &str = "atoll-tunnel";
}

/// The version of the envd protocol that this build's guest agent implements. Clients enable
/// features by it, so it is raised only together with what it promises.
pub const ENVD_VERSION: &str = "0.6.13";
