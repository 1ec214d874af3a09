//! Compiles the protocol files of `spec/proto` in pure Rust: no `protoc` is needed on the machine.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

/// What the guest agent serves.
const GUEST: [&str; 2] = ["process.proto", "filesystem.proto"];

/// What the orchestrator serves.
const ORCHESTRATOR: [&str; 8] = [
    "atoll/orchestrator/v1/event.proto",
    "atoll/orchestrator/v1/health.proto",
    "atoll/orchestrator/v1/node.proto",
    "atoll/orchestrator/v1/orchestrator.proto",
    "atoll/orchestrator/v1/resources.proto",
    "atoll/orchestrator/v1/sandbox.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
];

/// What the parts of a fleet say to each other.
const NODE: [&str; 1] = ["atoll/node/v1/node.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    compile("protocols", &GUEST)?;
    if env::var_os("CARGO_FEATURE_ORCHESTRATOR").is_some() {
        compile("orchestrator", &ORCHESTRATOR)?;
    }
    if env::var_os("CARGO_FEATURE_NODE").is_some() {
        compile("node", &NODE)?;
    }
    Ok(())
}

/// Makes `<name>.rs` with the messages and services of `files`, and `<name>.fds.bin` with their
/// descriptors.
fn compile(name: &str, files: &[&str]) -> Result<(), Box<dyn Error>> {
    let dir = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../spec/proto");
    for file in files {
        println!("cargo::rerun-if-changed={}", dir.join(file).display());
    }
    let descriptors = protox::Compiler::new([&dir])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(files)?
        .encode_file_descriptor_set();
    let set = Path::new(&env::var("OUT_DIR")?).join(format!("{name}.fds.bin"));
    fs::write(&set, descriptors)?;
    connectrpc_build::Config::new()
        .descriptor_set(set)
        .files(files)
        .client_feature_name("client")
        .emit_register_fn(false)
        .include_file(format!("{name}.rs"))
        // It would name the set that this script has just written, which cargo then finds newer
        // than the script's start: every first build would be followed by a second one.
        .emit_rerun_directives(false)
        .compile()?;
    Ok(())
}
