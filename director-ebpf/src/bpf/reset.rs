//! RST.
use aya_ebpf::programs::XdpContext;
use director_ebpf::{cause::Cause, parse::Packet};

use crate::maps::Maps;

/// Answers with RST.
#[inline(always)]
pub fn answer<A: Maps>(_ctx: &XdpContext, _packet: &Packet<A>) -> Cause {
    Cause::Reset
}
