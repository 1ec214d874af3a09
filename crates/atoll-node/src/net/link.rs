//! Links, addresses and routes over rtnetlink.
//!
//! Every function takes the socket whose network namespace it acts in. Source of the formats:
//! rtnetlink(7) and linux/if_link.h.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::cidr::Cidr;
use super::netlink::{self, CREATE, EXCL, Message, Socket, attributes, read_u32};

const INET: u8 = 2;
const VETH_INFO_PEER: u16 = 1;
const ROUTE_TABLE_LOCAL: u8 = 255;
const IFINFO_LEN: usize = 16;
const RTMSG_LEN: usize = 12;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
}

/// A route of the IPv4 tables other than `local`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) destination: Cidr,
    /// Interface index, where the route leads to one.
    pub(super) out: Option<u32>,
    pub(super) metric: u32,
    pub(super) is_blackhole: bool,
}

/// Makes a veth pair: `name` here, `peer_name` in the namespace `netns`. Both are down.
pub(super) fn create_veth(
    socket: &mut Socket,
    name: &str,
    peer_name: &str,
    netns: BorrowedFd<'_>,
    mtu: u32,
) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_NEWLINK, CREATE | EXCL);
    message.put(&ifinfo(0, 0));
    message.attr_str(libc::IFLA_IFNAME, name);
    message.attr_u32(libc::IFLA_MTU, mtu);
    message.nest(libc::IFLA_LINKINFO, |info| {
        info.attr_str(libc::IFLA_INFO_KIND, "veth");
        info.nest(libc::IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                peer.put(&ifinfo(0, 0));
                peer.attr_str(libc::IFLA_IFNAME, peer_name);
                peer.attr_u32(libc::IFLA_MTU, mtu);
                peer.attr_u32(libc::IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned());
            });
        });
    });
    socket.request(message)
}

/// Removes an interface; that there is none of the name is success.
pub(super) fn delete_link(socket: &mut Socket, name: &str) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_DELLINK, 0);
    message.put(&ifinfo(0, 0));
    message.attr_str(libc::IFLA_IFNAME, name);
    match socket.request(message) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

pub(super) fn set_up(socket: &mut Socket, name: &str) -> io::Result<()> {
    let up = libc::IFF_UP.cast_unsigned();
    let mut message = Message::new(libc::RTM_NEWLINK, 0);
    message.put(&ifinfo(up, up));
    message.attr_str(libc::IFLA_IFNAME, name);
    socket.request(message)
}

pub(super) fn add_address(
    socket: &mut Socket,
    index: u32,
    address: Ipv4Addr,
    prefix: u8,
) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_NEWADDR, CREATE | EXCL);
    let mut fixed = vec![INET, prefix, 0, libc::RT_SCOPE_UNIVERSE];
    fixed.extend(index.to_ne_bytes());
    message.put(&fixed);
    message.attr(libc::IFA_LOCAL, &address.octets());
    message.attr(libc::IFA_ADDRESS, &address.octets());
    socket.request(message)
}

pub(super) fn add_default_route(socket: &mut Socket, gateway: Ipv4Addr) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_NEWROUTE, CREATE | EXCL);
    message.put(&rtmsg(0, libc::RTN_UNICAST));
    message.attr(libc::RTA_GATEWAY, &gateway.octets());
    socket.request(message)
}

/// Routes a whole range to nowhere, which also claims it: it fails with `EEXIST` where somebody
/// has.
pub(super) fn add_blackhole(socket: &mut Socket, range: Cidr) -> io::Result<()> {
    socket.request(blackhole(libc::RTM_NEWROUTE, CREATE | EXCL, range))
}

/// Takes the claim back; that there is none is success.
pub(super) fn delete_blackhole(socket: &mut Socket, range: Cidr) -> io::Result<()> {
    match socket.request(blackhole(libc::RTM_DELROUTE, 0, range)) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

fn blackhole(kind: u16, flags: u16, range: Cidr) -> Message {
    let mut message = Message::new(kind, flags);
    message.put(&rtmsg(range.prefix(), libc::RTN_BLACKHOLE));
    message.attr(libc::RTA_DST, &range.address().octets());
    message
}

/// All interfaces of the namespace.
pub(super) fn links(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let mut message = Message::new(libc::RTM_GETLINK, 0);
    message.put(&ifinfo(0, 0));
    let mut found = Vec::new();
    socket.dump(message, |_, body| found.extend(parse_link(body)))?;
    Ok(found)
}

/// All IPv4 routes but those of the `local` table.
pub(super) fn routes(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let mut message = Message::new(libc::RTM_GETROUTE, 0);
    message.put(&[INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut found = Vec::new();
    socket.dump(message, |_, body| found.extend(parse_route(body)))?;
    Ok(found)
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let index = read_u32(body, 4)?;
    let mut link = Link {
        index,
        name: String::new(),
        mtu: 0,
    };
    for (kind, value) in attributes(body.get(IFINFO_LEN..)?) {
        match kind {
            libc::IFLA_IFNAME => {
                let text = value.strip_suffix(&[0]).unwrap_or(value);
                link.name = String::from_utf8_lossy(text).into_owned();
            }
            libc::IFLA_MTU => link.mtu = read_u32(value, 0)?,
            _ => {}
        }
    }
    Some(link)
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let (prefix, table, kind) = (*body.get(1)?, *body.get(4)?, *body.get(7)?);
    if *body.first()? != INET || table == ROUTE_TABLE_LOCAL {
        return None;
    }
    let mut route = Route {
        destination: Cidr::new(Ipv4Addr::UNSPECIFIED, prefix),
        out: None,
        metric: 0,
        is_blackhole: kind == libc::RTN_BLACKHOLE,
    };
    for (attribute, value) in attributes(body.get(RTMSG_LEN..)?) {
        match attribute {
            libc::RTA_DST => {
                let octets: [u8; 4] = value.try_into().ok()?;
                route.destination = Cidr::new(octets.into(), prefix);
            }
            libc::RTA_OIF => route.out = read_u32(value, 0),
            libc::RTA_PRIORITY => route.metric = read_u32(value, 0)?,
            _ => {}
        }
    }
    Some(route)
}

/// `struct ifinfomsg` for the interface named by an attribute.
fn ifinfo(flags: u32, change: u32) -> [u8; IFINFO_LEN] {
    let mut fixed = [0; IFINFO_LEN];
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

/// `struct rtmsg` of a route in the main table.
fn rtmsg(destination_prefix: u8, kind: u8) -> [u8; RTMSG_LEN] {
    let mut fixed = [0; RTMSG_LEN];
    fixed[0] = INET;
    fixed[1] = destination_prefix;
    fixed[4] = libc::RT_TABLE_MAIN;
    fixed[5] = libc::RTPROT_STATIC;
    fixed[6] = libc::RT_SCOPE_UNIVERSE;
    fixed[7] = kind;
    fixed
}

/// The index of an interface of the namespace in which `socket` was opened.
pub(super) fn index_of(socket: &netlink::Socket, name: &str) -> io::Result<u32> {
    Ok(rustix::net::netdevice::name_to_index(socket.fd(), name)?)
}
