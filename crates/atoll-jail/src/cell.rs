//! The namespaces of one sandbox, and the process that waits in them.
//!
//! Everything a cell holds is released by dropping it, but for the cgroup directories, which
//! [`Cell::release`] removes. If the supervisor is killed instead, pid 1 dies by its parent death
//! signal and the node's sweep removes the directories.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};
use rustix::thread::{CapabilitiesSecureBits, LinkNameSpaceType};

use atoll_jail::channel;
use atoll_jail::spec::{Prepare, Start, UID_COUNT};

use crate::error::{Context, Result, failure};
use crate::guest::{self, Answer, Go, Inherited, Order1};
use crate::mounts::Stage;
use crate::sys::{self, Side};

/// Connections that may wait for the guest agent to accept them.
const LISTEN_BACKLOG: i32 = 1024;

/// How often a busy cgroup directory is tried again, one millisecond apart: the kernel takes a
/// moment to let go of the last process.
const CGROUP_REMOVAL_ATTEMPTS: u32 = 200;

/// Namespaces with a waiting pid 1; see the module.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// What pid 1 writes to its standard output and error.
    pub(crate) output: OwnedFd,
    socket: Option<OwnedFd>,
    user_namespace: OwnedFd,
    stage: Option<Stage>,
    cgroups: Vec<PathBuf>,
}

