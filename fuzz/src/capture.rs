//! Any file is read alike in whatever pieces it comes, up to where it cannot be
//! read; and what was read of it is found again in a capture written of it.

use director::simulate::capture::{Capture, Fault, Precision};

use self::reading::{Dripping, Packet, read_from};

#[path = "../../director/src/simulate/tests/reading.rs"]
mod reading;

pub fn check(file: &[u8]) {
    let whole = read_from(file);
    assert_eq!(read_from(Dripping(file, 7)), whole);
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
    let again = read_from(written(precision, &packets).as_slice());
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
