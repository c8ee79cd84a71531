//! Continuing with what an earlier process pinned.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use director_core::{EndpointState, Protocol};
use director_ebpf::abi::{ABI_VERSION, Address, Service, ServiceKey, Settings, Slot, mode, state};

use super::{
    Held, Options, Pins, Vip, apply,
    desired::{self, Desired, DesiredService, mode_of},
    maps::Maps,
    object,
    plain::{P, address},
};

/// Refuses pinned maps that this program cannot continue with. A flow map of a
/// family that no pinned service uses holds nothing: it is let go and made
/// anew where its size is to change.
pub fn check_pinned(pins: &Pins, options: &Options) -> Result<()> {
    let found = |name: &str| MapInfo::from_pin(pins.map(name)).ok();
    if found("SETTINGS").is_some() {
        let map = MapData::from_pin(pins.map("SETTINGS"))?;
        let size = map.info()?.value_size() as usize;
        let version = if size == size_of::<Settings>() {
            let map = Array::<_, P<Settings>>::try_from(Map::Array(map))?;
            map.get(&0, 0)?.0.abi_version
        } else {
            u32::MAX
        };
        // 0: an earlier start ended before it had written them.
        ensure!(
            version == ABI_VERSION || version == 0,
            "the state pinned under {} was made by another version of director (ABI {version}, ours is {ABI_VERSION})\n  \
             help: `director unload` removes it, with the flows it holds, and the next start makes it anew",
            pins.map("").display(),
        );
    }
    let mut unused = Vec::new();
    for (name, wanted) in object::sizes(&options.limits, options.uses, &options.nat) {
        let Some(info) = found(name) else { continue };
        if info.max_entries() == wanted {
            continue;
        }
        if holds_no_flows(pins, name)? {
            unused.push(name);
            continue;
        }
        bail!(
            "the pinned map {name} holds {} entries, the configuration asks for {wanted}\n  \
             help: a pinned map cannot change its size; `director unload` removes it, with the flows it holds, \
             and the next start makes it anew",
            info.max_entries(),
        );
    }
    // Only now, when nothing is refused any more.
    for name in unused {
        std::fs::remove_file(pins.map(name)).with_context(|| format!("unpinning {name}"))?;
    }
    Ok(())
}

/// Whether `name` is a flow map that no pinned service puts flows into.
fn holds_no_flows(pins: &Pins, name: &str) -> Result<bool> {
    Ok(match name {
        "FLOWS4" => modes::<u32>(pins, "SERVICES4")?.is_empty(),
        "FLOWS6" => modes::<[u32; 4]>(pins, "SERVICES6")?.is_empty(),
        "NAT4" => !modes::<u32>(pins, "SERVICES4")?.contains(&mode::NAT),
        "NAT6" => !modes::<[u32; 4]>(pins, "SERVICES6")?.contains(&mode::NAT),
        _ => false,
    })
}

/// Modes of the services that a pinned map holds.
fn modes<A: Address>(pins: &Pins, services: &str) -> Result<Vec<u8>> {
    let map = Map::HashMap(MapData::from_pin(pins.map(services))?);
    let map = HashMap::<_, P<ServiceKey<A>>, P<Service>>::try_from(map)?;
    let modes = map
        .iter()
        .map(|entry| entry.map(|(_, P(service))| service.mode));
    modes
        .collect::<Result<_, _>>()
        .context("reading pinned services")
}

/// Reads what the maps hold into `desired`.
pub fn adopt(maps: &mut Maps, desired: &mut Desired, table_size: usize) -> Result<()> {
    for index in 1..desired.endpoints.len() {
        let entry = maps
            .endpoints
            .get(&(index as u32), 0)
            .context("reading ENDPOINTS")?
            .0;
        desired.endpoints[index] = entry;
        if entry.state == state::UNUSED && entry.generation != 0 {
            desired.retired.insert(index);
        }
        // The ways stay as they were until the network is looked at.
        if let Some(hop) = desired::hop_of(&entry) {
            desired
                .hops
                .insert(address(entry.address, entry.family), hop);
        }
    }
    let mut found = Vec::new();
    for entry in maps.v4.services.iter() {
        let (P(key), P(service)) = entry.context("reading SERVICES4")?;
        found.push((
            address([key.address, 0, 0, 0], 4),
            key.port,
            key.protocol,
            service,
        ));
    }
    for entry in maps.v6.services.iter() {
        let (P(key), P(service)) = entry.context("reading SERVICES6")?;
        found.push((address(key.address, 6), key.port, key.protocol, service));
    }
    let mut servers: std::collections::HashMap<u32, std::collections::HashMap<u32, u32>> =
        std::collections::HashMap::new();
    for entry in maps.servers.iter() {
        let (P(key), endpoint) = entry.context("reading SERVERS")?;
        let of_service = servers.entry(key.service).or_default();
        of_service.insert(key.server, endpoint);
    }
    for (ip, port, protocol, service) in found {
        let index = service.index as usize;
        let slot = desired.services.get_mut(index).with_context(|| {
            format!("the pinned service at {ip} has index {index}, past edge.limits.services")
        })?;
        let protocol = if protocol == director_ebpf::abi::TCP {
            Protocol::Tcp
        } else {
            Protocol::Udp
        };
        let bank = maps.banks.get(index) & 1;
        let slots = if service.mode == mode::PROXY {
            Vec::new()
        } else {
            maps.slots
                .read(apply::bank_start(index, bank, table_size), table_size)
        };
        let slots: Vec<Slot> = slots.into_iter().map(Slot).collect();
        let vip = Vip {
            address: ip,
            port: u16::from_be(port),
            protocol,
        };
        // When they changed is not known: the hold begins anew.
        let is_split = slots.iter().any(|slot| slot.current() != slot.base());
        *slot = Some(DesiredService {
            name: None,
            vip,
            value: service,
            bank,
            slots,
            servers: servers.remove(&service.index).unwrap_or_default(),
            changed: is_split.then(Instant::now),
            left: 0,
        });
    }
    Ok(())
}

pub fn held(desired: &Desired, index: usize, service: &DesiredService) -> Held {
    let endpoints = desired.endpoints_of(index).map(|(_, entry)| {
        let state = match entry.state {
            state::ACTIVE => EndpointState::Active,
            state::DRAINING => EndpointState::Draining,
            _ => EndpointState::Dead,
        };
        (
            address(entry.address, entry.family),
            u16::from_be(entry.port),
            state,
        )
    });
    Held {
        vip: service.vip,
        mode: mode_of(service.value.mode),
        endpoints: endpoints.collect(),
    }
}
