//! Sockets inside network namespaces.
//!
//! A socket belongs for ever to the namespace in which it was made. One thread of its own enters
//! the wanted namespace, makes the socket and hands it out; connecting, reading and writing then
//! happen on the runtime like with any other socket. The thread does nothing that can block on a
//! peer, so one is enough, and no runtime thread is ever in a foreign namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::Slot;

/// Requests that may wait for the thread. Each takes microseconds, so a full queue means that
/// callers come faster than sockets can be made; they wait.
const QUEUE: usize = 256;
/// A connection over loopback is made or refused at once; only a full backlog takes longer.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

struct Job {
    netns: PathBuf,
    make: Box<dyn FnOnce() -> io::Result<OwnedFd> + Send>,
    reply: oneshot::Sender<io::Result<OwnedFd>>,
}

/// Makes sockets inside network namespaces. Clones share one thread, which ends with the last of
/// them.
#[derive(Debug, Clone)]
pub struct Dialer {
    jobs: mpsc::Sender<Job>,
}

impl Dialer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn spawn() -> io::Result<Self> {
        let (jobs, mut inbox) = mpsc::channel::<Job>(QUEUE);
        std::thread::Builder::new()
            .name("atoll-dialer".to_owned())
            .spawn(move || {
                while let Some(job) = inbox.blocking_recv() {
                    let made = enter(&job.netns).and_then(|()| (job.make)());
                    // The caller may have given up; the socket is then closed.
                    let _ = job.reply.send(made);
                }
            })?;
        Ok(Self { jobs })
    }

    /// Connects to `port` on 127.0.0.1, then on ::1, of the namespace bound at `netns`.
    ///
    /// # Errors
    /// `NotFound` if there is no such namespace, `ConnectionRefused` if nobody listens on either
    /// address, `TimedOut` if a listener does not take connections.
    pub async fn dial(&self, netns: &Path, port: u16) -> io::Result<TcpStream> {
        match self.connect(netns, Ipv4Addr::LOCALHOST.into(), port).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            other => return other,
        }
        let second = self.connect(netns, Ipv6Addr::LOCALHOST.into(), port).await;
        // Whatever keeps IPv6 from working, the answer about the port is the one IPv4 gave.
        second.map_err(|_| io::ErrorKind::ConnectionRefused.into())
    }

    /// Connects to a port on the loopback of the slot's sandbox, or else on its own address.
    ///
    /// # Errors
    /// As [`Self::dial`].
    pub async fn dial_slot(&self, slot: &Slot, port: u16) -> io::Result<TcpStream> {
        match self.dial(&slot.netns_path, port).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.connect(&slot.netns_path, slot.address.into(), port)
                    .await
            }
            other => other,
        }
    }

    /// Connects to one address and port as seen from within the namespace.
    ///
    /// # Errors
    /// As [`Self::dial`], for this one address.
    pub async fn connect(&self, netns: &Path, ip: IpAddr, port: u16) -> io::Result<TcpStream> {
        let family = family_of(ip);
        let fd = self.run(netns, move || stream_socket(family)).await?;
        let stream: std::net::TcpStream = fd.into();
        let socket = TcpSocket::from_std_stream(stream);
        let connecting = socket.connect(SocketAddr::new(ip, port));
        let stream = tokio::time::timeout(CONNECT_LIMIT, connecting)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A blocking TCP listener on every address of the namespace bound at `netns`, IPv4 and, where
    /// the kernel has it, IPv6. It is close-on-exec.
    ///
    /// # Errors
    /// `NotFound` if there is no such namespace, `AddrInUse` if somebody listens there.
    pub async fn listen(&self, netns: &Path, port: u16, backlog: i32) -> io::Result<OwnedFd> {
        self.run(netns, move || listener(port, backlog)).await
    }

    async fn run(
        &self,
        netns: &Path,
        make: impl FnOnce() -> io::Result<OwnedFd> + Send + 'static,
    ) -> io::Result<OwnedFd> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            netns: netns.to_owned(),
            make: Box::new(make),
            reply,
        };
        let gone = || io::Error::other("the dialer thread has ended");
        self.jobs.send(job).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Moves the calling thread into the namespace bound at `netns`.
fn enter(netns: &Path) -> io::Result<()> {
    let fd = rustix::fs::open(netns, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::thread::move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network)) {
        // A plain file: the namespace that was bound here is gone.
        Err(rustix::io::Errno::INVAL) => Err(io::ErrorKind::NotFound.into()),
        other => Ok(other?),
    }
}

fn family_of(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    }
}

fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

fn listener(port: u16, backlog: i32) -> io::Result<OwnedFd> {
    let open =
        |family| rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (fd, address) = match open(AddressFamily::INET6) {
        Ok(fd) => {
            sockopt::set_ipv6_v6only(&fd, false)?;
            (fd, IpAddr::V6(Ipv6Addr::UNSPECIFIED))
        }
        Err(rustix::io::Errno::AFNOSUPPORT) => {
            let fd = open(AddressFamily::INET)?;
            (fd, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        }
        Err(error) => return Err(error.into()),
    };
    sockopt::set_socket_reuseaddr(&fd, true)?;
    rustix::net::bind(&fd, &SocketAddr::new(address, port))?;
    rustix::net::listen(&fd, backlog)?;
    Ok(fd)
}
