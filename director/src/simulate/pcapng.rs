//! pcapng (`draft-ietf-opsawg-pcapng`): sections of blocks, in either byte
//! order, from interfaces whose times differ in precision.

use std::io::Read;

use pcap_parser::{
    Block, EPB_MAGIC, IDB_MAGIC, InterfaceDescriptionBlock, OptionCode, SHB_MAGIC, SPB_MAGIC,
    parse_block_be, parse_block_le, traits::PcapNGPacketBlock as _,
};

use super::capture::{Found, Time, Window, check_link_type, cut};

/// How every pcapng file starts: type of a section header, the same in both
/// byte orders.
pub const MAGIC: [u8; 4] = SHB_MAGIC.to_be_bytes();
/// Behind type and length of a section header, in the section's byte order.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Type, length and, in a section header, the byte order.
const HEAD: usize = 12;
/// The longest block, in bytes, as libpcap has it.
const LONGEST_BLOCK: usize = 16 << 20;
/// The packet block that the enhanced one replaced, which is not parsed.
const OBSOLETE_PACKET: u32 = 2;
/// Where a packet starts in an enhanced and in a simple packet block.
const ENHANCED_DATA: usize = 28;
const SIMPLE_DATA: usize = 12;

/// The section that is being read.
#[derive(Debug, Default)]
pub struct PcapNg {
    is_big_endian: bool,
    interfaces: Vec<Interface>,
}

/// What packets of an interface have in common.
#[derive(Clone, Copy, Debug)]
struct Interface {
    /// Bytes that are captured of a packet at most; 0: all.
    snaplen: u32,
    /// Steps of its clock in a second.
    units: u64,
    /// Seconds that its times are short of.
    offset: i64,
}

impl PcapNg {
    /// Finds the next packet, and takes in what is said before it.
    ///
    /// # Errors
    /// When the file ends within a block, or says what cannot be.
    pub fn find<R: Read>(&mut self, window: &mut Window<R>) -> Result<Option<Found>, String> {
        loop {
            let Some((kind, length)) = self.head(window)? else {
                return Ok(None);
            };
            let bytes = window.fill(length)?;
            if bytes.len() < length {
                return Err(cut(bytes.len(), "a block"));
            }
            if self.number(&bytes[length - 4..]) != length as u32 {
                return Err("a block has another length at its end than at its start".to_owned());
            }
            if let Some(found) = self.block(kind, bytes)? {
                return Ok(Some(found));
            }
            window.consume(length);
        }
    }

    /// Type and length of the next block; `None` at the end. Takes over a
    /// section's byte order.
    fn head<R: Read>(&mut self, window: &mut Window<R>) -> Result<Option<(u32, usize)>, String> {
        let head = window.fill(HEAD)?;
        if head.is_empty() {
            return Ok(None);
        }
        if head.len() < HEAD {
            return Err(cut(head.len(), "a block's header"));
        }
        if head[..4] == MAGIC {
            self.is_big_endian = match self.number(&head[8..]) {
                BYTE_ORDER => self.is_big_endian,
                other if other == BYTE_ORDER.swap_bytes() => !self.is_big_endian,
                _ => return Err("a section says no byte order".to_owned()),
            };
        }
        let length = self.number(&head[4..]) as usize;
        if length < HEAD || !length.is_multiple_of(4) || length > LONGEST_BLOCK {
            return Err(format!(
                "a block is said to have {length} bytes: {HEAD} to {LONGEST_BLOCK} in steps of 4 can be"
            ));
        }
        Ok(Some((self.number(head), length)))
    }

    /// The 32-bit number that `bytes` start with, in the section's byte order.
    fn number(&self, bytes: &[u8]) -> u32 {
        let mut number = [0; 4];
        number.copy_from_slice(&bytes[..4]);
        if self.is_big_endian {
            u32::from_be_bytes(number)
        } else {
            u32::from_le_bytes(number)
        }
    }

