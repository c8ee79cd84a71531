//! NAT ports: which flow holds which, in the tables of [`crate::abi::nat`].
//!
//! A flow looks in four buckets, two drawn by its hash and two more for when
//! those are full, and takes a port in the emptier one of a pair: so nearly all
//! ports of a source can be in use before any flow finds none. Ways are taken
//! as flow records are (see [`crate::flows`]).

use crate::{
    abi::{
        Plain,
        flow::{BUSY, EMPTY, FlowValue, WAYS},
        nat::{FIRST, Ports4, Ports6, SPAN, WayBack, flags},
    },
    flows::{self, key_at, value_at},
    scratch::Scratch,
    steer::mix,
};

/// Buckets that a flow may have its port in.
pub const CANDIDATES: u32 = 4;

/// A port whose flow was closed is free after this many seconds.
const CLOSED_SECONDS: u16 = flows::CLOSED_SECONDS;
/// A port whose flow has been silent for this long is free, by protocol (RFC
/// 5382, REQ-5: at least 2 h 4 min for TCP, 4 min while opening; RFC 4787,
/// REQ-5: 5 min for UDP).
const TCP_IDLE_SECONDS: u16 = flows::IDLE_SECONDS;
const UDP_IDLE_SECONDS: u16 = 300;
const HALF_OPEN_SECONDS: u16 = 240;
/// When all candidates are full, a port that is still opening is free after
/// this many seconds: a flood of SYNs does not take all ports for minutes.
const PRESSED_SECONDS: u16 = 6;

/// A family with its buckets of ports.
pub trait Ports: flows::Family {
    type Ports: Plain;

    /// Whether a way whose key fits is this client's.
    ///
    /// # Safety
    /// `ports` points to a live bucket, and `way` is less than [`WAYS`].
    unsafe fn is_client(self, ports: *mut Self::Ports, way: usize) -> bool;
    /// Notes the client in a way.
    ///
    /// # Safety
    /// As [`Ports::is_client`].
    unsafe fn set_client(self, ports: *mut Self::Ports, way: usize);
    /// The client of a way with this key.
    ///
    /// # Safety
    /// As [`Ports::is_client`].
    unsafe fn client(ports: *mut Self::Ports, way: usize, key: u64) -> Self;
    /// The ways back of a bucket.
    fn ways_back(ports: *mut Self::Ports) -> *mut WayBack;
}

impl Ports for u32 {
    type Ports = Ports4;

    #[inline(always)]
    unsafe fn is_client(self, _: *mut Ports4, _: usize) -> bool {
        true
    }
    #[inline(always)]
    unsafe fn set_client(self, _: *mut Ports4, _: usize) {}
    #[inline(always)]
    unsafe fn client(_: *mut Ports4, _: usize, key: u64) -> u32 {
        (key >> 32) as u32
    }
    #[inline(always)]
    fn ways_back(ports: *mut Ports4) -> *mut WayBack {
        ports.cast::<u8>().wrapping_add(2 * WAYS * 8).cast()
    }
}

impl Ports for [u32; 4] {
    type Ports = Ports6;

    #[inline(always)]
    unsafe fn is_client(self, ports: *mut Ports6, way: usize) -> bool {
        // SAFETY: as the caller promises.
        unsafe { Self::client(ports, way, 0) == self }
    }
    #[inline(always)]
    unsafe fn set_client(self, ports: *mut Ports6, way: usize) {
        // SAFETY: as the caller promises.
        unsafe { (*ports).clients.as_mut_ptr().add(way).write_volatile(self) }
    }
    #[inline(always)]
    unsafe fn client(ports: *mut Ports6, way: usize, _: u64) -> [u32; 4] {
        // SAFETY: as the caller promises.
        unsafe { (*ports).clients.as_ptr().add(way).read_volatile() }
    }
    #[inline(always)]
    fn ways_back(ports: *mut Ports6) -> *mut WayBack {
        ports.cast::<u8>().wrapping_add(4 * WAYS * 8).cast()
    }
}

/// Where a server's ports lie: the first bucket of its plane.
#[inline(always)]
#[must_use]
pub fn plane(address: [u32; 4], port: u16, sources: u32, planes: u32) -> u32 {
    let high = u64::from(address[0]) << 32 | u64::from(address[1]);
    let low = u64::from(address[2]) << 32 | u64::from(address[3]);
    let hash = mix(high ^ low.rotate_left(29) ^ u64::from(port)) as u32;
    crate::steer::slot(hash, planes) * sources * SPAN
}

/// The `n`th bucket, of [`CANDIDATES`], that a flow may have its port in.
#[inline(always)]
#[must_use]
pub fn candidate(hash: u64, seed: u32, n: u32, plane: u32, sources: u32) -> u32 {
    let h = mix(hash ^ u64::from(seed) ^ (u64::from(n) << 56)) as u32;
    let usable = SPAN - FIRST;
    let drawn = crate::steer::slot(h, sources * usable);
    plane + drawn / usable * SPAN + FIRST + drawn % usable
}

