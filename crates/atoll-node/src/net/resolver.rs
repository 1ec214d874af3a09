//! Which name servers sandboxes ask.

use std::net::{IpAddr, Ipv4Addr};

/// Files that name the host's upstream servers, the better ones first: where systemd-resolved runs,
/// `/etc/resolv.conf` names only a stub on loopback, which a sandbox cannot reach.
pub const HOST_FILES: [&str; 2] = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"];
/// Asked where the host names none that a sandbox can reach.
pub const FALLBACK: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(1, 1, 1, 1)];
/// The resolver of the C library looks at three servers.
const MAX_SERVERS: usize = 3;

/// The name servers of sandboxes: those configured, or those of the host, or the fallback.
#[must_use]
pub fn choose(configured: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    if !configured.is_empty() {
        return configured.to_vec();
    }
    let texts = HOST_FILES.iter().map(std::fs::read_to_string);
    let mut found = texts.flatten().map(|text| servers(&text));
    found
        .find(|servers| !servers.is_empty())
        .unwrap_or_else(|| FALLBACK.to_vec())
}

/// The content of a sandbox's `/etc/resolv.conf`.
#[must_use]
pub fn resolv_conf(servers: &[Ipv4Addr]) -> String {
    let lines = servers.iter().take(MAX_SERVERS);
    lines
        .map(|server| format!("nameserver {server}\n"))
        .collect()
}

/// Servers in a `resolv.conf` that a sandbox can reach: not loopback, and IPv4.
fn servers(text: &str) -> Vec<Ipv4Addr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        match words.next()?.parse() {
            Ok(IpAddr::V4(address)) => Some(address),
            Ok(IpAddr::V6(_)) | Err(_) => None,
        }
    });
    addresses
        .filter(|address| !address.is_loopback() && !address.is_unspecified())
        .take(MAX_SERVERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reachable_servers_are_taken() {
        let text = "# comment\nsearch x\nnameserver 127.0.0.53\nnameserver 10.0.0.2 # lan\n\
                    nameserver fe80::1%eth0\n  nameserver 9.9.9.9\nnameserver\noptions edns0\n";
        let found = servers(text);
        assert_eq!(
            resolv_conf(&found),
            "nameserver 10.0.0.2\nnameserver 9.9.9.9\n"
        );
        assert!(servers("nameserver 127.0.0.1\n").is_empty());
    }
}
