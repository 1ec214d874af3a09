//! Getting what the tests need onto the machine, by package name.
//!
//! System packages come through `apt-get` and only where it exists and we are root; what is there
//! already is left alone. Python and JavaScript packages go into folders of the checkout that git
//! ignores, never into the system. Nothing is fetched by address.

use anyhow::{Context, Result};

use crate::command::{Tool, headline, is_installed};

/// A program the tests call, and the Debian package that brings it.
pub(crate) struct SystemNeed {
    program: &'static str,
    package: &'static str,
    /// What cannot be tested without it.
    purpose: &'static str,
}

const fn need(program: &'static str, package: &'static str, purpose: &'static str) -> SystemNeed {
    SystemNeed {
        program,
        package,
        purpose,
    }
}

/// What the tests call beyond a Rust toolchain.
const SYSTEM: [SystemNeed; 8] = [
    need("cc", "gcc", "building the bundled SQLite"),
    need(
        "git",
        "git",
        "listing the files of the checkout, and git inside sandboxes",
    ),
    need(
        "python3",
        "python3",
        "the Python conformance suite, and `base`'s interpreter",
    ),
    need("nft", "nftables", "egress rules of the jail driver"),
    need("ip", "iproute2", "network namespaces in tests"),
    need("mkfs.ext4", "e2fsprogs", "disk limits of the jail driver"),
    need("sudo", "sudo", "root inside sandboxes of `base`"),
    need("curl", "curl", "requests from inside sandboxes"),
];

/// Installs the system packages that are missing; what cannot be had is said, and the tests that
/// need it fail or skip by themselves with their own reason.
pub(crate) fn system() -> Result<()> {
    headline("test: what the tests need");
    let missing: Vec<&SystemNeed> = SYSTEM
        .iter()
        .filter(|need| !is_installed(need.program))
        .collect();
    if missing.is_empty() {
        println!("every system package is there");
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    if !is_installed("apt-get") || !is_root() {
        for need in &missing {
            println!(
                "missing: `{}` (Debian package {}): {}",
                need.program, need.package, need.purpose
            );
        }
        println!("install them, or run this as root on Debian or Ubuntu; going on without");
        return Ok(());
    }
    apt_install(&packages)
}

fn apt_install(packages: &[&str]) -> Result<()> {
    println!("installing {}", packages.join(" "));
    apt(&["update", "-q"]).context("refresh apt's package lists")?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments).with_context(|| format!("install {}", packages.join(" ")))
}

fn apt(arguments: &[&str]) -> Result<()> {
    Tool::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .run()
}

/// Whether we may install packages and run the tests that need privileges.
pub(crate) fn is_root() -> bool {
    Tool::new("id")
        .args(["-u"])
        .output()
        .is_ok_and(|uid| uid.trim() == "0")
}
