//! Reading all of a capture; the fuzz targets read so too.

use std::io::Read;

use super::{Capture, Fault, Precision};

/// What a packet says: seconds, fraction, bytes, length on the wire.
pub type Packet = (u32, u32, Vec<u8>, u32);

/// Hands out no more than so many bytes at a time, as a slow pipe may.
pub struct Dripping<'a>(pub &'a [u8], pub usize);

impl Read for Dripping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.len().min(buffer.len()).min(self.1);
        let (now, later) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

/// Precision, all packets, and the fault that a capture ends with, if any.
pub type Whole = (Option<Precision>, Vec<Packet>, Option<Fault>);

/// Reads a capture to its end.
pub fn read_from(input: impl Read) -> Whole {
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
