//! `VIPS4`, `VIPS6` and `FILTER`: which addresses are ours, and what they are.

use std::{collections::HashMap, hash::Hash, net::IpAddr};

use anyhow::{Context, Result};
use aya::maps::MapData;
use director_ebpf::abi::{FILTER_WORDS, filter_bit, vip};

use super::{
    Datapath, Difference,
    plain::{P, wide},
};

impl Datapath {
    /// Brings the three maps to the services that are there and the NAT
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
