//! The kernel side: loading, attaching, and keeping the BPF maps true.
//!
//! Everything that steering needs is pinned, so packets flow on while this
//! process is gone, and the next one adopts what it finds. A plan becomes
//! visible by one store: endpoints first, then the spare half of the service's
//! table, then the flip, then what the old table must not lose any more.

mod apply;
mod attach;
mod audit;
mod counters;
mod decap;
mod desired;
mod lookup;
mod maps;
mod memory;
mod object;
mod pins;
mod plain;

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use aya::{Ebpf, EbpfLoader, maps::MapInfo, programs::Xdp};
use director_core::{EndpointState, Mode, Protocol};
use director_ebpf::abi::{ABI_VERSION, NAT_SOURCES, Settings, mode, state};

pub use self::{
    attach::{Attached, AttachedMode},
    audit::Difference,
    counters::{Counters, Total},
    decap::{Decap, remove as remove_decap, start as start_decap},
    desired::Vip,
    lookup::{Explanation, Tuple},
    object::{Object, Uses},
    pins::Pins,
};
use self::{
    desired::{Desired, DesiredService},
    maps::Maps,
    plain::{P, address},
};
use crate::config::{Edge, Limits, NatSources, TunnelSources};

/// Name of the steering program in the object.
const PROGRAM: &str = "director_steer";

/// What a [`Datapath`] is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    pub object: Object,
    pub limits: Limits,
    pub uses: Uses,
    pub tunnel: TunnelSources,
    pub nat: NatSources,
    /// Where to pin; `None` keeps everything in this process (for tests and
    /// simulation).
    pub pins: Option<Pins>,
}

impl Options {
    /// What the configuration says, with the embedded object.
    ///
    /// # Errors
    /// When the embedded object is of another ABI.
    pub fn new(edge: &Edge, uses: Uses) -> Result<Self> {
        Ok(Self {
            object: Object::embedded()?,
            limits: edge.limits.clone(),
            uses,
            tunnel: edge.tunnel.clone(),
            nat: edge.nat.clone(),
            pins: Some(Pins::new(&edge.pin_dir)),
        })
    }
}

/// The way from here to an endpoint, as the routing and neighbour tables have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Interface index.
    pub interface: u32,
    /// Ethernet address of the next hop.
    pub destination: [u8; 6],
    /// Ethernet address of the interface.
    pub source: [u8; 6],
    /// Largest IP packet that the interface takes, in bytes.
    pub mtu: u16,
}

/// A service that the kernel already held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub vip: Vip,
    pub mode: Mode,
    /// Address, port and state of its endpoints.
    pub endpoints: Vec<(IpAddr, u16, EndpointState)>,
}

/// The BPF maps and programs of one edge.
pub struct Datapath {
    bpf: Ebpf,
    maps: Maps,
    desired: Desired,
    settings: Settings,
    table_size: usize,
    pins: Option<Pins>,
}

impl Datapath {
    /// Loads the program and makes or adopts its maps. Nothing is attached and
    /// no packet is treated otherwise than before.
    ///
    /// # Errors
    /// Without the privilege or the kernel for it; when pinned maps are of
    /// another ABI or of other sizes than configured. What was pinned stays.
    pub fn open(options: &Options) -> Result<(Self, Vec<Held>)> {
        if let Some(pins) = &options.pins {
            pins.create()?;
            check_pinned(pins, options)?;
        }
        let mut loader = EbpfLoader::new();
        for (name, size) in object::sizes(&options.limits, options.uses) {
            loader.map_max_entries(name, size);
            if let Some(pins) = &options.pins {
                loader.map_pin_path(name, pins.map(name));
            }
        }
        let mut bpf = options.object.load(&mut loader).map_err(explain_load)?;
        // Before the maps are taken: the program holds them from then on.
        program_mut(&mut bpf)?.load().context("the kernel's verifier refused the program")?;
        let mut maps = Maps::take(&mut bpf)?;

        let mut desired = Desired::new(&options.limits, options.tunnel.clone());
        let settings = settings(options);
        adopt(&mut maps, &mut desired, settings.table_size as usize)?;
        maps.settings.set(0, P(settings), 0).context("writing SETTINGS")?;
        let held = desired.services.iter().enumerate().filter_map(|(index, service)| {
            let service = service.as_ref()?;
            Some(held(&desired, index, service))
        });
        let held = held.collect();
        let table_size = settings.table_size as usize;
        let pins = options.pins.clone();
        Ok((Self { bpf, maps, desired, settings, table_size, pins }, held))
    }

    /// Tells the way to an endpoint's address, or that none is known. Returns
    /// whether any entry changed.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn set_hop(&mut self, to: IpAddr, hop: Option<Hop>) -> Result<bool> {
        match hop {
            Some(hop) => self.desired.hops.insert(to, hop),
            None => self.desired.hops.remove(&to),
        };
        let mut changed = false;
        for index in 1..self.desired.endpoints.len() {
            let mut entry = self.desired.endpoints[index];
            if entry.state == state::UNUSED || address(entry.address, entry.family) != to {
                continue;
            }
            desired::set_hop(&mut entry, hop.as_ref());
            changed |= self.write_endpoint(index, entry)?;
        }
        Ok(changed)
    }

    /// The program, for runs under `BPF_PROG_TEST_RUN`.
    ///
    /// # Errors
    /// When the object is not ours.
    pub fn program(&mut self) -> Result<&mut Xdp> {
        program_mut(&mut self.bpf)
    }
}

