//! Plans into the maps.

use anyhow::{Context, Result};
use aya::maps::{HashMap, MapData};
use director_core::{Mode, ServicePlan, model};
use director_ebpf::abi::{Address, Endpoint, NO_ENDPOINT, Service, ServiceKey, state};

use super::{
    Datapath,
    desired::{DesiredService, Vip, mode_value, protocol_value},
    maps::FamilyMaps,
    memory::wait_for_readers,
    plain::{P, family, wide},
};

/// Where one half of a service's span in `SLOTS` starts.
pub fn bank_start(service: usize, bank: u32, table_size: usize) -> usize {
    (service * 2 + bank as usize) * table_size
}

impl Datapath {
    /// Brings the kernel to `plan`. A packet sees the table before or the one
    /// after, never a mixture.
    ///
    /// # Errors
    /// When a map cannot be written or is too small. The table that was in
    /// force then stays so.
    pub fn apply(&mut self, service: &model::Service, plan: &ServicePlan) -> Result<()> {
        let vip = Vip::from(service);
        let index = match self.desired.service_named(&service.name) {
            Some(index) => index,
            None => match self.desired.service_at(&vip) {
                Some(index) => index,
                None => self.desired.free_service()?,
            },
        };
        let placed = self.desired.place(index, plan)?;
        let table: Vec<u32> = plan
            .table
            .iter()
            .map(|slot| placed[usize::from(*slot)].0 as u32)
            .collect();
        anyhow::ensure!(
            table.len() == self.table_size,
            "the plan of service {} has {} slots, the maps have {}",
            plan.service,
            table.len(),
            self.table_size
        );

        // What the new table sends flows to must be there before it.
        for (slot, entry) in placed.iter().filter(|(_, e)| e.state != state::DEAD) {
            self.write_endpoint(*slot, *entry)?;
        }
        let is_new = self.desired.services[index].is_none();
        let bank = self.flip(index, &table);
        // Flows leave these for the new table, so it must be in force first.
        for (slot, entry) in placed.iter().filter(|(_, e)| e.state == state::DEAD) {
            self.write_endpoint(*slot, *entry)?;
        }
        let kept: std::collections::HashSet<usize> = placed.iter().map(|(slot, _)| *slot).collect();
        self.retire(index, |slot| !kept.contains(&slot))?;
        let name = Some(service.name.clone());
        let desired = DesiredService {
            name,
            vip,
            mode: service.mode,
            bank,
            table,
        };
        if is_new {
            self.reset_service_counter(index)?;
            self.publish(index, &desired)?;
        }
        self.desired.services[index] = Some(desired);
        // The half that was left may be written again once nobody reads it.
        wait_for_readers();
        Ok(())
    }

    /// Takes a service out of the kernel: packets to its VIP pass untouched.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        match self.desired.service_named(name) {
            Some(index) => self.remove_at(index),
            None => Ok(()),
        }
    }

    /// Takes out every adopted service that is not to be kept: it left the
    /// configuration, or changed its mode, while no daemon ran. Returns what
    /// was removed.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn remove_adopted(&mut self, keep: impl Fn(&Vip, Mode) -> bool) -> Result<Vec<Vip>> {
        let mut removed = Vec::new();
        for index in 0..self.desired.services.len() {
            let Some(service) = &self.desired.services[index] else {
                continue;
            };
            if service.name.is_none() && !keep(&service.vip, service.mode) {
                removed.push(service.vip);
                self.remove_at(index)?;
            }
        }
        Ok(removed)
    }

    fn remove_at(&mut self, index: usize) -> Result<()> {
        let Some(service) = self.desired.services[index].take() else {
            return Ok(());
        };
        let is_last = !self
            .desired
            .services
            .iter()
            .flatten()
            .any(|other| other.vip.address == service.vip.address);
        let vip = service.vip;
        if family(vip.address) == 4 {
            unpublish(&mut self.maps.v4, &vip, is_last)?;
        } else {
            unpublish(&mut self.maps.v6, &vip, is_last)?;
        }
        wait_for_readers();
        self.retire(index, |_| true)
    }

    /// Writes the spare half of a service's table and makes it the one in
    /// force. Without a change nothing is written.
    fn flip(&mut self, index: usize, table: &[u32]) -> u32 {
        let bank = match &self.desired.services[index] {
            Some(service) if service.table == table => return service.bank,
            Some(service) => 1 - service.bank,
            None => 0,
        };
        self.maps
            .slots
            .write(bank_start(index, bank, self.table_size), table);
        self.maps.banks.set(index, bank);
        bank
    }

    /// Frees the service's endpoints that `is_gone` names.
    fn retire(&mut self, service: usize, is_gone: impl Fn(usize) -> bool) -> Result<()> {
        let gone: Vec<(usize, Endpoint)> = self
            .desired
            .endpoints_of(service)
            .filter(|(slot, _)| is_gone(*slot))
            .map(|(slot, entry)| (slot, *entry))
            .collect();
        for (slot, mut entry) in gone {
            entry.state = state::UNUSED;
            self.write_endpoint(slot, entry)?;
        }
        Ok(())
    }

    /// Writes an entry, if it is another one. Returns whether it was.
    pub(super) fn write_endpoint(&mut self, index: usize, entry: Endpoint) -> Result<bool> {
        debug_assert_ne!(index as u32, NO_ENDPOINT);
        if self.desired.endpoints[index] == entry {
            return Ok(false);
        }
        self.maps
            .endpoints
            .set(index as u32, P(entry), 0)
            .with_context(|| format!("writing ENDPOINTS[{index}]"))?;
        if self.desired.endpoints[index].generation != entry.generation {
            self.reset_endpoint_counter(index)?;
        }
        self.desired.endpoints[index] = entry;
        Ok(true)
    }

    /// Makes packets find the service.
    pub(super) fn publish(&mut self, index: usize, service: &DesiredService) -> Result<()> {
        let value = Service {
            index: index as u32,
            mode: mode_value(service.mode),
        };
        if family(service.vip.address) == 4 {
            publish(&mut self.maps.v4, &service.vip, value)
        } else {
            publish(&mut self.maps.v6, &service.vip, value)
        }
    }
}

/// Key of a service in its family's map.
pub(super) fn service_key<A: Address>(vip: &Vip) -> ServiceKey<A> {
    ServiceKey {
        address: A::narrow(wide(vip.address)),
        port: vip.port.to_be(),
        protocol: protocol_value(vip.protocol),
        zero: 0,
    }
}

fn publish<A: Address>(maps: &mut FamilyMaps<A>, vip: &Vip, value: Service) -> Result<()> {
    let key = service_key::<A>(vip);
    insert(&mut maps.vips, P(key.address), 1).context("writing VIPS")?;
    insert(&mut maps.services, P(key), P(value)).context("writing SERVICES")
}

fn unpublish<A: Address>(maps: &mut FamilyMaps<A>, vip: &Vip, is_last: bool) -> Result<()> {
    let key = service_key::<A>(vip);
    remove(&mut maps.services, &P(key)).context("writing SERVICES")?;
    if is_last {
        remove(&mut maps.vips, &P(key.address)).context("writing VIPS")?;
    }
    Ok(())
}

fn insert<K: aya::Pod, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    key: K,
    value: V,
) -> Result<()> {
    Ok(map.insert(key, value, 0)?)
}

/// Removes a key, which may be gone already.
fn remove<K: aya::Pod, V: aya::Pod>(map: &mut HashMap<MapData, K, V>, key: &K) -> Result<()> {
    match map.get(key, 0) {
        Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        _ => Ok(map.remove(key)?),
    }
}
