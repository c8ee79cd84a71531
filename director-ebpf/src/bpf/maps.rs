//! The BPF maps, and [`Tables`] read from them.
//!
//! Sizes here are what a bare load gets; the daemon sets its own.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use director_ebpf::{
    abi::{
        Address, Counter, Endpoint, FlowEntry, FlowKey, NatEntry, NatKey, Service, ServiceKey,
        Settings,
    },
    cause::{Action, Cause},
    parse::Parse,
    steer::{self, Pick, Tables},
};

/// `BPF_F_MMAPABLE`: user space writes tables with plain stores, and flips
/// between the two with one.
const MMAPABLE: u32 = 1 << 10;

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
/// Which half of its span in `SLOTS` a service uses: 0 or 1.
#[map]
static BANKS: Array<u32> = Array::with_max_entries(1, MMAPABLE);
#[map]
static SLOTS: Array<u32> = Array::with_max_entries(2, MMAPABLE);
#[map]
static ENDPOINTS: Array<Endpoint> = Array::with_max_entries(2, 0);
#[map]
static SERVICES4: HashMap<ServiceKey<u32>, Service> = HashMap::with_max_entries(1, 0);
#[map]
static SERVICES6: HashMap<ServiceKey<[u32; 4]>, Service> = HashMap::with_max_entries(1, 0);
/// Every VIP, for the packets whose ports are not known.
#[map]
static VIPS4: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);
#[map]
static VIPS6: HashMap<[u32; 4], u32> = HashMap::with_max_entries(1, 0);
#[map]
static FLOWS4: LruHashMap<FlowKey<u32>, FlowEntry> = LruHashMap::with_max_entries(1024, 0);
#[map]
static FLOWS6: LruHashMap<FlowKey<[u32; 4]>, FlowEntry> = LruHashMap::with_max_entries(1024, 0);
#[map]
static NAT4: LruHashMap<NatKey<u32>, NatEntry<u32>> = LruHashMap::with_max_entries(1024, 0);
#[map]
static NAT6: LruHashMap<NatKey<[u32; 4]>, NatEntry<[u32; 4]>> =
    LruHashMap::with_max_entries(1024, 0);
#[map]
static SERVICE_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(1, 0);
#[map]
static ENDPOINT_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(2, 0);
#[map]
static CAUSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Cause::ALL.len() as u32, 0);

/// The maps of one family.
pub trait Maps: Address + Parse {
    fn services() -> &'static HashMap<ServiceKey<Self>, Service>;
    fn vips() -> &'static HashMap<Self, u32>;
    fn flows() -> &'static LruHashMap<FlowKey<Self>, FlowEntry>;
    fn nat() -> &'static LruHashMap<NatKey<Self>, NatEntry<Self>>;
    /// The family's NAT source addresses, and how many are in use.
    fn nat_sources(settings: &Settings) -> (&[Self; 4], u32);
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
    fn flows() -> &'static LruHashMap<FlowKey<u32>, FlowEntry> {
        &FLOWS4
    }
    #[inline(always)]
    fn nat() -> &'static LruHashMap<NatKey<u32>, NatEntry<u32>> {
        &NAT4
    }
    #[inline(always)]
    fn nat_sources(settings: &Settings) -> (&[u32; 4], u32) {
        (&settings.nat4, settings.nat4_count)
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
    fn flows() -> &'static LruHashMap<FlowKey<[u32; 4]>, FlowEntry> {
        &FLOWS6
    }
    #[inline(always)]
    fn nat() -> &'static LruHashMap<NatKey<[u32; 4]>, NatEntry<[u32; 4]>> {
        &NAT6
    }
    #[inline(always)]
    fn nat_sources(settings: &Settings) -> (&[[u32; 4]; 4], u32) {
        (&settings.nat6, settings.nat6_count)
    }
}

#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// [`Tables`] over the maps.
pub struct KernelTables;

impl<A: Maps> Tables<A> for KernelTables {
    #[inline(always)]
    fn service(&self, key: &ServiceKey<A>) -> Option<Service> {
        // SAFETY: copied at once; an entry replaced meanwhile reads as the old
        // or the new one, each of which is valid.
        unsafe { A::services().get(key) }.copied()
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey<A>, entry: &mut FlowEntry) -> bool {
        // SAFETY: copied at once. An entry that the LRU gives to another flow
        // within these few instructions would send one packet astray; its
        // generation is checked by the caller.
        match unsafe { A::flows().get(key) } {
            Some(found) => {
                *entry = *found;
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn endpoint(&self, index: u32) -> Option<&Endpoint> {
        ENDPOINTS.get(index)
    }

    #[inline(always)]
    fn slot(&self, service: u32, hash: u32) -> Option<u32> {
        let size = settings()?.table_size;
        let bank = *BANKS.get(service)?;
        let slot = steer::slot(hash, size);
        SLOTS.get((service * 2 + (bank & 1)) * size + slot).copied()
    }
}

/// Counts a packet of a service.
#[inline(always)]
pub fn count_steered(service: u32, pick: &Pick, bytes: u16) {
    for counter in [
        SERVICE_COUNTERS.get_ptr_mut(service),
        ENDPOINT_COUNTERS.get_ptr_mut(pick.entry.endpoint),
    ] {
        if let Some(counter) = counter {
            // SAFETY: a per-CPU value, and XDP programs of one CPU do not
            // interrupt one another.
            unsafe {
                (*counter).packets += 1;
                (*counter).bytes += u64::from(bytes);
                (*counter).flows += u64::from(!pick.is_recorded);
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

/// Counts a cause and says what becomes of the packet.
#[inline(always)]
pub fn finish(cause: Cause) -> u32 {
    if !matches!(cause, Cause::NotIp | Cause::NotOurs) {
        count(cause);
    }
    match cause.action() {
        Action::Pass => aya_ebpf::bindings::xdp_action::XDP_PASS,
        Action::Drop => aya_ebpf::bindings::xdp_action::XDP_DROP,
    }
}
