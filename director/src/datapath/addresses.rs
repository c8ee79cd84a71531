//! `VIPS4`, `VIPS6` and `FILTER`: which addresses are ours, and what they are;
//! `ENTRIES` and `HINTS`: where services are found at once.

use std::{collections::HashMap, hash::Hash, net::IpAddr};

use anyhow::{Context, Result};
use aya::maps::MapData;
use director_ebpf::abi::{Entry, FILTER_WORDS, HINTS, filter_bit, hint_of, vip};

use super::{
    Datapath, Difference,
    apply::service_key,
    desired::{DesiredService, protocol_value},
    plain::{P, family, wide},
};

impl Datapath {
    /// Brings these maps to the services that are there and the NAT
    /// sources; what was otherwise is added to `found`.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub(super) fn write_addresses(&mut self, found: &mut Vec<Difference>) -> Result<()> {
        let kinds = self.kinds();
        let of_family = |is_v4: bool| {
            kinds
                .iter()
                .filter(move |(address, _)| address.is_ipv4() == is_v4)
        };
        let v4 = of_family(true).map(|(ip, kind)| (wide(*ip)[0], *kind));
        let v6 = of_family(false).map(|(ip, kind)| (wide(*ip), *kind));
        let mut filter = vec![0_u64; FILTER_WORDS as usize];
        for ip in kinds.keys() {
            let (word, bit) = match ip {
                IpAddr::V4(_) => filter_bit(wide(*ip)[0]),
                IpAddr::V6(_) => filter_bit(wide(*ip)),
            };
            filter[word as usize] |= bit;
        }
        // The exact maps first: a bit of the filter without an entry behind it
        // costs a look-up, an entry without its bit is not found.
        bring(&mut self.maps.v4.vips, "VIPS4", v4.collect(), found)?;
        bring(&mut self.maps.v6.vips, "VIPS6", v6.collect(), found)?;
        let wrong = filter
            .iter()
            .enumerate()
            .filter(|(index, word)| self.maps.filter.get(*index) != **word)
            .count();
        if wrong > 0 {
            self.maps.filter.write(0, filter);
            found.push(Difference {
                map: "FILTER",
                detail: format!("{wrong} of {FILTER_WORDS} words"),
            });
        }
        self.write_entries(found)
    }

    /// Brings `ENTRIES` and `HINTS` to the services that are there. Programs
    /// that read an entry while it is written see each of its fields as it was
    /// or as it will be, and any mixture of those is sound.
    fn write_entries(&mut self, found: &mut Vec<Difference>) -> Result<()> {
        let mut hints = vec![0_u32; HINTS as usize];
        let services = self.desired.services.iter().enumerate();
        for (index, service) in services.filter_map(|(i, s)| Some((i, s.as_ref()?))) {
            let entry = entry(service);
            let held = self.maps.entries.get(&(index as u32), 0);
            if held.context("reading ENTRIES")?.0 != entry {
                self.maps
                    .entries
                    .set(index as u32, P(entry), 0)
                    .context("writing ENTRIES")?;
                found.push(Difference {
                    map: "ENTRIES",
                    detail: format!("[{index}] was another"),
                });
            }
            let hint = match service.vip.address {
                IpAddr::V4(_) => hint_of(&service_key::<u32>(&service.vip)),
                IpAddr::V6(_) => hint_of(&service_key::<[u32; 4]>(&service.vip)),
            };
            let hint = &mut hints[hint as usize];
            if *hint == 0 {
                *hint = index as u32 + 1;
            }
        }
        let mut wrong = 0;
        for (index, hint) in hints.into_iter().enumerate() {
            if self.maps.hints.get(index) != hint {
                self.maps.hints.set(index, hint);
                wrong += 1;
            }
        }
        if wrong > 0 {
            found.push(Difference {
                map: "HINTS",
                detail: format!("{wrong} of {HINTS} words"),
            });
        }
        Ok(())
    }

    /// Every address of ours, and what it is.
    fn kinds(&self) -> HashMap<IpAddr, u32> {
        let mut kinds = HashMap::new();
        for service in self.desired.services.iter().flatten() {
            let any_port = if service.vip.port == 0 {
                vip::ANY_PORT
            } else {
                0
            };
            *kinds.entry(service.vip.address).or_insert(0) |= vip::VIP | any_port;
        }
        for source in &self.nat_sources {
            *kinds.entry(*source).or_insert(0) |= vip::NAT_SOURCE;
        }
        kinds
    }
}

/// A service with its key.
fn entry(service: &DesiredService) -> Entry {
    Entry {
        service: service.value,
        port: service.vip.port.to_be(),
        protocol: protocol_value(service.vip.protocol),
        family: family(service.vip.address),
        address: wide(service.vip.address),
        zero: [0; 4],
    }
}

/// Brings a map to `wanted`, and notes what was otherwise.
pub(super) fn bring<K, V>(
    map: &mut aya::maps::HashMap<MapData, P<K>, V>,
    name: &'static str,
    mut wanted: HashMap<K, V>,
    found: &mut Vec<Difference>,
) -> Result<()>
where
    K: director_ebpf::abi::Plain + Eq + Hash,
    V: aya::Pod + PartialEq,
{
    let kernel: Vec<(P<K>, V)> = map.iter().collect::<Result<_, _>>().context(name)?;
    let mut note = |detail: &str| {
        found.push(Difference {
            map: name,
            detail: detail.to_owned(),
        });
    };
    for (key, value) in kernel {
        match wanted.remove(&key.0) {
            Some(right) if right == value => {}
            Some(right) => {
                map.insert(key, right, 0).context(name)?;
                note("an entry had another value");
            }
            None => {
                map.remove(&key).context(name)?;
                note("an entry that should not be there");
            }
        }
    }
    for (key, value) in wanted {
        map.insert(P(key), value, 0).context(name)?;
        note("an entry was missing");
    }
    Ok(())
}
