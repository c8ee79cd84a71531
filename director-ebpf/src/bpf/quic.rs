//! QUIC.
use aya_ebpf::programs::XdpContext;
use director_ebpf::{abi::Service, parse::Packet, scratch::Scratch};

use crate::maps::Maps;

/// The server that the connection id names.
#[inline(always)]
pub fn server<A: Maps>(_ctx: &XdpContext, _packet: &Packet<A>, _service: &Service, _scratch: &mut Scratch) -> bool {
    false
}
