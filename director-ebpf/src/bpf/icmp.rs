//! ICMP.
use aya_ebpf::programs::XdpContext;
use director_ebpf::{cause::Cause, parse::Packet};

use crate::maps::Maps;

/// Tells the sender that its packet is too big.
#[inline(always)]
pub fn too_big<A: Maps>(_ctx: &XdpContext, _packet: &Packet<A>, _mtu: u16) -> Cause {
    Cause::TooBig
}

/// ICMP to a VIP.
#[inline(always)]
pub fn to_vip<A: Maps>(_ctx: &XdpContext, _packet: &Packet<A>, _kind: u32) -> Cause {
    Cause::IcmpOther
}