/// Key of a client's flow to a service.
#[inline(always)]
#[must_use]
pub fn key<A: Ports>(client: A, client_port: u16, service: u32) -> u64 {
    client.key(client_port, service as u16)
}

/// Source index and port that a way of a bucket stands for, host byte order.
#[inline(always)]
#[must_use]
pub fn port_of(bucket: u32, way: usize, plane: u32) -> (u32, u16) {
    let within = bucket - plane;
    (
        within / SPAN,
        ((within % SPAN) * WAYS as u32 + way as u32) as u16,
    )
}

/// Bucket and way that a port of a source stands in.
#[inline(always)]
#[must_use]
pub fn place_of(source: u32, port: u16, plane: u32) -> (u32, usize) {
    let port = u32::from(port);
    (
        plane + source * SPAN + port / WAYS as u32,
        (port % WAYS as u32) as usize,
    )
}

/// Finds the way that holds a flow towards this endpoint: `way` and `value` of
/// `scratch`, [`WAYS`] where none does.
///
/// # Safety
/// `ports` points to a live bucket.
#[inline(always)]
pub unsafe fn find<A: Ports>(
    ports: *mut A::Ports,
    key: u64,
    client: A,
    endpoint: u32,
    scratch: &mut Scratch,
) {
    scratch.way.set(WAYS as u64);
    for way in 0..WAYS {
        // SAFETY: a live bucket, and `way` within it.
        unsafe {
            if key_at(ports, way).read_volatile() == key && client.is_client(ports, way) {
                let found = FlowValue(value_at(ports, way).read_volatile());
                if found.endpoint() == endpoint && key_at(ports, way).read_volatile() == key {
                    scratch.value.set(found.0);
                    scratch.way.set(way as u64);
                    return;
                }
            }
        }
    }
}

/// Before the first [`room`].
#[inline(always)]
pub fn no_room(scratch: &mut Scratch) {
    scratch.best.set(0);
    scratch.way.set(WAYS as u64);
    scratch.other_way.set(WAYS as u64);
}

/// Looks for room in a bucket, and keeps it in `scratch` where it is more than
/// was found before: `best` ways are free in `bucket`, of which `way` is one
/// and holds `held`. Where none is free anywhere, `other_way` is one that may be
/// taken under pressure.
///
/// # Safety
/// `ports` points to a live bucket.
#[inline(always)]
pub unsafe fn room<P: Plain>(ports: *mut P, index: u32, now: u16, scratch: &mut Scratch) {
    scratch.port.set(0);
    for way in 0..WAYS {
        // SAFETY: a live bucket, and `way` within it.
        let (key, value) = unsafe {
            (
                key_at(ports, way).read_volatile(),
                FlowValue(value_at(ports, way).read_volatile()),
            )
        };
        if key == BUSY {
            continue;
        }
        if key == EMPTY || is_over(value, now) {
            let free = scratch.port.get() + 1;
            scratch.port.set(free);
            if free == 1 {
                // The first, so that the first cache line is filled first.
                scratch.value.set(way as u64);
                scratch.other_held.set(key);
            }
            if free > scratch.best.get() {
                scratch.best.set(free);
                scratch.way.set(scratch.value.get());
                scratch.held.set(scratch.other_held.get());
                scratch.bucket.set(u64::from(index));
            }
        } else if value.flags() & flags::HALF_OPEN != 0
            && value.age(now) > PRESSED_SECONDS
            && scratch.best.get() == 0
        {
            scratch.other_way.set(way as u64);
            scratch.other_held.set(key);
            scratch.bucket.set(u64::from(index));
        }
    }
}

/// Takes a way for a flow, if it still holds `held`.
///
/// # Safety
/// `ports` points to a live bucket, and `way` is less than [`WAYS`].
#[inline(always)]
pub unsafe fn take<A: Ports>(
    ports: *mut A::Ports,
    way: usize,
    held: u64,
    key: u64,
    client: A,
    value: FlowValue,
    back: WayBack,
) -> bool {
    let way = way & (WAYS - 1);
    // SAFETY: as the caller promises.
    unsafe {
        if !flows::claim(key_at(ports, way), held) {
            return false;
        }
        client.set_client(ports, way);
        A::ways_back(ports).add(way).write_volatile(back);
        value_at(ports, way).write_volatile(value.0);
        key_at(ports, way).write_volatile(key);
    }
    true
}

/// Whether a flow is over, so that its port is free.
#[inline(always)]
#[must_use]
pub fn is_over(value: FlowValue, now: u16) -> bool {
    let flags = value.flags();
    let both = flags::CLIENT_FIN | flags::SERVER_FIN;
    let limit = if flags & flags::RST != 0 || flags & both == both {
        CLOSED_SECONDS
    } else if flags & flags::HALF_OPEN != 0 {
        HALF_OPEN_SECONDS
    } else if flags & flags::UDP != 0 {
        UDP_IDLE_SECONDS
    } else {
        TCP_IDLE_SECONDS
    };
    value.age(now) > limit
}

#[cfg(test)]
mod tests;
