//! Where deliveries may go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Addresses that one name may stand for; the rest is left out.
const ADDRESSES_MAX: usize = 16;

/// Which receivers webhooks may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Targets {
    /// Those on the public internet.
    Public,
    /// Also those in private networks and on this machine.
    Any,
}

impl Targets {
    fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Public => is_public(address),
            Self::Any => true,
        }
    }

    /// The URL, if it may be a receiver's. What its name stands for is checked when connecting.
    ///
    /// # Errors
    /// Why it may not, for the webhook's owner.
    pub(super) fn check(self, text: &str) -> Result<Url, String> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("it must begin with http:// or https://".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it must not contain a user or a password".to_owned());
        }
        let Some(host) = url.host_str() else {
            return Err("it has no host".to_owned());
        };
        // A literal address is connected to without asking the resolver.
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        match literal.parse::<IpAddr>() {
            Ok(address) if !self.allows(address) => {
                Err(format!("{address} is not on the public internet"))
            }
            Ok(_) | Err(_) => Ok(url),
        }
    }
}

/// Whether an address is one of the public internet: routed there, and of one machine.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// After the IANA registry of special-purpose addresses.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        // Shared between carriers and customers.
        || (a == 100 && (64..128).contains(&b))
        // Protocol assignments, relays, benchmarks, reserved.
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    let [a, b, c, d, e, f, g, h] = address.segments();
    let inner = |high: u16, low: u16| {
        let [w, x] = high.to_be_bytes();
        let [y, z] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(w, x, y, z))
    };
    match (a, b) {
        // Ways into IPv4: what counts is where they lead.
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => inner(g, h),
        (0x2002, _) => inner(b, c),
        // Teredo, documentation, benchmarks, ORCHID.
        (0x2001, 0..0x200) | (0x2001, 0xdb8) | (0x3fff, 0..0x1000) => false,
        // Global unicast is this and nothing else.
        _ => a & 0xe000 == 0x2000,
    }
}

/// Resolves names to allowed addresses only.
#[derive(Debug)]
pub(super) struct Resolver {
    targets: Targets,
}

impl Resolver {
    pub(super) const fn new(targets: Targets) -> Self {
        Self { targets }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let targets = self.targets;
        Box::pin(async move {
            let host = name.as_str();
            let found = tokio::net::lookup_host((host, 0)).await?;
            let allowed: Vec<SocketAddr> = found
                .filter(|address| targets.allows(address.ip()))
                .take(ADDRESSES_MAX)
                .collect();
            if allowed.is_empty() {
                return Err(format!("`{host}` is not on the public internet").into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_allowed() {
        for (text, is_public) in [
            ("http://93.184.216.34/hook", true),
            ("https://example.com:8443/hook?a=b", true),
            ("https://[2606:2800:220:1::1]/", true),
            ("http://127.0.0.1/", false),
            ("http://2130706433/", false),
            ("http://0x7f.1/", false),
            ("http://0.0.0.0/", false),
            ("http://10.1.2.3/", false),
            ("http://172.16.0.1/", false),
            ("http://192.168.1.1/", false),
            ("http://169.254.169.254/latest/meta-data", false),
            ("http://100.64.0.1/", false),
            ("http://198.18.0.1/", false),
            ("http://224.0.0.1/", false),
            ("http://255.255.255.255/", false),
            ("http://[::1]/", false),
            ("http://[::]/", false),
            ("http://[::ffff:127.0.0.1]/", false),
            ("http://[::ffff:8.8.8.8]/", true),
            ("http://[64:ff9b::10.0.0.1]/", false),
            ("http://[2002:7f00:1::]/", false),
            ("http://[fe80::1]/", false),
            ("http://[fd00::1]/", false),
            ("http://[2001:db8::1]/", false),
        ] {
            assert_eq!(Targets::Public.check(text).is_ok(), is_public, "{text}");
            assert!(Targets::Any.check(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_no_receiver_is_refused_everywhere() {
        for text in [
            "",
            "example.com/hook",
            "ftp://example.com/",
            "file:///etc/passwd",
            "https://user:password@example.com/",
            "https://",
        ] {
            assert!(Targets::Any.check(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_connected_to() {
        let resolve = |targets| async move {
            let name = "localhost".parse().unwrap();
            Resolver::new(targets).resolve(name).await
        };
        assert!(resolve(Targets::Public).await.is_err());
        assert!(resolve(Targets::Any).await.unwrap().count() > 0);
    }
}
