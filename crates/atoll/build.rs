//! Builds the two guest binaries, `atoll-envd` and `atoll-jail`, and hands their paths to the
//! crate, which embeds them: `cargo run` alone makes a complete Atoll.
//!
//! Both run inside file systems we know nothing about, so they are linked statically, in a profile
//! and a target directory of their own (which also keeps this nested cargo from waiting for the
//! lock of the outer one). `ATOLL_GUEST_DIR` names a folder with ready-made binaries instead.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

const GUESTS: [&str; 2] = ["atoll-envd", "atoll-jail"];
const PROFILE: &str = "guest";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=ATOLL_GUEST_DIR");
    let folder = match env::var_os("ATOLL_GUEST_DIR") {
        Some(ready_made) => PathBuf::from(ready_made),
        None => build_guests()?,
    };
    for guest in GUESTS {
        let path = folder.join(guest);
        if !path.is_file() {
            return Err(format!("no guest binary at {}", path.display()).into());
        }
        println!("cargo::rerun-if-changed={}", path.display());
        let name = guest.replace('-', "_").to_uppercase();
        println!("cargo::rustc-env={name}_PATH={}", path.display());
    }
    println!("cargo::rustc-env=ATOLL_COMMIT={}", commit());
    Ok(())
}

fn build_guests() -> Result<PathBuf, Box<dyn Error>> {
    let workspace = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?)
        .join("../..")
        .canonicalize()?;
    for source in ["Cargo.lock", "Cargo.toml", "spec/proto"] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(source).display()
        );
    }
    for guest in ["atoll-envd", "atoll-jail", "atoll-proto"] {
        let folder = workspace.join("crates").join(guest);
        println!("cargo::rerun-if-changed={}", folder.join("src").display());
        println!(
            "cargo::rerun-if-changed={}",
            folder.join("Cargo.toml").display()
        );
    }

    let target = guest_target()?;
    let target_dir = workspace.join("target/guest");
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo
        .current_dir(&workspace)
        .arg("build")
        .args(["--profile", PROFILE, "--target", &target]);
    cargo.arg("--target-dir").arg(&target_dir);
    for guest in GUESTS {
        cargo.args(["--package", guest]);
    }
    // What the outer cargo sets for this script is about another profile and target.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let is_outer = (text.starts_with("CARGO_") && text != "CARGO_HOME")
            || matches!(
                text.as_ref(),
                "RUSTFLAGS" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER"
            );
        if is_outer {
            cargo.env_remove(&name);
        }
    }
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    if !cargo.status()?.success() {
        return Err("the guest binaries do not build; their errors stand above".into());
    }
    Ok(target_dir.join(target).join(PROFILE))
}

/// The guest runs on this machine's kernel; glibc is the libc every toolchain brings.
fn guest_target() -> Result<String, Box<dyn Error>> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    Ok(format!("{arch}-unknown-linux-gnu"))
}

/// The commit this is built from, for `--version` and for what benchmarks print.
fn commit() -> String {
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
