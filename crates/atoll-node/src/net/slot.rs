//! One network slot on the machine: how it is made, recognised and taken down.
//!
//! A slot is a network namespace pinned by a bind mount at `<run dir>/netns/<index>`, with loopback
//! up and a veth pair whose guest end is `eth0`; each end has one address of a /31. Everything a
//! slot leaves on the machine carries the instance's name or lies in its run directory, so what a
//! crash left behind is found by looking, without a ledger.
//!
//! The functions block, and act in the network namespace of the calling thread.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

use super::cidr::Cidr;
use super::firewall::Firewall;
use super::link;
use super::netlink::{Family, Socket};
use super::policy::Rules;
use super::sys;

/// Name of the interface inside the namespace.
const GUEST_LINK: &str = "eth0";
/// Where the calling thread's own namespace is.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";
/// `f_type` of a bound namespace (linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// Addresses a slot takes.
pub(super) const ADDRESSES_PER_SLOT: u32 = 2;
/// The highest group id the kernel takes in `ping_group_range`. Groups there count as on the host,
/// so this covers the shifted ids of every sandbox.
const HIGHEST_PING_GROUP: u32 = i32::MAX.cast_unsigned();

/// What all slots of an instance have in common.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// Start of the name of every host-side interface.
    pub(super) link_prefix: String,
    /// The folder of the bound namespaces.
    pub(super) netns_dir: PathBuf,
    /// Where the addresses come from.
    pub(super) range: Cidr,
    /// What sandboxes may reach; `None` where the machine has no packet filter and so no egress.
    pub(super) firewall: Option<Firewall>,
}

/// Where the namespace of a slot is bound.
pub(super) fn netns_path(netns_dir: &Path, index: u32) -> PathBuf {
    netns_dir.join(index.to_string())
}

/// The host's and the guest's address of a slot.
pub(super) fn addresses(range: Cidr, index: u32) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let first = index.checked_mul(ADDRESSES_PER_SLOT)?;
    Some((range.nth(first)?, range.nth(first + 1)?))
}

impl Layout {
    pub(super) fn netns_path(&self, index: u32) -> PathBuf {
        netns_path(&self.netns_dir, index)
    }

    pub(super) fn link_name(&self, index: u32) -> String {
        format!("{}{index:03x}", self.link_prefix)
    }

    /// The host's and the guest's address.
    pub(super) fn addresses(&self, index: u32) -> Option<(Ipv4Addr, Ipv4Addr)> {
        addresses(self.range, index)
    }

    /// Makes the slot; what a failure leaves half-made is removed again.
    pub(super) fn make(&self, index: u32, mtu: u32) -> io::Result<()> {
        let made = self.try_make(index, mtu);
        if made.is_err() {
            // The first error is the one to report; the next sweep finds what stays now.
            let _ = self.destroy(index);
        }
        made
    }

    fn try_make(&self, index: u32, mtu: u32) -> io::Result<()> {
        let name = self.link_name(index);
        let (host, guest) = self
            .addresses(index)
            .ok_or_else(|| io::Error::other("the address range is too small for this slot"))?;
        let mut socket = Socket::open(Family::Route)?;
        let path = self.netns_path(index);
        std::fs::File::create(&path)?;
        if let Some(firewall) = &self.firewall {
            firewall.apply(index, &name, &Rules::default())?;
        }
        // The namespace is entered by a thread that ends here, so that no pooled thread is ever
        // left in a foreign namespace.
        std::thread::scope(|scope| {
            let guest_side = || make_guest_side(&mut socket, &path, &name, (host, guest), mtu);
            let thread = std::thread::Builder::new()
                .name("atoll-netns".to_owned())
                .spawn_scoped(scope, guest_side)?;
            thread
                .join()
                .map_err(|_| io::Error::other("the namespace thread panicked"))?
        })?;
        write_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "1")?;
        write_sysctl(&format!("net/ipv4/conf/{name}/send_redirects"), "0")?;
        disable_ipv6(&name)?;
        let link = link::index_of(&socket, &name)?;
        link::add_address(&mut socket, link, host, 31)?;
        link::set_up(&mut socket, &name)
    }

    /// Takes the slot down, whatever of it there is. The namespace itself goes when its last
    /// process and socket have gone; the veth pair goes at once.
    pub(super) fn destroy(&self, index: u32) -> io::Result<()> {
        let mut socket = Socket::open(Family::Route)?;
        let name = self.link_name(index);
        link::delete_link(&mut socket, &name)?;
        if let Some(firewall) = &self.firewall {
            firewall.forget(index, &name)?;
        }
        // The file goes last: as long as it is there, a sweep finds the slot.
        let path = self.netns_path(index);
        match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether a namespace is bound for this slot.
    pub(super) fn is_bound(&self, index: u32) -> bool {
        rustix::fs::statfs(self.netns_path(index)).is_ok_and(|fs| fs.f_type == NSFS_MAGIC)
    }

    /// Indices of everything on the machine that looks like a slot of this instance.
    pub(super) fn found(&self) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.netns_dir)? {
            let name = entry?.file_name();
            found.extend(name.to_str().and_then(|text| text.parse::<u32>().ok()));
        }
        for link in link::links(&mut Socket::open(Family::Route)?)? {
            let suffix = link.name.strip_prefix(&self.link_prefix);
            found.extend(suffix.and_then(|hex| u32::from_str_radix(hex, 16).ok()));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

/// Runs on a thread of its own: enters a new namespace, binds it at `path` and fits it out.
/// `socket` was opened on the host and acts there.
fn make_guest_side(
    socket: &mut Socket,
    path: &Path,
    host_link: &str,
    (host, guest): (Ipv4Addr, Ipv4Addr),
    mtu: u32,
) -> io::Result<()> {
    sys::unshare_network()?;
    let netns = rustix::fs::open(OWN_NETNS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::mount::mount_bind(OWN_NETNS, path)?;
    write_sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
    write_sysctl(
        "net/ipv4/ping_group_range",
        &format!("0 {HIGHEST_PING_GROUP}"),
    )?;
    link::create_veth(socket, host_link, GUEST_LINK, netns.as_fd(), mtu)?;
    let mut inside = Socket::open(Family::Route)?;
    link::set_up(&mut inside, "lo")?;
    disable_ipv6(GUEST_LINK)?;
    let link = link::index_of(&inside, GUEST_LINK)?;
    link::add_address(&mut inside, link, guest, 31)?;
    link::set_up(&mut inside, GUEST_LINK)?;
    link::add_default_route(&mut inside, host)
}

/// Turns IPv6 off on one interface: slots have IPv4 egress only, and a link-local address would
/// reach the host.
fn disable_ipv6(name: &str) -> io::Result<()> {
    match write_sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1") {
        // A kernel without IPv6 has nothing to turn off.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes a setting of the calling thread's network namespace.
pub(super) fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(Path::new("/proc/sys").join(name), value)
}
