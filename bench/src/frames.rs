//! Frames that benchmarks send through the program.

use director_ebpf::bench::{FRAME, HEADERS, Plan};

pub const VIP4: [u8; 4] = [203, 0, 113, 10];
pub const OTHER4: [u8; 4] = [203, 0, 113, 99];
/// 2001:db8:53::10 and ::99.
pub const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0x53, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
pub const OTHER6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0x53, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x99];

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ACK: u8 = 0x10;
pub const SYN: u8 = 0x02;

/// Bytes, and where source address and source port vary.
pub type Frame = ([u8; FRAME], u32, u32);

/// This frame in turn for each of `flows`, a power of two.
pub fn plan(frame: &Frame, flows: u32) -> Plan {
    let (bytes, source_offset, port_offset) = *frame;
    let mut headers = [0; HEADERS];
    for (word, chunk) in headers.iter_mut().zip(bytes.chunks(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        *word = u64::from_ne_bytes(eight);
    }
    Plan {
        headers,
        source_offset,
        port_offset,
        mask: flows.wrapping_sub(1),
        is_random: u32::from(flows > 1),
    }
}

/// A packet to port 80 over IPv4. Its header's checksum is right for the first of
/// its source addresses, 198.18.0.0.
pub fn frame4(to: [u8; 4], protocol: u8, flags: u8) -> Frame {
    let mut frame = [0; FRAME];
    ethernet(&mut frame, [0x08, 0x00]);
    let length = (FRAME - 14) as u16;
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[22] = 64;
    frame[23] = protocol;
    frame[30..34].copy_from_slice(&to);
    frame[26..30].copy_from_slice(&[198, 18, 0, 0]);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    transport(&mut frame[34..], protocol, flags);
    (frame, 26, 34)
}

/// A TCP segment to port 80 over IPv6.
pub fn frame6(to: [u8; 16], flags: u8) -> Frame {
    let mut frame = [0; FRAME];
    ethernet(&mut frame, [0x86, 0xdd]);
    let length = (FRAME - 54) as u16;
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = TCP;
    frame[21] = 64;
    frame[22..26].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    frame[38..54].copy_from_slice(&to);
    transport(&mut frame[54..], TCP, flags);
    // The last words of the source address and the source port.
    (frame, 30, 54)
}

fn ethernet(frame: &mut [u8], ethertype: [u8; 2]) {
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&ethertype);
}

fn transport(header: &mut [u8], protocol: u8, flags: u8) {
    header[2..4].copy_from_slice(&80_u16.to_be_bytes());
    if protocol == TCP {
        header[12] = 0x50;
        header[13] = flags;
    }
}

/// The Internet checksum of a header of whole 16-bit words.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    // Two folds: a header has far fewer than 65,536 words.
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_up_to_nothing() {
        let (frame, ..) = frame4(VIP4, TCP, ACK);
        assert_eq!(checksum(&frame[14..34]), 0);
    }
}
