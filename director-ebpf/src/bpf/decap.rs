//! The servers' end of `tunnel` mode.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    helpers::bpf_xdp_adjust_head,
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
    programs::XdpContext,
};
use director_ebpf::{
    abi::{Address, UDP},
    parse::{ETHERNET, Frame as _, IPV4, IPV6, ethertype},
    rewrite::{Change, IP6IP6, IPIP, decapsulated_ecn},
};

use crate::frame::XdpFrame;

/// Outer destinations to take the header off for: this server's own addresses.
/// A packet to any other is not for us to open.
#[map]
static DECAP: HashMap<[u32; 4], u32> = HashMap::with_max_entries(256, 0);
/// Destination port of GUE, network byte order; 0: UDP is not opened.
#[map]
static DECAP_PORT: Array<u16> = Array::with_max_entries(1, 0);
/// Packets decapsulated.
#[map]
static DECAPPED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Length of a UDP header.
const UDP_HEADER: usize = 8;

/// What an outer header says.
#[derive(Default)]
struct Outer {
    destination: [u32; 4],
    /// Protocol of what follows.
    protocol: u8,
    /// Congestion notification bits.
    ecn: u8,
}

/// Takes the outer headers off and passes the packet up; anything else passes
/// as it is.
#[inline(always)]
pub fn decap(ctx: &XdpContext) -> u32 {
    try_decap(ctx).unwrap_or(XDP_PASS)
}

/// `None` where the packet is to be left as it is.
#[inline(always)]
fn try_decap(ctx: &XdpContext) -> Option<u32> {
    let frame = XdpFrame(ctx);
    let mut outer = Outer::default();
    match ethertype(&frame).ok()? {
        <u32 as Address>::ETHERTYPE => {
            read_ipv4(&frame, &mut outer)?;
            open(ctx, &outer, IPV4)
        }
        <[u32; 4] as Address>::ETHERTYPE => {
            read_ipv6(&frame, &mut outer)?;
            open(ctx, &outer, IPV6)
        }
        _ => None,
    }
}

#[inline(always)]
fn read_ipv4(frame: &XdpFrame<'_>, outer: &mut Outer) -> Option<()> {
    let [version, class] = frame.load::<[u8; 2]>(ETHERNET)?;
    // Options never come from an edge; a fragment cannot be opened.
    let is_fragment = u16::from_be(frame.load::<u16>(ETHERNET + 6)?) & 0x3fff != 0;
    if version != 0x45 || is_fragment {
        return None;
    }
    *outer = Outer {
        destination: frame.load::<u32>(ETHERNET + 16)?.widen(),
        protocol: frame.load::<u8>(ETHERNET + 9)?,
        ecn: class & 3,
    };
    Some(())
}

#[inline(always)]
fn read_ipv6(frame: &XdpFrame<'_>, outer: &mut Outer) -> Option<()> {
    *outer = Outer {
        destination: frame.load::<[u32; 4]>(ETHERNET + 24)?,
        protocol: frame.load::<u8>(ETHERNET + 6)?,
        ecn: frame.load::<u8>(ETHERNET + 1)? >> 4 & 3,
    };
    Some(())
}

/// Opens a packet whose outer IP header has `header` bytes.
#[inline(always)]
fn open(ctx: &XdpContext, outer: &Outer, header: usize) -> Option<u32> {
    // SAFETY: only whether there is an entry is read.
    unsafe { DECAP.get(&outer.destination) }?;
    let frame = XdpFrame(ctx);
    match outer.protocol {
        IPIP => take_off(ctx, outer, header, Some(4)),
        IP6IP6 => take_off(ctx, outer, header, Some(6)),
        UDP => {
            let port = *DECAP_PORT.get(0)?;
            let is_gue = port != 0 && frame.load::<u16>(ETHERNET + header + 2)? == port;
            // Its checksum is not looked at: the packet within has its own.
            if !is_gue {
                return None;
            }
            take_off(ctx, outer, header + UDP_HEADER, None)
        }
        _ => None,
    }
}

/// Takes `headers` bytes off, of what must be a packet of `family` then, if that
/// is known. The congestion that the outer header tells of is carried over
/// (RFC 6040, 4.2).
#[inline(always)]
fn take_off(ctx: &XdpContext, outer: &Outer, headers: usize, family: Option<u8>) -> Option<u32> {
    let frame = XdpFrame(ctx);
    let inner = ETHERNET + headers;
    let [first, second] = frame.load::<[u8; 2]>(inner)?;
    let version = first >> 4;
    let kind = match version {
        4 => <u32 as Address>::ETHERTYPE,
        6 => <[u32; 4] as Address>::ETHERTYPE,
        _ => return None,
    };
    if family.is_some_and(|family| family != version) {
        return None;
    }
    // The whole inner header must be there before the frame is changed.
    let ecn = if version == 4 {
        frame.load::<[u32; 5]>(inner)?;
        second & 3
    } else {
        frame.load::<[u32; 10]>(inner)?;
        second >> 4 & 3
    };
    let Some(after) = decapsulated_ecn(outer.ecn, ecn) else {
        return Some(XDP_DROP);
    };
    if after != ecn && version == 4 {
        let class = frame.load::<u16>(inner)?;
        let new = u16::from_ne_bytes([first, second & !3 | after]);
        let sum = frame.load::<u16>(inner + 10)?;
        frame.store(inner + 10, Change::default().half(class, new).apply(sum));
        frame.store(inner, new);
    } else if after != ecn {
        frame.store(inner + 1, second & !0x30 | after << 4);
    }
    let macs = frame.load::<[u16; 6]>(0)?;
    // SAFETY: the context is the kernel's own; pointers are taken anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, headers as i32) } != 0 {
        return None;
    }
    let frame = XdpFrame(ctx);
    frame.store(0, macs);
    frame.store(12, kind);
    if let Some(counter) = DECAPPED.get_ptr_mut(0) {
        // SAFETY: a per-CPU value that only this program writes.
        unsafe { *counter += 1 };
    }
    Some(XDP_PASS)
}
