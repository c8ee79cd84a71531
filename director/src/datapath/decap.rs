//! The servers' end of `tunnel` mode: a program that takes outer headers off.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use aya::{
    EbpfLoader,
    maps::{Array, HashMap, MapData},
    programs::Xdp,
};

use super::{
    Attached, Object, Pins, attach,
    maps::typed,
    plain::{P, wide},
};
use crate::config::Attach;

const PROGRAM: &str = "director_decap";

/// What [`start`] is to do.
#[derive(Clone, Debug)]
pub struct Decap {
    pub object: Object,
    pub interface: String,
    pub attach: Attach,
    /// Outer destinations to open packets of.
    pub addresses: Vec<IpAddr>,
    /// Destination port of packets in UDP (GUE); 0: they are not opened.
    pub gue_port: u16,
    pub pin_dir: PathBuf,
}

/// Attaches the program and pins it: it stays when this process ends.
///
/// # Errors
/// Without privilege, interface, addresses, or a BPF file system.
pub fn start(decap: &Decap) -> Result<Attached> {
    ensure!(
        !decap.addresses.is_empty(),
        "interface {} has no address that an edge could send to\n  help: give it one, or name some with --address",
        decap.interface
    );
    let pins = Pins::new(&decap.pin_dir);
    pins.create()?;
    let mut loader = EbpfLoader::new();
    // The object holds the edge's maps too; they are not pinned, and at their
    // least size.
    for name in ["DECAP", "DECAP_PORT", "DECAPPED"] {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut bpf = decap
        .object
        .load(&mut loader)
        .map_err(super::explain_load)?;
    let mut map: HashMap<MapData, P<[u32; 4]>, u32> = typed(&mut bpf, "DECAP")?;
    let wanted: Vec<_> = decap
        .addresses
        .iter()
        .map(|address| wide(*address))
        .collect();
    for address in &wanted {
        map.insert(P(*address), 1, 0).context("writing DECAP")?;
    }
    let held: Vec<P<[u32; 4]>> = map.keys().collect::<Result<_, _>>()?;
    for address in held.iter().filter(|held| !wanted.contains(&held.0)) {
        map.remove(address).context("writing DECAP")?;
    }
    let mut port: Array<MapData, u16> = typed(&mut bpf, "DECAP_PORT")?;
    port.set(0, decap.gue_port.to_be(), 0)
        .context("writing DECAP_PORT")?;
    let program: &mut Xdp = bpf
        .program_mut(PROGRAM)
        .with_context(|| format!("the object has no program {PROGRAM}"))?
        .try_into()?;
    program
        .load()
        .context("the kernel's verifier refused the program")?;
    attach::attach(program, Some(&pins), &decap.interface, decap.attach)
}

/// Takes the program off and removes its pins. Returns whether there were any.
///
/// # Errors
/// When a pin cannot be removed.
pub fn remove(pin_dir: &std::path::Path) -> Result<bool> {
    Ok(!Pins::new(pin_dir).remove()?.is_empty())
}
