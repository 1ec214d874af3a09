//! IPv4 ranges in CIDR notation.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 range whose host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: Ipv4Addr,
    prefix: u8,
}

/// Why a text is not an IPv4 range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an IPv4 address or range")]
pub struct InvalidCidr {
    /// The rejected text, cut to a printable length.
    pub text: String,
}

impl Cidr {
    /// The range of `prefix` bits around `address`. Prefixes above 32 count as 32.
    #[must_use]
    pub const fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = if prefix > 32 { 32 } else { prefix };
        let bits = address.to_bits() & mask_bits(prefix);
        Self {
            address: Ipv4Addr::from_bits(bits),
            prefix,
        }
    }

    /// The lowest address.
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Number of leading bits that addresses of the range share.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The mask as an address: `255.255.0.0` for a /16.
    #[must_use]
    pub const fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask_bits(self.prefix))
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        let shorter = if self.prefix < other.prefix {
            self.prefix
        } else {
            other.prefix
        };
        (self.address.to_bits() ^ other.address.to_bits()) & mask_bits(shorter) == 0
    }

    /// The address `offset` above the lowest, if it is still in the range.
    #[must_use]
    pub fn nth(self, offset: u32) -> Option<Ipv4Addr> {
        let fits = u64::from(offset) < 1u64 << (32 - self.prefix);
        fits.then(|| Ipv4Addr::from_bits(self.address.to_bits() + offset))
    }
}

const fn mask_bits(prefix: u8) -> u32 {
    if prefix == 0 {
        0
    } else {
        u32::MAX << (32 - prefix)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidCidr {
            text: text.chars().take(64).collect(),
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, prefix.parse().map_err(|_| invalid())?),
            None => (text, 32),
        };
        let address = address.parse().map_err(|_| invalid())?;
        if prefix > 32 {
            return Err(invalid());
        }
        Ok(Self::new(address, prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_ranges_or_are_refused() {
        let cidr = |text: &str| text.parse::<Cidr>().map(|c| c.to_string());
        assert_eq!(cidr("10.1.2.3/16"), Ok("10.1.0.0/16".to_owned()));
        assert_eq!(cidr("8.8.8.8"), Ok("8.8.8.8/32".to_owned()));
        assert_eq!(cidr("1.2.3.4/0"), Ok("0.0.0.0/0".to_owned()));
        for bad in [
            "",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/-1",
            "::1",
            "example.org",
        ] {
            assert!(cidr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn overlap_is_symmetric_and_ends_at_the_border() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        assert!(cidr("10.0.0.0/8").overlaps(cidr("10.11.0.0/16")));
        assert!(cidr("10.11.0.0/16").overlaps(cidr("10.0.0.0/8")));
        assert!(!cidr("10.11.0.0/16").overlaps(cidr("10.12.0.0/16")));
        assert!(cidr("0.0.0.0/0").overlaps(cidr("10.12.0.0/16")));
        assert_eq!(
            cidr("10.1.0.0/30").nth(3),
            Some("10.1.0.3".parse().unwrap())
        );
        assert_eq!(cidr("10.1.0.0/30").nth(4), None);
    }
}
