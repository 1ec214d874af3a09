//! The supervisor's control socket: how a node that was restarted finds a sandbox again.
//!
//! A `SOCK_SEQPACKET` socket in the sandbox directory, which only root can enter. One request, one
//! answer; a client may ask any number of times.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};

use atoll_jail::channel;
use atoll_jail::spec::{CONTROL_SOCKET, Request, Status};

use crate::error::{Context, Result};

/// Clients at one time; more are turned away.
const MAX_CLIENTS: usize = 8;

/// The listening socket and who is connected.
#[derive(Debug)]
pub(crate) struct Control {
    listener: OwnedFd,
    clients: Vec<OwnedFd>,
}

impl Control {
    /// Binds the socket in the directory.
    pub(crate) fn bind(directory: &OwnedFd) -> Result<Self> {
        let listener = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .context("make control socket")?;
        // Through the descriptor, because a socket address holds only 108 bytes of path.
        let path = format!("/proc/self/fd/{}/{CONTROL_SOCKET}", directory.as_raw_fd());
        let address = SocketAddrUnix::new(path).context("name control socket")?;
        bind(&listener, &address).context("bind control socket")?;
        listen(&listener, 4).context("listen on control socket")?;
        Ok(Self {
            listener,
            clients: Vec::new(),
        })
    }

    /// Everything to poll for input: the listener first, then the clients.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &OwnedFd> {
        std::iter::once(&self.listener).chain(&self.clients)
    }

    /// Takes a waiting client.
    pub(crate) fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // A client that went away again, or one too many, is dropped; it sees a closed socket.
        if let Ok(client) = accept_with(&self.listener, flags)
            && self.clients.len() < MAX_CLIENTS
        {
            self.clients.push(client);
        }
    }

    /// Serves the client at this place among the clients. If it made a request, `act` does what has
    /// to be done before the answer; without success there is none, and the client is dropped.
    pub(crate) fn serve(
        &mut self,
        index: usize,
        status: &Status,
        handles: [&OwnedFd; 2],
        act: impl FnOnce(Request) -> bool,
    ) -> Option<Request> {
        let client = self.clients.get(index)?;
        let answered = match channel::receive::<Request>(client) {
            Ok(Some((request, _))) if act(request) => {
                let handles = handles.map(AsFd::as_fd);
                channel::send(client, status, &handles)
                    .ok()
                    .map(|()| request)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            _ => None,
        };
        if answered.is_none() {
            self.clients.remove(index);
        }
        answered
    }
}
