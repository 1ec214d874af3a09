//! A template from a Debian suite, made by `mmdebstrap`.
//!
//! The tool writes a tar archive to its standard output, which goes through the same unpacker and
//! limits as any other archive. It gets packages from the configured mirror, or from the one that
//! the host itself uses, through the host's proxy.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};

use super::tree::{Meta, Tree};
use super::unpack::{self, Budget, UnpackError};
use crate::sys;

/// The tool, and the package that has it.
const TOOL: &str = "mmdebstrap";
/// In every template of this kind, beside the suite's minimal set.
const PACKAGES: [&str; 2] = ["ca-certificates", "sudo"];
/// Lines of the tool's output that an error repeats.
const LAST_LINES: usize = 12;
/// Longest line of the tool's output that is passed on.
const MAX_LINE: usize = 400;
const MAX_NAME_LEN: usize = 100;

/// Why there is no such template.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// The tool is missing.
    #[error("`{TOOL}` is not installed; install the package `{TOOL}`")]
    NotInstalled,
    /// A suite or package name that is none.
    #[error("`{0}` is not a name of a suite or package")]
    Name(String),
    /// The tool could not be run.
    #[error("run `{TOOL}`")]
    Run(#[source] io::Error),
    /// The tool failed.
    #[error("`{TOOL}` failed: {0}")]
    Failed(String),
    /// What it made is refused.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

impl DebianError {
    /// Whether the suite or a package is at fault, as far as the tool tells: it fails alike for a
    /// name that no mirror knows and for a mirror that does not answer, and the first is usual.
    pub(super) fn is_sources_fault(&self) -> bool {
        match self {
            Self::Name(_) | Self::Failed(_) => true,
            Self::Unpack(error) => error.is_sources_fault(),
            Self::NotInstalled | Self::Run(_) => false,
        }
    }
}

/// Makes the suite with more packages and unpacks it into the tree. `scratch` is a directory for
/// the tool.
pub(super) fn import(
    suite: &str,
    packages: &[String],
    mirror: Option<&str>,
    scratch: &Path,
    tree: &Tree,
    budget: &mut Budget,
    log: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), DebianError> {
    let wanted = packages.iter().map(String::as_str);
    let names: Vec<&str> = PACKAGES.into_iter().chain(wanted).collect();
    for name in names.iter().chain([&suite]) {
        // Names go into the tool's arguments: nothing that it could take for an option or a list.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+.:-_".contains(&byte);
        let begins = name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if !begins || name.len() > MAX_NAME_LEN || !name.bytes().all(is_plain) {
            return Err(DebianError::Name((*name).to_owned()));
        }
    }
    let mut command = confined();
    command
        .arg(TOOL)
        .arg("--variant=minbase")
        .arg("--format=tar")
        .arg(format!("--include={}", names.join(",")))
        // The scratch directory is closed to apt's own user.
        .arg("--aptopt=APT::Sandbox::User \"root\"")
        .args(proxies())
        .args([suite, "-"])
        .args(mirror.map(str::to_owned).or_else(host_mirror))
        .env("TMPDIR", scratch)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if !is_installed() {
        return Err(DebianError::NotInstalled);
    }
    let mut child = command.spawn().map_err(DebianError::Run)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let told = scope.spawn(move || relay(stderr, log));
        let unpacked = stdout.map_or(Ok(()), |archive| unpack::unpack(archive, tree, budget));
        if unpacked.is_err() {
            // Everything it started and mounted ends with it. It may have ended already, which is
            // an error that says nothing new.
            let _ = rustix::process::kill_process(Pid::from_child(&child), Signal::KILL);
        }
        let status = child.wait().map_err(DebianError::Run)?;
        let last_lines = told.join().unwrap_or_default();
        match unpacked {
            // The tool takes the host's name along.
            Ok(()) if status.success() => tree
                .file("etc/hostname", Meta::root(0o644), "sandbox\n")
                .map_err(DebianError::Run),
            // An archive that breaks off tells nothing; the tool does.
            Ok(()) | Err(UnpackError::Damaged(_)) => Err(DebianError::Failed(last_lines)),
            Err(refused) => Err(refused.into()),
        }
    })
}

/// A command that runs another in namespaces of its own for processes and mounts: whatever it
/// mounts is never seen outside, and when this process dies, the kernel ends all of it.
fn confined() -> Command {
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation=private",
        "--pid",
        "--mount-proc",
        "--fork",
        "--kill-child=SIGKILL",
        "--",
    ]);
    sys::end_with_parent(&mut command);
    command
}

fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(TOOL).is_file())
}

/// Passes the tool's messages on, and returns the last of them.
fn relay(stderr: Option<impl Read>, log: &(dyn Fn(&str) + Send + Sync)) -> String {
    let mut last: Vec<String> = Vec::new();
    let Some(stderr) = stderr else {
        return String::new();
    };
    for line in BufReader::new(stderr).split(b'\n') {
        let Ok(line) = line else { break };
        let line: String = String::from_utf8_lossy(&line)
            .chars()
            .take(MAX_LINE)
            .collect();
        // Progress bars rewrite their line.
        let line = line
            .rsplit('\r')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        if line.is_empty() {
            continue;
        }
        log(&line);
        if last.len() == LAST_LINES {
            last.remove(0);
        }
        last.push(line);
    }
    last.join("; ")
}

/// The proxies of the host's apt, as options of the tool.
fn proxies() -> Vec<String> {
    let names = ["Acquire::http::Proxy", "Acquire::https::Proxy"];
    let dump = Command::new("apt-config")
        .args(["dump", "--format", "%f \"%v\"%n"])
        .args(names)
        .output();
    let text = dump.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    let set = text.lines().filter(|line| !line.ends_with("\"\""));
    set.map(|line| format!("--aptopt={line}")).collect()
}

/// The Debian mirror of the host, if it is one that names itself so.
fn host_mirror() -> Option<String> {
    let mut files = vec![Path::new("/etc/apt/sources.list").to_owned()];
    let more = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten();
    files.extend(more.flatten().map(|entry| entry.path()));
    let texts = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    texts.into_iter().find_map(|text| mirror_in(&text))
}

/// The first address of a Debian archive in a source list of either format.
fn mirror_in(text: &str) -> Option<String> {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let words = lines.flat_map(str::split_whitespace);
    words
        .filter(|word| word.starts_with("http://") || word.starts_with("https://"))
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.ends_with("/debian"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_mirror_is_found_in_both_formats() {
        let list =
            "# deb http://old/debian x\ndeb [arch=amd64] http://mirror/debian/ bookworm main\n";
        assert_eq!(mirror_in(list).as_deref(), Some("http://mirror/debian"));
        let deb822 = "Types: deb\nURIs: https://mirror.example/debian-security\n\n\
                      URIs: https://mirror.example/debian\n";
        assert_eq!(
            mirror_in(deb822).as_deref(),
            Some("https://mirror.example/debian")
        );
        assert_eq!(
            mirror_in("deb http://mirror.example/ubuntu jammy main"),
            None
        );
    }
}
