//! Single values: from what is written to what is meant.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use crate::config::{
    place::Fault,
    words::{closest, quoted, shown},
};

/// Longest name, in bytes. Names are label values of metrics and parts of keys.
const NAME_LIMIT: usize = 63;

/// A name of an edge, site, service or endpoint.
pub(super) fn name(text: &str) -> Result<Arc<str>, Fault> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let begins_well = text
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if text.len() > NAME_LIMIT {
        return Err(Fault::new(format!(
            "{} has {} bytes, and a name has at most {NAME_LIMIT}",
            quoted(text),
            text.len()
        ))
        .help("use a shorter name"));
    }
    if begins_well && text.chars().all(inner) {
        return Ok(text.into());
    }
    Err(Fault::new(format!("{} is not a name", quoted(text))).help(
        "use lower-case letters, digits, '.', '_' and '-', and begin with a letter or a digit",
    ))
}

/// One of a few words.
pub(super) fn choice<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&String) -> Result<T, Fault> {
    move |text| {
        if let Some(&(_, value)) = words.iter().find(|(word, _)| word == text) {
            return Ok(value);
        }
        let names = || words.iter().map(|&(word, _)| word);
        let listed: Vec<_> = names().map(quoted).collect();
        let fault = Fault::new(format!(
            "must be {}, not {}",
            listed.join(" or "),
            quoted(text)
        ));
        Err(match closest(&text.to_lowercase(), names()) {
            Some(meant) => fault.help(format!("did you mean {}?", quoted(meant))),
            None => fault,
        })
    }
}

/// A number within a range that fits the type it is wanted as.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&i64) -> Result<T, Fault>
where
    T: TryFrom<i64> + PartialOrd + std::fmt::Display,
{
    move |&number| {
        T::try_from(number)
            .ok()
            .filter(|value| range.contains(value))
            .ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                Fault::new(format!("must be from {low} to {high}, not {number}"))
            })
    }
}

/// A duration within a range.
pub(super) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&String) -> Result<Duration, Fault> {
    move |text| {
        let duration = humantime::parse_duration(text).map_err(|_| {
            Fault::new(format!("{} is not a duration", quoted(text)))
                .help("write a number with a unit, such as \"500ms\", \"5s\" or \"1m\"")
        })?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        Err(Fault::new(format!(
            "must be from {} to {}, not {}",
            humantime::format_duration(*range.start()),
            humantime::format_duration(*range.end()),
            shown(text)
        )))
    }
}

/// What an address is for, which decides what is said of a wrong one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Vip,
    Endpoint,
    /// An endpoint that the edge proxy connects to, from this host.
    Upstream,
    Source,
}

impl Role {
    fn use_another(self) -> &'static str {
        match self {
            Self::Vip => "give the address that clients connect to, such as 203.0.113.10",
            Self::Endpoint | Self::Upstream => {
                "give the address that the server has on its network"
            }
            Self::Source => "give an address of this edge that the sites have a route to",
        }
    }
}

/// An address that packets can be sent to or from.
pub(super) fn address<A>(role: Role) -> impl Fn(&str) -> Result<A, Fault>
where
    A: Copy + FromStr + Into<IpAddr> + Family,
{
    move |text| {
        let address = text.parse::<A>().map_err(|_| not_an_address::<A>(text))?;
        usable(text, address.into(), role)?;
        Ok(address)
    }
}

/// Refuses an address that packets cannot be sent to or from.
pub(super) fn usable(text: &str, address: IpAddr, role: Role) -> Result<(), Fault> {
    let Some(why) = unusable(address, role) else {
        return Ok(());
    };
    let help = match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "write it as an IPv4 address",
        _ => role.use_another(),
    };
    Err(Fault::new(format!("{} is {why}", shown(text))).help(help))
}

/// The words for a type of address.
pub(super) trait Family {
    const NAME: &'static str;
    /// In TOML.
    const EXAMPLE: &'static str;
    const LIST_EXAMPLE: &'static str;
}

