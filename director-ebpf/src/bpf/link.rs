//! The last step: an Ethernet header and an interface.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup, xdp_action,
    },
    helpers::{bpf_fib_lookup as fib_lookup, bpf_redirect, bpf_xdp_adjust_head},
    programs::XdpContext,
};
use director_ebpf::{
    abi::{Address, Endpoint, Macs},
    cause::Cause,
    parse::VLAN,
};

use crate::frame::XdpFrame;

/// An interface, the destination and source of an Ethernet header, and a VLAN
/// tag (0: none).
#[derive(Clone, Copy, Default)]
pub struct NextHop {
    pub interface: u32,
    pub macs: Macs,
    pub vlan: u16,
}

/// The endpoint's next hop: the one that the daemon keeps in its entry, else
/// what the kernel's routing table says for a packet of `length` bytes.
///
/// # Errors
/// [`Cause::NoNeighbour`] or [`Cause::NoRoute`].
#[inline(always)]
pub fn next_hop(
    ctx: &XdpContext,
    endpoint: &Endpoint,
    source: &[u32; 4],
    length: u16,
    hop: &mut NextHop,
) -> Result<(), Cause> {
    if endpoint.interface != 0 {
        *hop = NextHop {
            interface: endpoint.interface,
            macs: endpoint.macs,
            vlan: endpoint.vlan,
        };
        return Ok(());
    }
    match look_up(ctx, endpoint, source, length, hop) {
        BPF_FIB_LKUP_RET_SUCCESS => Ok(()),
        BPF_FIB_LKUP_RET_NO_NEIGH => Err(Cause::NoNeighbour),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Cause::TooBig),
        _ => Err(Cause::NoRoute),
    }
}

/// Asks the kernel's routing table, and returns its answer.
#[inline(never)]
fn look_up(
    ctx: &XdpContext,
    endpoint: &Endpoint,
    source: &[u32; 4],
    length: u16,
    hop: &mut NextHop,
) -> u32 {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    // SAFETY: a C struct of integers and unions of integers: zero is valid.
    let mut query: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    query.family = if endpoint.family == 4 {
        AF_INET
    } else {
        AF_INET6
    };
    query.ifindex = ctx.ingress_ifindex() as u32;
    query.__bindgen_anon_1.tot_len = length;
    query.__bindgen_anon_3.ipv6_src = *source;
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
    let (d, s) = (query.dmac, query.smac);
    let word = |bytes| u32::from_ne_bytes(bytes);
    *hop = NextHop {
        interface: query.ifindex,
        macs: [
            word([d[0], d[1], d[2], d[3]]),
            word([d[4], d[5], s[0], s[1]]),
            word([s[2], s[3], s[4], s[5]]),
        ],
        vlan: 0,
    };
    answer as u32
}

/// Writes the Ethernet header of an IP packet of `family` and sends the frame:
/// back out where it came in by, or over to another interface.
///
/// # Errors
/// Where there is no room for a VLAN tag.
#[inline(always)]
pub fn send(ctx: &XdpContext, hop: &NextHop, family: u8) -> Result<u32, Cause> {
    if hop.vlan != 0 && !push_tag(ctx, hop.vlan) {
        return Err(Cause::NoHeadroom);
    }
    let frame = XdpFrame(ctx);
    let is_written = if hop.vlan == 0 {
        frame.store(12, ethertype(family))
    } else {
        frame.store(16, ethertype(family))
    };
    if !is_written || !frame.store(0, hop.macs) {
        return Err(Cause::Truncated);
    }
    if hop.interface as usize == ctx.ingress_ifindex() {
        return Ok(xdp_action::XDP_TX);
    }
    // SAFETY: takes two integers; the kernel checks the interface.
    Ok(unsafe { bpf_redirect(hop.interface, 0) } as u32)
}

#[inline(always)]
fn ethertype(family: u8) -> u16 {
    if family == 4 {
        <u32 as Address>::ETHERTYPE
    } else {
        <[u32; 4] as Address>::ETHERTYPE
    }
}

/// Makes room for a tag and writes it (IEEE 802.1Q); the rest of the Ethernet
/// header is the caller's.
#[inline(never)]
fn push_tag(ctx: &XdpContext, tag: u16) -> bool {
    // SAFETY: the context is the kernel's own; pointers are taken anew.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -4) } != 0 {
        return false;
    }
    XdpFrame(ctx).store(12, [VLAN, tag])
}
