//! What this machine offers each driver, and how to mend what is missing.
//!
//! Everything is read from files the kernel shows (`/proc`, `/sys`, `/dev`) and from `PATH`;
//! nothing is created, loaded or changed. `atoll doctor` prints the findings, and a node refuses to
//! start on the jail driver while a required check fails, so that no create meets the problem.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Oldest kernel whose overlayfs takes ID-mapped layers (Linux 5.19).
const KERNEL_MIN: (u32, u32) = (5, 19);
/// File systems known to support ID-mapped mounts, which the writable layers need.
const IDMAP_FILESYSTEMS: [&str; 8] = [
    "ext4", "xfs", "btrfs", "tmpfs", "f2fs", "erofs", "bcachefs", "squashfs",
];
/// Free space below which a node is told to expect trouble, in MiB.
const DISK_FREE_MIB_MIN: u64 = 2048;
/// Capabilities the jail driver uses, with their numbers in `linux/capability.h`.
const CAPABILITIES: [(&str, u32); 8] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("SETGID", 6),
    ("SETUID", 7),
    ("SETPCAP", 8),
    ("NET_ADMIN", 12),
    ("SYS_ADMIN", 21),
    ("MKNOD", 27),
];

/// How one check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Ok,
    /// The driver works without it, with less.
    Degraded,
    /// The driver cannot work without it.
    Missing,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub subject: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// How to mend it, unless all is well.
    pub fix: Option<String>,
}

impl Check {
    fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self {
            subject,
            verdict: Verdict::Ok,
            found: found.into(),
            fix: None,
        }
    }

    fn not(
        subject: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            subject,
            verdict,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }
}

/// What one driver would find here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverReport {
    /// The driver's name.
    pub driver: &'static str,
    /// Whether this build of Atoll has the driver at all.
    pub is_built: bool,
    /// What was looked at.
    pub checks: Vec<Check>,
}

impl DriverReport {
    /// Whether the driver can run sandboxes here.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.is_built
            && self
                .checks
                .iter()
                .all(|check| check.verdict != Verdict::Missing)
    }
}

/// Looks at everything, for every driver. `data_dir` is where the node would keep its state; it
/// need not exist yet.
#[must_use]
pub fn examine(data_dir: &Path) -> Vec<DriverReport> {
    vec![
        DriverReport {
            driver: "jail",
            is_built: true,
            checks: jail_checks(data_dir),
        },
        DriverReport {
            driver: "oci",
            is_built: false,
            checks: oci_checks(),
        },
        DriverReport {
            driver: "firecracker",
            is_built: false,
            checks: firecracker_checks(),
        },
    ]
}

/// The checks of the built-in driver.
#[must_use]
pub fn jail_checks(data_dir: &Path) -> Vec<Check> {
    vec![
        capabilities(),
        kernel(),
        namespaces(),
        filesystem("overlayfs", "overlay"),
        data_directory(data_dir),
        loop_devices(),
        program(
            "mkfs.ext4",
            Verdict::Missing,
            "install the package e2fsprogs",
        ),
        cgroups(),
        seccomp(),
        packet_filter(),
        default_route(),
    ]
}

fn oci_checks() -> Vec<Check> {
    vec![
        program(
            "runsc",
            Verdict::Degraded,
            "install gVisor's runsc (Debian: package runsc)",
        ),
        program("runc", Verdict::Degraded, "install the package runc"),
    ]
}

fn firecracker_checks() -> Vec<Check> {
    vec![
        device(
            "/dev/kvm",
            "enable virtualization in the firmware and load kvm_intel or kvm_amd; in a virtual \
             machine, enable nested virtualization",
        ),
        device("/dev/net/tun", "load the module tun"),
        program(
            "firecracker",
            Verdict::Missing,
            "put a Firecracker release binary on PATH",
        ),
        program(
            "jailer",
            Verdict::Missing,
            "put the jailer of the same release on PATH",
        ),
    ]
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn capabilities() -> Check {
    const SUBJECT: &str = "root";
    let status = read("/proc/self/status");
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(_, bit)| effective & (1 << bit) == 0)
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        Check::ok(SUBJECT, "all needed capabilities")
    } else {
        Check::not(
            SUBJECT,
            Verdict::Missing,
            format!("no CAP_{}", missing.join(", CAP_")),
            "run as root (sudo); in a container, with --privileged",
        )
    }
}

