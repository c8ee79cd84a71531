//! The pinned maps, with their types.

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use director_ebpf::abi::{
    Address, Counter, Endpoint, FlowEntry, FlowKey, Service, ServiceKey, Settings,
};

use super::{memory::Words, plain::P};

/// The maps of one family. NAT4 and NAT6 are the program's own affair.
pub struct FamilyMaps<A: Address> {
    pub services: HashMap<MapData, P<ServiceKey<A>>, P<Service>>,
    pub vips: HashMap<MapData, P<A>, u32>,
    pub flows: HashMap<MapData, P<FlowKey<A>>, P<FlowEntry>>,
}

/// All maps.
pub struct Maps {
    pub settings: Array<MapData, P<Settings>>,
    pub banks: Words,
    pub slots: Words,
    pub endpoints: Array<MapData, P<Endpoint>>,
    pub v4: FamilyMaps<u32>,
    pub v6: FamilyMaps<[u32; 4]>,
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
            banks: words(bpf, "BANKS")?,
            slots: words(bpf, "SLOTS")?,
            endpoints: typed(bpf, "ENDPOINTS")?,
            v4: FamilyMaps {
                services: typed(bpf, "SERVICES4")?,
                vips: typed(bpf, "VIPS4")?,
                flows: typed(bpf, "FLOWS4")?,
            },
            v6: FamilyMaps {
                services: typed(bpf, "SERVICES6")?,
                vips: typed(bpf, "VIPS6")?,
                flows: typed(bpf, "FLOWS6")?,
            },
            service_counters: typed(bpf, "SERVICE_COUNTERS")?,
            endpoint_counters: typed(bpf, "ENDPOINT_COUNTERS")?,
            causes: typed(bpf, "CAUSES")?,
        })
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

fn words(bpf: &mut Ebpf, name: &str) -> Result<Words> {
    let map = bpf
        .take_map(name)
        .with_context(|| format!("the object has no map {name}"))?;
    let Map::Array(data) = map else {
        anyhow::bail!("map {name} is no array")
    };
    Words::new(&data).with_context(|| format!("map {name}"))
}
