use proptest::prelude::*;

use super::{Bytes, Dripping, Packet, ends_at, read, read_from};
use crate::simulate::capture::Precision;

const HEADER: usize = 24;
const RECORD: usize = 16;
const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

fn header(is_big_endian: bool, magic: u32, link_type: u32) -> Bytes {
    let mut file = Bytes::new(is_big_endian);
    file.u32(magic).u16(2).u16(4);
    file.u32(0).u32(0).u32(65_535).u32(link_type);
    file
}

fn file(is_big_endian: bool, magic: u32, packets: &[Packet]) -> Vec<u8> {
    let mut file = header(is_big_endian, magic, 1);
    for (seconds, fraction, data, length) in packets {
        file.u32(*seconds).u32(*fraction);
        file.u32(data.len() as u32).u32(*length).raw(data);
    }
    file.bytes
}

fn packets() -> Vec<Packet> {
    vec![
        (1, 999_999, vec![1; 60], 60),
        (2, 0, Vec::new(), 0),
        // Captured short.
        (u32::MAX, 7, vec![2; 54], 1514),
        (4, 5, vec![3; 1514], 1514),
    ]
}

#[test]
fn both_byte_orders_and_precisions_are_read() {
    for is_big_endian in [false, true] {
        for (magic, precision) in [
            (MICROSECONDS, Precision::Micro),
            (NANOSECONDS, Precision::Nano),
        ] {
            let file = file(is_big_endian, magic, &packets());
            let expected = (Some(precision), packets(), None);
            assert_eq!(read_from(file.as_slice()), expected);
            assert_eq!(read_from(Dripping(&file, 1)), expected);
        }
    }
}

#[test]
fn a_capture_may_be_empty_and_a_file_may_not() {
    assert_eq!(read(&file(false, MICROSECONDS, &[])), (Vec::new(), None));
    let fault = ends_at(&[], &[], 0);
    assert!(fault.to_string().contains("empty"), "{fault}");
}

#[test]
fn a_cut_at_any_byte_is_told_with_packet_and_offset() {
    let packets = packets();
    let whole = file(false, MICROSECONDS, &packets);
    for length in 0..whole.len() {
        let cut = &whole[..length];
        if length < HEADER {
            let fault = ends_at(cut, &[], 0);
            assert_eq!(fault.packet, None);
            continue;
        }
        let mut end = HEADER;
        let mut complete = 0;
        for (_, _, data, _) in &packets {
            if end + RECORD + data.len() > length {
                break;
            }
            end += RECORD + data.len();
            complete += 1;
        }
        if end == length {
            assert_eq!(read(cut), (packets[..complete].to_vec(), None));
            continue;
        }
        let fault = ends_at(cut, &packets[..complete], end);
        let there = length - end;
        assert_eq!(fault.packet, Some(complete as u64 + 1));
        assert!(
            fault.what.contains(&format!("{there} bytes are there")),
            "{fault}"
        );
    }
}

#[test]
fn a_length_that_cannot_be_ends_it() {
    for length in [262_145, u32::MAX] {
        let mut whole = file(false, MICROSECONDS, &packets());
        let at = whole.len();
        let mut lie = Bytes::new(false);
        lie.u32(0).u32(0).u32(length).u32(length).raw(&[0; 4096]);
        whole.extend(lie.bytes);
        let fault = ends_at(&whole, &packets(), at);
        assert!(fault.what.contains(&length.to_string()), "{fault}");
    }
}

#[test]
fn the_longest_packet_is_read() {
    let packets = vec![(1, 2, vec![7; 262_144], 300_000)];
    assert_eq!(
        read(&file(true, NANOSECONDS, &packets)),
        (packets.clone(), None)
    );
}

#[test]
fn other_link_types_and_versions_are_refused() {
    // Of raw IP, of Linux's "any", of 802.11.
    for link_type in [101, 113, 105] {
        let fault = ends_at(&header(false, MICROSECONDS, link_type).bytes, &[], 0);
        for part in [&format!("link type {link_type},"), "only Ethernet"] {
            assert!(fault.what.contains(part), "{fault}");
        }
    }
    // Four bytes of frame check sequence behind each packet.
    let fcs = header(true, MICROSECONDS, 0x4400_0001).bytes;
    assert_eq!(read(&fcs), (Vec::new(), None));
    let mut old = header(false, MICROSECONDS, 1).bytes;
    old[6] = 2;
    assert!(ends_at(&old, &[], 0).what.contains("version 2.2"));
}

#[test]
fn anything_else_is_refused() {
    for garbage in [&b"not a capture, but long enough to be one"[..], &[0; 100]] {
        let fault = ends_at(garbage, &[], 0);
        assert!(fault.what.contains("neither"), "{fault}");
    }
}

proptest! {
    /// However wrong a capture is: no panic, and never more packets than fit.
    #[test]
    fn any_damage_is_survived(
        is_big_endian in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let mut file = file(is_big_endian, MICROSECONDS, &packets());
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let (found, _) = read(&file);
        let bytes: usize = found.iter().map(|(_, _, data, _)| RECORD + data.len()).sum();
        prop_assert!(bytes <= file.len());
    }
}