fn kernel() -> Check {
    const SUBJECT: &str = "kernel";
    let release = read("/proc/sys/kernel/osrelease").trim().to_owned();
    match parse_release(&release) {
        Some(version) if version >= KERNEL_MIN => Check::ok(SUBJECT, release),
        _ => Check::not(
            SUBJECT,
            Verdict::Missing,
            release,
            format!("Linux {}.{} or newer is needed", KERNEL_MIN.0, KERNEL_MIN.1),
        ),
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn namespaces() -> Check {
    const SUBJECT: &str = "namespaces";
    let absent: Vec<&str> = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
        .collect();
    if !absent.is_empty() {
        let fix = "use a kernel built with these namespaces";
        return Check::not(
            SUBJECT,
            Verdict::Missing,
            format!("no {}", absent.join(", ")),
            fix,
        );
    }
    let barred: Vec<&str> = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter(|kind| read(&format!("/proc/sys/user/max_{kind}_namespaces")).trim() == "0")
        .collect();
    match barred.first() {
        None => Check::ok(SUBJECT, "user, pid, mount, net, ipc, uts, cgroup"),
        Some(first) => Check::not(
            SUBJECT,
            Verdict::Missing,
            format!("forbidden by sysctl: {}", barred.join(", ")),
            format!("sysctl user.max_{first}_namespaces=65536"),
        ),
    }
}

fn filesystem(subject: &'static str, name: &str) -> Check {
    let known = read("/proc/filesystems")
        .lines()
        .any(|line| line.trim().ends_with(name));
    if known {
        Check::ok(subject, "in the kernel")
    } else {
        Check::not(
            subject,
            Verdict::Missing,
            "not in the kernel",
            format!("modprobe {name}"),
        )
    }
}

fn data_directory(data_dir: &Path) -> Check {
    const SUBJECT: &str = "data directory";
    let existing = data_dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or_else(|| Path::new("/"));
    let shown = data_dir.display();
    let kind = filesystem_of(existing);
    if !IDMAP_FILESYSTEMS.contains(&kind.as_str()) {
        return Check::not(
            SUBJECT,
            Verdict::Missing,
            format!("{shown} is on {kind}, which has no ID-mapped mounts"),
            "choose a --data-dir on ext4, xfs or btrfs (in a container: a volume)",
        );
    }
    let free_mib = rustix::fs::statvfs(existing).map_or(0, |fs| (fs.f_bavail * fs.f_frsize) >> 20);
    if free_mib < DISK_FREE_MIB_MIN {
        return Check::not(
            SUBJECT,
            Verdict::Degraded,
            format!("{shown}: {free_mib} MiB free on {kind}"),
            format!("free some space: {DISK_FREE_MIB_MIN} MiB at least"),
        );
    }
    Check::ok(SUBJECT, format!("{shown}: {kind}, {free_mib} MiB free"))
}

/// The type of the file system that holds `path`, from the mount table.
fn filesystem_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let table = read("/proc/self/mountinfo");
    table
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mount_point = PathBuf::from(left.split(' ').nth(4)?);
            let kind = right.split(' ').next()?;
            path.starts_with(&mount_point)
                .then(|| (mount_point.as_os_str().len(), kind))
        })
        // Later lines lie on top of earlier ones at the same place.
        .max_by_key(|(length, _)| *length)
        .map_or_else(
            || "an unknown file system".to_owned(),
            |(_, kind)| kind.to_owned(),
        )
}

fn loop_devices() -> Check {
    const SUBJECT: &str = "loop devices";
    if Path::new("/dev/loop-control").exists() {
        Check::ok(SUBJECT, "/dev/loop-control")
    } else {
        let fix = "modprobe loop; in a container, pass /dev in";
        Check::not(SUBJECT, Verdict::Missing, "no /dev/loop-control", fix)
    }
}

