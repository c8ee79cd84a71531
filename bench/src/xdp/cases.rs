//! What is measured.

use director_ebpf::bench::{FRAME, HEADERS, Plan};

/// The program that a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    Empty,
    Lru,
    /// The steering program, with services of this mode.
    Steer(Table),
}

/// Which of the edge's two states a case needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Tunnel,
    Nat,
}

/// One case.
pub struct Case {
    pub name: &'static str,
    pub under: Under,
    pub plan: Plan,
    pub floor: Option<&'static str>,
    /// Most packets that it is warmed with.
    pub warm: u32,
}

const K64: u32 = 1 << 16;
const K512: u32 = 1 << 19;
/// As many flows as there are packets.
const ALWAYS_NEW: u32 = 0;

const VIP4: [u8; 4] = [203, 0, 113, 10];
const OTHER4: [u8; 4] = [203, 0, 113, 99];
/// 2001:db8:53::10 and ::99.
const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0x53, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const OTHER6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0x53, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x99];

const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// All cases; floors first.
pub fn all() -> Vec<Case> {
    let tunnel = Under::Steer(Table::Tunnel);
    let nat = Under::Steer(Table::Nat);
    let v4 = |flags| frame4(VIP4, TCP, flags);
    let v6 = |flags| frame6(VIP6, flags);
    let (lru1, lru64, lru512) = ("lru-lookup-1", "lru-lookup-64k", "lru-lookup-512k");
    let mut cases = vec![
        case("empty", Under::Empty, v4(ACK), 1, None),
        case(lru1, Under::Lru, v4(ACK), 1, Some("empty")),
        case(lru64, Under::Lru, v4(ACK), K64, Some("empty")),
        case(lru512, Under::Lru, v4(ACK), K512, Some("empty")),
        case(
            "not-ours-4",
            tunnel,
            frame4(OTHER4, TCP, ACK),
            1,
            Some("empty"),
        ),
        case("not-ours-6", tunnel, frame6(OTHER6, ACK), 1, Some("empty")),
        case("tunnel4-established-1", tunnel, v4(ACK), 1, Some(lru1)),
        case("tunnel4-established-64k", tunnel, v4(ACK), K64, Some(lru64)),
        case(
            "tunnel4-established-512k",
            tunnel,
            v4(ACK),
            K512,
            Some(lru512),
        ),
        case("tunnel6-established-1", tunnel, v6(ACK), 1, Some(lru1)),
        case("tunnel6-established-64k", tunnel, v6(ACK), K64, Some(lru64)),
        case("tunnel4-udp-1", tunnel, frame4(VIP4, UDP, 0), 1, Some(lru1)),
        case("nat4-established-1", nat, v4(ACK), 1, Some(lru1)),
        case("nat4-established-64k", nat, v4(ACK), K64, Some(lru64)),
    ];
    // New flows last in a round: they push the others' records out, which are
    // met again before they are measured.
    cases.push(case("tunnel4-new", tunnel, v4(SYN), ALWAYS_NEW, Some(lru1)));
    cases.push(case("nat4-new", nat, v4(SYN), ALWAYS_NEW, Some(lru1)));
    cases
}

fn case(
    name: &'static str,
    under: Under,
    frame: ([u8; FRAME], u32, u32),
    flows: u32,
    floor: Option<&'static str>,
) -> Case {
    let (bytes, source_offset, port_offset) = frame;
    let mut headers = [0; HEADERS];
    for (word, chunk) in headers.iter_mut().zip(bytes.chunks(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        *word = u64::from_ne_bytes(eight);
    }
    let plan = Plan {
        headers,
        source_offset,
        port_offset,
        mask: flows.wrapping_sub(1),
        is_random: u32::from(flows > 1),
    };
    // Flows come in an order that only mixes turns, so a few rounds are needed
    // until nearly each was met: after four, all but 2 %.
    let warm = if flows == ALWAYS_NEW {
        200_000
    } else {
        flows.max(250) * 4
    };
    Case {
        name,
        under,
        plan,
        floor,
        warm,
    }
}

fn frame4(to: [u8; 4], protocol: u8, flags: u8) -> ([u8; FRAME], u32, u32) {
    let mut frame = [0; FRAME];
    ethernet(&mut frame, [0x08, 0x00]);
    let length = (FRAME - 14) as u16;
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[22] = 64;
    frame[23] = protocol;
    frame[30..34].copy_from_slice(&to);
    transport(&mut frame[34..], protocol, flags);
    (frame, 26, 34)
}

fn frame6(to: [u8; 16], flags: u8) -> ([u8; FRAME], u32, u32) {
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
