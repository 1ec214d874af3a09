//! Templates made for real, mounted and used.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests measure and start programs"
)]

mod base;
mod image;
mod import;
mod registry;
mod world;
