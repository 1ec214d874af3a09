//! A network policy in terms of what a packet filter can do. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use atoll_core::network::NetworkPolicy;

use super::cidr::Cidr;

/// Most entries of each list, so that one policy is one netlink datagram and few rules per packet.
pub const MAX_ENTRIES: usize = 256;

/// Everything.
const ALL: Cidr = Cidr::new(Ipv4Addr::UNSPECIFIED, 0);

/// Denied to every sandbox whatever its policy says: ranges of private networks, of the host and
/// its neighbours (cloud metadata services among them), and those that are no unicast destination.
/// These are E2B's, and the special-purpose ranges of RFC 6890.
pub(super) const INTERNAL: [Cidr; 11] = [
    Cidr::new(Ipv4Addr::new(0, 0, 0, 0), 8),
    Cidr::new(Ipv4Addr::new(10, 0, 0, 0), 8),
    Cidr::new(Ipv4Addr::new(100, 64, 0, 0), 10),
    Cidr::new(Ipv4Addr::new(127, 0, 0, 0), 8),
    Cidr::new(Ipv4Addr::new(169, 254, 0, 0), 16),
    Cidr::new(Ipv4Addr::new(172, 16, 0, 0), 12),
    Cidr::new(Ipv4Addr::new(192, 0, 0, 0), 24),
    Cidr::new(Ipv4Addr::new(192, 168, 0, 0), 16),
    Cidr::new(Ipv4Addr::new(198, 18, 0, 0), 15),
    Cidr::new(Ipv4Addr::new(224, 0, 0, 0), 4),
    Cidr::new(Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// What a sandbox may reach beyond the internal ranges: `allow` first, then `deny`, then `is_open`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) allow: Vec<Cidr>,
    pub(super) deny: Vec<Cidr>,
    pub(super) is_open: bool,
}

/// Why a policy cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unenforceable {
    /// An entry is a name. A packet filter sees addresses only.
    #[error(
        "network rules by domain name (`{0}`) are not supported on this node; use addresses or \
         ranges"
    )]
    Domain(String),
    /// A deny entry that is neither an address nor a range.
    #[error("`{0}` is not an address or a range")]
    Invalid(String),
    /// Too many entries.
    #[error("more than {MAX_ENTRIES} entries in one list of network rules")]
    TooMany,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            deny: Vec::new(),
            is_open: true,
        }
    }
}

impl Rules {
    /// Entries for IPv6 have no effect: sandboxes have no IPv6 beyond loopback, so what they deny
    /// is denied, and what they allow would not get anywhere.
    pub(super) fn from_policy(policy: &NetworkPolicy) -> Result<Self, Unenforceable> {
        if policy.allow_out.len() > MAX_ENTRIES || policy.deny_out.len() > MAX_ENTRIES {
            return Err(Unenforceable::TooMany);
        }
        let mut rules = Self {
            is_open: policy.internet_access,
            ..Self::default()
        };
        for entry in &policy.allow_out {
            match parse(entry) {
                Some(Entry::V4(range)) => rules.allow.push(range),
                Some(Entry::V6) => {}
                None => return Err(Unenforceable::Domain(entry.clone())),
            }
        }
        for entry in &policy.deny_out {
            match parse(entry) {
                Some(Entry::V4(ALL)) => rules.is_open = false,
                Some(Entry::V4(range)) => rules.deny.push(range),
                Some(Entry::V6) => {}
                None => return Err(Unenforceable::Invalid(entry.clone())),
            }
        }
        Ok(rules)
    }
}

enum Entry {
    V4(Cidr),
    V6,
}

fn parse(text: &str) -> Option<Entry> {
    if let Ok(range) = text.parse() {
        return Some(Entry::V4(range));
    }
    let (address, prefix) = text.split_once('/').unwrap_or((text, "128"));
    let is_v6 = matches!(address.parse::<IpAddr>(), Ok(IpAddr::V6(_)));
    let fits = prefix
        .parse::<u32>()
        .is_ok_and(|bits| bits <= Ipv6Addr::BITS);
    (is_v6 && fits).then_some(Entry::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(access: bool, allow: &[&str], deny: &[&str]) -> Result<Rules, Unenforceable> {
        let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        Rules::from_policy(&NetworkPolicy {
            internet_access: access,
            allow_out: own(allow),
            deny_out: own(deny),
            ..NetworkPolicy::default()
        })
    }

    #[test]
    fn policies_become_rules() {
        assert_eq!(rules(true, &[], &[]), Ok(Rules::default()));
        let closed = rules(false, &["1.2.3.4", "::1"], &["9.9.9.0/24", "fc00::/7"]).unwrap();
        assert_eq!(closed.allow, ["1.2.3.4/32".parse().unwrap()]);
        assert_eq!(closed.deny, ["9.9.9.0/24".parse().unwrap()]);
        assert!(!closed.is_open);
        assert!(!rules(true, &[], &["0.0.0.0/0"]).unwrap().is_open);
    }

    #[test]
    fn what_a_packet_filter_cannot_do_is_refused() {
        for name in ["example.org", "*.example.org", "1.2.3", "fe80::/129"] {
            let expected = Err(Unenforceable::Domain(name.to_owned()));
            assert_eq!(rules(true, &[name], &[]), expected);
        }
        let denied = rules(true, &[], &["example.org"]);
        assert_eq!(
            denied,
            Err(Unenforceable::Invalid("example.org".to_owned()))
        );
        let many = vec!["1.1.1.1"; MAX_ENTRIES + 1];
        assert_eq!(rules(true, &many, &[]), Err(Unenforceable::TooMany));
    }
}
