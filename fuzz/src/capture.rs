//! Any file is read alike in whatever pieces it comes, up to where it cannot be
//! read; and what was read of it is found again in a capture written of it.

use std::io::Read;

use director::simulate::capture::{Capture, Fault, Precision};

/// Seconds, fraction, bytes, length on the wire.
type Packet = (u32, u32, Vec<u8>, u32);

/// Hands out a few bytes at a time, as a slow pipe may.
struct Dripping<'a>(&'a [u8]);

impl Read for Dripping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.len().min(buffer.len()).min(7);
        let (now, later) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

/// Precision, all packets, and the fault that it ends with.
type Whole = (Option<Precision>, Vec<Packet>, Option<Fault>);

fn read(input: impl Read) -> Whole {
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

pub fn check(file: &[u8]) {
    let whole = read(file);
    assert_eq!(read(Dripping(file)), whole);
    let (precision, packets, fault) = whole;
    let bytes: usize = packets.iter().map(|packet| packet.2.len()).sum();
    assert!(bytes <= file.len());
    if let Some(fault) = &fault {
        assert!(fault.offset <= file.len() as u64);
        let is_next = |packet| packet == packets.len() as u64 + 1;
        assert!(fault.packet.is_none_or(is_next), "{fault}");
        assert!(!fault.what.is_empty());
    }
    let Some(precision) = precision else { return };
    let again = read(written(precision, &packets).as_slice());
    assert_eq!(again, (Some(precision), packets.clone(), None));
    if let Some(plain) = plainly(file) {
        assert_eq!(packets, plain);
    }
}

fn written(precision: Precision, packets: &[Packet]) -> Vec<u8> {
    let magic: u32 = match precision {
        Precision::Micro => 0xa1b2_c3d4,
        Precision::Nano => 0xa1b2_3c4d,
    };
    let head = [magic, 4 << 16 | 2, 0, 0, 262_144, 1];
    let mut file: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
    for (seconds, fraction, data, length) in packets {
        let head = [*seconds, *fraction, data.len() as u32, *length];
        file.extend(head.iter().flat_map(|word| word.to_le_bytes()));
        file.extend(data);
    }
    file
}

/// The packets of a pcap file in either byte order, read by its plain rules;
/// `None` where it is another kind of file. Ends where it cannot go on.
fn plainly(file: &[u8]) -> Option<Vec<Packet>> {
    let magic = file.first_chunk()?;
    let is_magic = |number| number == 0xa1b2_c3d4 || number == 0xa1b2_3c4d;
    let word: fn([u8; 4]) -> u32 = if is_magic(u32::from_le_bytes(*magic)) {
        u32::from_le_bytes
    } else if is_magic(u32::from_be_bytes(*magic)) {
        u32::from_be_bytes
    } else {
        return None;
    };
    let mut rest = file.get(24..)?;
    let mut packets = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<16>() {
        let at = |n: usize| word([head[n], head[n + 1], head[n + 2], head[n + 3]]);
        let length = at(8) as usize;
        if length > 262_144 || length > after.len() {
            break;
        }
        let (data, behind) = after.split_at(length);
        packets.push((at(0), at(4), data.to_vec(), at(12)));
        rest = behind;
    }
    Some(packets)
}
