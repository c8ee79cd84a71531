//! Captures that are whole, cut, and lying.

mod pcap;
mod pcapng;
mod reading;

use self::reading::{Dripping, Packet, read_from};
use super::capture::{Capture, Fault, Precision};

/// Numbers in either byte order.
struct Bytes {
    is_big_endian: bool,
    bytes: Vec<u8>,
}

impl Bytes {
    fn new(is_big_endian: bool) -> Self {
        Self {
            is_big_endian,
            bytes: Vec::new(),
        }
    }

    fn u16(&mut self, number: u16) -> &mut Self {
        self.raw(&if self.is_big_endian {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        })
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.raw(&if self.is_big_endian {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        })
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.raw(&if self.is_big_endian {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        })
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
}

fn read(file: &[u8]) -> (Vec<Packet>, Option<Fault>) {
    let (_, packets, fault) = read_from(file);
    (packets, fault)
}

/// Asserts that a capture holds these packets, then something that cannot be
/// read at `offset`.
fn ends_at(file: &[u8], packets: &[Packet], offset: usize) -> Fault {
    let (found, fault) = read(file);
    assert_eq!(found, packets);
    let fault = fault.expect("a fault");
    assert_eq!(fault.offset, offset as u64, "{fault}");
    if let Some(packet) = fault.packet {
        assert_eq!(packet, packets.len() as u64 + 1, "{fault}");
    }
    fault
}
