//! Captures, written and read by `pcap-parser`, but for the byte order that it
//! does not write.

use pcap_parser::{
    EnhancedPacketBlock, InterfaceDescriptionBlock, LegacyPcapBlock, LegacyPcapSlice, Linktype,
    PcapBlockOwned, PcapHeader, SectionHeaderBlock, ToVec as _,
};

/// A packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub seconds: u32,
    /// Micro- or nanoseconds, as the file has it.
    pub fraction: u32,
    pub data: Vec<u8>,
    /// Bytes on the wire.
    pub length: u32,
}

impl Packet {
    /// A whole frame, captured so many seconds and microseconds after 2020.
    pub fn at(time: u32, frame: &[u8]) -> Self {
        Self {
            seconds: 1_577_836_800 + time,
            fraction: time % 1_000_000,
            data: frame.to_vec(),
            length: frame.len() as u32,
        }
    }

    fn block(&self) -> LegacyPcapBlock<'_> {
        LegacyPcapBlock {
            ts_sec: self.seconds,
            ts_usec: self.fraction,
            caplen: self.data.len() as u32,
            origlen: self.length,
            data: &self.data,
        }
    }
}

/// A little-endian pcap with microseconds.
pub fn pcap(packets: &[Packet]) -> Vec<u8> {
    with_header(&PcapHeader::new(), packets)
}

/// The same with nanoseconds.
pub fn pcap_nanoseconds(packets: &[Packet]) -> Vec<u8> {
    let header = PcapHeader {
        magic_number: 0xa1b2_3c4d,
        ..PcapHeader::new()
    };
    with_header(&header, packets)
}

/// A pcap of this link type.
pub fn of_link_type(link_type: i32, packets: &[Packet]) -> Vec<u8> {
    let header = PcapHeader {
        network: Linktype(link_type),
        ..PcapHeader::new()
    };
    with_header(&header, packets)
}

fn with_header(header: &PcapHeader, packets: &[Packet]) -> Vec<u8> {
    let mut file = header.to_vec_raw().unwrap();
    for packet in packets {
        file.extend(packet.block().to_vec_raw().unwrap());
    }
    file
}

/// The big-endian twin of a little-endian pcap.
pub fn swapped(file: &[u8]) -> Vec<u8> {
    let mut swapped = Vec::new();
    let mut rest = file;
    let mut take = |widths: &[usize]| {
        for width in widths {
            let (number, behind) = rest.split_at(*width);
            swapped.extend(number.iter().rev());
            rest = behind;
        }
    };
    take(&[4, 2, 2, 4, 4, 4, 4]);
    for packet in read(file) {
        take(&[4, 4, 4, 4]);
        take(&vec![1; packet.data.len()]);
    }
    swapped
}

/// A pcapng with one interface, whose clock counts microseconds.
pub fn pcapng(packets: &[Packet]) -> Vec<u8> {
    let mut section = SectionHeaderBlock {
        block_type: 0,
        block_len1: 0,
        bom: 0,
        major_version: 0,
        minor_version: 0,
        section_len: -1,
        options: Vec::new(),
        block_len2: 0,
    };
    let mut interface = InterfaceDescriptionBlock {
        block_type: 0,
        block_len1: 0,
        linktype: Linktype::ETHERNET,
        reserved: 0,
        snaplen: 0,
        options: Vec::new(),
        block_len2: 0,
        if_tsresol: 6,
        if_tsoffset: 0,
    };
    let mut file = section.to_vec().unwrap();
    file.extend(interface.to_vec().unwrap());
    for packet in packets {
        let ticks = u64::from(packet.seconds) * 1_000_000 + u64::from(packet.fraction);
        let mut block = EnhancedPacketBlock {
            block_type: 0,
            block_len1: 0,
            if_id: 0,
            ts_high: (ticks >> 32) as u32,
            ts_low: ticks as u32,
            caplen: packet.data.len() as u32,
            origlen: packet.length,
            data: &packet.data,
            options: Vec::new(),
            block_len2: 0,
        };
        file.extend(block.to_vec().unwrap());
    }
    file
}

/// The packets of a little-endian pcap of Ethernet frames.
pub fn read(file: &[u8]) -> Vec<Packet> {
    let capture = LegacyPcapSlice::from_slice(file).unwrap();
    assert_eq!(capture.header.network, Linktype::ETHERNET);
    let packet = |block| match block {
        Ok(PcapBlockOwned::Legacy(block)) => Packet {
            seconds: block.ts_sec,
            fraction: block.ts_usec,
            data: block.data.to_vec(),
            length: block.origlen,
        },
        Ok(_) => panic!("no packet"),
        Err(error) => panic!("{error}"),
    };
    capture.map(packet).collect()
}
