//! Which addresses slots use, and how they get out of the host.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use super::Error;
use super::cidr::Cidr;
use super::link::{self, Link, Route};
use super::netlink::{Family, Socket};

/// Cut into the ranges that are tried when nothing is configured: private networks that are seldom
/// used, then the one reserved for benchmarks.
const DEFAULT_NETWORKS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 211, 0, 0),
    Ipv4Addr::new(10, 11, 0, 0),
    Ipv4Addr::new(172, 29, 0, 0),
    Ipv4Addr::new(198, 18, 0, 0),
];
/// The first two octets.
const DEFAULT_NETWORK_PREFIX: u8 = 16;
/// Holds two addresses for every slot.
const DEFAULT_RANGE_PREFIX: u8 = 19;

/// The ranges tried in this order when nothing is configured. There are many, because each Atoll
/// on a machine claims one.
pub fn default_ranges() -> impl Iterator<Item = Cidr> {
    let pieces = 1_u32 << (DEFAULT_RANGE_PREFIX - DEFAULT_NETWORK_PREFIX);
    let size = 1_u32 << (32 - DEFAULT_RANGE_PREFIX);
    DEFAULT_NETWORKS.into_iter().flat_map(move |network| {
        (0..pieces).map(move |piece| {
            let first = Ipv4Addr::from_bits(network.to_bits() + piece * size);
            Cidr::new(first, DEFAULT_RANGE_PREFIX)
        })
    })
}

/// Used while there is no uplink to take it from.
pub(super) const DEFAULT_MTU: u32 = 1500;
/// The file in the run directory that remembers the choice: slots of an earlier run have its
/// addresses.
const CHOICE_FILE: &str = "range";

/// The interface of the host's default route.
pub(super) fn uplink() -> Option<Link> {
    let mut socket = Socket::open(Family::Route).ok()?;
    let routes = link::routes(&mut socket).ok()?;
    let best = routes
        .iter()
        .filter(|route| route.destination.prefix() == 0 && route.out.is_some())
        .min_by_key(|route| route.metric)?;
    let links = link::links(&mut socket).ok()?;
    links.into_iter().find(|link| Some(link.index) == best.out)
}

/// Chooses the range and claims it with a blackhole route, which another instance sees as taken and
/// which keeps packets to unused addresses from leaving the host.
///
/// The choice of an earlier run is kept as long as nobody else has come to use the range.
pub(super) fn claim(run_dir: &Path, wanted: &[Cidr], link_prefix: &str) -> Result<Cidr, Error> {
    let file = run_dir.join(CHOICE_FILE);
    let earlier = claimed(run_dir);
    let candidates: Vec<Cidr> = match wanted {
        [] => default_ranges().collect(),
        some => some.to_vec(),
    };
    let read = Error::io("read the routes of this machine");
    let (mut socket, routes) = foreign_routes(earlier, link_prefix).map_err(read)?;
    let earlier = earlier.filter(|range| candidates.contains(range));
    for range in earlier.iter().chain(&candidates) {
        if routes
            .iter()
            .any(|r| r.destination.prefix() > 0 && r.destination.overlaps(*range))
        {
            continue;
        }
        match link::add_blackhole(&mut socket, *range) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                if earlier != Some(*range) {
                    continue;
                }
            }
            Err(error) => return Err(Error::io("claim the address range")(error)),
        }
        std::fs::write(&file, range.to_string()).map_err(Error::io("note the address range"))?;
        return Ok(*range);
    }
    let tried: Vec<String> = candidates.iter().map(Cidr::to_string).collect();
    Err(Error::NoRange {
        tried: tried.join(", "),
    })
}

/// The range that was chosen last.
pub(super) fn claimed(run_dir: &Path) -> Option<Cidr> {
    let text = std::fs::read_to_string(run_dir.join(CHOICE_FILE)).ok()?;
    text.trim().parse().ok()
}

/// Gives a claimed range back.
pub(super) fn unclaim(range: Cidr) -> io::Result<()> {
    link::delete_blackhole(&mut Socket::open(Family::Route)?, range)
}

/// All routes but those an earlier run of this instance made.
fn foreign_routes(earlier: Option<Cidr>, link_prefix: &str) -> io::Result<(Socket, Vec<Route>)> {
    let mut socket = Socket::open(Family::Route)?;
    let links = link::links(&mut socket)?;
    let is_own_link = |index: u32| {
        let found = links.iter().find(|link| link.index == index);
        found.is_some_and(|link| link.name.starts_with(link_prefix))
    };
    let mut routes = link::routes(&mut socket)?;
    routes.retain(|route| {
        let is_own_claim = route.is_blackhole && Some(route.destination) == earlier;
        !is_own_claim && !route.out.is_some_and(is_own_link)
    });
    Ok((socket, routes))
}
