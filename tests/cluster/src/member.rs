//! A process of Atoll on a machine of its own: server or node.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::network::Site;
use crate::process::Process;

/// What everybody of the fleet is told the same way.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) value: String,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) site: Site,
    pub(crate) data: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    settings: Vec<Setting>,
    process: Process,
}

impl Member {
    /// Not started yet. `arguments` begin with the role.
    pub(crate) fn new(
        site: Site,
        program: &Path,
        folder: &Path,
        arguments: &[&str],
        settings: &[Setting],
    ) -> Result<Self> {
        let data = folder.join(&site.name);
        std::fs::create_dir_all(&data)?;
        Ok(Self {
            process: Process::new(&site.name, &folder.join("logs")),
            data,
            program: program.to_owned(),
            arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
            settings: settings.to_vec(),
            site,
        })
    }

    /// Starts it, also again.
    pub(crate) fn start(&mut self) -> Result<()> {
        let program = self.program.to_str().context("a program's path")?;
        let mut command: Command = self.site.command(program);
        command
            .args(&self.arguments)
            .arg("--data-dir")
            .arg(&self.data);
        for Setting { name, value } in &self.settings {
            command.env(name, value);
        }
        self.process.start(command)
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// In order.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.process.stop(Signal::TERM).await
    }

    /// From now on it is this program.
    pub(crate) fn replace_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    pub(crate) fn last_words(&self, lines: usize) -> String {
        self.process.last_words(lines)
    }

    /// Where clients and others reach it.
    pub(crate) fn url(&self, port: u16) -> String {
        format!("http://{}:{port}", self.site.address)
    }

    /// kill -9 of the process that holds a node's port.
    pub(crate) fn kill_relay(&self) -> Result<()> {
        let text = std::fs::read_to_string(self.data.join("node/relay.json"))?;
        let state: Value = serde_json::from_str(&text)?;
        let pid = state["pid"].as_i64().context("a process id")?;
        signal(i32::try_from(pid)?, Signal::KILL)
    }

    /// What a node calls its own on its machine; none if it never started.
    pub(crate) fn instance(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.data.join("node/instance")).ok()?;
        Some(text.trim().to_owned())
    }

    /// The sandboxes that a node's ledger knows.
    pub(crate) fn ledger(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.data.join("node/sandboxes"));
        let entries = entries.into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Ends everything of a node at once, its sandboxes too, as a loss of power would.
    pub(crate) fn lose(&mut self) -> Result<()> {
        self.kill()?;
        let data = self.data.to_string_lossy().into_owned();
        let instance = self.instance().context("a node that has started")?;
        // Whoever is left starts nothing new; what it had started is found by the second look.
        for _ in 0..2 {
            for pid in processes() {
                let of = |name: &str| {
                    let bytes = std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
                    String::from_utf8_lossy(&bytes).into_owned()
                };
                if of("cmdline").contains(&data) || of("cgroup").contains(&instance) {
                    // It may have ended meanwhile.
                    let _ = signal(pid, Signal::KILL);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Member {
    /// What is frozen dies of nothing, and this program could not end before it.
    fn drop(&mut self) {
        let Some(instance) = self.instance() else {
            return;
        };
        for folder in cgroups(Path::new("/sys/fs/cgroup"), &instance) {
            for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                let file = folder.join(file);
                if file.exists() {
                    // It may have gone meanwhile.
                    let _ = std::fs::write(file, word);
                }
            }
        }
    }
}

/// Cgroups of sandboxes of the node with this instance.
pub(crate) fn cgroups(root: &Path, instance: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for node in folders(root, DEPTH) {
        let name = node.file_name().unwrap_or_default().to_string_lossy();
        if name.contains(instance) {
            found.extend(folders(&node, 1));
        }
    }
    found
}

/// How deep the cgroups of nodes are: below a hierarchy, and that of whoever runs this.
const DEPTH: u32 = 4;

fn folders(root: &Path, depth: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            if depth > 1 {
                found.extend(folders(&entry.path(), depth - 1));
            }
        }
    }
    found
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("a process id")?;
    Ok(kill_process(pid, signal)?)
}

/// The processes there are, but for this one.
pub(crate) fn processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = i32::try_from(std::process::id()).ok();
    let ids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    ids.filter(|id| Some(*id) != own).collect()
}
