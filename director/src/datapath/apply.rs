//! Plans into the maps.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use anyhow::{Context, Result};
use aya::maps::MapData;
use director_core::{Mode, OnDeath, ServicePlan, model};
use director_ebpf::abi::{
    Address, Endpoint, NO_ENDPOINT, ServerKey, Service, ServiceKey, Slot, state,
};

use super::{
    Datapath,
    desired::{self, DesiredService, Vip, mode_of, protocol_value},
    memory::wait_for_readers,
    plain::{P, wide},
    slots,
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
        if service.mode == Mode::Pool {
            return Ok(());
        }
        let none = plan.without_endpoints();
        let plan = if service.mode.is_steered() {
            plan
        } else {
            &none
        };
        let vip = Vip::from(service);
        let index = match self.desired.service_named(&service.name) {
            Some(index) => index,
            None => match self.desired.service_at(&vip) {
                Some(index) => index,
                None => self.desired.free_service()?,
            },
        };
        if self.desired.lacks(plan.endpoints.len()) {
            self.recycle();
        }
        let placed = self.desired.place(index, plan)?;
        let wanted: Vec<u32> = plan
            .table
            .iter()
            .map(|slot| placed[usize::from(*slot)].0 as u32)
            .collect();
        anyhow::ensure!(
            wanted.len() == self.table_size || service.mode == Mode::Proxy,
            "the plan of service {} has {} slots, the maps have {}",
            plan.service,
            wanted.len(),
            self.table_size
        );

        // What the new table sends flows to must be there before it.
        for (slot, entry) in placed.iter().filter(|(_, e)| e.state != state::DEAD) {
            self.write_endpoint(*slot, *entry)?;
        }
        let old = self.desired.services[index].take();
        let is_new = old.is_none();
        let keeps_dead = service.steering.on_death == OnDeath::Reset;
        let may_keep = placed
            .iter()
            .filter(|(_, entry)| keeps_dead || entry.state != state::DEAD)
            .map(|(slot, _)| *slot as u32)
            .collect();
        let slots = slots::next(old.as_ref().map(|old| &*old.slots), &wanted, &may_keep);
        let mut desired = DesiredService {
            name: Some(service.name.clone()),
            vip,
            value: self.service_value(service, index),
            bank: old.as_ref().map_or(0, |old| old.bank),
            changed: old.as_ref().and_then(|old| old.changed),
            left: old.as_ref().map_or(0, |old| old.left),
            slots: old.map(|old| old.slots).unwrap_or_default(),
            servers: servers(service, &placed),
        };
        self.flip(index, &mut desired, slots);
        // Flows leave these for the new table, so it must be in force first.
        for (slot, entry) in placed.iter().filter(|(_, e)| e.state == state::DEAD) {
            self.write_endpoint(*slot, *entry)?;
        }
        let kept: HashSet<usize> = placed.iter().map(|(slot, _)| *slot).collect();
        self.retire(index, |slot| !kept.contains(&slot))?;
        if is_new {
            self.reset_service_counter(index)?;
        }
        self.publish(index, &desired)?;
        self.desired.services[index] = Some(desired);
        Ok(())
    }

    fn service_value(&self, service: &model::Service, index: usize) -> Service {
        let buckets = if service.vip.is_ipv4() {
            self.maps.v4.flows.len()
        } else {
            self.maps.v6.flows.len()
        };
        let has_deny = !self.deny.is_empty();
        desired::service_value(service, index, &self.settings, buckets as u32, has_deny)
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
            if service.name.is_none() && !keep(&service.vip, mode_of(service.value.mode)) {
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
        if service.vip.address.is_ipv4() {
            remove_key(&mut self.maps.v4.services, &P(service_key(&service.vip)))?;
        } else {
            remove_key(&mut self.maps.v6.services, &P(service_key(&service.vip)))?;
        }
        self.write_servers(index, &HashMap::new())?;
        self.write_addresses(&mut Vec::new())?;
        wait_for_readers();
        self.retire(index, |_| true)
    }

    /// Writes the spare half of a service's table and makes it the one in
    /// force. Without a change nothing is written.
    pub(super) fn flip(&mut self, index: usize, service: &mut DesiredService, slots: Vec<Slot>) {
        if service.slots == slots {
            return;
        }
        // The half that was left may be written again once nobody reads it.
        if service.left > self.unread {
            wait_for_readers();
            self.unread = self.flips;
        }
        if !service.slots.is_empty() {
            service.bank = 1 - service.bank;
            self.flips += 1;
            service.left = self.flips;
        }
        let is_split = slots.iter().any(|slot| slot.current() != slot.base());
        if is_split {
            service.changed = Some(Instant::now());
        }
        self.maps.slots.write(
            bank_start(index, service.bank, self.table_size),
            slots.iter().map(|slot| slot.0),
        );
        self.maps.banks.set(index, service.bank);
        service.slots = slots;
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
            self.desired.retired.insert(slot);
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

    /// Makes packets find the service, as it is now.
    pub(super) fn publish(&mut self, index: usize, service: &DesiredService) -> Result<()> {
        self.maps
            .fronts
            .set(index as u32, P(service.front()), 0)
            .context("writing FRONTS")?;
        self.write_servers(index, &service.servers)?;
        // The entry before whatever leads to it.
        let known = self.desired.services[index].replace(service.clone());
        let written = self.write_addresses(&mut Vec::new());
        self.desired.services[index] = known;
        written?;
        self.write_service(&service.vip, service.value)
    }

    /// Writes what packets find at a VIP.
    pub(super) fn write_service(&mut self, vip: &Vip, value: Service) -> Result<()> {
        if vip.address.is_ipv4() {
            insert(&mut self.maps.v4.services, P(service_key(vip)), P(value))
        } else {
            insert(&mut self.maps.v6.services, P(service_key(vip)), P(value))
        }
        .context("writing SERVICES")
    }

    /// Brings the server ids of a service to these.
    fn write_servers(&mut self, index: usize, servers: &HashMap<u32, u32>) -> Result<()> {
        let service = index as u32;
        let held: Vec<(P<ServerKey>, u32)> = self
            .maps
            .servers
            .iter()
            .collect::<Result<_, _>>()
            .context("reading SERVERS")?;
        for (key, endpoint) in held.iter().filter(|(key, _)| key.0.service == service) {
            if servers.get(&key.0.server) != Some(endpoint) {
                remove_key(&mut self.maps.servers, key)?;
            }
        }
        for (server, endpoint) in servers {
            let key = ServerKey {
                service,
                server: *server,
            };
            insert(&mut self.maps.servers, P(key), *endpoint).context("writing SERVERS")?;
        }
        Ok(())
    }
}

/// Server ids to endpoint indices.
fn servers(service: &model::Service, placed: &[(usize, Endpoint)]) -> HashMap<u32, u32> {
    let of = |endpoint: &model::Endpoint| {
        let identity = (wide(endpoint.address), endpoint.port.to_be());
        let (index, _) = placed
            .iter()
            .find(|(_, entry)| (entry.address, entry.port) == identity)?;
        Some((endpoint.server_id?, *index as u32))
    };
    service.endpoints.iter().filter_map(of).collect()
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

pub(super) fn insert<K: aya::Pod, V: aya::Pod>(
    map: &mut aya::maps::HashMap<MapData, K, V>,
    key: K,
    value: V,
) -> Result<()> {
    Ok(map.insert(key, value, 0)?)
}

/// Removes a key, which may be gone already.
pub(super) fn remove_key<K: aya::Pod, V: aya::Pod>(
    map: &mut aya::maps::HashMap<MapData, K, V>,
    key: &K,
) -> Result<()> {
    match map.get(key, 0) {
        Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        _ => Ok(map.remove(key)?),
    }
}
