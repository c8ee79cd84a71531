//! Between the ABI's types, `aya`'s and the standard library's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::Pod;
use director_ebpf::abi::{self, Macs, Plain};

/// Lets an ABI type be a key or a value of an `aya` map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct P<T>(pub T);

// SAFETY: `Plain` promises what `Pod` asks: no padding, any bits are valid.
unsafe impl<T: Plain> Pod for P<T> {}

/// An address as the ABI keeps it in an endpoint.
pub fn wide(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [abi::ipv4(v4), 0, 0, 0],
        IpAddr::V6(v6) => abi::ipv6(v6),
    }
}

/// 4 or 6.
pub fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

/// The reverse of [`wide`].
pub fn address(words: [u32; 4], family: u8) -> IpAddr {
    if family == 4 {
        return IpAddr::V4(Ipv4Addr::from(words[0].to_ne_bytes()));
    }
    let mut octets = [0; 16];
    for (chunk, word) in octets.chunks_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    IpAddr::V6(Ipv6Addr::from(octets))
}

/// Ethernet addresses of a next hop, as the ABI keeps them.
pub fn macs(destination: [u8; 6], source: [u8; 6]) -> Macs {
    let mut words = [0; 3];
    let bytes = destination
        .iter()
        .chain(&source)
        .copied()
        .collect::<Vec<_>>();
    for (word, four) in words.iter_mut().zip(bytes.chunks(4)) {
        *word = u32::from_ne_bytes([four[0], four[1], four[2], four[3]]);
    }
    words
}

/// The reverse of [`macs`].
pub fn split_macs(words: Macs) -> ([u8; 6], [u8; 6]) {
    let mut bytes = [[0; 6]; 2];
    for (byte, value) in bytes
        .iter_mut()
        .flatten()
        .zip(words.iter().flat_map(|w| w.to_ne_bytes()))
    {
        *byte = value;
    }
    (bytes[0], bytes[1])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_survive_the_round_trip(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>()) {
            for ip in [IpAddr::from(v4), IpAddr::from(v6)] {
                prop_assert_eq!(address(wide(ip), family(ip)), ip);
            }
        }
    }

    #[test]
    fn macs_stand_in_memory_as_in_a_frame() {
        let words = macs([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        assert_eq!(bytes, (1..=12).collect::<Vec<u8>>());
        assert_eq!(
            split_macs(words),
            ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12])
        );
    }
}
