//! Compiles the protocol files of `spec/proto` in pure Rust: no `protoc` is needed on the machine.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

const FILES: [&str; 2] = ["process.proto", "filesystem.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let dir = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../spec/proto");
    for file in FILES {
        println!("cargo::rerun-if-changed={}", dir.join(file).display());
    }
    let descriptors = protox::Compiler::new([&dir])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(FILES)?
        .encode_file_descriptor_set();
    let set = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(&set, descriptors)?;
    connectrpc_build::Config::new()
        .descriptor_set(set)
        .files(&FILES)
        .client_feature_name("client")
        .emit_register_fn(false)
        .include_file("protocols.rs")
        .compile()?;
    Ok(())
}
