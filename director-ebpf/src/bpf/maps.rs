//! The BPF maps, and [`Tables`] read from them.
//!
//! Sizes here are what a bare load gets; the daemon sets its own.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::bpf_ktime_get_coarse_ns,
    macros::map,
    maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf, lpm_trie::Key,
    },
};
use director_ebpf::{
    abi::{
        self, Address, Counter, Endpoint, Entry, FILTER_WORDS, ServerKey, Service, ServiceKey,
        Settings, Slot, filter_bit,
        flow::{Bucket4, Bucket6},
        hint_of,
        nat::{Front, Ports4, Ports6},
    },
    cause::{self, Action, Cause},
    flows::Family,
    parse::Parse,
    scratch::Scratch,
    steer::{self, Tables},
};

use crate::nat::PortTable;

/// `BPF_F_MMAPABLE`: user space reads and writes with plain loads and stores,
/// and the values start on a page.
const MMAPABLE: u32 = 1 << 10;

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
/// A bit for every address of ours (see [`filter_bit`]).
#[map]
static FILTER: Array<u64> = Array::with_max_entries(FILTER_WORDS, MMAPABLE);
/// Which half of its span in `SLOTS` a service uses: 0 or 1.
#[map]
static BANKS: Array<u32> = Array::with_max_entries(1, MMAPABLE);
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(2, MMAPABLE);
#[map]
static ENDPOINTS: Array<Endpoint> = Array::with_max_entries(2, 0);
#[map]
static SERVICES4: HashMap<ServiceKey<u32>, Service> = HashMap::with_max_entries(1, 0);
#[map]
static SERVICES6: HashMap<ServiceKey<[u32; 4]>, Service> = HashMap::with_max_entries(1, 0);
/// The services again, by index, and where most of them are found without the
/// kernel's hashing (see [`hint_of`]).
#[map]
static ENTRIES: Array<Entry> = Array::with_max_entries(1, 0);
#[map]
static HINTS: Array<u32> = Array::with_max_entries(abi::HINTS, MMAPABLE);
/// Every address of ours and what it is (see [`director_ebpf::abi::vip`]).
#[map]
static VIPS4: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);
#[map]
static VIPS6: HashMap<[u32; 4], u32> = HashMap::with_max_entries(1, 0);
#[map]
static FLOWS4: Array<Bucket4> = Array::with_max_entries(1, MMAPABLE);
#[map]
static FLOWS6: Array<Bucket6> = Array::with_max_entries(1, MMAPABLE);
#[map]
static NAT4: Array<Ports4> = Array::with_max_entries(1, MMAPABLE);
#[map]
static NAT6: Array<Ports6> = Array::with_max_entries(1, MMAPABLE);
/// By service index.
#[map]
static FRONTS: Array<Front> = Array::with_max_entries(1, 0);
#[map]
static DENY4: LpmTrie<u32, u32> = LpmTrie::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static DENY6: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(1, BPF_F_NO_PREALLOC);
/// Token buckets of sources that open connections to services with a limit:
/// nanoseconds in the high half, see [`crate::guard`].
#[map]
static SOURCES4: LruHashMap<u32, u64> = LruHashMap::with_max_entries(1024, 0);
#[map]
static SOURCES6: LruHashMap<[u32; 4], u64> = LruHashMap::with_max_entries(1024, 0);
/// Servers by the id in their QUIC connection ids: their endpoint index.
#[map]
pub static SERVERS: HashMap<ServerKey, u32> = HashMap::with_max_entries(1, 0);
/// Token bucket of the ICMP packets that are made here.
#[map]
pub static MADE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// See [`Scratch`].
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// Sampled flow events.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);
/// Another XDP program, at index 0, that sees what is not ours.
#[map]
pub static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static SERVICE_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(1, 0);
#[map]
static ENDPOINT_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(2, 0);
#[map]
static CAUSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(cause::ROOM, 0);

/// The maps of one family.
pub trait Maps: Family + Parse + PortTable {
    fn services() -> &'static HashMap<ServiceKey<Self>, Service>;
    fn vips() -> &'static HashMap<Self, u32>;
    fn flows() -> &'static Array<Self::Bucket>;
    fn denied() -> &'static LpmTrie<Self, u32>;
    fn sources() -> &'static LruHashMap<Self, u64>;
}

impl Maps for u32 {
    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<u32>, Service> {
        &SERVICES4
    }
    #[inline(always)]
    fn vips() -> &'static HashMap<u32, u32> {
        &VIPS4
    }
    #[inline(always)]
    fn flows() -> &'static Array<Bucket4> {
        &FLOWS4
    }
    #[inline(always)]
    fn denied() -> &'static LpmTrie<u32, u32> {
        &DENY4
    }
    #[inline(always)]
    fn sources() -> &'static LruHashMap<u32, u64> {
        &SOURCES4
    }
}

impl Maps for [u32; 4] {
    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<[u32; 4]>, Service> {
        &SERVICES6
    }
    #[inline(always)]
    fn vips() -> &'static HashMap<[u32; 4], u32> {
        &VIPS6
    }
    #[inline(always)]
    fn flows() -> &'static Array<Bucket6> {
        &FLOWS6
    }
    #[inline(always)]
    fn denied() -> &'static LpmTrie<[u32; 4], u32> {
        &DENY6
    }
    #[inline(always)]
    fn sources() -> &'static LruHashMap<[u32; 4], u64> {
        &SOURCES6
    }
}

