//! `DENY4` and `DENY6`: sources whose packets to services are dropped.

use std::collections::HashSet;

use anyhow::{Context, Result};
use aya::maps::{
    MapData,
    lpm_trie::{Key, LpmTrie},
};

use director_ebpf::abi::service_flags;

use super::{
    Datapath,
    plain::{P, wide},
};
use crate::config::Prefix;

impl Datapath {
    /// Brings the deny list to these prefixes, and tells the services that are
    /// there whether there is any.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn set_deny(&mut self, prefixes: &[Prefix]) -> Result<()> {
        let of_family = |is_v4: bool| {
            prefixes
                .iter()
                .filter(move |prefix| prefix.address.is_ipv4() == is_v4)
                .map(|prefix| (u32::from(prefix.length), wide(prefix.address)))
        };
        let v4 = of_family(true).map(|(length, words)| (length, words[0]));
        bring(&mut self.maps.v4.deny, v4.collect()).context("writing DENY4")?;
        bring(&mut self.maps.v6.deny, of_family(false).collect()).context("writing DENY6")?;
        self.has_deny = !prefixes.is_empty();
        self.publish_deny()
    }

    /// Publishes services anew that know otherwise of the deny list.
    fn publish_deny(&mut self) -> Result<()> {
        for index in 0..self.desired.services.len() {
            let Some(service) = &mut self.desired.services[index] else {
                continue;
            };
            let before = service.value.flags;
            if self.has_deny {
                service.value.flags |= service_flags::DENY;
            } else {
                service.value.flags &= !service_flags::DENY;
            }
            if service.value.flags != before {
                let (vip, value) = (service.vip, service.value);
                self.write_service(&vip, value)?;
            }
        }
        self.write_addresses(&mut Vec::new())
    }
}

fn bring<A>(map: &mut LpmTrie<MapData, P<A>, u32>, mut wanted: HashSet<(u32, A)>) -> Result<()>
where
    A: director_ebpf::abi::Plain + Eq + std::hash::Hash,
{
    let held: Vec<Key<P<A>>> = map.keys().collect::<Result<_, _>>()?;
    for key in held {
        let (length, P(address)) = (key.prefix_len(), key.data());
        if !wanted.remove(&(length, address)) {
            map.remove(&key)?;
        }
    }
    for (length, address) in wanted {
        map.insert(&Key::new(length, P(address)), 1, 0)?;
    }
    Ok(())
}
