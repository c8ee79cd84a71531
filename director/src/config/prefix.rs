//! Blocks of addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// The addresses that have their first bits in common. The bits after those are
/// zero in `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The first address.
    pub address: IpAddr,
    /// How many bits are in common: up to 32 of IPv4, up to 128 of IPv6.
    pub length: u8,
}

impl Prefix {
    /// The prefix of this length that an address is in. A length that is more
    /// than the family has counts as all of its bits.
    pub fn around(address: IpAddr, length: u8) -> Self {
        let length = length.min(bits(address));
        Self {
            address: with_host_bits(address, length, false),
            length,
        }
    }

    /// Whether there is one address in it.
    pub fn is_single(&self) -> bool {
        self.length == bits(self.address)
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && Self::around(address, self.length).address == self.address
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        with_host_bits(self.address, self.length, true)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// An address, or a prefix; its address may be any that is in it.
impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address.parse::<IpAddr>(), length.parse().ok()),
            None => (text.parse(), Some(u8::MAX)),
        };
        let fault = || format!("{text} is no address or prefix, as in 192.0.2.0/24");
        let address = address.map_err(|_| fault())?;
        let is_prefix = text.contains('/');
        match length {
            Some(length) if !is_prefix || length <= bits(address) => {
                Ok(Self::around(address, length))
            }
            _ => Err(fault()),
        }
    }
}

/// Bits of an address of this one's family.
pub(super) fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address with every bit after the first `length` cleared, or set.
fn with_host_bits(address: IpAddr, length: u8, set: bool) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let hosts = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            let network = v4.to_bits() & !hosts;
            Ipv4Addr::from_bits(if set { network | hosts } else { network }).into()
        }
        IpAddr::V6(v6) => {
            let hosts = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            let network = v6.to_bits() & !hosts;
            Ipv6Addr::from_bits(if set { network | hosts } else { network }).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn prefixes_hold_what_begins_as_they_do() {
        for (around, length, first, last) in [
            ("192.0.2.77", 26, "192.0.2.64", "192.0.2.127"),
            ("192.0.2.77", 32, "192.0.2.77", "192.0.2.77"),
            ("192.0.2.77", 99, "192.0.2.77", "192.0.2.77"),
            ("192.0.2.77", 0, "0.0.0.0", "255.255.255.255"),
            ("2001:db8::77", 120, "2001:db8::", "2001:db8::ff"),
            ("2001:db8::77", 128, "2001:db8::77", "2001:db8::77"),
            (
                "2001:db8::77",
                0,
                "::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ),
        ] {
            let prefix = Prefix::around(ip(around), length);
            assert_eq!((prefix.address, prefix.last()), (ip(first), ip(last)));
            assert_eq!(prefix.is_single(), first == last, "{prefix}");
            for inside in [first, around, last] {
                assert!(prefix.contains(ip(inside)), "{prefix} {inside}");
            }
        }
    }

    #[test]
    fn neighbours_and_the_other_family_are_outside() {
        let prefix = Prefix::around(ip("192.0.2.64"), 26);
        for outside in ["192.0.2.63", "192.0.2.128", "::c000:240", "2001:db8::1"] {
            assert!(!prefix.contains(ip(outside)), "{outside}");
        }
        assert!(!Prefix::around(ip("::"), 0).contains(ip("192.0.2.64")));
    }

    #[test]
    fn prefixes_are_read_and_nothing_else_is() {
        for (text, shown) in [
            ("192.0.2.77", "192.0.2.77/32"),
            ("192.0.2.77/24", "192.0.2.0/24"),
            ("2001:db8::77", "2001:db8::77/128"),
            ("2001:db8::77/32", "2001:db8::/32"),
        ] {
            assert_eq!(
                text.parse().map(|it: Prefix| it.to_string()),
                Ok(shown.to_owned())
            );
        }
        for text in [
            "",
            "/24",
            "192.0.2.0/33",
            "192.0.2.0/",
            "2001:db8::/129",
            "web",
            "1.2.3.4/-1",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }
}
