//! What the program counted.

use anyhow::{Context, Result};
use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use director_ebpf::{
    abi::{Counter, state},
    cause::Cause,
};

use super::{
    Datapath,
    desired::Vip,
    plain::{P, address},
};
use std::net::IpAddr;

/// Packets, bytes and new flows over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub packets: u64,
    /// IP bytes from clients.
    pub bytes: u64,
    /// Flows placed by the table.
    pub flows: u64,
}

/// One reading of all counters.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub services: Vec<(Vip, Total)>,
    /// How many slots of each service's table flows are recorded for.
    pub tracked: Vec<(Vip, usize)>,
    /// By service, address and port of the endpoint.
    pub endpoints: Vec<(Vip, IpAddr, u16, Total)>,
    pub causes: Vec<(Cause, u64)>,
}

impl Datapath {
    /// Reads all counters.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn counters(&self) -> Result<Counters> {
        let mut counters = Counters::default();
        for (index, service) in self.desired.services.iter().enumerate() {
            let Some(service) = service else { continue };
            let total = total(&self.maps.service_counters, index)?;
            counters.services.push((service.vip, total));
            let tracked = service.slots.iter().filter(|slot| slot.is_tracked());
            counters.tracked.push((service.vip, tracked.count()));
        }
        for (index, entry) in self.desired.endpoints.iter().enumerate() {
            let service = self.desired.services.get(entry.service as usize);
            let (false, Some(Some(service))) = (entry.state == state::UNUSED, service) else {
                continue;
            };
            let ip = address(entry.address, entry.family);
            let total = total(&self.maps.endpoint_counters, index)?;
            counters
                .endpoints
                .push((service.vip, ip, u16::from_be(entry.port), total));
        }
        for cause in Cause::ALL {
            let values = self
                .maps
                .causes
                .get(&(*cause as u32), 0)
                .context("reading CAUSES")?;
            counters.causes.push((*cause, values.iter().sum()));
        }
        Ok(counters)
    }

    pub(super) fn reset_service_counter(&mut self, index: usize) -> Result<()> {
        reset(&mut self.maps.service_counters, index)
    }

    pub(super) fn reset_endpoint_counter(&mut self, index: usize) -> Result<()> {
        reset(&mut self.maps.endpoint_counters, index)
    }
}

fn total(map: &PerCpuArray<MapData, P<Counter>>, index: usize) -> Result<Total> {
    let values = map.get(&(index as u32), 0).context("reading counters")?;
    Ok(values.iter().fold(Total::default(), |sum, P(value)| Total {
        packets: sum.packets + value.packets,
        bytes: sum.bytes + value.bytes,
        flows: sum.flows + value.flows,
    }))
}

fn reset(map: &mut PerCpuArray<MapData, P<Counter>>, index: usize) -> Result<()> {
    let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))?;
    let zero = PerCpuValues::try_from(vec![P(Counter::default()); cpus])?;
    map.set(index as u32, zero, 0)
        .context("resetting a counter")
}
