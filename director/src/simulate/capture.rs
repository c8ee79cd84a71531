//! Captures, read a packet at a time: pcap (`draft-ietf-opsawg-pcap`) here,
//! pcapng in `pcapng`.
//!
//! The formats are `pcap-parser`'s affair. Its readers are not used: they take
//! a packet that announces more than there is for a file that was cut.

use std::{
    io::{self, Read},
    ops::Range,
};

use pcap_parser::{
    LegacyPcapBlock, Linktype, PcapError, PcapHeader,
    nom::{self, IResult, Needed},
    parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header,
};

use super::pcapng::{self, PcapNg};

/// The longest packet of a pcap file, in bytes, as libpcap has it for Ethernet.
const LONGEST_PACKET: usize = 262_144;
/// What is read from a file at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// When a packet was captured, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    pub seconds: u32,
    /// In the capture's [`Precision`].
    pub fraction: u32,
}

/// What the fractions of seconds are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    Micro,
    Nano,
}

/// A packet of a capture.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub time: Time,
    /// What was captured of it.
    pub data: &'a [u8],
    /// Bytes that it had on the wire, of which fewer may be captured.
    pub length: u32,
}

/// Why a capture cannot be read further, and where.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub struct Fault {
    /// The packet that cannot be read, from 1; none within the file's header.
    pub packet: Option<u64>,
    /// Where what cannot be read starts, in bytes.
    pub offset: u64,
    pub what: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(packet) = self.packet {
            write!(f, "packet {packet}, ")?;
        }
        write!(f, "byte {}: {}", self.offset, self.what)
    }
}

/// A packet that was found, before it is taken out of the window.
pub struct Found {
    pub time: Time,
    /// Where it stands in the window.
    pub data: Range<usize>,
    pub length: u32,
    /// Bytes of the window that it takes, with all that belongs to it.
    pub record: usize,
}

/// A capture that is being read.
#[derive(Debug)]
pub struct Capture<R> {
    window: Window<R>,
    format: Format,
    /// Packets read so far.
    packets: u64,
    /// Bytes of the last packet, which are kept until the next one is asked for.
    last: usize,
}

#[derive(Debug)]
enum Format {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

impl<R: Read> Capture<R> {
    /// Begins to read a capture.
    ///
    /// # Errors
    /// When it is none, or not of Ethernet frames.
    pub fn open(input: R) -> Result<Self, Fault> {
        let mut window = Window::new(input);
        let format = detect(&mut window).map_err(|what| Fault {
            packet: None,
            offset: 0,
            what,
        })?;
        Ok(Self {
            window,
            format,
            packets: 0,
            last: 0,
        })
    }

    /// What the fractions of its times are counted in.
    pub fn precision(&self) -> Precision {
        match &self.format {
            Format::Pcap(pcap) => pcap.precision,
            Format::PcapNg(_) => Precision::Nano,
        }
    }

    /// Reads the next packet; `None` at the end.
    ///
    /// # Errors
    /// When the file ends within it, or says what cannot be.
    pub fn next_packet(&mut self) -> Result<Option<Record<'_>>, Fault> {
        self.window.consume(std::mem::take(&mut self.last));
        let found = match &mut self.format {
            Format::Pcap(pcap) => pcap.find(&mut self.window),
            Format::PcapNg(pcapng) => pcapng.find(&mut self.window),
        };
        let found = found.map_err(|what| Fault {
            packet: Some(self.packets + 1),
            offset: self.window.offset,
            what,
        })?;
        let Some(found) = found else { return Ok(None) };
        self.packets += 1;
        self.last = found.record;
        Ok(Some(Record {
            time: found.time,
            data: &self.window.data()[found.data],
            length: found.length,
        }))
    }
}

fn detect<R: Read>(window: &mut Window<R>) -> Result<Format, String> {
    if window.fill(pcapng::MAGIC.len())? == pcapng::MAGIC {
        return Ok(Format::PcapNg(PcapNg::default()));
    }
    let header = window.fill(PcapHeader::new().size())?;
    if header.is_empty() {
        return Err("the file is empty".to_owned());
    }
    let header = match parse_pcap_header(header) {
        Ok((_, header)) => header,
        Err(nom::Err::Incomplete(_)) => return Err(cut(header.len(), "the header")),
        Err(_) => return Err("this is neither a pcap nor a pcapng file".to_owned()),
    };
    let version = (header.version_major, header.version_minor);
    if version != (2, 4) {
        return Err(format!(
            "it is of pcap version {}.{}, and only 2.4 can be read",
            version.0, version.1
        ));
    }
    // The upper bits may tell of frame check sequences, which frames with an
    // IP packet may have behind it.
    check_link_type(Linktype(header.network.0 & 0x03ff_ffff))?;
    window.consume(header.size());
    Ok(Format::Pcap(Pcap::new(&header)))
}

