//! `nat` mode: addresses and ports rewritten in both directions, so that
//! servers and their routes stay as they are.

use aya_ebpf::programs::XdpContext;
use director_ebpf::{
    abi::{
        Address, Endpoint, Macs, NAT_SOURCES, Plain, Service, Settings, UDP,
        flow::{BUSY, EMPTY, FlowValue, WAYS},
        nat::{Ports4, Ports6, WayBack, flags},
    },
    cause::Cause,
    flows::{key_at, value_at},
    parse::{Frame as _, Packet, tcp_flags},
    ports::{self, Ports},
    scratch::Scratch,
    steer::{Pick, picked},
};

use crate::{
    frame::XdpFrame,
    icmp,
    link::{self, NextHop},
    maps::{self, Maps},
    mss,
    tuple::{Tuple, rewrite},
};

/// The NAT tables of a family.
pub trait PortTable: Ports {
    fn table(bucket: u32) -> Option<*mut Self::Ports>;
    /// The family's NAT source addresses, how many are in use, and the planes.
    fn nat(settings: &Settings) -> (&[Self; NAT_SOURCES], u32, u32);
}

impl PortTable for u32 {
    #[inline(always)]
    fn table(bucket: u32) -> Option<*mut Ports4> {
        maps::ports4(bucket)
    }
    #[inline(always)]
    fn nat(settings: &Settings) -> (&[u32; NAT_SOURCES], u32, u32) {
        (&settings.nat4, settings.nat4_count, settings.nat4_planes)
    }
}

impl PortTable for [u32; 4] {
    #[inline(always)]
    fn table(bucket: u32) -> Option<*mut Ports6> {
        maps::ports6(bucket)
    }
    #[inline(always)]
    fn nat(settings: &Settings) -> (&[[u32; 4]; NAT_SOURCES], u32, u32) {
        (&settings.nat6, settings.nat6_count, settings.nat6_planes)
    }
}

/// Sends a packet of a service in `nat` mode to its endpoint.
#[inline(always)]
pub fn to_endpoint<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    service: &Service,
    pick: &Pick,
    scratch: &mut Scratch,
) -> Result<u32, Cause> {
    let endpoint = maps::endpoint(pick.endpoint).ok_or(Cause::NoEndpoint)?;
    if endpoint.mtu != 0 && packet.ip_length > endpoint.mtu {
        return Err(icmp::too_big(endpoint.mtu, scratch));
    }
    let settings = maps::settings().ok_or(Cause::NoEndpoint)?;
    port_for(ctx, packet, service, pick, scratch)?;
    let port = scratch.port.get();
    let (sources, _, _) = A::nat(settings);
    let source = *sources
        .get((port >> 16) as usize % NAT_SOURCES)
        .ok_or(Cause::NoEndpoint)?;
    let mut hop = NextHop::default();
    link::next_hop(ctx, endpoint, &source.widen(), packet.ip_length, &mut hop)?;
    maps::count_steered(
        service.index,
        pick.endpoint,
        packet.ip_length,
        pick.is(picked::NEW),
    );
    let after = Tuple {
        source,
        destination: A::narrow(endpoint.address),
        source_port: port as u16,
        destination_port: endpoint.port,
    };
    rewrite(ctx, packet, &after)?;
    link::send(ctx, &hop, A::FAMILY)
}

