//! The slot pool against the real kernel, in namespaces made for each test.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests measure and start helpers")]

mod egress;
mod pool;
mod sys;
mod world;
