//! Captures that are whole, cut, and lying.

mod pcap;
mod pcapng;

use super::capture::{Capture, Fault, Precision};

/// What a packet says: seconds, fraction, bytes, length on the wire.
type Packet = (u32, u32, Vec<u8>, u32);

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

/// Hands out a byte at a time, as a slow pipe may.
struct Dripping<'a>(&'a [u8]);

impl std::io::Read for Dripping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.len().min(buffer.len()).min(1);
        let (now, later) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

/// All packets of a capture, and the fault that it ends with, if any.
fn read_from(input: impl std::io::Read) -> (Option<Precision>, Vec<Packet>, Option<Fault>) {
    let mut capture = match Capture::open(input) {
        Ok(capture) => capture,
        Err(fault) => return (None, Vec::new(), Some(fault)),
    };
    let precision = Some(capture.precision());
    let mut packets = Vec::new();
    loop {
        match capture.next_packet() {
            Ok(Some(record)) => packets.push((
                record.time.seconds,
                record.time.fraction,
                record.data.to_vec(),
                record.length,
            )),
            Ok(None) => return (precision, packets, None),
            Err(fault) => return (precision, packets, Some(fault)),
        }
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