fn cgroups() -> Check {
    const SUBJECT: &str = "cgroups";
    const WANTED: [&str; 3] = ["cpu", "memory", "pids"];
    let fix = "enable the controllers (systemd: Delegate=yes; kernel: cgroup_enable=memory)";
    let unified = read("/sys/fs/cgroup/cgroup.controllers");
    let has_v1 = |name: &str| {
        Path::new("/sys/fs/cgroup")
            .join(name)
            .join("tasks")
            .exists()
    };
    let (version, missing): (&str, Vec<&str>) = if unified.is_empty() {
        (
            "v1",
            WANTED.into_iter().filter(|name| !has_v1(name)).collect(),
        )
    } else {
        let has = |name: &&str| unified.split_whitespace().any(|found| found == *name);
        ("v2", WANTED.into_iter().filter(|name| !has(name)).collect())
    };
    if missing.is_empty() {
        Check::ok(SUBJECT, format!("{version}: {}", WANTED.join(", ")))
    } else {
        let found = format!("{version}, without {}", missing.join(", "));
        Check::not(SUBJECT, Verdict::Missing, found, fix)
    }
}

fn seccomp() -> Check {
    const SUBJECT: &str = "seccomp";
    let actions = read("/proc/sys/kernel/seccomp/actions_avail");
    if actions.split_whitespace().any(|action| action == "errno") {
        Check::ok(SUBJECT, "filters")
    } else {
        let fix = "use a kernel with CONFIG_SECCOMP_FILTER";
        Check::not(SUBJECT, Verdict::Missing, "no filters", fix)
    }
}

fn packet_filter() -> Check {
    const SUBJECT: &str = "nf_tables";
    let is_module = read("/proc/modules")
        .lines()
        .any(|line| line.starts_with("nf_tables "));
    let is_built_in = read("/proc/kallsyms")
        .lines()
        .any(|line| line.ends_with(" nft_do_chain"));
    if is_module || is_built_in {
        Check::ok(SUBJECT, "in the kernel")
    } else {
        Check::not(
            SUBJECT,
            Verdict::Degraded,
            "not seen; sandboxes have no way out to the network without it",
            "modprobe nf_tables",
        )
    }
}

fn default_route() -> Check {
    const SUBJECT: &str = "default route";
    let route = read("/proc/net/route").lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let interface = fields.next()?.to_owned();
        (fields.next()? == "00000000").then_some(interface)
    });
    match route {
        Some(interface) => Check::ok(SUBJECT, format!("by {interface}")),
        None => Check::not(
            SUBJECT,
            Verdict::Degraded,
            "none; sandboxes reach nothing outside this machine",
            "give this machine a default route if its sandboxes should reach the internet",
        ),
    }
}

fn device(path: &'static str, fix: &str) -> Check {
    match fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Check::ok(path, "opens"),
        Err(error) => Check::not(path, Verdict::Missing, error.to_string(), fix),
    }
}

fn program(name: &'static str, verdict: Verdict, fix: &str) -> Check {
    match find_program(name) {
        Some(path) => Check::ok(name, path.display().to_string()),
        None => Check::not(name, verdict, "not on PATH", fix),
    }
}

/// Looks a program up as a shell does, and in the system folders that a user's `PATH` may lack.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| {
            fs::metadata(file)
                .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_parse() {
        assert_eq!(parse_release("6.18.44-generic"), Some((6, 18)));
        assert_eq!(parse_release("5.19"), Some((5, 19)));
        assert_eq!(parse_release("unknown"), None);
    }

    #[test]
    fn every_failed_check_says_how_to_mend_it() {
        for report in examine(Path::new("/nonexistent/atoll")) {
            for check in report.checks {
                assert_eq!(
                    check.verdict == Verdict::Ok,
                    check.fix.is_none(),
                    "{check:?}"
                );
            }
        }
    }

    #[test]
    fn a_driver_lacking_something_required_is_not_usable() {
        let check = Check::not("x", Verdict::Missing, "nothing", "get one");
        let report = DriverReport {
            driver: "jail",
            is_built: true,
            checks: vec![check],
        };
        assert!(!report.is_usable());
    }
}
