//! The BPF object: its bytes, its ABI, and the sizes of its maps.

use std::borrow::Cow;

use anyhow::{Context, Result, bail};
use aya::EbpfLoader;
use director_ebpf::abi::{
    ABI_SECTION, ABI_VERSION, FILTER_WORDS, HINTS, NAT_SOURCES, flow::WAYS, nat,
};
use object::{Object as _, ObjectSection as _};

use crate::config::{Limits, NatSources};

static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../director-ebpf/obj/director-xdp.o"
));

/// Names of the maps that hold an edge's state, and so are pinned. `MADE`, the
/// token bucket of ICMP, is not worth keeping.
pub const MAPS: [&str; 26] = [
    "SETTINGS",
    "FILTER",
    "BANKS",
    "SLOTS",
    "ENDPOINTS",
    "SERVICES4",
    "SERVICES6",
    "VIPS4",
    "VIPS6",
    "FLOWS4",
    "FLOWS6",
    "NAT4",
    "NAT6",
    "FRONTS",
    "ENTRIES",
    "HINTS",
    "DENY4",
    "DENY6",
    "SOURCES4",
    "SOURCES6",
    "SERVERS",
    "EVENTS",
    "NEXT",
    "SERVICE_COUNTERS",
    "ENDPOINT_COUNTERS",
    "CAUSES",
];

/// A BPF object whose ABI is the one this program was built with.
#[derive(Clone, Debug)]
pub struct Object(Cow<'static, [u8]>);

impl Object {
    /// The object that this program carries.
    ///
    /// # Errors
    /// When its ABI is another: the object was not rebuilt after a change.
    pub fn embedded() -> Result<Self> {
        check_abi(EMBEDDED).context("the embedded BPF object")?;
        Ok(Self(Cow::Borrowed(EMBEDDED)))
    }

    /// An object read from elsewhere, such as a fresh build under test.
    ///
    /// # Errors
    /// When it is no BPF object, or its ABI is another.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        check_abi(&bytes)?;
        Ok(Self(Cow::Owned(bytes)))
    }

    pub(super) fn load(&self, loader: &mut EbpfLoader<'_>) -> Result<aya::Ebpf, aya::EbpfError> {
        loader
            .verifier_log_level(aya::VerifierLogLevel::STATS)
            .load(&self.0)
    }
}

fn check_abi(bytes: &[u8]) -> Result<()> {
    let file = object::File::parse(bytes).context("not an ELF object")?;
    let section = file
        .section_by_name(ABI_SECTION)
        .with_context(|| format!("it has no section {ABI_SECTION}: not an object of director"))?;
    let data = section.data().context("its ABI section cannot be read")?;
    let found = data
        .get(..4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes);
    match found {
        Some(ABI_VERSION) => Ok(()),
        Some(other) => bail!(
            "it has ABI version {other}, this program {ABI_VERSION}: rebuild it with `cargo xtask build-ebpf`"
        ),
        None => bail!("its ABI section is too short"),
    }
}

/// How many of a family's flows the maps are to hold: what the configuration
/// says where the family (and `nat` mode) is in use, else next to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    pub ipv4: bool,
    pub ipv6: bool,
    pub nat4: bool,
    pub nat6: bool,
}

/// Prefixes of the deny list, of which only those that are there take memory.
const DENY: u32 = 1_000_000;
/// Sources whose rate of connections is watched, per family.
const SOURCES: u32 = 65_536;
/// Bytes of the ring buffer of flow events.
const EVENTS: u32 = 1 << 20;

