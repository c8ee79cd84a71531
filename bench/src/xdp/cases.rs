//! What is measured.

use director_ebpf::bench::{FRAME, Plan};

use crate::{
    edge::{QUIC_PORT, SERVER_ID, Table},
    frames::{ACK, Frame, ICMP, OTHER4, OTHER6, SYN, TCP, UDP, VIP4, VIP6, frame4, frame6, plan},
};

/// The program that a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Under {
    Empty,
    Lru,
    /// The steering program, with services of this mode. Endpoints are out of
    /// the interface that packets come in by, as on an edge with one interface.
    Steer(Table),
    /// Endpoints are out of another interface, as on an edge with two.
    Redirect(Table),
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

const ONE: u32 = 1;
const K64: u32 = 1 << 16;
const K512: u32 = 1 << 19;
const G1: u32 = 1 << 30;
/// As many flows as there are packets.
const ALWAYS_NEW: u32 = 0;

/// All cases; floors first.
pub fn all() -> Vec<Case> {
    let ack4 = frame4(VIP4, TCP, ACK);
    let syn4 = frame4(VIP4, TCP, SYN);
    let ack6 = frame6(VIP6, ACK);
    let (lru1, lru64, lru512) = ("lru-lookup-1", "lru-lookup-64k", "lru-lookup-512k");
    let auto = Under::Steer(Table::Auto);
    let redirect = Under::Redirect(Table::Auto);
    let always = Under::Steer(Table::Always);
    let gue = Under::Steer(Table::Gue);
    let nat = Under::Steer(Table::Nat);
    let l2 = Under::Steer(Table::L2);
    let fragment = {
        let (mut frame, source, port) = frame4(VIP4, UDP, 0);
        frame[20] = 0x20;
        (frame, source, port)
    };
    let other4 = frame4(OTHER4, TCP, ACK);
    let other6 = frame6(OTHER6, ACK);
    let udp4 = frame4(VIP4, UDP, 0);
    vec![
        case("empty", Under::Empty, ack4, ONE, None),
        case(lru1, Under::Lru, ack4, ONE, None),
        case(lru64, Under::Lru, ack4, K64, Some(lru1)),
        case(lru512, Under::Lru, ack4, K512, Some(lru1)),
        case("not-ours-4", auto, other4, ONE, Some(lru1)),
        case("not-ours-6", auto, other6, ONE, Some(lru1)),
        case("tunnel4-established-1", auto, ack4, ONE, Some(lru1)),
        case("tunnel4-established-64k", auto, ack4, K64, Some(lru1)),
        case("tunnel4-established-512k", auto, ack4, K512, Some(lru1)),
        case("tunnel4-established-1g", auto, ack4, G1, Some(lru1)),
        case("tunnel4-redirect-1", redirect, ack4, ONE, Some(lru1)),
        case("tunnel6-established-1", auto, ack6, ONE, Some(lru1)),
        case("tunnel6-established-64k", auto, ack6, K64, Some(lru1)),
        case("tunnel4-new", auto, syn4, ALWAYS_NEW, Some(lru1)),
        case("tunnel4-udp-1", auto, udp4, ONE, Some(lru1)),
        case("tunnel4-quic-cid", auto, quic4(), ONE, Some(lru1)),
        case(
            "tunnel4-established-1-always",
            always,
            ack4,
            ONE,
            Some(lru1),
        ),
        case(
            "tunnel4-established-64k-always",
            always,
            ack4,
            K64,
            Some(lru1),
        ),
        case(
            "tunnel4-established-512k-always",
            always,
            ack4,
            K512,
            Some(lru1),
        ),
        case(
            "tunnel4-established-1g-always",
            always,
            ack4,
            G1,
            Some(lru1),
        ),
        case(
            "tunnel6-established-1-always",
            always,
            ack6,
            ONE,
            Some(lru1),
        ),
        case(
            "tunnel6-established-64k-always",
            always,
            ack6,
            K64,
            Some(lru1),
        ),
        case("tunnel4-new-always", always, syn4, ALWAYS_NEW, Some(lru1)),
        case("gue4-established-1", gue, ack4, ONE, Some(lru1)),
        case("gue4-established-64k", gue, ack4, K64, Some(lru1)),
        case("l2-established-1", l2, ack4, ONE, Some(lru1)),
        case("nat4-established-1", nat, ack4, ONE, Some(lru1)),
        case("nat4-established-64k", nat, ack4, K64, Some(lru1)),
        case("nat4-established-512k", nat, ack4, K512, Some(lru1)),
        case("nat4-new", nat, syn4, ALWAYS_NEW, Some(lru1)),
        case("echo4", auto, echo4(), ONE, Some(lru1)),
        case("fragment4", auto, fragment, ONE, Some(lru1)),
    ]
}

/// A packet with a short header, whose connection id names a server.
fn quic4() -> Frame {
    let (mut frame, source, port) = frame4(VIP4, UDP, 0);
    frame[36..38].copy_from_slice(&QUIC_PORT.to_be_bytes());
    frame[38..40].copy_from_slice(&((FRAME - 34) as u16).to_be_bytes());
    frame[42] = 0x40;
    frame[43] = 0x07;
    frame[44..47].copy_from_slice(&SERVER_ID.to_be_bytes()[1..]);
    (frame, source, port)
}

/// An echo request. Its identifier lies where ports do, so that it varies; its
/// checksum is right for one of them only, which is not looked at.
fn echo4() -> Frame {
    let (mut frame, source, _) = frame4(VIP4, ICMP, 0);
    frame[34..42].copy_from_slice(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    (frame, source, 38)
}

/// SYNs of as many flows as there are packets, for services in `tunnel` mode.
pub fn new_flows() -> Plan {
    let syn4 = frame4(VIP4, TCP, SYN);
    case("tunnel4-new", Under::Empty, syn4, ALWAYS_NEW, None).plan
}

fn case(
    name: &'static str,
    under: Under,
    frame: Frame,
    flows: u32,
    floor: Option<&'static str>,
) -> Case {
    // Flows come in an order that only mixes turns, so a few rounds are needed
    // until nearly each was met: after four, all but 2 %. New flows, and a
    // billion, are never met again.
    let warm = if flows == ALWAYS_NEW || flows == G1 {
        200_000
    } else {
        flows.max(250) * 4
    };
    Case {
        name,
        under,
        plan: plan(&frame, flows),
        floor,
        warm,
    }
}
