//! The BPF object: its bytes, its ABI, and the sizes of its maps.

use std::borrow::Cow;

use anyhow::{Context, Result, bail};
use aya::EbpfLoader;
use director_ebpf::abi::{ABI_SECTION, ABI_VERSION};
use object::{Object as _, ObjectSection as _};

use crate::config::Limits;

static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../director-ebpf/obj/director-xdp.o"
));

/// Names of the maps that hold an edge's state, and so are pinned.
pub const MAPS: [&str; 15] = [
    "SETTINGS",
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
        loader.load(&self.0)
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

/// Entries of a map that is not in use. An LRU map has its least size.
const UNUSED: u32 = 1024;

/// Entries that each of [`MAPS`] is to have.
pub fn sizes(limits: &Limits, uses: Uses) -> impl Iterator<Item = (&'static str, u32)> {
    let flows = |is_used: bool| if is_used { limits.flows } else { UNUSED };
    let size = move |name: &str| match name {
        "BANKS" | "SERVICES4" | "SERVICES6" | "VIPS4" | "VIPS6" | "SERVICE_COUNTERS" => {
            limits.services
        }
        "SLOTS" => limits.services * 2 * limits.table_size,
        // Index 0 stands for "none".
        "ENDPOINTS" | "ENDPOINT_COUNTERS" => limits.endpoints + 1,
        "FLOWS4" => flows(uses.ipv4),
        "FLOWS6" => flows(uses.ipv6),
        "NAT4" => flows(uses.nat4),
        "NAT6" => flows(uses.nat6),
        "CAUSES" => director_ebpf::cause::Cause::ALL.len() as u32,
        _ => 1,
    };
    let sizes: Vec<_> = MAPS.iter().map(|name| (*name, size(name))).collect();
    sizes.into_iter()
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