    /// Takes in a block of type `kind`. Those that say nothing about packets
    /// are not looked into.
    fn block(&mut self, kind: u32, bytes: &[u8]) -> Result<Option<Found>, String> {
        if kind == OBSOLETE_PACKET {
            return Err("it is in a block of the obsolete type 2\n  \
                 help: write the capture anew with a current tool"
                .to_owned());
        }
        if ![SHB_MAGIC, IDB_MAGIC, EPB_MAGIC, SPB_MAGIC].contains(&kind) {
            return Ok(None);
        }
        let parse = if self.is_big_endian {
            parse_block_be
        } else {
            parse_block_le
        };
        let (_, block) =
            parse(bytes).map_err(|_| format!("a block of type {kind:#x} contradicts itself"))?;
        match block {
            Block::SectionHeader(section) => {
                if section.major_version != 1 {
                    return Err(format!(
                        "it is of pcapng version {}.{}, and only 1 can be read",
                        section.major_version, section.minor_version
                    ));
                }
                self.interfaces.clear();
                Ok(None)
            }
            Block::InterfaceDescription(interface) => {
                check_link_type(interface.linktype)?;
                let interface = self.interface(&interface)?;
                self.interfaces.push(interface);
                Ok(None)
            }
            Block::EnhancedPacket(packet) => {
                let interface = self.interface_at(packet.if_id)?;
                let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                Ok(Some(Found {
                    time: time(interface, ticks)?,
                    data: ENHANCED_DATA..ENHANCED_DATA + packet.packet_data().len(),
                    length: packet.origlen,
                    record: bytes.len(),
                }))
            }
            Block::SimplePacket(packet) => {
                let snaplen = match self.interface_at(0)?.snaplen {
                    0 => usize::MAX,
                    snaplen => snaplen as usize,
                };
                let length = packet.packet_data().len().min(snaplen);
                Ok(Some(Found {
                    // Such a block has no time.
                    time: Time {
                        seconds: 0,
                        fraction: 0,
                    },
                    data: SIMPLE_DATA..SIMPLE_DATA + length,
                    length: packet.origlen,
                    record: bytes.len(),
                }))
            }
            _ => Ok(None),
        }
    }

    fn interface_at(&self, index: u32) -> Result<Interface, String> {
        self.interfaces
            .get(index as usize)
            .copied()
            .ok_or_else(|| format!("it is of interface {index}, which was not described"))
    }

    /// The parser reads neither powers of two nor, in big-endian sections,
    /// offsets, so both are read here.
    fn interface(&self, block: &InterfaceDescriptionBlock<'_>) -> Result<Interface, String> {
        let exponent = u32::from(block.if_tsresol & 0x7f);
        let units = if block.if_tsresol & 0x80 == 0 {
            10_u64.checked_pow(exponent)
        } else {
            1_u64.checked_shl(exponent)
        };
        let units = units.ok_or("an interface counts time in steps that are too small")?;
        let offset = block
            .options
            .iter()
            .find(|option| option.code == OptionCode::IfTsoffset)
            .and_then(|option| option.as_bytes().ok()?.try_into().ok())
            .map_or(0, |bytes| {
                if self.is_big_endian {
                    i64::from_be_bytes(bytes)
                } else {
                    i64::from_le_bytes(bytes)
                }
            });
        Ok(Interface {
            snaplen: block.snaplen,
            units,
            offset,
        })
    }
}

/// The time that `ticks` of an interface's clock mean, in nanoseconds.
fn time(interface: Interface, ticks: u64) -> Result<Time, String> {
    let seconds = i128::from(ticks / interface.units) + i128::from(interface.offset);
    let rest = u128::from(ticks % interface.units);
    let fraction = rest * 1_000_000_000 / u128::from(interface.units);
    Ok(Time {
        seconds: u32::try_from(seconds)
            .map_err(|_| "its time is not between 1970 and 2106, as a pcap file can say")?,
        fraction: fraction as u32,
    })
}
