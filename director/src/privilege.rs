//! The capabilities that the daemon keeps, and the others that it lets go.

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability, CapsHashSet};

/// What steering needs (capabilities(7)): to load programs and maps, to attach
/// them and talk netlink, and to let programs do arithmetic on pointers.
const NEEDED: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
];

/// What is kept where it is held: to listen on ports below 1024. Only for a daemon
/// that has something to listen for.
const PORTS: Capability = Capability::CAP_NET_BIND_SERVICE;

/// Keeps what steering needs and lets everything else go, for this thread and
/// all that it starts.
///
/// # Errors
/// When one that is needed is not held.
pub fn keep_only_needed() -> Result<()> {
    let held = caps::read(None, CapSet::Permitted).context("reading capabilities")?;
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|cap| !held.contains(cap))
        .map(ToString::to_string)
        .collect();
    if !missing.is_empty() {
        bail!(
            "steering needs capabilities that this process lacks: {}\n  \
             help: run it as root, or grant them (AmbientCapabilities= in a systemd unit)",
            missing.join(", ")
        );
    }
    let none = CapsHashSet::new();
    for (set, value) in [
        (CapSet::Ambient, &none),
        (CapSet::Inheritable, &none),
        (CapSet::Effective, &kept(&held)),
        (CapSet::Permitted, &kept(&held)),
    ] {
        caps::set(None, set, value).with_context(|| format!("setting {set:?} capabilities"))?;
    }
    Ok(())
}

/// Lets go of the right to listen on ports below 1024, in the same manner.
///
/// # Errors
/// When the system refuses.
pub fn let_go_of_ports() -> Result<()> {
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::drop(None, set, PORTS).with_context(|| format!("setting {set:?} capabilities"))?;
    }
    Ok(())
}

fn kept(held: &CapsHashSet) -> CapsHashSet {
    let ports = Some(PORTS).filter(|cap| held.contains(cap));
    NEEDED.into_iter().chain(ports).collect()
}

/// Runs `start`, in which a program may be started that keeps this thread's
/// capabilities, whatever user it runs as.
///
/// # Errors
/// When they cannot be passed on, and as `start`.
pub fn inherited<T>(start: impl FnOnce() -> Result<T>) -> Result<T> {
    let held = caps::read(None, CapSet::Permitted).context("reading capabilities")?;
    let own = kept(&held);
    for set in [CapSet::Inheritable, CapSet::Ambient] {
        caps::set(None, set, &own).with_context(|| format!("setting {set:?} capabilities"))?;
    }
    let started = start();
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::set(None, set, &CapsHashSet::new())
            .with_context(|| format!("setting {set:?} capabilities"))?;
    }
    started
}
