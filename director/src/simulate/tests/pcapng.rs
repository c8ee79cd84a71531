use pcap_parser::{
    EnhancedPacketBlock, InterfaceDescriptionBlock, Linktype, OptionCode, PcapNGOption,
    SectionHeaderBlock, ToVec as _,
};
use proptest::prelude::*;

use super::{Bytes, Dripping, Packet, ends_at, read, read_from};
use crate::simulate::capture::Precision;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OBSOLETE: u32 = 2;
const SIMPLE: u32 = 3;
const STATISTICS: u32 = 5;
const ENHANCED: u32 = 6;
/// Bytes of a section header without options.
const SECTION_LENGTH: usize = 28;
const ETHERNET: u16 = 1;

/// A file that grows by blocks.
struct File(Bytes);

impl File {
    fn new(is_big_endian: bool) -> Self {
        let mut file = Self(Bytes::new(is_big_endian));
        file.section();
        file
    }

    fn block(&mut self, kind: u32, write: impl FnOnce(&mut Bytes)) -> &mut Self {
        let mut body = Bytes::new(self.0.is_big_endian);
        write(&mut body);
        body.bytes.resize(body.bytes.len().next_multiple_of(4), 0);
        let length = body.bytes.len() as u32 + 12;
        self.0.u32(kind).u32(length).raw(&body.bytes).u32(length);
        self
    }

    fn section(&mut self) -> &mut Self {
        self.block(SECTION, |body| {
            body.u32(0x1a2b_3c4d).u16(1).u16(0).u64(u64::MAX);
        })
    }

    fn interface(&mut self, link_type: u16, snaplen: u32) -> &mut Self {
        self.block(INTERFACE, |body| {
            body.u16(link_type).u16(0).u32(snaplen);
        })
    }

    /// An interface whose clock has this resolution, as `if_tsresol` says it,
    /// and offset in seconds.
    fn clock(&mut self, resolution: u8, offset: i64) -> &mut Self {
        self.block(INTERFACE, |body| {
            body.u16(ETHERNET).u16(0).u32(0);
            body.u16(9).u16(1).raw(&[resolution, 0, 0, 0]);
            body.u16(14).u16(8).u64(offset.cast_unsigned());
            body.u16(0).u16(0);
        })
    }

    fn packet(&mut self, interface: u32, ticks: u64, data: &[u8], length: u32) -> &mut Self {
        self.block(ENHANCED, |body| {
            body.u32(interface)
                .u32((ticks >> 32) as u32)
                .u32(ticks as u32);
            body.u32(data.len() as u32).u32(length).raw(data);
        })
    }

    fn simple(&mut self, data: &[u8], length: u32) -> &mut Self {
        self.block(SIMPLE, |body| {
            body.u32(length).raw(data);
        })
    }

    fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    fn length(&self) -> usize {
        self.0.bytes.len()
    }
}

/// Two sections, in which everything occurs, and what its packets are.
fn everything(is_big_endian: bool) -> (File, Vec<Packet>) {
    let mut file = File::new(is_big_endian);
    file.interface(ETHERNET, 0)
        .packet(0, 1_234_567, &[1; 61], 61)
        .block(0x0bad_cafe, |body| {
            body.raw(b"of a kind that nobody knows");
        })
        .clock(9, -1)
        .packet(1, 5_000_000_001, &[2; 60], 1514)
        .block(STATISTICS, |body| {
            body.u32(0).u64(0);
        })
        .packet(0, u64::from(u32::MAX) * 1_000_000, &[], 0)
        .section()
        .interface(ETHERNET, 70)
        .simple(&[3; 72], 1514)
        .simple(&[4; 60], 60);
    let packets = vec![
        (1, 234_567_000, vec![1; 61], 61),
        (4, 1, vec![2; 60], 1514),
        (u32::MAX, 0, Vec::new(), 0),
        (0, 0, vec![3; 70], 1514),
        (0, 0, vec![4; 60], 60),
    ];
    (file, packets)
}

#[test]
fn sections_interfaces_and_both_kinds_of_packets_are_read() {
    for is_big_endian in [false, true] {
        let (file, packets) = everything(is_big_endian);
        let expected = (Some(Precision::Nano), packets, None);
        assert_eq!(read_from(file.bytes()), expected);
        assert_eq!(read_from(Dripping(file.bytes(), 1)), expected);
    }
}

#[test]
fn each_section_has_its_own_byte_order_and_interfaces() {
    for first in [false, true] {
        let (one, mut packets) = everything(first);
        let (two, more) = everything(!first);
        packets.extend(more);
        assert_eq!(read(&[one.bytes(), two.bytes()].concat()), (packets, None));
    }
    let mut file = File::new(false);
    file.interface(ETHERNET, 0).section();
    let at = file.length();
    file.packet(0, 0, &[1; 60], 60);
    assert!(ends_at(file.bytes(), &[], at).what.contains("interface 0"));
}

#[test]
fn what_another_program_writes_is_read() {
    let option = |code, value: &'static [u8]| PcapNGOption {
        code,
        len: value.len() as u16,
        value: value.into(),
    };
    let mut section = SectionHeaderBlock {
        block_type: SECTION,
        block_len1: 0,
        bom: 0,
        major_version: 0,
        minor_version: 0,
        section_len: -1,
        options: vec![option(OptionCode::ShbUserAppl, b"another!")],
        block_len2: 0,
    };
    let mut interface = InterfaceDescriptionBlock {
        block_type: INTERFACE,
        block_len1: 0,
        linktype: Linktype::ETHERNET,
        reserved: 0,
        snaplen: 65_535,
        options: vec![option(OptionCode::IfName, b"eth0")],
        block_len2: 0,
        if_tsresol: 6,
        if_tsoffset: 3,
    };
    let mut packet = EnhancedPacketBlock {
        block_type: ENHANCED,
        block_len1: 0,
        if_id: 0,
        ts_high: 0,
        ts_low: 2_000_001,
        caplen: 60,
        origlen: 61,
        data: &[9; 60],
        options: vec![option(OptionCode::Comment, b"a note..")],
        block_len2: 0,
    };
    let file = [
        section.to_vec().expect("a section"),
        interface.to_vec().expect("an interface"),
        packet.to_vec().expect("a packet"),
    ];
    let expected = vec![(5, 1000, vec![9; 60], 61)];
    assert_eq!(read(&file.concat()), (expected, None));
}

