//! The program on interfaces.

use std::{fmt, fs, io, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::{
    Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::{XdpLink, XdpLinkId},
};

use super::{Datapath, pins::Pins};
use crate::config::Attach;

/// How the program came to run on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    /// It was attached now.
    New(AttachedMode),
    /// It ran there already; the program was replaced in place, if it was
    /// another one.
    Kept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    Driver,
    Generic,
}

impl fmt::Display for AttachedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "driver",
            Self::Generic => "generic",
        })
    }
}

impl Datapath {
    /// Makes the program run on `interface`. Where it does already, nothing
    /// happens but that a new program takes the old one's place, without a
    /// packet between them; so this may be called again at any time to repair.
    ///
    /// # Errors
    /// When there is no such interface, another program holds it, or the driver
    /// cannot do the asked mode.
    pub fn attach(&mut self, interface: &str, how: Attach) -> Result<Attached> {
        let pins = self.pins.clone();
        let program = super::program_mut(&mut self.bpf)?;
        attach(program, pins.as_ref(), interface, how)
    }

    /// Takes the program off every interface that is not in `keep`. Returns
    /// their pins' names.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn detach_others(&mut self, keep: &[String]) -> Result<Vec<String>> {
        let Some(pins) = &self.pins else {
            return Ok(Vec::new());
        };
        let kept: Vec<_> = keep.iter().map(|interface| pins.link(interface)).collect();
        let mut removed = Vec::new();
        for path in pins.links().into_iter().filter(|path| !kept.contains(path)) {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            removed.push(
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
        Ok(removed)
    }
}

/// Makes `program` run on `interface`, with its link pinned.
pub(super) fn attach(
    program: &mut Xdp,
    pins: Option<&Pins>,
    interface: &str,
    how: Attach,
) -> Result<Attached> {
    let pin = pins.map(|pins| pins.link(interface));
    if let Some(pin) = &pin
        && replace(program, pin).with_context(|| format!("interface {interface}"))?
    {
        return Ok(Attached::Kept);
    }
    let index = nix::net::if_::if_nametoindex(interface).map_err(|_| {
        anyhow!("there is no interface {interface}\n  help: `ip link` lists them; edge.interfaces names those to steer on")
    })?;
    let (link, mode) = create(program, interface, index, how)?;
    let Some(pin) = pin else {
        return Ok(Attached::New(mode));
    };
    let link = FdLink::try_from(program.take_link(link)?).map_err(|_| {
        anyhow!("this kernel has no XDP links (they came with Linux 5.9), so steering would end with this process")
    })?;
    link.pin(&pin)
        .with_context(|| format!("pinning the link of {interface}"))?;
    Ok(Attached::New(mode))
}

/// Puts the program in place of the one that a pinned link runs. False where
/// there is no such link, or its interface is gone.
fn replace(program: &mut Xdp, pin: &Path) -> Result<bool> {
    if !pin.exists() {
        return Ok(false);
    }
    let link = PinnedLink::from_pin(pin).with_context(|| format!("opening {}", pin.display()))?;
    let link = XdpLink::try_from(FdLink::from(link))
        .with_context(|| format!("{} is no XDP link", pin.display()))?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // Only this descriptor is closed; the pin keeps the link.
            drop(program.take_link(id)?);
            Ok(true)
        }
        Err(error) if raw_error(&error) == Some(libc::ENOLINK) => {
            fs::remove_file(pin).with_context(|| format!("removing {}", pin.display()))?;
            Ok(false)
        }
        Err(error) => Err(error).context("replacing the program of a pinned link"),
    }
}

fn create(
    program: &mut Xdp,
    interface: &str,
    index: u32,
    how: Attach,
) -> Result<(XdpLinkId, AttachedMode)> {
    let driver = |program: &mut Xdp| program.attach_to_if_index(index, XdpMode::Driver);
    let generic = |program: &mut Xdp| program.attach_to_if_index(index, XdpMode::Skb);
    let result = match how {
        Attach::Driver => driver(program).map(|link| (link, AttachedMode::Driver)),
        Attach::Generic => generic(program).map(|link| (link, AttachedMode::Generic)),
        Attach::Auto => match driver(program) {
            Ok(link) => Ok((link, AttachedMode::Driver)),
            Err(error) if raw_error(&error) == Some(libc::EBUSY) => Err(error),
            Err(_) => generic(program).map(|link| (link, AttachedMode::Generic)),
        },
    };
    match result {
        Ok(attached) => Ok(attached),
        Err(error) => match raw_error(&error) {
            Some(libc::EBUSY | libc::EEXIST) => bail!(
                "another XDP program holds interface {interface}\n  help: `ip link show {interface}` names it; \
                 take it off first"
            ),
            Some(libc::EOPNOTSUPP) => bail!(
                "the driver of interface {interface} has no XDP\n  help: attach = \"auto\" or \"generic\" runs the \
                 program in the network stack instead, slower"
            ),
            _ => Err(error).with_context(|| format!("attaching to interface {interface}")),
        },
    }
}

/// The system's error number at the bottom of `error`.
fn raw_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut source = Some(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        source = cause.source();
    }
    None
}