/// Entries that each of [`MAPS`] is to have.
pub fn sizes(
    limits: &Limits,
    uses: Uses,
    nat: &NatSources,
) -> impl Iterator<Item = (&'static str, u32)> {
    let flows = |is_used: bool| if is_used { buckets(limits.flows) } else { 1 };
    let ports = |is_used: bool, sources: usize| {
        if is_used {
            planes(limits.nat_flows, sources) * sources.max(1) as u32 * nat::SPAN
        } else {
            1
        }
    };
    let size = move |name: &str| match name {
        "BANKS" | "SERVICES4" | "SERVICES6" | "SERVICE_COUNTERS" | "FRONTS" | "ENTRIES" => {
            limits.services
        }
        "HINTS" => HINTS,
        "VIPS4" | "VIPS6" => limits.services + NAT_SOURCES as u32,
        "FILTER" => FILTER_WORDS,
        "SLOTS" => limits.services * 2 * limits.table_size,
        // Index 0 stands for "none".
        "ENDPOINTS" | "ENDPOINT_COUNTERS" => limits.endpoints + 1,
        "SERVERS" => limits.endpoints,
        "FLOWS4" => flows(uses.ipv4),
        "FLOWS6" => flows(uses.ipv6),
        "NAT4" => ports(uses.nat4, nat.v4.len()),
        "NAT6" => ports(uses.nat6, nat.v6.len()),
        "DENY4" | "DENY6" => DENY,
        "SOURCES4" | "SOURCES6" => SOURCES,
        "EVENTS" => EVENTS,
        "CAUSES" => director_ebpf::cause::ROOM,
        _ => 1,
    };
    let sizes: Vec<_> = MAPS.iter().map(|name| (*name, size(name))).collect();
    sizes.into_iter()
}

/// Buckets for this many flows: twice as many ways, so that at the limit less
/// than one flow in a hundred meets a full bucket.
fn buckets(flows: u32) -> u32 {
    flows.div_ceil(WAYS as u32 / 2)
}

/// Planes of the NAT table for this many flows.
pub fn planes(flows: u32, sources: usize) -> u32 {
    let ports = (nat::SPAN - nat::FIRST) * WAYS as u32;
    flows.div_ceil(ports * sources.max(1) as u32).max(1)
}

/// Bytes of kernel memory that the maps take, but for the deny list's.
pub fn memory(limits: &Limits, uses: Uses, nat: &NatSources) -> u64 {
    let cpus = aya::util::nr_cpus().unwrap_or(1) as u64;
    // Of a hash map's entry beside key and value: its links, hash and bucket.
    const HASHED: u64 = 64;
    let bytes = |name: &str| match name {
        "SLOTS" | "BANKS" | "FILTER" | "HINTS" | "NEXT" => 8,
        "ENDPOINTS" | "ENTRIES" => 64,
        "FLOWS4" => 128,
        "FLOWS6" => 256,
        "NAT4" => 256,
        "NAT6" => 384,
        "FRONTS" => 24,
        "SERVICES4" => HASHED + 36,
        "SERVICES6" => HASHED + 48,
        "VIPS4" | "VIPS6" | "SERVERS" => HASHED + 20,
        "SOURCES4" | "SOURCES6" => HASHED + 24,
        "SERVICE_COUNTERS" | "ENDPOINT_COUNTERS" => 24 * cpus,
        "CAUSES" => 8 * cpus,
        "SETTINGS" => 128,
        "EVENTS" => 1,
        _ => 0,
    };
    sizes(limits, uses, nat)
        .map(|(name, entries)| u64::from(entries) * bytes(name))
        .sum()
}

/// Bytes of kernel memory that a deny list of this many prefixes takes, at most.
#[must_use]
pub fn deny_memory(prefixes: usize) -> u64 {
    // A node of up to 64 bytes, and one where two prefixes part.
    prefixes as u64 * 2 * 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_object_is_of_our_abi() {
        Object::embedded().expect("it was built with this source");
    }

    #[test]
    fn another_abi_is_refused_with_both_versions() {
        let mut bytes = EMBEDDED.to_vec();
        let file = object::File::parse(EMBEDDED).expect("an ELF object");
        let section = file.section_by_name(ABI_SECTION).expect("the section");
        let (start, _) = section.file_range().expect("in the file");
        bytes[start as usize] ^= 0x40;
        let error = Object::from_bytes(bytes)
            .expect_err("another ABI")
            .to_string();
        let found = ABI_VERSION ^ 0x40;
        assert!(
            error.contains(&format!("ABI version {found}, this program {ABI_VERSION}")),
            "{error}"
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for bytes in [&b""[..], b"\x7fELF", b"not an object at all"] {
            assert!(Object::from_bytes(bytes.to_vec()).is_err());
        }
        let half = EMBEDDED[..EMBEDDED.len() / 2].to_vec();
        assert!(Object::from_bytes(half).is_err());
    }
}