fn program_mut(bpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = bpf
        .program_mut(PROGRAM)
        .with_context(|| format!("the object has no program {PROGRAM}"))?;
    Ok(program.try_into()?)
}

fn settings(options: &Options) -> Settings {
    let mut settings = Settings {
        abi_version: ABI_VERSION,
        table_size: options.limits.table_size,
        nat4_count: options.nat.v4.len().min(NAT_SOURCES) as u32,
        nat6_count: options.nat.v6.len().min(NAT_SOURCES) as u32,
        nat4: [0; NAT_SOURCES],
        nat6: [[0; 4]; NAT_SOURCES],
    };
    for (slot, source) in settings.nat4.iter_mut().zip(&options.nat.v4) {
        *slot = director_ebpf::abi::ipv4(*source);
    }
    for (slot, source) in settings.nat6.iter_mut().zip(&options.nat.v6) {
        *slot = director_ebpf::abi::ipv6(*source);
    }
    settings
}

/// Refuses pinned maps that this program cannot continue with. A flow map of a
/// family that no pinned service uses holds nothing: it is let go and made
/// anew where its size is to change.
fn check_pinned(pins: &Pins, options: &Options) -> Result<()> {
    let found = |name: &str| MapInfo::from_pin(pins.map(name)).ok();
    if found("SETTINGS").is_some() {
        let map = aya::maps::MapData::from_pin(pins.map("SETTINGS"))?;
        let size = map.info()?.value_size() as usize;
        let version = if size == size_of::<Settings>() {
            let map = aya::maps::Array::<_, P<Settings>>::try_from(aya::maps::Map::Array(map))?;
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
    for (name, wanted) in object::sizes(&options.limits, options.uses) {
        let Some(info) = found(name) else { continue };
        if info.max_entries() == wanted {
            continue;
        }
        let services = match name {
            "FLOWS4" | "NAT4" => "SERVICES4",
            "FLOWS6" | "NAT6" => "SERVICES6",
            _ => "",
        };
        if !services.is_empty() && is_empty(pins, services)? {
            std::fs::remove_file(pins.map(name))?;
            continue;
        }
        bail!(
            "the pinned map {name} holds {} entries, the configuration asks for {wanted}\n  \
             help: a pinned map cannot change its size; `director unload` removes it, with the flows it holds, \
             and the next start makes it anew",
            info.max_entries(),
        );
    }
    Ok(())
}

fn is_empty(pins: &Pins, services: &str) -> Result<bool> {
    use aya::maps::{HashMap, Map, MapData};
    use director_ebpf::abi::{Service, ServiceKey};
    let map = Map::HashMap(MapData::from_pin(pins.map(services))?);
    Ok(if services == "SERVICES4" {
        HashMap::<_, P<ServiceKey<u32>>, P<Service>>::try_from(map)?.keys().next().is_none()
    } else {
        HashMap::<_, P<ServiceKey<[u32; 4]>>, P<Service>>::try_from(map)?.keys().next().is_none()
    })
}

/// Reads what the maps hold into `desired`.
fn adopt(maps: &mut Maps, desired: &mut Desired, table_size: usize) -> Result<()> {
    for index in 1..desired.endpoints.len() {
        let entry = maps.endpoints.get(&(index as u32), 0).context("reading ENDPOINTS")?.0;
        desired.endpoints[index] = entry;
        // The ways stay as they were until the network is looked at.
        if let Some(hop) = desired::hop_of(&entry) {
            desired.hops.insert(address(entry.address, entry.family), hop);
        }
    }
    let mut found = Vec::new();
    for entry in maps.v4.services.iter() {
        let (P(key), P(service)) = entry.context("reading SERVICES4")?;
        found.push((address([key.address, 0, 0, 0], 4), key.port, key.protocol, service));
    }
    for entry in maps.v6.services.iter() {
        let (P(key), P(service)) = entry.context("reading SERVICES6")?;
        found.push((address(key.address, 6), key.port, key.protocol, service));
    }
    for (ip, port, protocol, service) in found {
        let index = service.index as usize;
        let slot = desired.services.get_mut(index).with_context(|| {
            format!("the pinned service at {ip} has index {index}, past edge.limits.services")
        })?;
        let protocol = if protocol == director_ebpf::abi::TCP { Protocol::Tcp } else { Protocol::Udp };
        let mode = if service.mode == mode::NAT { Mode::Nat } else { Mode::Tunnel };
        let bank = maps.banks.get(index) & 1;
        let table = maps.slots.read(apply::bank_start(index, bank, table_size), table_size);
        let vip = Vip { address: ip, port: u16::from_be(port), protocol };
        *slot = Some(DesiredService { name: None, vip, mode, bank, table });
    }
    Ok(())
}

fn held(desired: &Desired, index: usize, service: &DesiredService) -> Held {
    let endpoints = desired.endpoints_of(index).map(|(_, entry)| {
        let state = match entry.state {
            state::ACTIVE => EndpointState::Active,
            state::DRAINING => EndpointState::Draining,
            _ => EndpointState::Dead,
        };
        (address(entry.address, entry.family), u16::from_be(entry.port), state)
    });
    Held { vip: service.vip, mode: service.mode, endpoints: endpoints.collect() }
}

/// The usual reasons why nothing can be loaded, in words.
fn explain_load(error: aya::EbpfError) -> anyhow::Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            if io.kind() == std::io::ErrorKind::PermissionDenied {
                return anyhow::Error::new(error).context(
                    "the kernel does not let this process load BPF programs\n  \
                     help: run it as root, or with the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
                );
            }
        }
        source = cause.source();
    }
    anyhow::Error::new(error).context("loading the BPF object")
}