/// Only Ethernet frames can be run.
pub fn check_link_type(found: Linktype) -> Result<(), String> {
    if found == Linktype::ETHERNET {
        return Ok(());
    }
    Err(format!(
        "its packets are of link type {}, and only Ethernet (1) can be run\n  \
         help: capture on one Ethernet interface, not on \"any\"",
        found.0
    ))
}

/// Says that the file ends within something.
pub fn cut(there: usize, within: &str) -> String {
    format!("the file ends within {within}, of which {there} bytes are there")
}

type Parse = fn(&[u8]) -> IResult<&[u8], LegacyPcapBlock<'_>, PcapError<&[u8]>>;

/// The records of a pcap file.
#[derive(Debug)]
struct Pcap {
    precision: Precision,
    parse: Parse,
    /// Bytes before a packet.
    header: usize,
}

impl Pcap {
    fn new(header: &PcapHeader) -> Self {
        let (parse, length): (Parse, _) = if header.is_modified_format() {
            (parse_pcap_frame_modified, 24)
        } else if header.is_bigendian() {
            (parse_pcap_frame_be, 16)
        } else {
            (parse_pcap_frame, 16)
        };
        Self {
            precision: if header.is_nanosecond_precision() {
                Precision::Nano
            } else {
                Precision::Micro
            },
            parse,
            header: length,
        }
    }

    fn find<R: Read>(&self, window: &mut Window<R>) -> Result<Option<Found>, String> {
        let mut wanted = self.header;
        loop {
            let bytes = window.fill(wanted)?;
            if bytes.is_empty() {
                return Ok(None);
            }
            match (self.parse)(bytes) {
                Ok((_, block)) => {
                    let time = Time {
                        seconds: block.ts_sec,
                        fraction: block.ts_usec,
                    };
                    return Ok(Some(Found {
                        time,
                        data: self.header..self.header + block.data.len(),
                        length: block.origlen,
                        record: wanted,
                    }));
                }
                Err(nom::Err::Incomplete(_)) if bytes.len() < wanted => {
                    return Err(cut(bytes.len(), "the packet and its header"));
                }
                Err(nom::Err::Incomplete(Needed::Size(more))) if more.get() <= LONGEST_PACKET => {
                    wanted += more.get();
                }
                Err(nom::Err::Incomplete(Needed::Size(more))) => {
                    return Err(format!(
                        "it is said to have {more} bytes, and at most {LONGEST_PACKET} can be"
                    ));
                }
                Err(error) => return Err(format!("it cannot be read: {error:?}")),
            }
        }
    }
}

/// The part of a stream that is being looked at. It holds no more than was
/// asked for, and a chunk.
#[derive(Debug)]
pub struct Window<R> {
    input: R,
    bytes: Vec<u8>,
    /// Where the part starts in `bytes`.
    start: usize,
    /// Where it starts in the stream.
    offset: u64,
}

impl<R: Read> Window<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            bytes: Vec::new(),
            start: 0,
            offset: 0,
        }
    }

    /// The next `wanted` bytes, or all where there are fewer.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub fn fill(&mut self, wanted: usize) -> Result<&[u8], String> {
        if self.data().len() < wanted {
            self.bytes.drain(..self.start);
            self.start = 0;
            let more = (wanted - self.bytes.len()).max(CHUNK) as u64;
            self.read(more)
                .map_err(|error| format!("the file cannot be read: {error}"))?;
        }
        let data = self.data();
        Ok(&data[..wanted.min(data.len())])
    }

    fn read(&mut self, more: u64) -> io::Result<usize> {
        self.input.by_ref().take(more).read_to_end(&mut self.bytes)
    }
}

impl<R> Window<R> {
    /// Goes on behind the next `count` bytes, which were asked for before.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        self.offset += count as u64;
    }

    fn data(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}
