//! Reads the maps back, compares, repairs.

use std::{collections::HashMap, fmt};

use anyhow::{Context, Result};
use aya::maps::MapData;
use director_ebpf::abi::{Address, Service, ServiceKey};

use super::{
    Datapath,
    apply::{bank_start, service_key},
    desired::{DesiredService, mode_value},
    maps::FamilyMaps,
    plain::{P, family},
};

/// Something that was not as it should be, and is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Name of the map.
    pub map: &'static str,
    /// Where in it, and what was wrong.
    pub detail: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.map, self.detail)
    }
}

impl Datapath {
    /// Compares the maps with what they should hold, and writes what differs.
    /// Flows and counters are the kernel's own and not looked at.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn audit(&mut self) -> Result<Vec<Difference>> {
        let mut found = Vec::new();
        self.audit_settings(&mut found)?;
        self.audit_endpoints(&mut found)?;
        self.audit_tables(&mut found);
        let services: Vec<(usize, &DesiredService)> = self
            .desired
            .services
            .iter()
            .enumerate()
            .filter_map(|(index, service)| Some((index, service.as_ref()?)))
            .collect();
        audit_services(&mut self.maps.v4, 4, &services, &mut found)?;
        audit_services(&mut self.maps.v6, 6, &services, &mut found)?;
        Ok(found)
    }

    fn audit_settings(&mut self, found: &mut Vec<Difference>) -> Result<()> {
        let kernel = self.maps.settings.get(&0, 0).context("reading SETTINGS")?.0;
        if kernel != self.settings {
            self.maps
                .settings
                .set(0, P(self.settings), 0)
                .context("writing SETTINGS")?;
            found.push(Difference {
                map: "SETTINGS",
                detail: "was another".to_owned(),
            });
        }
        Ok(())
    }

    fn audit_endpoints(&mut self, found: &mut Vec<Difference>) -> Result<()> {
        for (index, wanted) in self.desired.endpoints.iter().enumerate().skip(1) {
            let index = index as u32;
            let kernel = self
                .maps
                .endpoints
                .get(&index, 0)
                .context("reading ENDPOINTS")?
                .0;
            if kernel != *wanted {
                self.maps
                    .endpoints
                    .set(index, P(*wanted), 0)
                    .context("writing ENDPOINTS")?;
                found.push(Difference {
                    map: "ENDPOINTS",
                    detail: format!("[{index}] was another"),
                });
            }
        }
        Ok(())
    }

    fn audit_tables(&mut self, found: &mut Vec<Difference>) {
        for (index, service) in self.desired.services.iter().enumerate() {
            let Some(service) = service else { continue };
            let start = bank_start(index, service.bank, self.table_size);
            let kernel = self.maps.slots.read(start, self.table_size);
            let wrong = kernel
                .iter()
                .zip(&service.table)
                .filter(|(a, b)| a != b)
                .count();
            if wrong > 0 {
                self.maps.slots.write(start, &service.table);
                found.push(Difference {
                    map: "SLOTS",
                    detail: format!("service [{index}]: {wrong} of {} slots", self.table_size),
                });
            }
            if self.maps.banks.get(index) != service.bank {
                self.maps.banks.set(index, service.bank);
                found.push(Difference {
                    map: "BANKS",
                    detail: format!("service [{index}]: the wrong half of its table was in force"),
                });
            }
        }
    }
}

fn audit_services<A: Address + std::hash::Hash>(
    maps: &mut FamilyMaps<A>,
    of: u8,
    services: &[(usize, &DesiredService)],
    found: &mut Vec<Difference>,
) -> Result<()> {
    let names = if of == 4 {
        ("SERVICES4", "VIPS4")
    } else {
        ("SERVICES6", "VIPS6")
    };
    let mut wanted: HashMap<ServiceKey<A>, Service> = HashMap::new();
    let mut vips: HashMap<A, u32> = HashMap::new();
    for (index, service) in services.iter().filter(|(_, s)| family(s.vip.address) == of) {
        let key = service_key::<A>(&service.vip);
        let value = Service {
            index: *index as u32,
            mode: mode_value(service.mode),
        };
        wanted.insert(key, value);
        vips.insert(key.address, 1);
    }
    let wanted = wanted.into_iter().map(|(k, v)| (k, P(v))).collect();
    audit_map(&mut maps.services, names.0, wanted, found)?;
    audit_map(&mut maps.vips, names.1, vips, found)
}

fn audit_map<K, V>(
    map: &mut aya::maps::HashMap<MapData, P<K>, V>,
    name: &'static str,
    mut wanted: HashMap<K, V>,
    found: &mut Vec<Difference>,
) -> Result<()>
where
    K: director_ebpf::abi::Plain + Eq + std::hash::Hash,
    V: aya::Pod + PartialEq,
{
    let kernel: Vec<(P<K>, V)> = map.iter().collect::<Result<_, _>>().context(name)?;
    let mut note = |detail: &str| {
        found.push(Difference {
            map: name,
            detail: detail.to_owned(),
        })
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
