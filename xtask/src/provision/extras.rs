//! Other products that tests run against if they can be had. Without one its tests print that they
//! are skipped, and nothing else is missing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{Tool, is_installed};
use crate::workspace;

/// A program of another product.
struct Extra {
    program: &'static str,
    /// The Debian package that brings it.
    package: &'static str,
    /// Where the program is in the package.
    path: &'static str,
    /// A release of Debian that has the package.
    suite: &'static str,
    purpose: &'static str,
}

const EXTRAS: [Extra; 2] = [
    Extra {
        program: "consul",
        package: "consul",
        path: "usr/bin/consul",
        suite: "bullseye",
        purpose: "discovery beside a real Consul",
    },
    // Not installed: it would run.
    Extra {
        program: "promtool",
        package: "prometheus",
        path: "usr/bin/promtool",
        suite: "bookworm",
        purpose: "rules of alerts",
    },
];

/// What signs Debian's releases.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Gets what is missing. It is unpacked beside the build and not installed: what it would pull in,
/// or start, is not for the machine.
pub(super) fn get() {
    for extra in &EXTRAS {
        let beside = workspace::target().join(extra.program);
        if is_installed(extra.program) || beside.join(extra.path).exists() {
            continue;
        }
        if let Err(error) = extra.unpack(&beside) {
            println!(
                "{} is not to be had ({error:#}): tests of {} will say that they are skipped",
                extra.program, extra.purpose
            );
        }
    }
}

impl Extra {
    fn unpack(&self, beside: &Path) -> Result<()> {
        anyhow::ensure!(
            is_installed("apt-get") && is_installed("dpkg-deb"),
            "it is a Debian package, and this is no Debian"
        );
        let work = beside.with_extension("apt");
        for folder in ["lists/partial", "cache/archives/partial", "package"] {
            fs::create_dir_all(work.join(folder))?;
        }
        let package = work.join("package");
        let own = Tool::new("apt-get").directory(&package);
        if !own.args(["download", "-q", self.package]).succeeds() {
            let (mirror, suite) = (mirror()?, self.suite);
            let source = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
            fs::write(work.join("sources.list"), source)?;
            self.apt(&work, &work, &["update", "-q"])?;
            self.apt(&work, &package, &["download", "-q", self.package])?;
        }
        let archive = first(&package)?;
        let unpacked = Tool::new("dpkg-deb").args([Path::new("-x"), &archive, beside]);
        unpacked.run()?;
        fs::remove_dir_all(&work).context("remove what it was made from")
    }

    /// Runs `apt-get` with sources and state of its own.
    fn apt(&self, work: &Path, directory: &Path, arguments: &[&str]) -> Result<()> {
        let option = |name: &str, path: &str| format!("-o{name}={}", work.join(path).display());
        Tool::new("apt-get")
            .directory(directory)
            .args([
                option("Dir::Etc::sourcelist", "sources.list"),
                option("Dir::State::lists", "lists"),
                option("Dir::Cache", "cache"),
                "-oDir::Etc::sourceparts=-".to_owned(),
                "-oAPT::Sandbox::User=root".to_owned(),
            ])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .run()
            .with_context(|| format!("get {} of {}", self.package, self.suite))
    }
}

/// Where this machine gets Debian's packages from.
fn mirror() -> Result<String> {
    let sources = Tool::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)"])
        .output()?;
    let found = sources
        .lines()
        .map(|line| line.trim().trim_end_matches('/'))
        .find(|line| line.ends_with("/debian"));
    found
        .map(str::to_owned)
        .context("this machine has no source of Debian's packages")
}

fn first(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder)?;
    let entry = entries.next().context("nothing was downloaded")??;
    Ok(entry.path())
}
