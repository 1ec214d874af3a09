//! The node's end of the conversation with a sandbox's supervisor (see the `atoll_jail` library for
//! the messages): starting one, and finding one again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use atoll_jail::channel;
use atoll_jail::spec::{CONTROL_SOCKET, LOCK_FILE, Order, Prepare, Report, Request, Start, Status};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open, openat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::sys;

/// How long a supervisor may take for one order. Far more than it ever needs, so that a machine
/// under load does not fail creates that would have succeeded.
const ORDER_LIMIT: Duration = Duration::from_secs(20);

/// How long a live supervisor may take to answer on its control socket.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// How long a supervisor may take to write the sandbox's disk: what the machine lets be dirty, at
/// the speed of a slow disk.
const SYNC_LIMIT: Duration = Duration::from_secs(30);

/// A message socket on the runtime.
#[derive(Debug)]
struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    /// Takes a non-blocking socket.
    fn new(socket: OwnedFd) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        Ok(Self(sys::watch(socket, interest)?))
    }

    async fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0
            .async_io(Interest::WRITABLE, |socket| {
                channel::send(socket, message, fds)
            })
            .await
    }

    async fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        let received = self
            .0
            .async_io(Interest::READABLE, |socket| channel::receive(socket))
            .await?;
        received.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }
}

/// A supervisor that waits for a sandbox to run. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Waiting {
    channel: Channel,
    child: Child,
}

/// Handles of a sandbox that runs. They stay valid when the processes are gone, and never come to
/// mean other ones.
#[derive(Debug)]
pub(super) struct Handles {
    /// The supervisor.
    pub(super) supervisor: AsyncFd<OwnedFd>,
    /// The supervisor's number, for those who only have a list of numbers.
    pub(super) supervisor_pid: i32,
    /// The sandbox's pid 1.
    pub(super) guest: OwnedFd,
    /// Its number on the host.
    pub(super) guest_pid: i32,
}

impl Waiting {
    /// Starts a supervisor and lets it prepare the namespaces.
    ///
    /// # Errors
    /// What the supervisor reports, or that it ended or did not answer in time.
    pub(super) async fn prepare(
        program: &Path,
        order: Prepare,
        net: BorrowedFd<'_>,
        agent: BorrowedFd<'_>,
    ) -> io::Result<(Self, i32)> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let child = Command::new(program)
            .arg("supervise")
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let waiting = Self {
            channel: Channel::new(ours)?,
            child,
        };
        let conversation = async {
            let order = Order::Prepare(order);
            waiting.channel.send(&order, &[net, agent]).await?;
            waiting.channel.receive::<Report>().await
        };
        match timeout(ORDER_LIMIT, conversation).await?? {
            (Report::Prepared { pid }, _) => Ok((waiting, pid)),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Whether it has ended, which a waiting supervisor does only if its pid 1 did.
    pub(super) fn is_gone(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Lets it run a sandbox.
    ///
    /// # Errors
    /// What the supervisor reports, or that it ended or did not answer in time. It is then on its
    /// way out.
    pub(super) async fn start(
        self,
        guest_pid: i32,
        order: Start,
        disk: BorrowedFd<'_>,
    ) -> io::Result<(Handles, Vec<(String, u64)>)> {
        let conversation = async {
            self.channel.send(&Order::Start(order), &[disk]).await?;
            self.channel.receive::<Report>().await
        };
        let (report, fds) = timeout(ORDER_LIMIT, conversation).await??;
        let Report::Started { steps } = report else {
            return Err(unexpected(report));
        };
        // The child handle is given up here: the runtime reaps it when it ends.
        let supervisor_pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        let handles = Handles::new(fds, supervisor_pid.unwrap_or_default(), guest_pid)?;
        Ok((handles, steps))
    }

    /// Ends it and waits until it has released what it held.
    pub(super) async fn end(mut self) {
        drop(self.channel);
        // One that does not end is found by the next sweep.
        let _ = timeout(ORDER_LIMIT, self.child.wait()).await;
    }
}

impl Handles {
    fn new(fds: Vec<OwnedFd>, supervisor_pid: i32, guest_pid: i32) -> io::Result<Self> {
        let [supervisor, guest] = <[OwnedFd; 2]>::try_from(fds)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Self {
            supervisor: sys::watch(supervisor, Interest::READABLE)?,
            supervisor_pid,
            guest,
            guest_pid,
        })
    }
}

/// Asks the supervisor of the sandbox in `directory` what it runs; none if there is no living one.
///
/// # Errors
/// If there is a living one that does not answer.
pub(super) async fn find(directory: &Path) -> io::Result<Option<(Status, Handles)>> {
    let Some((channel, supervisor_pid)) = connect(directory)? else {
        return Ok(None);
    };
    let asked = timeout(STATUS_LIMIT, ask(&channel, Request::Status));
    let (status, fds) = asked.await??;
    let handles = Handles::new(fds, supervisor_pid, status.pid)?;
    Ok(Some((status, handles)))
}

/// Has the supervisor of the sandbox in `directory` write the sandbox's disk to its file.
///
/// # Errors
/// If that fails, takes too long, or there is no living supervisor.
pub(super) async fn sync(directory: &Path) -> io::Result<()> {
    let (channel, _) = connect(directory)?.ok_or(io::ErrorKind::NotConnected)?;
    timeout(SYNC_LIMIT, ask(&channel, Request::Sync)).await??;
    Ok(())
}

async fn ask(channel: &Channel, request: Request) -> io::Result<(Status, Vec<OwnedFd>)> {
    channel.send(&request, &[]).await?;
    channel.receive().await
}

/// Connects to the living supervisor, if there is one, and answers its number too.
fn connect(directory: &Path) -> io::Result<Option<(Channel, i32)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(directory, flags, Mode::empty())?;
    if !is_locked(directory.as_fd())? {
        return Ok(None);
    }
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // Through the descriptor, because a socket address holds only 108 bytes of path.
    let path = format!("/proc/self/fd/{}/{CONTROL_SOCKET}", directory.as_raw_fd());
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        // It holds the lock but did not get to the socket: it is being started or ends.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => return Ok(None),
        other => other?,
    }
    let peer = rustix::net::sockopt::socket_peercred(&socket)?;
    Ok(Some((
        Channel::new(socket)?,
        peer.pid.as_raw_nonzero().get(),
    )))
}

/// Whether a supervisor holds the lock. The kernel lets go of it when the process is gone, however
/// it ended.
fn is_locked(directory: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let lock = match openat(directory, LOCK_FILE, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        other => other?,
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        other => other.map(|()| false).map_err(Into::into),
    }
}

fn unexpected(report: Report) -> io::Error {
    match report {
        Report::Failed { message } => io::Error::other(message),
        Report::Prepared { .. } | Report::Started { .. } => {
            io::Error::other("the supervisor answered out of order")
        }
    }
}