#[test]
fn clocks_may_count_in_powers_of_two() {
    let mut file = File::new(true);
    // 2^-32 s, and 10^-19 s.
    file.clock(0x80 | 32, 10).clock(19, 0);
    file.packet(0, (7 << 32) | 1 << 31, &[1; 60], 60);
    file.packet(1, 15_000_000_000_000_000_000, &[2; 60], 60);
    let expected = vec![
        (17, 500_000_000, vec![1; 60], 60),
        (1, 500_000_000, vec![2; 60], 60),
    ];
    assert_eq!(read(file.bytes()), (expected, None));
}

#[test]
fn clocks_and_times_that_cannot_be_are_refused() {
    for resolution in [20, 127, 0x80 | 64, 0xff] {
        let mut file = File::new(false);
        file.clock(resolution, 0);
        let fault = ends_at(file.bytes(), &[], SECTION_LENGTH);
        assert!(fault.what.contains("too small"), "{fault}");
    }
    for (offset, ticks) in [(-2, 1_000_000), (i64::MAX, 0), (0, u64::MAX)] {
        let mut file = File::new(false);
        file.clock(6, offset);
        let at = file.length();
        file.packet(0, ticks, &[1; 60], 60);
        let fault = ends_at(file.bytes(), &[], at);
        assert!(fault.what.contains("1970"), "{fault}");
    }
}

#[test]
fn other_link_types_are_refused() {
    let mut file = File::new(false);
    file.interface(ETHERNET, 0).packet(0, 0, &[1; 60], 60);
    let at = file.length();
    file.interface(113, 0);
    let packets = [(0, 0, vec![1; 60], 60)];
    let fault = ends_at(file.bytes(), &packets, at);
    assert!(fault.what.contains("link type 113"), "{fault}");
}

#[test]
fn blocks_that_contradict_themselves_are_refused() {
    let refused = |write: &dyn Fn(&mut File), part: &str| {
        let mut file = File::new(false);
        file.interface(ETHERNET, 0);
        let at = file.length();
        write(&mut file);
        let fault = ends_at(file.bytes(), &[], at);
        assert!(fault.what.contains(part), "{fault}");
    };
    for length in [0, 8, 13, (16 << 20) + 4, u32::MAX] {
        refused(
            &|file| {
                file.0.u32(ENHANCED).u32(length).raw(&[0; 64]);
            },
            &format!("{length} bytes"),
        );
    }
    refused(
        &|file| {
            file.packet(0, 0, &[1; 60], 60);
            let end = file.length() - 4;
            file.0.bytes[end] ^= 4;
        },
        "another length at its end",
    );
    for captured in [64, 1 << 20, u32::MAX] {
        let lie = move |file: &mut File| {
            file.block(ENHANCED, |body| {
                body.u32(0).u64(0).u32(captured).u32(60).raw(&[1; 60]);
            });
        };
        refused(&lie, "contradicts itself");
    }
    refused(
        &|file| {
            file.block(ENHANCED, |_| {});
        },
        "contradicts itself",
    );
    refused(
        &|file| {
            file.packet(1, 0, &[1; 60], 60);
        },
        "interface 1",
    );
    refused(
        &|file| {
            file.block(OBSOLETE, |body| {
                body.raw(&[0; 80]);
            });
        },
        "obsolete",
    );
    refused(
        &|file| {
            file.block(SECTION, |body| {
                body.u32(0x1234_5678).raw(&[0; 12]);
            });
        },
        "no byte order",
    );
    refused(
        &|file| {
            file.block(SECTION, |body| {
                body.u32(0x1a2b_3c4d).u16(2).u16(0).u64(0);
            });
        },
        "version 2.0",
    );
}

#[test]
fn a_cut_at_any_byte_is_told_with_packet_and_offset() {
    for is_big_endian in [false, true] {
        let (file, packets) = everything(is_big_endian);
        let whole = file.bytes();
        for length in 0..whole.len() {
            let (found, fault) = read(&whole[..length]);
            assert_eq!(found, packets[..found.len()]);
            let Some(fault) = fault else {
                // Between two blocks.
                assert!(read(&whole[..length + 1]).1.is_some());
                continue;
            };
            assert!(fault.offset <= length as u64, "{length}: {fault}");
            if fault.offset == 0 {
                assert!(length < SECTION_LENGTH, "{length}: {fault}");
                continue;
            }
            // What starts at the fault is what was cut: up to there, all is well.
            let before = read(&whole[..fault.offset as usize]);
            assert_eq!(before, (found, None), "{length}: {fault}");
        }
    }
}

proptest! {
    /// However wrong a capture is: no panic, and never more packets than fit.
    #[test]
    fn any_damage_is_survived(
        is_big_endian in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let (mut file, _) = everything(is_big_endian);
        for (at, byte) in damage {
            let at = at.index(file.length());
            file.0.bytes[at] = byte;
        }
        let (found, _) = read(file.bytes());
        let bytes: usize = found.iter().map(|(_, _, data, _)| 16 + data.len()).sum();
        prop_assert!(bytes <= file.length());
    }
}
