//! Netlink, as little as the route and nf_tables families need: messages with nested attributes, a
//! blocking socket, acknowledgements, dumps and batches.
//!
//! The kernel handles a request while `send` runs, so every call here is bounded by the kernel's
//! own work and no reply is ever waited for longer than [`REPLY_LIMIT`]. Callers run on threads
//! that may block. Both families share this one encoder because together they use about a dozen
//! messages; generated bindings would be a hundred times larger than what is used of them.
//! Source of the formats: the kernel's netlink(7), rtnetlink(7) and uapi headers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Longest wait for a reply that the kernel has, in practice, queued already.
const REPLY_LIMIT: Duration = Duration::from_secs(10);
/// Large enough for any reply: the kernel cuts dumps into pieces of at most 32 KiB.
const REPLY_BYTES: usize = 64 * 1024;
/// A batch is one datagram, so the send buffer bounds it.
const SEND_BUFFER_BYTES: usize = 1024 * 1024;

const HEADER_LEN: usize = 16;
const ATTR_HEADER_LEN: usize = 4;

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Which netlink family a socket speaks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Family {
    /// Links, addresses and routes.
    Route,
    /// nf_tables, behind nfnetlink.
    Netfilter,
}

/// One message under construction. Lengths are filled in as it grows.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self { bytes }
    }

    /// Appends the family's fixed header.
    pub(super) fn put(&mut self, fixed: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(fixed);
        self.pad();
        self
    }

    pub(super) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let len = u16::try_from(ATTR_HEADER_LEN + value.len())
            .expect("attribute values are our own and far below 64 KiB");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(super) fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// nfnetlink carries its numbers in network byte order.
    pub(super) fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A text with its terminating NUL.
    pub(super) fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let len = u16::try_from(self.bytes.len() - start)
            .expect("nests are our own and far below 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// What has been appended so far, without the header.
    pub(super) fn body(&self) -> &[u8] {
        &self.bytes[HEADER_LEN..]
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn add_flags(&mut self, flags: u16) {
        let old = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).expect("messages are far below 4 GiB");
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// One message as received.
struct Received<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// A blocking netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// # Errors
    /// If the kernel lacks the family, or sockets are refused.
    pub(super) fn open(family: Family) -> io::Result<Self> {
        let protocol = match family {
            // Protocol 0, which is the default.
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_timeout(&fd, Timeout::Recv, Some(REPLY_LIMIT))?;
        // Without the privilege the default size stays, which only bounds batches earlier.
        let _ = sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER_BYTES);
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends one request and waits for the kernel's verdict.
    ///
    /// # Errors
    /// The kernel's error number, or that of the socket.
    pub(super) fn request(&mut self, mut message: Message) -> io::Result<()> {
        message.add_flags(REQUEST | ACK);
        let sequence = self.next_sequence();
        self.send(&message.finish(sequence))?;
        self.await_ack(sequence..=sequence)
    }

    /// Sends a dump request and hands each answer's type and body to `each`.
    ///
    /// # Errors
    /// The kernel's error number, or that of the socket.
    pub(super) fn dump(
        &mut self,
        mut message: Message,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        message.add_flags(REQUEST | DUMP);
        let sequence = self.next_sequence();
        self.send(&message.finish(sequence))?;
        let mut buffer = vec![0; REPLY_BYTES];
        loop {
            let len = self.receive(&mut buffer)?;
            for reply in replies(&buffer[..len]) {
                if reply.sequence != sequence {
                    continue;
                }
                match reply.kind {
                    TYPE_DONE => return Ok(()),
                    TYPE_ERROR => return error_of(reply.body),
                    kind => each(kind, reply.body),
                }
            }
        }
    }

    /// Sends messages as one datagram: `first` and `last` frame the batch, and the kernel applies
    /// all of `messages` or none.
    ///
    /// # Errors
    /// The error of the first message that was refused.
    pub(super) fn batch(
        &mut self,
        first: Message,
        messages: Vec<Message>,
        last: Message,
    ) -> io::Result<()> {
        let begin = self.next_sequence();
        let mut datagram = first.finish(begin);
        let count = messages.len();
        for (position, mut message) in messages.into_iter().enumerate() {
            message.add_flags(REQUEST);
            // One acknowledgement, on the last message, says that the batch went through; a refused
            // message always answers.
            if position + 1 == count {
                message.add_flags(ACK);
            }
            let sequence = self.next_sequence();
            datagram.extend(message.finish(sequence));
        }
        let end = self.sequence;
        let sequence = self.next_sequence();
        datagram.extend(last.finish(sequence));
        self.send(&datagram)?;
        let outcome = self.await_ack(begin..=end);
        if outcome.is_err() {
            self.drain();
        }
        outcome
    }

    /// For ioctls that want any socket of the namespace.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = rustix::net::send(&self.fd, bytes, SendFlags::empty())?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(io::Error::other("netlink message cut short"))
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((len, _)) => return Ok(len),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "no reply from the kernel",
                    ));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn await_ack(&self, sequences: std::ops::RangeInclusive<u32>) -> io::Result<()> {
        let mut buffer = vec![0; REPLY_BYTES];
        loop {
            let len = self.receive(&mut buffer)?;
            for reply in replies(&buffer[..len]) {
                if sequences.contains(&reply.sequence) && reply.kind == TYPE_ERROR {
                    return error_of(reply.body);
                }
            }
        }
    }

    /// Drops what a refused batch left in the queue, so that the next call reads its own replies.
    fn drain(&self) {
        let mut buffer = vec![0; REPLY_BYTES];
        while rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT).is_ok() {}
    }
}

/// The verdict in an error message: a negative error number, zero for success.
fn error_of(body: &[u8]) -> io::Result<()> {
    match read_u32(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "netlink error message cut short",
        )),
    }
}

fn replies(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(read_u32(bytes, 0)?).ok()?;
        if len < HEADER_LEN || len > bytes.len() {
            return None;
        }
        let received = Received {
            kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
            sequence: read_u32(bytes, 8)?,
            body: &bytes[HEADER_LEN..len],
        };
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    })
}

/// Walks the attributes in `bytes`: type (without flags) and value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(bytes.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = bytes.get(ATTR_HEADER_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The native-endian number at `offset`, if there is room for one.
pub(super) fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}
