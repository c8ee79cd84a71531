//! Prefixes as they are written: `192.0.2.0/24`, or a single address.

use std::{net::IpAddr, ops::RangeInclusive, str::FromStr};

use super::value::{self, Family, Role};
use crate::config::{
    place::Fault,
    prefix::{Prefix, bits},
    words::shown,
};

/// A prefix of addresses that packets may come from, or a single address.
pub(super) fn network(text: &str) -> Result<Prefix, Fault> {
    let Some((address, length)) = text.split_once('/') else {
        let address: IpAddr = parsed::<IpAddr>(text)?;
        return not_mapped(text, Prefix::around(address, bits(address)));
    };
    let address = parsed::<IpAddr>(address)?;
    not_mapped(text, prefix(text, address, length, 0..=bits(address))?)
}

/// An address of the edge to send from, or a prefix of them. The shorter a
/// prefix may be, the more addresses one edge takes.
pub(super) fn source<A>(shortest: u8) -> impl Fn(&str) -> Result<Prefix, Fault>
where
    A: Copy + FromStr + Into<IpAddr> + Family,
{
    move |text| {
        let Some((address, length)) = text.split_once('/') else {
            let address = value::address::<A>(Role::Source)(text)?.into();
            return Ok(Prefix::around(address, bits(address)));
        };
        let address: IpAddr = parsed::<A>(address)?.into();
        let prefix = prefix(text, address, length, shortest..=bits(address))?;
        // The blocks of which nothing can be used are larger than a prefix can
        // be here, or begin or end with it.
        value::usable(&prefix.address.to_string(), prefix.address, Role::Source)?;
        value::usable(&prefix.last().to_string(), prefix.last(), Role::Source)?;
        Ok(prefix)
    }
}

fn parsed<A: FromStr + Family>(text: &str) -> Result<A, Fault> {
    text.parse().map_err(|_| value::not_an_address::<A>(text))
}

fn prefix(
    text: &str,
    address: IpAddr,
    length: &str,
    range: RangeInclusive<u8>,
) -> Result<Prefix, Fault> {
    let digits = length.bytes().all(|byte| byte.is_ascii_digit());
    let known = length.parse().ok().filter(|length| range.contains(length));
    let Some(length) = known.filter(|_| digits) else {
        let (low, high) = (range.start(), range.end());
        return Err(Fault::new(format!(
            "{} has a prefix length that is not from {low} to {high}",
            shown(text)
        ))
        .help(format!("write one, such as {address}/{high}")));
    };
    let prefix = Prefix::around(address, length);
    if prefix.address != address {
        return Err(Fault::new(format!(
            "{} has bits set after the first {length}",
            shown(text)
        ))
        .help(format!(
            "write {prefix} for all of it, or {address} for one address"
        )));
    }
    Ok(prefix)
}

/// Refuses what no packet carries, and what an operator takes for IPv4.
fn not_mapped(text: &str, prefix: Prefix) -> Result<Prefix, Fault> {
    match prefix.address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() && prefix.length >= 96 => {
            Err(Fault::new(format!(
                "{} is of IPv4 addresses mapped into IPv6, which no packet carries",
                shown(text)
            ))
            .help("write it as IPv4"))
        }
        _ => Ok(prefix),
    }
}
