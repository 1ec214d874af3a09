//! The messages and services of `spec/proto` in Rust.
//!
//! Everything here is generated at build time and has no logic. The JSON names, the field numbers
//! and the paths (`/process.Process/Start`) are what the E2B SDKs use, so the generated types are
//! the wire and nothing else; a crate that needs a domain type converts at its own border.
//!
//! The feature `client` adds `ProcessClient` and `FilesystemClient`; servers do without.

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

pub use generated::filesystem::__buffa::oneof as filesystem_oneof;
pub use generated::process::__buffa::oneof as process_oneof;
pub use generated::{filesystem, process};

/// The version of the envd protocol that this build's guest agent implements. Clients enable
/// features by it, so it is raised only together with what it promises.
pub const ENVD_VERSION: &str = "0.6.13";
