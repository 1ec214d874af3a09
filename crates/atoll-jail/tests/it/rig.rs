//! A world for one supervisor: cgroups, a network namespace, a small root file system.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atoll_jail::channel;
use atoll_jail::spec::{
    CONTROL_SOCKET, EXIT_FILE, Exit, GuestFile, Order, Overlay, Prepare, Report, Request, Setting,
    Start, Status,
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tempfile::TempDir;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Uid ranges far above those of nodes.
const UID_BASE: u32 = 3_000_000_000;

pub(crate) struct Rig {
    directory: TempDir,
    name: String,
    number: u32,
    cgroups: Vec<PathBuf>,
}

pub(crate) struct Prepared {
    socket: OwnedFd,
    supervisor: Child,
}

pub(crate) struct Sandbox<'a> {
    rig: &'a Rig,
    supervisor: Child,
}

impl Rig {
    /// None without root, which it says.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("jailtest-{}-{number}", std::process::id());
        assert!(run("ip", &["netns", "add", &name]));
        let cgroups = ["memory", "pids", "cpu", "freezer", ""]
            .iter()
            .map(|kind| Path::new("/sys/fs/cgroup").join(kind))
            .filter(|root| root.join("cgroup.procs").exists())
            .map(|root| root.join(&name))
            .collect::<Vec<_>>();
        for cgroup in &cgroups {
            fs::create_dir(cgroup).unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path();
        for path in ["sandbox", "staging", "base/usr", "base/etc", "base/tmp"] {
            fs::create_dir_all(base.join(path)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), base.join("base").join(link))
                .unwrap();
        }
        std::os::unix::fs::symlink("/nowhere/else", base.join("base/etc/resolv.conf")).unwrap();
        Some(Self {
            directory,
            name,
            number,
            cgroups,
        })
    }

    pub(crate) fn uid_base(&self) -> u32 {
        UID_BASE + self.number * 65_536
    }

    pub(crate) fn prepare(&self) -> Prepared {
        let (socket, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let supervisor = Command::new(env!("CARGO_BIN_EXE_atoll-jail"))
            .arg("supervise")
            .stdin(Stdio::from(theirs))
            .spawn()
            .unwrap();
        let net = fs::File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        let agent = fs::File::open("/bin/sh").unwrap();
        let order = Order::Prepare(Prepare {
            cell: 7,
            uid_base: self.uid_base(),
            staging: self.directory.path().join("staging"),
            listen_port: 49_983,
            own_procs: Vec::new(),
            cgroups: self.cgroups.clone(),
        });
        channel::send(&socket, &order, &[net.as_fd(), agent.as_fd()]).unwrap();
        match receive(&socket) {
            Report::Prepared { .. } => Prepared { socket, supervisor },
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn start(&self, script: &str) -> Sandbox<'_> {
        let Prepared { socket, supervisor } = self.prepare();
        let base = self.directory.path().join("base");
        let overlay = |mount_point: &str, lower: PathBuf| Overlay {
            mount_point: mount_point.into(),
            lower_dirs: vec![lower],
        };
        let file = |path: &str, content: &str| GuestFile {
            path: path.into(),
            content: content.to_owned(),
        };
        let order = Order::Start(Start {
            sandbox: "itest".to_owned(),
            generation: 3,
            directory: self.directory.path().join("sandbox"),
            hostname: "box".to_owned(),
            overlays: vec![overlay("/", base), overlay("/usr", "/usr".into())],
            settings: vec![Setting {
                path: "/sys/fs/cgroup/no-such-file".into(),
                value: "1".to_owned(),
                is_optional: true,
            }],
            files: vec![
                file("/etc/hosts", "127.0.0.1 test\n"),
                file("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
            ],
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        });
        let disk = tmpfs();
        channel::send(&socket, &order, &[disk.as_fd()]).unwrap();
        match receive(&socket) {
            Report::Started { .. } => Sandbox {
                rig: self,
                supervisor,
            },
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn run(&self, script: &str) -> Exit {
        self.start(script).wait()
    }

    /// Processes in the sandbox's cgroups.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for cgroup in &self.cgroups {
            let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().map(|line| line.parse::<u32>().unwrap()));
        }
        found
    }

    pub(crate) fn cgroups_are_gone(&self) -> bool {
        self.cgroups.iter().all(|path| !path.exists())
    }

    pub(crate) fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..500 {
            if condition() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("not in time: {what}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for pid in self.processes() {
            run("kill", &["-9", &pid.to_string()]);
        }
        for cgroup in &self.cgroups {
            for _ in 0..100 {
                if !cgroup.exists() || fs::remove_dir(cgroup).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        run("ip", &["netns", "del", &self.name]);
    }
}

impl Sandbox<'_> {
    pub(crate) fn kill_supervisor(mut self) {
        self.supervisor.kill().unwrap();
        self.supervisor.wait().unwrap();
    }

    pub(crate) fn ask_to_stop(&self) -> Status {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let path = self
            .rig
            .directory
            .path()
            .join("sandbox")
            .join(CONTROL_SOCKET);
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        channel::send(&socket, &Request::Stop, &[]).unwrap();
        let (status, handles) = channel::receive(&socket).unwrap().unwrap();
        assert_eq!(handles.len(), 2);
        status
    }

    pub(crate) fn wait(mut self) -> Exit {
        self.supervisor.wait().unwrap();
        let path = self.rig.directory.path().join("sandbox").join(EXIT_FILE);
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }
}

fn receive(socket: &OwnedFd) -> Report {
    channel::receive(socket).unwrap().unwrap().0
}

fn tmpfs() -> OwnedFd {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    rustix::mount::fsconfig_create(context.as_fd()).unwrap();
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .unwrap()
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
