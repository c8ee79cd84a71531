//! The pinned maps, with their types.

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, lpm_trie::LpmTrie},
};
use director_ebpf::abi::{
    Address, Counter, Endpoint, Entry, Plain, ServerKey, Service, ServiceKey, Settings,
    nat::{Front, Ports4, Ports6},
};
use director_ebpf::{flows::Family, ports::Ports};

use super::{memory::Shared, plain::P};

/// The maps of one family.
pub struct FamilyMaps<A: Family + Ports> {
    pub services: HashMap<MapData, P<ServiceKey<A>>, P<Service>>,
    pub vips: HashMap<MapData, P<A>, u32>,
    pub flows: Shared<A::Bucket>,
    pub nat: Shared<<A as Ports>::Ports>,
    pub deny: LpmTrie<MapData, P<A>, u32>,
}

/// All maps.
pub struct Maps {
    pub settings: Array<MapData, P<Settings>>,
    pub filter: Shared<u64>,
    pub banks: Shared<u32>,
    pub slots: Shared<u64>,
    pub endpoints: Array<MapData, P<Endpoint>>,
    pub fronts: Array<MapData, P<Front>>,
    pub entries: Array<MapData, P<Entry>>,
    pub hints: Shared<u32>,
    pub v4: FamilyMaps<u32>,
    pub v6: FamilyMaps<[u32; 4]>,
    pub servers: HashMap<MapData, P<ServerKey>, u32>,
    pub service_counters: PerCpuArray<MapData, P<Counter>>,
    pub endpoint_counters: PerCpuArray<MapData, P<Counter>>,
    pub causes: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// When one is missing or of another type: the object is not ours.
    pub fn take(bpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            settings: typed(bpf, "SETTINGS")?,
            filter: shared(bpf, "FILTER")?,
            banks: shared(bpf, "BANKS")?,
            slots: shared(bpf, "SLOTS")?,
            endpoints: typed(bpf, "ENDPOINTS")?,
            fronts: typed(bpf, "FRONTS")?,
            entries: typed(bpf, "ENTRIES")?,
            hints: shared(bpf, "HINTS")?,
            v4: FamilyMaps {
                services: typed(bpf, "SERVICES4")?,
                vips: typed(bpf, "VIPS4")?,
                flows: shared(bpf, "FLOWS4")?,
                nat: shared::<Ports4>(bpf, "NAT4")?,
                deny: typed(bpf, "DENY4")?,
            },
            v6: FamilyMaps {
                services: typed(bpf, "SERVICES6")?,
                vips: typed(bpf, "VIPS6")?,
                flows: shared(bpf, "FLOWS6")?,
                nat: shared::<Ports6>(bpf, "NAT6")?,
                deny: typed(bpf, "DENY6")?,
            },
            servers: typed(bpf, "SERVERS")?,
            service_counters: typed(bpf, "SERVICE_COUNTERS")?,
            endpoint_counters: typed(bpf, "ENDPOINT_COUNTERS")?,
            causes: typed(bpf, "CAUSES")?,
        })
    }
}

/// A map that belongs to one family, and is asked for by it.
pub trait Of: Family + Ports + Address {
    fn maps(maps: &Maps) -> &FamilyMaps<Self>;
}

impl Of for u32 {
    fn maps(maps: &Maps) -> &FamilyMaps<u32> {
        &maps.v4
    }
}

impl Of for [u32; 4] {
    fn maps(maps: &Maps) -> &FamilyMaps<[u32; 4]> {
        &maps.v6
    }
}

pub(super) fn typed<M>(bpf: &mut Ebpf, name: &str) -> Result<M>
where
    M: TryFrom<Map>,
    M::Error: std::error::Error + Send + Sync + 'static,
{
    let map = bpf
        .take_map(name)
        .with_context(|| format!("the object has no map {name}"))?;
    M::try_from(map).with_context(|| format!("map {name}"))
}

fn shared<T: Plain>(bpf: &mut Ebpf, name: &str) -> Result<Shared<T>> {
    let map = bpf
        .take_map(name)
        .with_context(|| format!("the object has no map {name}"))?;
    let Map::Array(data) = map else {
        anyhow::bail!("map {name} is no array")
    };
    Shared::new(&data).with_context(|| format!("map {name}"))
}
