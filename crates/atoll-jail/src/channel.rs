//! One JSON message a packet, with file descriptors beside it, over a `SOCK_SEQPACKET` socket.
//!
//! Invariants: a message larger than [`MAX_MESSAGE_BYTES`] or with more than [`MAX_FDS`]
//! descriptors is an error on both sides, never a truncation; every received descriptor is
//! close-on-exec.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest message: well above a start order with the most layers, well below the default send
/// buffer of a socket, which a packet must fit into.
pub const MAX_MESSAGE_BYTES: usize = 96 * 1024;

/// Most descriptors beside one message.
pub const MAX_FDS: usize = 4;

/// Sends one message.
///
/// # Errors
/// `InvalidInput` if it is too large; else what the socket says. A closed peer is `BrokenPipe`,
/// never a signal.
pub fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE_BYTES || fds.len() > MAX_FDS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "message too large",
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let is_pushed = control.push(SendAncillaryMessage::ScmRights(fds));
        assert!(is_pushed, "the buffer has room for MAX_FDS descriptors");
    }
    sendmsg(
        socket,
        &[IoSlice::new(&bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives one message; none when the peer closed its end.
///
/// # Errors
/// `InvalidData` if it is too large or not the expected JSON; else what the socket says, including
/// `WouldBlock` on a non-blocking one.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    // One byte more than allowed shows a message that is too large.
    let mut bytes = vec![0; MAX_MESSAGE_BYTES + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        || received.bytes > MAX_MESSAGE_BYTES
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message too large",
        ));
    }
    let message = serde_json::from_slice(&bytes[..received.bytes])?;
    Ok(Some((message, fds)))
}
