//! Reads the maps back, compares, repairs.

use std::fmt;

use anyhow::{Context, Result};
use director_ebpf::abi::ServerKey;

use super::{
    Datapath,
    addresses::bring,
    apply::{bank_start, service_key},
    desired::DesiredService,
    plain::P,
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
        let of = |is_v4: bool| {
            let services = services.iter().map(|(_, service)| *service);
            services.filter(move |service| service.vip.address.is_ipv4() == is_v4)
        };
        let v4 = of(true).map(|s| (service_key::<u32>(&s.vip), P(s.value)));
        let v6 = of(false).map(|s| (service_key::<[u32; 4]>(&s.vip), P(s.value)));
        let (v4, v6) = (v4.collect(), v6.collect());
        bring(&mut self.maps.v4.services, "SERVICES4", v4, &mut found)?;
        bring(&mut self.maps.v6.services, "SERVICES6", v6, &mut found)?;
        let servers = services.iter().flat_map(|(index, service)| {
            service.servers.iter().map(|(server, endpoint)| {
                let key = ServerKey {
                    service: *index as u32,
                    server: *server,
                };
                (key, *endpoint)
            })
        });
        let servers = servers.collect();
        bring(&mut self.maps.servers, "SERVERS", servers, &mut found)?;
        for (index, service) in services {
            let front = service.front();
            let held = self.maps.fronts.get(&(index as u32), 0);
            if held.context("reading FRONTS")?.0 != front {
                self.maps
                    .fronts
                    .set(index as u32, P(front), 0)
                    .context("writing FRONTS")?;
                found.push(Difference {
                    map: "FRONTS",
                    detail: format!("[{index}] was another"),
                });
            }
        }
        self.write_addresses(&mut found)?;
        self.audit_deny(&mut found)?;
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
            let kernel = self.maps.slots.read(start, service.slots.len());
            let wanted = service.slots.iter().map(|slot| slot.0);
            let wrong = kernel
                .iter()
                .zip(wanted.clone())
                .filter(|(a, b)| **a != *b)
                .count();
            if wrong > 0 {
                self.maps.slots.write(start, wanted);
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
