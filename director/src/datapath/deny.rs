//! `DENY4` and `DENY6`: sources whose packets to services are dropped.

use std::collections::HashSet;

use anyhow::{Context, Result};
use aya::maps::{
    MapData,
    lpm_trie::{Key, LpmTrie},
};

use director_ebpf::abi::service_flags;

use super::{
    Datapath, Difference,
    plain::{P, wide},
};
use crate::config::Prefix;

/// Entries of the deny list that an audit reads at most, on average: as many as
/// take a few milliseconds.
const ENTRIES_AN_AUDIT: usize = 4096;

impl Datapath {
    /// Brings the deny list to these prefixes, and tells the services that are
    /// there whether there is any.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn set_deny(&mut self, prefixes: &[Prefix]) -> Result<()> {
        self.deny = prefixes.to_vec();
        self.bring_deny()?;
        self.publish_deny()
    }

    /// Compares the deny list with what it should be, and mends it; a long one
    /// not each time, since it can only be read entry by entry.
    pub(super) fn audit_deny(&mut self, found: &mut Vec<Difference>) -> Result<()> {
        self.audits = self.audits.wrapping_add(1);
        if !self
            .audits
            .is_multiple_of(1 + self.deny.len() / ENTRIES_AN_AUDIT)
        {
            return Ok(());
        }
        let wrong = self.bring_deny()?;
        for (map, wrong) in ["DENY4", "DENY6"].into_iter().zip(wrong) {
            if wrong > 0 {
                let detail = format!("{wrong} prefixes were missing or should not be there");
                found.push(Difference { map, detail });
            }
        }
        Ok(())
    }

    /// Brings the maps to the list. Returns how many entries were wrong in each.
    fn bring_deny(&mut self) -> Result<[usize; 2]> {
        let of_family = |is_v4: bool| {
            self.deny
                .iter()
                .filter(move |prefix| prefix.address.is_ipv4() == is_v4)
                .map(|prefix| (u32::from(prefix.length), wide(prefix.address)))
        };
        let v4 = of_family(true).map(|(length, words)| (length, words[0]));
        let (v4, v6) = (v4.collect(), of_family(false).collect());
        Ok([
            bring(&mut self.maps.v4.deny, v4).context("writing DENY4")?,
            bring(&mut self.maps.v6.deny, v6).context("writing DENY6")?,
        ])
    }

    /// Publishes services anew that know otherwise of the deny list.
    fn publish_deny(&mut self) -> Result<()> {
        for index in 0..self.desired.services.len() {
            let Some(service) = &mut self.desired.services[index] else {
                continue;
            };
            let before = service.value.flags;
            if !self.deny.is_empty() {
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

/// Brings a map to `wanted`, and returns how many entries differed.
fn bring<A>(map: &mut LpmTrie<MapData, P<A>, u32>, mut wanted: HashSet<(u32, A)>) -> Result<usize>
where
    A: director_ebpf::abi::Plain + Eq + std::hash::Hash,
{
    let mut wrong = 0;
    let held: Vec<Key<P<A>>> = map.keys().collect::<Result<_, _>>()?;
    for key in held {
        let (length, P(address)) = (key.prefix_len(), key.data());
        if !wanted.remove(&(length, address)) {
            map.remove(&key)?;
            wrong += 1;
        }
    }
    wrong += wanted.len();
    for (length, address) in wanted {
        map.insert(&Key::new(length, P(address)), 1, 0)?;
    }
    Ok(wrong)
}
