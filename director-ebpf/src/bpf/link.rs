//! The last step: an Ethernet header and an interface.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup, xdp_action,
    },
    helpers::{bpf_fib_lookup as fib_lookup, bpf_redirect},
    programs::XdpContext,
};
use director_ebpf::{
    abi::{Address, Endpoint},
    cause::Cause,
};

use crate::frame::XdpFrame;

/// An interface and the destination and source of an Ethernet header.
#[derive(Clone, Copy, Default)]
pub struct NextHop {
    pub interface: u32,
    pub macs: [u16; 6],
}

/// The endpoint's next hop: the one that the daemon keeps in its entry, else
/// what the kernel's routing table says for a packet of `length` bytes.
///
/// # Errors
/// [`Cause::NoNeighbour`] or [`Cause::NoRoute`].
#[inline(always)]
pub fn next_hop<A: Address>(
    ctx: &XdpContext,
    endpoint: &Endpoint,
    source: A,
    length: u16,
    hop: &mut NextHop,
) -> Result<(), Cause> {
    if endpoint.interface != 0 {
        *hop = NextHop {
            interface: endpoint.interface,
            macs: endpoint.macs,
        };
        return Ok(());
    }
    look_up(ctx, endpoint, source.widen(), length, A::FAMILY, hop)
}

#[inline(always)]
fn look_up(
    ctx: &XdpContext,
    endpoint: &Endpoint,
    source: [u32; 4],
    length: u16,
    family: u8,
    hop: &mut NextHop,
) -> Result<(), Cause> {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    // SAFETY: a C struct of integers and unions of integers: zero is valid.
    let mut query: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    query.family = if family == 4 { AF_INET } else { AF_INET6 };
    query.ifindex = ctx.ingress_ifindex() as u32;
    query.__bindgen_anon_1.tot_len = length;
    query.__bindgen_anon_3.ipv6_src = source;
    query.__bindgen_anon_4.ipv6_dst = endpoint.address;
    // SAFETY: `query` outlives the call and its size is passed along.
    let answer = unsafe {
        fib_lookup(
            ctx.as_ptr(),
            core::ptr::from_mut(&mut query),
            size_of::<bpf_fib_lookup>() as i32,
            0,
        )
    };
    match answer as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => {
            let (d, s) = (query.dmac, query.smac);
            let word = |a, b| u16::from_ne_bytes([a, b]);
            *hop = NextHop {
                interface: query.ifindex,
                macs: [
                    word(d[0], d[1]),
                    word(d[2], d[3]),
                    word(d[4], d[5]),
                    word(s[0], s[1]),
                    word(s[2], s[3]),
                    word(s[4], s[5]),
                ],
            };
            Ok(())
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => Err(Cause::NoNeighbour),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Cause::TooBig),
        _ => Err(Cause::NoRoute),
    }
}

/// Writes the Ethernet header and sends the frame: back out where it came in
/// by, or over to another interface.
#[inline(always)]
pub fn send<A: Address>(ctx: &XdpContext, hop: &NextHop) -> Result<u32, Cause> {
    let frame = XdpFrame(ctx);
    if !frame.store(0, hop.macs) || !frame.store(12, A::ETHERTYPE) {
        return Err(Cause::Truncated);
    }
    if hop.interface as usize == ctx.ingress_ifindex() {
        return Ok(xdp_action::XDP_TX);
    }
    // SAFETY: takes two integers; the kernel checks the interface.
    Ok(unsafe { bpf_redirect(hop.interface, 0) } as u32)
}