impl Cell {
    /// Makes the namespaces and brings pid 1 to its waiting point.
    pub(crate) fn prepare(order: &Prepare, net: &OwnedFd, agent: OwnedFd) -> Result<Self> {
        for procs in &order.own_procs {
            fs::write(procs, "0").with_context(|| format!("join `{}`", procs.display()))?;
        }
        let own = rustix::thread::capabilities_secure_bits().context("read secure bits")?;
        rustix::thread::set_capabilities_secure_bits(own | CapabilitiesSecureBits::NO_SETUID_FIXUP)
            .context("set secure bits")?;
        rustix::thread::move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
            .context("enter network namespace")?;
        let listener = open_listener(order.listen_port)?;
        let (socket, guest_socket) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .context("make socket")?;
        let (output, guest_output) =
            pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).context("make pipe")?;
        rustix::io::ioctl_fionbio(&guest_output, false).context("set pipe blocking")?;
        let namespaces = libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS;
        let side =
            sys::clone_process(u64::from(namespaces.cast_unsigned())).context("make namespaces")?;
        let (pid, pidfd) = match side {
            Side::Parent { pid, pidfd } => (pid, pidfd),
            Side::Child => {
                drop(socket);
                drop(output);
                guest::run(&Inherited {
                    socket: guest_socket,
                    output: guest_output,
                    listener,
                    agent,
                });
                exit_child()
            }
        };
        let mut cell = Self {
            pid,
            pidfd,
            output,
            socket: Some(socket),
            user_namespace: open_user_namespace(pid)?,
            stage: None,
            cgroups: order.cgroups.clone(),
        };
        let built = cell.settle(order);
        if let Err(error) = built {
            cell.kill();
            // The reason may be that pid 1 failed first; then its own words are better.
            return Err(cell.guest_failure().unwrap_or(error));
        }
        rustix::thread::set_no_new_privs(true).context("forbid new privileges")?;
        Ok(cell)
    }

    fn settle(&mut self, order: &Prepare) -> Result<()> {
        let pid = self.pid.as_raw_nonzero();
        let map = format!("0 {} {UID_COUNT}", order.uid_base);
        fs::write(format!("/proc/{pid}/uid_map"), &map).context("map users")?;
        fs::write(format!("/proc/{pid}/gid_map"), &map).context("map groups")?;
        // A server that is protected from the OOM killer must not protect its guests.
        fs::write(format!("/proc/{pid}/oom_score_adj"), "0").context("set oom score")?;
        for directory in &self.cgroups {
            let procs = directory.join("cgroup.procs");
            fs::write(&procs, pid.to_string())
                .with_context(|| format!("join `{}`", procs.display()))?;
        }
        self.send(&Order1::Mapped)?;
        self.stage = Some(Stage::prepare(pid.get(), &order.staging, order.uid_base)?);
        match self.receive()? {
            Some(Answer::Ready) => Ok(()),
            Some(Answer::Failed(message)) => Err(failure("pid 1", &message)),
            None => Err(failure("pid 1", "it ended")),
        }
    }

    /// Makes the root file system and lets pid 1 become the guest agent.
    pub(crate) fn start(&mut self, order: &Start, disk: &OwnedFd) -> Result<()> {
        for setting in &order.settings {
            match fs::write(&setting.path, &setting.value) {
                Err(_) if setting.is_optional => {}
                other => other.with_context(|| format!("set `{}`", setting.path.display()))?,
            }
        }
        let stage = self
            .stage
            .take()
            .ok_or_else(|| failure("start", "started already"))?;
        stage.assemble(&order.overlays, disk.as_fd(), self.user_namespace.as_fd())?;
        self.send(&Order1::Go(Go {
            hostname: order.hostname.clone(),
            files: order.files.clone(),
            arguments: order.arguments.clone(),
            environment: order.environment.clone(),
        }))?;
        // The socket is close-on-exec: its end is the sign that the exec succeeded.
        match self.receive()? {
            Some(Answer::Failed(message)) => Err(failure("pid 1", &message)),
            Some(Answer::Ready) => Err(failure("pid 1", "answered out of order")),
            None => {
                self.socket = None;
                Ok(())
            }
        }
    }

    /// Kills pid 1, and with it everything in its pid namespace.
    pub(crate) fn kill(&self) {
        // The only failure is that it is gone already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits until pid 1 and everything in its pid namespace is gone.
    pub(crate) fn wait(&self) -> io::Result<Option<WaitIdStatus>> {
        loop {
            let id = rustix::process::WaitId::PidFd(self.pidfd.as_fd());
            match waitid(id, WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Removes the cgroup directories. To be called after [`Self::wait`].
    pub(crate) fn release(&self) -> Result<()> {
        let mut outcome = Ok(());
        for directory in &self.cgroups {
            if let Err(error) = remove_cgroup(directory) {
                outcome = Err(error).with_context(|| format!("remove `{}`", directory.display()));
            }
        }
        outcome
    }

    fn guest_failure(&self) -> Option<crate::error::Error> {
        match self.receive() {
            Ok(Some(Answer::Failed(message))) => Some(failure("pid 1", &message)),
            _ => None,
        }
    }

    fn send(&self, order: &Order1) -> Result<()> {
        let socket = self
            .socket
            .as_ref()
            .ok_or_else(|| failure("tell pid 1", "it runs already"))?;
        channel::send(socket, order, &[]).context("tell pid 1")
    }

    fn receive(&self) -> Result<Option<Answer>> {
        let socket = self
            .socket
            .as_ref()
            .ok_or_else(|| failure("hear pid 1", "it runs already"))?;
        let received = channel::receive(socket).context("hear pid 1")?;
        Ok(received.map(|(answer, _)| answer))
    }
}

/// Removes a cgroup directory and those below it, which the guest agent may have made.
fn remove_cgroup(directory: &Path) -> io::Result<()> {
    if let Ok(entries) = fs::read_dir(directory) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_cgroup(&entry.path())?;
            }
        }
    }
    let mut attempts = 0;
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy
                    && attempts < CGROUP_REMOVAL_ATTEMPTS =>
            {
                attempts += 1;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

/// The guest agent's listening socket, on every address, IPv4 and IPv6 alike.
fn open_listener(port: u16) -> Result<OwnedFd> {
    let step = "listen for the guest agent";
    let open = |family| {
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        Ok::<_, rustix::io::Errno>(socket)
    };
    // A kernel without IPv6 still serves IPv4.
    let socket = match open(AddressFamily::INET6) {
        Ok(socket) => {
            sockopt::set_ipv6_v6only(&socket, false).context(step)?;
            let any = std::net::SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, port, 0, 0);
            bind(&socket, &any).context(step)?;
            socket
        }
        Err(_) => {
            let socket = open(AddressFamily::INET).context(step)?;
            let any = std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
            bind(&socket, &any).context(step)?;
            socket
        }
    };
    listen(&socket, LISTEN_BACKLOG).context(step)?;
    Ok(socket)
}

fn open_user_namespace(pid: Pid) -> Result<OwnedFd> {
    open(
        format!("/proc/{}/ns/user", pid.as_raw_nonzero()),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context("open user namespace")
}

#[expect(clippy::exit, reason = "a forked child must not run its parent's code")]
fn exit_child() -> ! {
    std::process::exit(1)
}
