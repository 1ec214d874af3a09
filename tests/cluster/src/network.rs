//! The network of the fleet: a namespace for each machine, all on one bridge.
//!
//! Everything is inside namespaces that end with this process, so that nothing is left behind
//! however it ends, and nothing outside sees the traffic.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Says that this process is inside already.
const INSIDE: &str = "ATOLL_CLUSTER_INSIDE";
const BRIDGE: &str = "fleet";
/// This program's own address: that of the clients.
pub(crate) const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PREFIX_LEN: u8 = 16;

/// Starts this program again in namespaces of its own, and comes back only in there.
///
/// # Errors
/// If the namespaces cannot be made.
pub(crate) fn enter() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return lay_out();
    }
    let program = std::env::current_exe()?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let error = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        .arg(program)
        .args(arguments)
        .env(INSIDE, "1")
        .exec();
    Err(error).context("run `unshare`")
}

fn lay_out() -> Result<()> {
    // Names of network namespaces are files: these are seen in here only.
    std::fs::create_dir_all("/run/netns")?;
    run("mount", &["-t", "tmpfs", "cluster", "/run/netns"])?;
    ip(&["link", "set", "lo", "up"])?;
    ip(&["link", "add", BRIDGE, "type", "bridge"])?;
    let address = format!("{CLIENTS}/{PREFIX_LEN}");
    ip(&["address", "add", &address, "dev", BRIDGE])?;
    ip(&["link", "set", BRIDGE, "up"])
}

/// One machine of the fleet.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
}

impl Site {
    /// Makes its namespace and plugs it into the bridge.
    pub(crate) fn new(name: &str, address: Ipv4Addr) -> Result<Self> {
        let [_, _, kind, number] = address.octets();
        let plug = format!("m{kind}-{number}");
        let address_text = format!("{address}/{PREFIX_LEN}");
        ip(&["netns", "add", name])?;
        let peer = ["peer", "name", "eth0", "netns", name];
        ip(&[&["link", "add", &plug, "type", "veth"], &peer[..]].concat())?;
        ip(&["link", "set", &plug, "master", BRIDGE, "up"])?;
        let inside = |arguments: &[&str]| ip(&[&["-n", name], arguments].concat());
        inside(&["link", "set", "lo", "up"])?;
        inside(&["address", "add", &address_text, "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])?;
        inside(&["route", "add", "default", "via", &CLIENTS.to_string()])?;
        Ok(Self {
            name: name.to_owned(),
            address,
        })
    }

    /// A command that runs on this machine. Not by `ip netns exec`, which hides the cgroups.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name));
        command.arg("--").arg(program);
        command
    }

    /// Cuts the machine off, in these directions.
    pub(crate) fn cut(&self, hears: bool, is_heard: bool) -> Result<()> {
        let chain = |name: &str, side: &str, is_open: bool| {
            let rule = if is_open { "accept" } else { "drop" };
            format!(
                "chain {name} {{\n type filter hook {name} priority -300\n \
                 {side} != \"lo\" {rule}\n}}\n"
            )
        };
        let rules = format!(
            "table inet cut {{\n{}{}}}\n",
            chain("input", "iifname", hears),
            chain("output", "oifname", is_heard)
        );
        let mut command = self.command("nft");
        check(command.arg(rules), "cut a machine off")
    }

    /// Ends what [`Self::cut`] began.
    pub(crate) fn mend(&self) -> Result<()> {
        let mut command = self.command("nft");
        check(
            command.args(["delete", "table", "inet", "cut"]),
            "mend a network",
        )
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    check(Command::new(program).args(arguments), program)
}

/// Runs a command to its end.
pub(crate) fn check(command: &mut Command, what: &str) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{what}: {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{what}: {command:?}: {}",
        said.trim()
    );
    Ok(())
}