impl Family for IpAddr {
    const NAME: &'static str = "IP";
    const EXAMPLE: &'static str = "\"203.0.113.10\"";
    const LIST_EXAMPLE: &'static str = "[\"203.0.113.10\", \"2001:db8::10\"]";
}

impl Family for Ipv4Addr {
    const NAME: &'static str = "IPv4";
    const EXAMPLE: &'static str = "\"198.51.100.1\"";
    const LIST_EXAMPLE: &'static str = "[\"198.51.100.2\"]";
}

impl Family for Ipv6Addr {
    const NAME: &'static str = "IPv6";
    const EXAMPLE: &'static str = "\"2001:db8:1::1\"";
    const LIST_EXAMPLE: &'static str = "[\"2001:db8:1::2\"]";
}

pub(super) fn not_an_address<A: Family>(text: &str) -> Fault {
    let help = if text.contains('/') {
        "write a single address, without a prefix length".to_owned()
    } else if text.parse::<std::net::SocketAddr>().is_ok() {
        "write the address alone: a port has a key of its own".to_owned()
    } else if text.starts_with('[') {
        "write the address without brackets".to_owned()
    } else if text.contains('%') {
        "write the address without an interface".to_owned()
    } else if let Ok(other) = text.parse::<IpAddr>() {
        let key = if other.is_ipv4() { "4" } else { "6" };
        format!("an address of this family belongs in source{key}")
    } else {
        format!("write an address such as {}", A::EXAMPLE)
    };
    Fault::new(format!("{} is not an {} address", shown(text), A::NAME)).help(help)
}

/// Why packets cannot be sent to or from an address, if so.
fn unusable(address: IpAddr, role: Role) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("the unspecified address, which stands for no host");
    }
    if address.is_loopback() && role != Role::Upstream {
        return Some(match role {
            Role::Vip => "a loopback address, which no client can reach",
            Role::Endpoint | Role::Upstream => {
                "a loopback address: packets cannot be steered to it"
            }
            Role::Source => "a loopback address, which never leaves a host",
        });
    }
    if address.is_multicast() {
        return Some("a multicast address, which stands for no single host");
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => {
            Some("the broadcast address, which stands for no single host")
        }
        // RFC 1122, section 3.2.1.3.
        IpAddr::V4(v4) if v4.octets()[0] == 0 => {
            Some("in 0.0.0.0/8, which stands for no host of another network")
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("an IPv4 address mapped into IPv6, which no packet carries")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("a link-local address, which means nothing without an interface")
        }
        _ => None,
    }
}

/// A Maglev table size: prime, so that every endpoint's sequence of slots visits
/// each of them (Eisenbud et al., "Maglev", NSDI 2016, section 3.4).
pub(super) fn table_size(number: &i64) -> Result<u32, Fault> {
    const RANGE: RangeInclusive<u32> = 251..=131_071;
    let size = self::number(RANGE)(number).map_err(|fault| fault.help(PRIMES))?;
    match (size..=*RANGE.end()).find(|&candidate| is_prime(candidate)) {
        Some(prime) if prime != size => Err(Fault::new(format!("{size} is not a prime number"))
            .help(format!("the next one is {prime}: table_size = {prime}"))),
        _ => Ok(size),
    }
}

const PRIMES: &str = "use a prime number, such as 4093, 16381 or 65521";

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::is_prime;

    #[test]
    fn primes_are_told_from_other_numbers() {
        let primes: Vec<_> = (0..32).filter(|&number| is_prime(number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31]);
        // The ends of what is allowed, the default, and squares of primes.
        for (number, prime) in [
            (251, true),
            (16_381, true),
            (131_071, true),
            (257 * 257, false),
            (361 * 361, false),
        ] {
            assert_eq!(is_prime(number), prime, "{number}");
        }
    }
}