/// Finds the port that stands for a packet's flow, and its source address:
/// `scratch.port` has the index of that in its upper bits, and the port in
/// network byte order in its lower 16. A flow without a port takes one.
#[inline(always)]
fn port_for<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    service: &Service,
    pick: &Pick,
    scratch: &mut Scratch,
) -> Result<(), Cause> {
    let settings = maps::settings().ok_or(Cause::NoEndpoint)?;
    let endpoint = maps::endpoint(pick.endpoint).ok_or(Cause::NoEndpoint)?;
    let (_, count, planes) = A::nat(settings);
    let plane = ports::plane(endpoint.address, endpoint.port, count, planes);
    let key = ports::key(packet.source, packet.source_port, service.index);
    for n in 0..ports::CANDIDATES {
        let index = ports::candidate(pick.hash, settings.seed, n, plane, count);
        let bucket = A::table(index).ok_or(Cause::NatPortsExhausted)?;
        // SAFETY: a live map value.
        unsafe { ports::find::<A>(bucket, key, packet.source, pick.endpoint, scratch) };
        let (is_found, way) = scratch.found_way();
        if is_found {
            note_client(
                bucket,
                way,
                scratch.found(),
                packet.tcp_flags,
                packet.is_syn(),
            );
            set_port(scratch, index, way, plane);
            return Ok(());
        }
    }
    let flags = if packet.protocol == UDP {
        flags::UDP | flags::HALF_OPEN
    } else {
        flags::HALF_OPEN
    };
    let value = FlowValue::new(pick.endpoint, flags, service.index, maps::seconds());
    let back = WayBack {
        interface: ctx.ingress_ifindex() as u32,
        macs: way_back(ctx),
    };
    ports::no_room(scratch);
    for n in 0..ports::CANDIDATES {
        let index = ports::candidate(pick.hash, settings.seed, n, plane, count);
        let bucket = A::table(index).ok_or(Cause::NatPortsExhausted)?;
        // SAFETY: a live map value.
        unsafe { ports::room(bucket, index, value.seen(), scratch) };
        if n == 1 && scratch.best.get() > 0 {
            break;
        }
    }
    if scratch.best.get() == 0 {
        scratch.way.set(scratch.other_way.get());
        scratch.held.set(scratch.other_held.get());
    }
    let (is_found, way) = scratch.found_way();
    if !is_found {
        return Err(Cause::NatPortsExhausted);
    }
    let index = scratch.bucket.get() as u32;
    let bucket = A::table(index).ok_or(Cause::NatPortsExhausted)?;
    let held = scratch.held.get();
    // SAFETY: a live map value.
    let is_taken = unsafe { ports::take(bucket, way, held, key, packet.source, value, back) };
    if !is_taken {
        return Err(Cause::NatPortsExhausted);
    }
    set_port(scratch, index, way, plane);
    Ok(())
}

#[inline(always)]
pub fn set_port(scratch: &mut Scratch, bucket: u32, way: usize, plane: u32) {
    let (source, port) = ports::port_of(bucket, way, plane);
    scratch
        .port
        .set(u64::from(source) << 16 | u64::from(port.to_be()));
}

/// Notes a client's packet in its port's record.
#[inline(always)]
fn note_client<P: Plain>(ports: *mut P, way: usize, value: FlowValue, tcp_flags: u8, is_syn: bool) {
    let mut flags = value.flags() & !flags::HALF_OPEN | closing(tcp_flags, flags::CLIENT_FIN);
    if is_syn {
        // The same SYN again, or a client that uses its port again.
        flags = value.flags() & flags::UDP | flags::HALF_OPEN;
    }
    note(ports, way, value, flags);
}

/// Seconds after which a record is refreshed, so that most packets only read.
const REFRESH_SECONDS: u16 = 8;

#[inline(always)]
fn note<P: Plain>(ports: *mut P, way: usize, value: FlowValue, flags: u8) {
    let now = maps::seconds();
    if flags == value.flags() && value.age(now) < REFRESH_SECONDS {
        return;
    }
    let after = FlowValue::new(value.endpoint(), flags, value.service(), now);
    // SAFETY: a live map value, and a way within it.
    unsafe { value_at(ports, way & (WAYS - 1)).write_volatile(after.0) };
}

#[inline(always)]
fn closing(tcp_flags: u8, fin: u8) -> u8 {
    let mut bits = 0;
    if tcp_flags & tcp_flags::FIN != 0 {
        bits |= fin;
    }
    if tcp_flags & tcp_flags::RST != 0 {
        bits |= flags::RST;
    }
    bits
}

