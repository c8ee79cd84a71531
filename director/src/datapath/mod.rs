//! The kernel side: loading, attaching, and keeping the BPF maps true.
//!
//! Everything that steering needs is pinned, so packets flow on while this
//! process is gone, and the next one adopts what it finds. A plan becomes
//! visible by one store: endpoints first, then the spare half of the service's
//! table, then the flip, then what the old table must not lose any more.

mod addresses;
mod adopt;
mod apply;
mod attach;
mod audit;
mod conns;
mod counters;
mod decap;
mod deny;
mod desired;
mod events;
mod live;
mod lookup;
mod maps;
mod memory;
mod object;
mod pins;
mod plain;
pub mod simulate;
mod slots;
mod sweep;

use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::{Ebpf, EbpfLoader, programs::Xdp};
use director_core::{EndpointState, Mode};
use director_ebpf::abi::{ABI_VERSION, NAT_SOURCES, Settings, state};

pub use self::{
    attach::{Attached, AttachedMode},
    audit::Difference,
    conns::{Conn, ConnFilter, ConnState, Cursor},
    counters::{Counters, Total},
    decap::{Decap, remove as remove_decap, start as start_decap},
    desired::Vip,
    events::{Events, Happened, Told},
    lookup::{Explanation, Tuple},
    object::{Object, Uses, deny_memory, memory},
    pins::Pins,
    sweep::{ROUND_CALLS, SWEEP_EVERY, TableUse},
};
use self::{
    desired::Desired,
    maps::Maps,
    plain::{P, address},
    sweep::Sweep,
};
use crate::config::{Edge, IcmpPolicy, Limits, NatSources, Prefix, TunnelSources};

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
    pub icmp: IcmpPolicy,
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
            limits: edge.limits,
            uses,
            tunnel: edge.tunnel.clone(),
            nat: edge.nat.clone(),
            icmp: edge.icmp,
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
    /// VLAN tag of frames that way; 0: none.
    pub vlan: u16,
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
    nat_sources: Vec<IpAddr>,
    /// Sources whose packets to services are dropped.
    deny: Vec<Prefix>,
    /// Audits so far.
    audits: usize,
    /// How often a table was flipped.
    flips: u64,
    /// Up to which flip nobody reads what it left.
    unread: u64,
    sweep: Sweep,
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
            adopt::check_pinned(pins, options)?;
        }
        let mut loader = EbpfLoader::new();
        for (name, size) in object::sizes(&options.limits, options.uses, &options.nat) {
            loader.map_max_entries(name, size);
            if let Some(pins) = &options.pins {
                loader.map_pin_path(name, pins.map(name));
            }
        }
        let mut bpf = options.object.load(&mut loader).map_err(explain_load)?;
        // Before the maps are taken: the program holds them from then on.
        program_mut(&mut bpf)?
            .load()
            .context("the kernel's verifier refused the program")?;
        let mut maps = Maps::take(&mut bpf)?;

        let mut desired = Desired::new(&options.limits, options.tunnel.clone());
        let held = maps.settings.get(&0, 0).context("reading SETTINGS")?.0;
        let settings = settings(options, held.seed);
        adopt::adopt(&mut maps, &mut desired, settings.table_size as usize)?;
        maps.settings
            .set(0, P(settings), 0)
            .context("writing SETTINGS")?;
        let held = desired
            .services
            .iter()
            .enumerate()
            .filter_map(|(index, service)| {
                let service = service.as_ref()?;
                Some(adopt::held(&desired, index, service))
            });
        let held = held.collect();
        let table_size = settings.table_size as usize;
        let v4 = options.nat.v4.iter().map(|ip| IpAddr::V4(*ip));
        let v6 = options.nat.v6.iter().map(|ip| IpAddr::V6(*ip));
        let mut datapath = Self {
            bpf,
            maps,
            desired,
            settings,
            table_size,
            nat_sources: v4.chain(v6).collect(),
            deny: Vec::new(),
            audits: 0,
            flips: 0,
            unread: 0,
            sweep: Sweep::default(),
            pins: options.pins.clone(),
        };
        datapath.write_addresses(&mut Vec::new())?;
        Ok((datapath, held))
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

/// Settings for these options. A `seed` that records were made with is kept.
fn settings(options: &Options, seed: u32) -> Settings {
    let nat = &options.nat;
    let planes = |sources: usize| object::planes(options.limits.nat_flows, sources);
    let mut settings = Settings {
        abi_version: ABI_VERSION,
        table_size: options.limits.table_size,
        nat4_count: nat.v4.len().min(NAT_SOURCES) as u32,
        nat6_count: nat.v6.len().min(NAT_SOURCES) as u32,
        nat4: [0; NAT_SOURCES],
        nat6: [[0; 4]; NAT_SOURCES],
        nat4_planes: if options.uses.nat4 {
            planes(nat.v4.len())
        } else {
            0
        },
        nat6_planes: if options.uses.nat6 {
            planes(nat.v6.len())
        } else {
            0
        },
        flags: live::flags(options.icmp),
        icmp_rate: options.icmp.rate,
        trace_every: 0,
        gue_port: options.tunnel.gue_port.to_be(),
        zero: 0,
        seed: if seed == 0 { random() | 1 } else { seed },
    };
    for (slot, source) in settings.nat4.iter_mut().zip(&options.nat.v4) {
        *slot = director_ebpf::abi::ipv4(*source);
    }
    for (slot, source) in settings.nat6.iter_mut().zip(&options.nat.v6) {
        *slot = director_ebpf::abi::ipv6(*source);
    }
    settings
}

/// A number that cannot be foreseen from outside.
fn random() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    // The standard library seeds it from the system's random numbers.
    RandomState::new().hash_one(0) as u32
}

/// The usual reasons why nothing can be loaded, in words.
fn explain_load(error: aya::EbpfError) -> anyhow::Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::PermissionDenied
        {
            return anyhow::Error::new(error).context(
                "the kernel does not let this process load BPF programs\n  \
                 help: run it as root, or with the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
            );
        }
        source = cause.source();
    }
    anyhow::Error::new(error).context("loading the BPF object")
}
