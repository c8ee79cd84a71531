//! Affinity by QUIC connection ID: the packet itself names its server, so a
//! connection stays there when its client's address changes.

use aya_ebpf::programs::XdpContext;
use director_ebpf::{
    abi::{ServerKey, Service},
    parse::{ETHERNET, Frame as _, Packet},
    quic::{LEAST, NO_SERVER, server},
    scratch::Scratch,
    steer::{self, Pick, picked},
};

use crate::{
    frame::XdpFrame,
    maps::{self, Maps, SERVERS},
};

/// Length of a UDP header.
const UDP: usize = 8;

/// Picks the endpoint that the connection ID names: `scratch.pick`. False where
/// it names none that serves.
#[inline(always)]
pub fn pick<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    service: &Service,
    scratch: &mut Scratch,
) -> bool {
    let start = packet.transport + UDP;
    // A short frame is padded; what follows the packet is not the client's.
    if ETHERNET + usize::from(packet.ip_length) < start + LEAST {
        return false;
    }
    let frame = XdpFrame(ctx);
    let (Some(id), Some(first)) = (frame.load::<u32>(start + 1), frame.load::<u8>(start)) else {
        return false;
    };
    let key = ServerKey {
        service: service.index,
        server: server(first, id),
    };
    if key.server == NO_SERVER {
        return false;
    }
    // SAFETY: copied at once; a map value of four bytes is replaced as a whole.
    let Some(index) = (unsafe { SERVERS.get(&key) }).copied() else {
        return false;
    };
    if !maps::endpoint(index).is_some_and(steer::is_alive) {
        return false;
    }
    scratch.pick = Pick {
        hash: steer::hash(packet),
        endpoint: index,
        how: picked::RECORDED,
    };
    true
}