/// Sends a server's packet to the client that its NAT port stands for.
#[inline(always)]
pub fn to_client<A: Maps>(ctx: &XdpContext, packet: &Packet<A>) -> Result<u32, Cause> {
    let mut client = Client::default();
    find_client(packet, &mut client)?;
    if packet.hop_limit <= 1 {
        return Err(Cause::HopLimit);
    }
    let value = client.value;
    note(
        client.keys,
        client.way,
        value,
        value.flags() | closing(packet.tcp_flags, flags::SERVER_FIN),
    );
    if client.mss != 0 && packet.tcp_flags & tcp_flags::SYN != 0 {
        mss::clamp(ctx, packet.transport, client.mss);
    }
    rewrite(ctx, packet, &client.tuple)?;
    let hop = NextHop {
        interface: client.back.interface,
        macs: client.back.macs,
        vlan: 0,
    };
    link::send(ctx, &hop, A::FAMILY)
}

/// Whom a NAT port stands for.
pub struct Client<A> {
    /// What a reply is given: from the VIP to the client.
    pub tuple: Tuple<A>,
    pub back: WayBack,
    /// As [`Service::mss`].
    pub mss: u16,
    /// The bucket, way and record of the port.
    keys: *mut u64,
    way: usize,
    value: FlowValue,
}

impl<A: Address> Default for Client<A> {
    #[inline(always)]
    fn default() -> Self {
        Self {
            tuple: Tuple::default(),
            back: WayBack::default(),
            mss: 0,
            keys: core::ptr::null_mut(),
            way: 0,
            value: FlowValue(0),
        }
    }
}

/// Finds whom a server's packet is for.
///
/// # Errors
/// [`Cause::NatNoFlow`] where its flow has no port, or is another server's.
#[inline(always)]
pub fn find_client<A: Maps>(packet: &Packet<A>, client: &mut Client<A>) -> Result<(), Cause> {
    let settings = maps::settings().ok_or(Cause::NatNoFlow)?;
    let (sources, count, planes) = A::nat(settings);
    let mut source = 0;
    for address in sources {
        if *address == packet.destination {
            break;
        }
        source += 1;
    }
    if source >= count {
        return Err(Cause::NatNoFlow);
    }
    let plane = ports::plane(packet.source.widen(), packet.source_port, count, planes);
    let (index, way) = ports::place_of(source, u16::from_be(packet.destination_port), plane);
    let bucket = A::table(index).ok_or(Cause::NatNoFlow)?;
    let way = way & (WAYS - 1);
    // SAFETY: a live map value, and `way` within it.
    let (key, value, address, back) = unsafe {
        let key = key_at(bucket, way).read_volatile();
        (
            key,
            FlowValue(value_at(bucket, way).read_volatile()),
            A::client(bucket, way, key),
            A::ways_back(bucket).add(way).read_volatile(),
        )
    };
    if key == EMPTY || key == BUSY {
        return Err(Cause::NatNoFlow);
    }
    let endpoint = maps::endpoint(value.endpoint()).ok_or(Cause::NatNoFlow)?;
    let front = maps::front(value.service()).ok_or(Cause::NatNoFlow)?;
    let is_its_server = is_at(endpoint, packet) && front.protocol == packet.protocol;
    if !is_its_server {
        return Err(Cause::NatNoFlow);
    }
    *client = Client {
        tuple: Tuple {
            source: A::narrow(front.address),
            destination: address,
            source_port: front.port,
            destination_port: (key >> 16) as u16,
        },
        back,
        mss: front.mss,
        keys: bucket.cast(),
        way,
        value,
    };
    Ok(())
}

#[inline(always)]
fn is_at<A: Address>(endpoint: &Endpoint, packet: &Packet<A>) -> bool {
    A::narrow(endpoint.address) == packet.source && endpoint.port == packet.source_port
}

/// Ethernet header of replies: to where the client's packet came from. Replies
/// so take the client's own path, without a look-up.
#[inline(always)]
fn way_back(ctx: &XdpContext) -> Macs {
    // Half of the middle word belongs to either address.
    let [a, b, c] = XdpFrame(ctx).load::<Macs>(0).unwrap_or_default();
    [b >> 16 | c << 16, c >> 16 | a << 16, a >> 16 | b << 16]
}