#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// The service with this key.
#[inline(always)]
pub fn service<A: Maps>(key: &ServiceKey<A>) -> Option<&'static Service> {
    let hint = *HINTS.get(hint_of(key))?;
    if hint != 0
        && let Some(entry) = ENTRIES.get(hint - 1)
        && entry.port == key.port
        && entry.protocol == key.protocol
        && entry.family == A::FAMILY
        && is_same(&entry.address, &key.address.widen())
    {
        return Some(&entry.service);
    }
    // SAFETY: copied at once; an entry replaced meanwhile reads as the old or
    // the new one, and both have the same index.
    let index = unsafe { A::services().get(key) }?.index;
    ENTRIES.get(index).map(|entry| &entry.service)
}

/// By words: the compiler would call a function to compare arrays.
#[inline(always)]
fn is_same(a: &[u32; 4], b: &[u32; 4]) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
}

/// This CPU's scratch memory.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: a per-CPU value, and XDP programs of one CPU do not interrupt one
    // another; a packet's program asks once.
    SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut *scratch })
}

#[inline(always)]
pub fn endpoint(index: u32) -> Option<&'static Endpoint> {
    ENDPOINTS.get(index)
}

#[inline(always)]
pub fn front(service: u32) -> Option<&'static Front> {
    FRONTS.get(service)
}

#[inline(always)]
pub fn ports4(bucket: u32) -> Option<*mut Ports4> {
    NAT4.get_ptr_mut(bucket)
}

#[inline(always)]
pub fn ports6(bucket: u32) -> Option<*mut Ports6> {
    NAT6.get_ptr_mut(bucket)
}

/// Whether an address may be one of ours; only few others are taken for such.
#[inline(always)]
pub fn may_be_ours<A: Address>(address: A) -> bool {
    let (word, bit) = filter_bit(address);
    FILTER.get(word).is_some_and(|found| found & bit != 0)
}

/// What an address is: bits of [`director_ebpf::abi::vip`].
#[inline(always)]
pub fn kind_of<A: Maps>(address: &A) -> u32 {
    // SAFETY: copied at once; a map value of four bytes is replaced as a whole.
    unsafe { A::vips().get(address) }.copied().unwrap_or(0)
}

/// Whether a source is in the deny list.
#[inline(always)]
pub fn is_denied<A: Maps>(source: A) -> bool {
    let bits = if A::FAMILY == 4 { 32 } else { 128 };
    A::denied().get(Key::new(bits, source)).is_some()
}

/// Nanoseconds since boot, as of the last tick.
#[inline(always)]
pub fn nanoseconds() -> u64 {
    // SAFETY: takes nothing, reads the clock.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Seconds since boot, modulo 65,536.
#[inline(always)]
pub fn seconds() -> u16 {
    (nanoseconds() / 1_000_000_000) as u16
}

/// [`Tables`] over the maps.
pub struct KernelTables<const RECORDS: bool>;

impl<A: Maps, const R: bool> Tables<A> for KernelTables<R> {
    const RECORDS: bool = R;

    #[inline(always)]
    fn endpoint(&self, index: u32) -> Option<&Endpoint> {
        ENDPOINTS.get(index)
    }

    #[inline(always)]
    fn slot(&self, service: &Service, hash: u32) -> Option<Slot> {
        let bank = *BANKS.get(service.index)?;
        let slot = steer::slot(hash, service.table_size);
        SLOTS
            .get((service.index * 2 + (bank & 1)) * service.table_size + slot)
            .copied()
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<*mut A::Bucket> {
        A::flows().get_ptr_mut(index)
    }

    #[inline(always)]
    fn now(&self) -> u16 {
        seconds()
    }
}

/// Counts a packet of a service, and of an endpoint where it has one.
#[inline(always)]
pub fn count_steered(service: u32, endpoint: u32, bytes: u16, is_new: bool) {
    for counter in [
        SERVICE_COUNTERS.get_ptr_mut(service),
        ENDPOINT_COUNTERS.get_ptr_mut(endpoint),
    ] {
        if let Some(counter) = counter {
            // SAFETY: a per-CPU value, and XDP programs of one CPU do not
            // interrupt one another.
            unsafe {
                (*counter).packets += 1;
                (*counter).bytes += u64::from(bytes);
                (*counter).flows += u64::from(is_new);
            }
        }
    }
}

/// Counts a cause.
#[inline(always)]
pub fn count(cause: Cause) {
    if let Some(counter) = CAUSES.get_ptr_mut(cause as u32) {
        // SAFETY: as in `count_steered`.
        unsafe { *counter += 1 };
    }
}

/// Counts a cause and says what becomes of the packet: an XDP action, with
/// [`crate::MADE_HERE`] where the frame is an answer made here.
#[inline(always)]
pub fn finish(cause: Cause) -> u32 {
    if !matches!(cause, Cause::NotIp | Cause::NotOurs | Cause::Icmp) {
        count(cause);
    }
    match cause.action() {
        Action::Pass => aya_ebpf::bindings::xdp_action::XDP_PASS,
        Action::Drop => aya_ebpf::bindings::xdp_action::XDP_DROP,
        Action::Transmit => aya_ebpf::bindings::xdp_action::XDP_TX | crate::MADE_HERE,
    }
}
